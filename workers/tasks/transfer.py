"""Queue `transfer`: a model may be waiting to be registered."""

from __future__ import annotations

from celery import shared_task

from workers.context import context


@shared_task(name="workers.tasks.transfer.register", acks_late=True)  # type: ignore[untyped-decorator]
def register(model_id: str) -> None:
    """Wake the poll thread, which registers one model after another."""
    del model_id
    if context().poll is not None:
        context().poll.wake()
