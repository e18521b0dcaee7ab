"""Where a row that this service has made came from. It stands on the row; no model and no grader sees it."""

from __future__ import annotations

from typing import Any, Literal

from service.domain.base import Value


class Compared(Value):
    """One side of a pair, with the plain reward that it was compared by; null where a judge compared the texts themselves."""

    completion: str
    plain_reward: float | None = None


class RubricPin(Value):
    """The rubric version by which both sides were graded."""

    id: str
    version: int


class ReviserPin(Value):
    """Who wrote the better answer: a judge's endpoint or model under one of its revisions, or the job's policy after `step`."""

    judge: str | None = None
    revision: int | None = None
    policy: str | None = None
    step: int | None = None
    prompt_version: int


class Lineage(Value):
    """Of a preference or a demonstration.

    `chosen` beat `rejected` by `difference` of plain reward, which had to exceed `threshold`, the larger of the asked margin
    and two standard errors; each was graded with `votes` votes by the revisions in `judges`. `critiques` are what the reviser
    was told. `verdicts`: what a judge said that was asked directly, once in each order.
    """

    kind: Literal["revision", "group_pair", "label"]
    request: str | None = None
    job: str | None = None
    step: int | None = None
    result: str
    chosen: Compared
    rejected: Compared
    rubric: RubricPin | None = None
    judges: dict[str, int] = {}
    votes: int | None = None
    critiques: list[str] = []
    reviser: ReviserPin | None = None
    difference: float | None = None
    standard_error: float | None = None
    threshold: float | None = None
    verdicts: list[dict[str, Any]] = []
