"""Queue `training`: a job may be waiting."""

from __future__ import annotations

from celery import shared_task

from workers.context import context


@shared_task(name="workers.tasks.training.run", acks_late=False)  # type: ignore[untyped-decorator]
def run(job_id: str) -> None:
    """Claim the best queued job, which need not be this one, and see it through.

    Acknowledged early: Redis delivers a late-acknowledged task again after its visibility timeout, while it still runs.
    """
    del job_id
    context().runner.run_next()
