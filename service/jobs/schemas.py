"""What comes out of `/v1/jobs`; what goes in is `service.domain.job.JobSpec`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, Field

from service.db.tables import Job, JobEvent
from service.domain.base import Value
from service.domain.pinned import ANY_CATEGORY, PinnedRubrics, calibration_versions
from service.domain.spending import JudgeBudget, Spent, Usd


class JobError(BaseModel):
    """Why a job failed: a published code and a sentence."""

    code: str
    message: str


class Progress(BaseModel):
    """Finished optimizer steps, and how many there will be."""

    step: int
    steps: int | None


class JobOut(BaseModel):
    """A job: its spec with every default filled in, what it resolved to, and where it is."""

    id: str
    name: str
    algorithm: dict[str, Any]
    status: str
    status_reason: str | None
    error: JobError | None
    progress: Progress
    attempt: int
    policy: dict[str, Any]
    adapter: dict[str, Any] | None
    data: dict[str, Any]
    rubric: dict[str, Any] | None
    judges: dict[str, int]
    calibrations: dict[str, int]
    """Judge -> the version of its calibration that is pinned, for judges that have one."""
    models: dict[str, Any]
    """Models that grade, by id: kind, sha256 and a reward model's constants, as they were pinned."""
    rollout: dict[str, Any]
    training: dict[str, Any]
    evaluation: dict[str, Any] | None
    checkpoints: dict[str, Any]
    resources: dict[str, Any]
    limits: JudgeBudget
    spent: Spent
    """Over the whole life of the job, evaluations and work that was done again included; what `limits` bounds."""
    priority: int
    metadata: dict[str, Any]
    result: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime

    @classmethod
    def of(cls, row: Job) -> JobOut:
        """From its row; `resolved` replaces what the spec only names."""
        resolved = row.resolved
        evaluation = row.spec.get("evaluation")
        if evaluation is not None:
            written = evaluation.get("rubric") or row.spec.get("rubric")
            evaluation = {
                **evaluation,
                "data": resolved["data"].get("evaluation"),
                "held_out": resolved["data"].get("held_out"),
                "rubric": _rubric(PinnedRubrics.of(resolved, "evaluation_rubric"), written),
            }
        shown = ("adapter", "rollout", "training", "checkpoints", "resources")
        return cls(
            id=row.id,
            name=row.name,
            algorithm=row.spec["algorithm"],
            status=row.status,
            status_reason=row.status_reason,
            error=JobError(**row.error) if row.error else None,
            progress=Progress(step=row.progress_step, steps=row.progress_steps),
            attempt=row.attempt,
            policy=resolved["policy"],
            data={
                kind: snapshot for kind, snapshot in resolved["data"].items() if kind not in ("evaluation", "held_out")
            },
            rubric=_rubric(PinnedRubrics.of(resolved), row.spec.get("rubric")),
            judges=resolved["judges"],
            calibrations=calibration_versions(resolved),
            models=resolved.get("models", {}),
            evaluation=evaluation,
            limits=JudgeBudget.model_validate(row.spec.get("limits") or {}),
            spent=Spent.model_validate(row.spent or {}),
            priority=row.priority,
            metadata=row.metadata_,
            result=row.result,
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            updated_at=row.updated_at,
            **{name: row.spec[name] for name in shown},
        )


def _rubric(pinned: PinnedRubrics | None, written: dict[str, Any] | None) -> dict[str, Any] | None:
    """As it was written: the version, or a map of versions by category, each with what its groups are scored by."""
    if pinned is None or written is None:
        return None
    if isinstance(written.get("id"), str):
        return pinned.show(ANY_CATEGORY)
    return pinned.shown_by_category()


class LimitsPatch(Value):
    """Other limits; absent fields stay, and null lifts one."""

    judge_calls: Annotated[int, Field(ge=1, le=10**12)] | None = None
    judge_cost_usd: Usd | None = None


class ResumeIn(Value):
    """What may change when a job goes on."""

    limits: LimitsPatch = LimitsPatch()


class EventOut(BaseModel):
    """One event; `seq` counts from 1 without gaps."""

    id: str
    seq: int
    type: str
    created_at: datetime
    attempt: int
    data: dict[str, Any]

    @classmethod
    def of(cls, row: JobEvent) -> EventOut:
        """From its row."""
        return cls(id=row.id, seq=row.seq, type=row.type, created_at=row.created_at, attempt=row.attempt, data=row.data)


class PointOut(BaseModel):
    """A number of one step; superseded if a later attempt did the step again."""

    step: int
    value: float
    attempt: int
    superseded: bool


class SeriesOut(BaseModel):
    """A metric over the steps."""

    name: str
    points: list[PointOut]


class MetricsOut(BaseModel):
    """All series asked for."""

    data: list[SeriesOut]


class LogOut(BaseModel):
    """A piece of the training process's output."""

    attempt: int
    seq: int
    created_at: datetime
    text: str
