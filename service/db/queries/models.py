"""Registered models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Executable, Select, or_, select, update

from service.db.queries.jobs import now, seconds
from service.db.tables import Checkpoint, Job, Model
from service.domain.checkpoint import MANIFEST, CheckpointFile, model_hash

REGISTER_TASK = "workers.tasks.transfer.register"
TRANSFER_QUEUE = "transfer"


def all_models(project_id: str) -> Select[Model]:
    """The models of a project."""
    return select(Model).where(Model.project_id == project_id)


def model(project_id: str, model_id: str) -> Select[Model]:
    """One model."""
    return all_models(project_id).where(Model.id == model_id)


def at(location: str) -> Select[str]:
    """The models whose files lie there."""
    return select(Model.id).where(Model.location == location)


def values_from_checkpoint(checkpoint: Checkpoint, job: Job) -> dict[str, Any]:
    """The columns of a model that is a checkpoint: its files are hashed and stored, so it is ready at once."""
    files = [CheckpointFile.model_validate(file) for file in checkpoint.files]
    files = [file for file in files if "/" not in file.path and file.path != MANIFEST]
    kind = "reward" if job.algorithm == "reward_model" else "policy"
    return {
        "kind": kind,
        "normalisation": _normalisation(checkpoint.metrics) if kind == "reward" else None,
        "source": {"checkpoint": checkpoint.id},
        "status": "ready",
        "location": checkpoint.location,
        "files": [file.model_dump() for file in files],
        "sha256": model_hash(files),
        "base_model_id": job.spec["policy"]["model"] if checkpoint.kind == "adapter" else None,
    }


def _normalisation(metrics: Mapping[str, float]) -> dict[str, float] | None:
    """Mean and deviation of the rewards on held-out pairs at the checkpoint's own step, if they were measured and differ."""
    mean, std = metrics.get("evaluation.reward_mean"), metrics.get("evaluation.reward_std")
    return {"mean": mean, "std": std} if mean is not None and std is not None and std > 0 else None


def checkpoint_with_job(checkpoint_id: str) -> Select[Checkpoint, Job]:
    """A checkpoint, and the job that wrote it."""
    return select(Checkpoint, Job).join(Job, Job.id == Checkpoint.job_id).where(Checkpoint.id == checkpoint_id)


def claim_registering(lease_s: float) -> Executable:
    """Take one model that waits for its files to be fetched or hashed."""
    free = (
        select(Model.id)
        .where(Model.status == "registering", or_(Model.lease_expires_at.is_(None), Model.lease_expires_at < now()))
        .order_by(Model.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("free")
    )
    return (
        update(Model)
        .where(Model.id == free.c.id)
        .values(lease_expires_at=now() + seconds(lease_s))
        .returning(Model.id, Model.project_id, Model.kind, Model.source)
    )


def finish_registering(model_id: str, values: dict[str, Any]) -> Executable:
    """What came of it; nothing if somebody else has finished it."""
    return (
        update(Model)
        .where(Model.id == model_id, Model.status == "registering")
        .values(lease_expires_at=None, **values)
        .returning(Model.id)
    )
