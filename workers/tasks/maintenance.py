"""Queue `maintenance`: housekeeping that nothing depends on."""

from __future__ import annotations

from celery import shared_task
from sqlalchemy import delete, text

from service import garbage
from service.db.queries.abilities import outdated
from service.db.queries.cell_work import old_cells
from service.db.queries.cells import of_finished_jobs
from service.db.queries.endpoints import forgotten
from service.db.queries.jobs import now, seconds
from service.db.queries.replies import old_replies
from service.db.queries.spending import of_tries_that_are_gone
from service.db.tables import IdempotencyKey
from workers.context import context

MONTHS_AHEAD = 12
IDEMPOTENCY_S = 48 * 3600
ENDPOINT_S = 30 * 86_400
TRY_S = 3600


@shared_task(name="workers.tasks.maintenance.housekeeping", acks_late=True)  # type: ignore[untyped-decorator]
def housekeeping() -> None:
    """Make the coming months' partitions; drop answers to old idempotency keys, batches that nobody reads any more,
    endpoints that nobody asks, what tries have taken (the judges' own totals keep it); and cells of the cache and replies of judges
    that are old. Then what attempts and caches have left behind in the artifact store.
    """
    with context().database.transaction() as session:
        session.execute(text("SELECT grape_make_partitions(:ahead)"), {"ahead": MONTHS_AHEAD})
        session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - seconds(IDEMPOTENCY_S)))
        session.execute(of_finished_jobs())
        session.execute(forgotten(ENDPOINT_S))
        session.execute(outdated())
        session.execute(of_tries_that_are_gone(TRY_S))
        session.execute(old_cells(context().settings.grading.cache_days))
        session.execute(old_replies(context().settings.grading.replies_days))
    garbage.housekeeping(context().registrar.store, context().database, context().settings.storage)
