"""A completion as api.md draws it: text, cells, weighting, rewards, advantage and its parts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from service.db.tables import CellRow, Completion


class CellOut(BaseModel):
    """One cell; a failed one has no score, but a status, a family and a reason.

    Under a calibration (`{id, version}`), `confidence` is what `stated_confidence`, of `confidence_source`, is worth by it.
    """

    criterion: str
    status: str
    family: str | None
    reason: str | None
    score: float | None
    confidence: float | None
    confidence_source: str | None
    stated_confidence: float | None
    calibration: dict[str, Any] | None
    reasoning: str | None
    critique: str | None
    votes: int
    vote_variance: float | None
    grader: str
    judge: str | None
    revision: int | None
    fingerprint: str | None
    steps: list[dict[str, Any]] | None
    reply_format: str | None
    unasked: int
    cached: bool
    attempts: int
    latency_ms: float
    tokens_in: int
    tokens_out: int
    tokens_estimated: bool
    calls: int | None
    cost_usd: float | None
    audit: bool

    @classmethod
    def of(cls, row: CellRow) -> CellOut:
        """From its row."""
        same = ("criterion", "status", "family", "reason", "score", "confidence", "confidence_source", "stated_confidence",
                "reasoning", "votes",
                "vote_variance", "grader", "fingerprint", "cached", "attempts", "latency_ms", "tokens_in", "tokens_out",
                "tokens_estimated", "calls", "cost_usd", "audit", "steps", "reply_format", "unasked")  # fmt: skip
        return cls(
            critique=row.critique_id,
            calibration={"id": row.calibration_id, "version": row.calibration_version} if row.calibration_id else None,
            judge=row.judge_id,
            revision=row.judge_revision,
            **{name: getattr(row, name) for name in same},
        )


class CompletionOut(BaseModel):
    """One completion; from the cells of its group anyone can compute the numbers again. `imputed` has the scores that stood in
    for subject nulls (`on_subject_null: lowest_observed`), and only those. `parts.overlong` is what its length cost, against the
    group (`algorithm.truncated: penalty`): the penalty itself follows from `token_count` and the job's token limit.

    A grading's completion has `grading` in place of `job_id`, neither step nor attempt, and no tokens; `source` names the stored
    completion whose text it is. A revision names in `revision_of` the completion that it was to make better; its original, graded
    afresh beside it, has the purpose `regraded`.
    """

    id: str
    job_id: str | None
    grading: str | None
    step: int | None
    attempt: int | None
    purpose: str
    group: str
    index: int
    member: bool
    prompt: dict[str, Any]
    text: str
    token_ids: list[int]
    token_count: int | None
    finish_reason: str | None
    cells: list[CellOut]
    weighting: dict[str, Any]
    coverage: float
    reward: float | None
    plain_reward: float | None
    unscaled_advantage: float | None
    scale_factor: float | None
    advantage: float | None
    parts: dict[str, float]
    imputed: dict[str, float]
    signal: str
    revision_of: str | None
    source: str | None
    rubric: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, row: Completion, cells: list[CellRow]) -> CompletionOut:
        """From its rows."""
        same = ("id", "job_id", "purpose", "index", "member", "prompt", "text", "finish_reason",
                "weighting", "coverage", "reward", "plain_reward", "unscaled_advantage", "scale_factor", "advantage",
                "parts", "imputed", "signal", "revision_of", "created_at")  # fmt: skip
        sampled = row.job_id is not None
        return cls(
            grading=row.grading_id,
            step=row.step if sampled else None,
            attempt=row.attempt if sampled else None,
            group=row.group_id,
            token_ids=list(row.token_ids),
            token_count=len(row.token_ids) if sampled and (row.token_ids or row.revision_of is None) else None,
            cells=_cells_of(row, cells),
            source=row.source_id,
            rubric={"id": row.rubric_id, "version": row.rubric_version},
            **{name: getattr(row, name) for name in same},
        )


def _cells_of(row: Completion, cells: list[CellRow]) -> list[CellOut]:
    """Its own cells, or those that it was aggregated anew from; these are audit cells where the new version says so."""
    if row.cells_of is None:
        return [CellOut.of(cell) for cell in cells if cell.completion_id == row.id]
    kept = set(row.reused or ())
    return [
        CellOut.of(cell).model_copy(update={"audit": cell.criterion not in row.weighting})
        for cell in cells
        if cell.completion_id == row.cells_of and cell.criterion in kept
    ]
