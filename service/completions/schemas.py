"""A completion as api.md draws it: text, cells, weighting, rewards, advantage and its parts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from service.db.tables import CellRow, Completion


class CellOut(BaseModel):
    """One cell; a failed one has no score, but a status, a family and a reason."""

    criterion: str
    status: str
    family: str | None
    reason: str | None
    score: float | None
    confidence: float | None
    confidence_source: str | None
    reasoning: str | None
    critique: str | None
    votes: int
    vote_variance: float | None
    grader: str
    judge: str | None
    revision: int | None
    fingerprint: str | None
    steps: list[dict[str, Any]] | None
    cached: bool
    attempts: int
    latency_ms: float
    tokens_in: int
    tokens_out: int
    audit: bool

    @classmethod
    def of(cls, row: CellRow) -> CellOut:
        """From its row."""
        same = ("criterion", "status", "family", "reason", "score", "confidence", "confidence_source", "reasoning", "votes",
                "vote_variance", "grader", "fingerprint", "cached", "attempts", "latency_ms", "tokens_in", "tokens_out",
                "audit", "steps")  # fmt: skip
        return cls(
            critique=row.critique_id,
            judge=row.judge_id,
            revision=row.judge_revision,
            **{name: getattr(row, name) for name in same},
        )


class CompletionOut(BaseModel):
    """One sampled completion; from the cells of its group anyone can compute the numbers again."""

    id: str
    job_id: str
    step: int
    attempt: int
    purpose: str
    group: str
    index: int
    member: bool
    prompt: dict[str, Any]
    text: str
    token_ids: list[int]
    token_count: int
    finish_reason: str
    cells: list[CellOut]
    weighting: dict[str, Any]
    coverage: float
    reward: float | None
    plain_reward: float | None
    unscaled_advantage: float | None
    scale_factor: float | None
    advantage: float | None
    parts: dict[str, float]
    signal: str
    revision_of: str | None
    rubric: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, row: Completion, cells: list[CellRow]) -> CompletionOut:
        """From its rows."""
        same = ("id", "job_id", "step", "attempt", "purpose", "index", "member", "prompt", "text", "finish_reason",
                "weighting", "coverage", "reward", "plain_reward", "unscaled_advantage", "scale_factor", "advantage",
                "parts", "signal", "created_at")  # fmt: skip
        return cls(
            group=row.group_id,
            token_ids=list(row.token_ids),
            token_count=len(row.token_ids),
            cells=[CellOut.of(cell) for cell in cells if cell.completion_id == row.id],
            revision_of=None,
            rubric={"id": row.rubric_id, "version": row.rubric_version},
            **{name: getattr(row, name) for name in same},
        )


class CritiqueOut(BaseModel):
    """What a judge said about one completion on one criterion."""

    id: str
    completion: str
    job: str
    criterion: str
    text: str
    status: str
    score: float | None
    confidence: float | None
    source: dict[str, Any]
    created_at: datetime

    @classmethod
    def of(cls, row: CellRow) -> CritiqueOut:
        """From its cell."""
        return cls(
            id=row.critique_id or "",
            completion=row.completion_id,
            job=row.job_id,
            criterion=row.criterion,
            text=row.reasoning or "",
            status=row.status,
            score=row.score,
            confidence=row.confidence,
            source={"type": "judge", "judge": row.judge_id, "revision": row.judge_revision},
            created_at=row.created_at,
        )
