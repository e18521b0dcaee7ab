"""Queue `grading`: a batch of cells may be waiting, or a whole grading."""

from __future__ import annotations

from celery import shared_task

from workers.context import context


@shared_task(name="workers.tasks.grading.grade", acks_late=True)  # type: ignore[untyped-decorator]
def grade(batch_id: str) -> None:
    """Wake the engine, which claims from the table."""
    del batch_id
    context().grading.wake()


@shared_task(name="workers.tasks.grading.begin", acks_late=True)  # type: ignore[untyped-decorator]
def begin(grading_id: str) -> None:
    """Wake the runner of gradings, which claims from the table."""
    del grading_id
    context().gradings.wake()
