"""Which gradings a worker process holds: claims, leases, attempts that failed."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import ClassVar

from sqlalchemy import Executable
from sqlalchemy.exc import InterfaceError, OperationalError

from service.config import JobsSettings
from service.db.engine import Database
from service.db.queries import gradings as queries
from service.db.queries import jobs as job_queries
from service.db.tables import Grading
from service.domain.ids import new_id
from workers.runs.gradings import HeldGrading
from workers.runs.leases import LeaseQueries, Leases

MAX_BACKOFF_S = 300.0


@dataclass(slots=True)
class GradingClaims(Leases):
    """The gradings of this worker process."""

    rows: ClassVar[LeaseQueries] = queries
    database: Database
    settings: JobsSettings
    lease_s: float
    worker_id: str = field(default_factory=lambda: new_id("worker"))
    _connected_since: float | None = None

    def claim(self, lane: str) -> HeldGrading | None:
        """One of a lane to work on, held from now on. What has failed too often is ended here.

        A lapsed lease is taken over only once this process has reached the database for as long as a lease lasts: an outage of
        the database must not look like the death of every worker.
        """
        now = time.monotonic()
        lapsed = self._connected_since is not None and now - self._connected_since > self.lease_s
        statement = queries.claim(self.worker_id, self.lease_s, lane, lapsed=lapsed)
        try:
            return self._claim(statement)
        except (OperationalError, InterfaceError):
            self._connected_since = None
            raise

    def _claim(self, statement: Executable) -> HeldGrading | None:
        with self.database.transaction() as session:
            row = session.execute(statement).first()
            self._connected_since = self._connected_since or time.monotonic()
            if row is None:
                return None
            session.execute(job_queries.forget_messages(row.id))
            grading = session.get_one(Grading, row.id)
        held = HeldGrading(self.database, grading, row.fence)
        if grading.failures >= self.settings.max_attempts:
            held.fail("max_attempts", f"{grading.failures} attempts ended without a result; the last worker was lost")
            return self._claim(statement)
        return held

    def forget_tries(self) -> None:
        """Drop tries that nobody waits for any more."""
        with self.database.transaction() as session:
            session.execute(queries.forgotten_tries())

    def went_wrong(self, held: HeldGrading, error: Exception) -> None:
        """Our own side failed: again after a backoff, or for good after the last attempt."""
        failures = held.grading.failures + 1
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:1000]
        if failures >= self.settings.max_attempts:
            held.fail("max_attempts", f"{failures} attempts failed; the last: {said}", failures=failures)
            return
        wait = min(self.settings.retry_backoff_s * 2 ** (failures - 1), MAX_BACKOFF_S)
        with self.database.transaction() as session:
            session.execute(queries.retry(held.id, held.fence, failures, wait, f"internal: {said}"))
