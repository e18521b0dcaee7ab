"""Queue `grading_local`: cells that a model of this machine grades may be waiting."""

from __future__ import annotations

from celery import shared_task

from workers.context import context


@shared_task(name="workers.tasks.grading_local.grade", acks_late=True)  # type: ignore[untyped-decorator]
def grade(batch_id: str) -> None:
    """Wake the engine, which claims from the table."""
    del batch_id
    context().local_grading.wake()
