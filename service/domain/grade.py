"""Cells: the score of one completion on one criterion, or the reason why there is none."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from service.domain.base import Value, refuse

CellStatus = Literal[
    "ok",
    "abstain",
    "parse_error",
    "invalid_score",
    "refusal",
    "judge_truncated",
    "timeout",
    "rate_limited",
    "infra_error",
    "sandbox_unavailable",
    "sandbox_error",
    "budget",
]

Family = Literal["infra", "subject"]

FAMILIES: dict[str, Family | None] = {
    "ok": None,
    "abstain": "subject",
    "parse_error": "subject",
    "refusal": "subject",
    "judge_truncated": "subject",
    "invalid_score": "infra",
    "timeout": "infra",
    "rate_limited": "infra",
    "infra_error": "infra",
    "sandbox_unavailable": "infra",
    "sandbox_error": "infra",
    "budget": "infra",
}
"""Whose side a null lies on: the graders' machinery (`infra`), or what the judge made of the subject."""

Share = Annotated[float, Field(ge=0, le=1)]


def storable(text: Any) -> Any:
    """A text with U+FFFD in place of NUL and of lone surrogates, which no database holds; a judge may write both."""
    return re.sub("[\x00\ud800-\udfff]", "\ufffd", text) if isinstance(text, str) else text


Said = Annotated[str, BeforeValidator(storable)]
"""What a judge or an endpoint said."""


class StepCell(Value):
    """One step of a completion on a step criterion: characters `start`..`end` of the text, and its score or why there is none."""

    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=0)]
    status: CellStatus
    score: Share | None = None
    confidence: Share | None = None
    reasoning: Said | None = None
    reason: Said | None = None

    @model_validator(mode="after")
    def _score_if_ok(self) -> StepCell:
        if (self.status == "ok") != (self.score is not None):
            refuse((("score",), "invalid_cell", "a step has a score exactly if its status is ok"))
        return self


class Cell(Value):
    """A failed cell is null with a status and a reason: never 0, never 1 (grape.md §2)."""

    criterion: str
    status: CellStatus
    reason: Said | None = None
    score: Share | None = None
    confidence: Share | None = None
    confidence_source: Literal["verifier", "verbal", "votes", "logprob", "reward_model"] | None = None
    stated_confidence: Share | None = None
    """What the judge stated, where `confidence` is what that is worth by its calibration."""
    calibration: str | None = None
    calibration_version: int | None = None
    reasoning: Said | None = None
    votes: int = 1
    vote_variance: float | None = None
    grader: str
    judge: str | None = None
    revision: int | None = None
    fingerprint: str | None = None
    steps: list[StepCell] | None = None
    reply_format: Literal["text", "json_schema"] | None = None
    """How the judge was held to the form of its reply; part of the fingerprint."""
    unasked: int = 0
    """Verdicts in the reply on what was not asked: ignored, and counted on one cell of the question."""
    cached: bool = False
    attempts: int = 1
    latency_ms: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    calls: int = 0
    """How often judges were asked for it; where cells share a question, in whole parts whose sum is the calls."""
    cost_usd: float | None = None
    """What its tokens cost; 0 for a cached cell, which keeps the tokens that were once paid for. Null without a price."""
    tokens_estimated: bool = False
    """The endpoint has not told the tokens of every call; those are estimated, rather high than low."""
    audit: bool = False
    replies: str | None = None
    """Where everything that the judge replied is kept; null if it is not."""

    @model_validator(mode="after")
    def _score_if_ok(self) -> Cell:
        if (self.status == "ok") != (self.score is not None):
            refuse((("score",), "invalid_cell", "a cell has a score exactly if its status is ok"))
        if self.status != "ok" and not self.reason:
            refuse((("reason",), "invalid_cell", "a failed cell says why"))
        return self

    @property
    def family(self) -> Family | None:
        """`infra`, `subject`, or null for an ok cell."""
        return FAMILIES[self.status]
