"""What comes out of `/v1/revisions` and `/v1/pair-labels`; what goes in is `service.domain.revision_request`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from service.db.tables import Grading, RevisionResult
from service.domain.spending import JudgeBudget, Spent


class RequestError(BaseModel):
    """Why a request failed."""

    code: str
    message: str


class PairsProgress(BaseModel):
    """Pairs in all (null until it is known), those that are decided, and those of them that were not accepted."""

    pairs: int | None
    decided: int
    rejected: int


class _RequestOut(BaseModel):
    """What both kinds of requests show. `rubrics`: the versions that their completions were graded by."""

    id: str
    status: str
    status_reason: str | None
    error: RequestError | None
    source: dict[str, Any]
    rubrics: list[dict[str, Any]]
    judges: dict[str, int]
    models: dict[str, Any]
    limits: JudgeBudget
    spent: Spent
    progress: PairsProgress
    summary: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


def _shared(row: Grading) -> dict[str, Any]:
    resolved = row.resolved
    same = (
        "id",
        "status",
        "status_reason",
        "source",
        "summary",
        "created_at",
        "started_at",
        "finished_at",
        "updated_at",
    )
    return {
        "error": RequestError(**row.error) if row.error else None,
        "rubrics": [{name: v[name] for name in ("id", "version", "hash")} for v in resolved["rubrics"].values()],
        "judges": resolved["judges"],
        "models": resolved["models"],
        "limits": JudgeBudget.model_validate(resolved.get("limits") or {}),
        "spent": Spent.model_validate(row.spent or {}),
        "progress": PairsProgress(pairs=row.cells, decided=row.done, rejected=row.failed),
        **{name: getattr(row, name) for name in same},
    }


class RevisionOut(_RequestOut):
    """A request for revisions. `preferences` and `demonstrations`: the datasets that have the accepted ones once it has succeeded.

    `summary`: how many were accepted, the reasons of the others, and how many rows were published.
    """

    uses: list[str]
    reviser: str | None
    prompt_version: int
    margin: float
    votes: int
    per_group: int | None
    preferences: str | None
    demonstrations: str | None

    @classmethod
    def of(cls, row: Grading) -> RevisionOut:
        """From its row."""
        asked = row.resolved["revision"]
        same = ("uses", "reviser", "prompt_version", "margin", "votes", "preferences", "demonstrations")
        per_group = None if asked["each"] else asked["per_group"]
        return cls(**_shared(row), per_group=per_group, **{name: asked[name] for name in same})


class LabellingOut(_RequestOut):
    """A request for labelled pairs. `preferences`: the dataset that has the pairs on which both answers agree."""

    judge: str
    guidelines: str
    prompt_version: int
    preferences: str

    @classmethod
    def of(cls, row: Grading) -> LabellingOut:
        """From its row."""
        asked = row.resolved["labelling"]
        same = ("judge", "guidelines", "prompt_version", "preferences")
        return cls(**_shared(row), **{name: asked[name] for name in same})


class SideOut(BaseModel):
    """A completion of a pair; `regraded` is the completion that has its fresh cells, `plain_reward` what they say."""

    completion: str
    regraded: str | None
    plain_reward: float | None


class ResultOut(BaseModel):
    """What became of one pair. `original` was to be beaten by `better`, which is null where nobody wrote anything.

    A rejected one has a `reason` (`no_revision empty equal_texts null_cell verifier_regressed below_margin within_error tie
    no_verdict`) and a sentence. `difference` had to exceed `threshold`: the larger of the margin and two standard errors.
    `verdicts`: what a judge answered that was asked for the better of the two, in either order.
    """

    id: str
    request: str | None
    job: str | None
    step: int | None
    kind: str
    accepted: bool
    reason: str | None
    message: str | None
    original: SideOut
    better: SideOut | None
    difference: float | None
    standard_error: float | None
    threshold: float | None
    rubric: dict[str, Any] | None
    judges: dict[str, int]
    critiques: list[str]
    reviser: dict[str, Any] | None
    verdicts: list[dict[str, Any]]
    published: bool
    created_at: datetime

    @classmethod
    def of(cls, row: RevisionResult) -> ResultOut:
        """From its row."""
        data = row.data
        same = (
            "id",
            "kind",
            "accepted",
            "reason",
            "message",
            "difference",
            "standard_error",
            "threshold",
            "created_at",
        )
        better = None
        if row.better_id is not None:
            regraded = data.get("better_regraded")
            better = SideOut(completion=row.better_id, regraded=regraded, plain_reward=row.better_reward)
        original = SideOut(
            completion=row.original_id, regraded=data.get("original_regraded"), plain_reward=row.original_reward
        )
        return cls(
            request=row.request_id,
            job=row.job_id,
            step=row.step if row.job_id is not None else None,
            original=original,
            better=better,
            rubric=data.get("rubric"),
            judges=data.get("judges") or {},
            critiques=data.get("critiques") or [],
            reviser=data.get("reviser"),
            verdicts=data.get("verdicts") or [],
            published=row.published_at is not None,
            **{name: getattr(row, name) for name in same},
        )
