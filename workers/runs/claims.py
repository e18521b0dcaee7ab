"""What a worker process does with jobs: claim one, keep its lease, move it by its outcome, and look after the others."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Executable, text
from sqlalchemy.orm import Session

from service.config import JobsSettings, LimitsSettings
from service.db.engine import Database
from service.db.queries import jobs as queries
from service.db.queries import models as model_queries
from service.db.queries.checkpoints import of_job
from service.db.tables import Checkpoint, Job, JobLog, Model
from service.domain.ids import new_id
from service.domain.job_state import FAILURES, Event

log = logging.getLogger(__name__)

REAPER_LOCK = 0x72656170  # "reap"
MAX_BACKOFF_S = 300.0
LAPSED = "the worker that held the job stopped renewing its lease"


def processes_here() -> int:
    """This machine's NVIDIA GPUs; without one, the processors that we may use. Torch is not asked: it is not loaded here."""
    return max(1, len(list(Path("/dev").glob("nvidia[0-9]*"))) or len(os.sched_getaffinity(0)))


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that this process holds under a fence."""

    job_id: str
    project_id: str
    fence: int
    attempt: int
    failures: int
    name: str
    processes: int = 1


@dataclass(slots=True)
class Claims:
    """The job side of a training worker."""

    database: Database
    settings: JobsSettings
    limits: LimitsSettings
    worker_id: str = field(default_factory=lambda: new_id("worker"))
    host: str = field(default_factory=lambda: f"{socket.gethostname()}:{os.getpid()}")
    _connected_since: float | None = None

    def claim(self) -> Claim | None:
        """The best fitting queued job, held by us from now on. Those that ask for more processes than we give are told."""
        processes = self.settings.processes or processes_here()
        statement = queries.claim(
            self.worker_id,
            self.host,
            lease_s=self.settings.lease_s,
            processes=processes,
            concurrent_jobs=self.limits.concurrent_jobs,
        )
        with self.database.transaction() as session:
            row = session.execute(statement).first()
            if row is None:
                session.execute(queries.too_large(processes))
        if row is None:
            return None
        return Claim(row.id, row.project_id, row.fence, row.attempt, row.failures, row.name, row.processes)

    def renew(self, claim: Claim) -> bool:
        """Renew the lease; false if the job is no longer ours."""
        with self.database.transaction() as session:
            return (
                session.execute(queries.heartbeat(claim.job_id, claim.fence, self.settings.lease_s)).first() is not None
            )

    def status(self, claim: Claim) -> str | None:
        """The state of the job we hold; null if it is no longer ours."""
        with self.database.transaction() as session:
            return session.scalar(queries.wish(claim.job_id, claim.fence))

    def move(self, event: Event, claim: Claim, **extra: Any) -> bool:
        """A transition of a job that we hold."""
        with self.database.transaction() as session:
            return (
                session.execute(queries.transition(event, claim.job_id, fence=claim.fence, **extra)).first() is not None
            )

    def succeed(
        self, claim: Claim, best: str | None, last: str | None, report: Mapping[str, Any] | None = None
    ) -> bool:
        """Register the best checkpoint as a model and end the job, in one transaction. `report` stands beside it in the result."""
        with self.database.transaction() as session:
            job = session.get(Job, claim.job_id)
            assert job is not None
            result: dict[str, Any] = {"model": None, "best_checkpoint": best, "last_checkpoint": last, **(report or {})}
            if best is not None:
                result["model"] = self._register(session, job, best)
            statement = queries.transition("succeed", claim.job_id, fence=claim.fence, values={"result": result})
            if session.execute(statement).first() is None:
                session.rollback()
                return False
            return True

    def _register(self, session: Session, job: Job, checkpoint_id: str) -> str:
        checkpoint = session.get(Checkpoint, checkpoint_id)
        assert checkpoint is not None
        values = model_queries.values_from_checkpoint(checkpoint, job)
        model = Model(
            id=new_id("model"), project_id=job.project_id, name=f"{job.name} (step {checkpoint.step})", **values
        )
        session.add(model)
        session.flush()
        return model.id

    def fail(self, job_id: str, fence: int, failures: int, code: str, message: str) -> bool:
        """End an attempt that went wrong: try again after a backoff, or fail for good, as the code says."""
        with self.database.transaction() as session:
            return session.execute(self._failure(job_id, fence, failures, code, message)).first() is not None

    def _failure(self, job_id: str, fence: int, failures: int, code: str, message: str) -> Executable:
        failure = FAILURES[code]
        error = {"code": code, "message": message}
        failures += 1
        if failure.retryable and failures < self.settings.max_attempts:
            wait = min(self.settings.retry_backoff_s * 2 ** (failures - 1), MAX_BACKOFF_S)
            return queries.transition(
                "retry",
                job_id,
                fence=fence,
                reason=f"{code}: {message}",
                data={"error": error, "retry_in_s": wait, "failures": failures},
                values={"failures": failures, "next_run_at": queries.now() + queries.seconds(wait)},
                end_reason=code,
            )
        if failure.retryable:
            said = f"{failures} attempts failed; the last: {code}: {message}"
            error = {"code": "max_attempts", "message": said}
        return queries.transition(
            "fail", job_id, fence=fence, values={"error": error, "failures": failures}, end_reason=code
        )

    def append_log(self, claim: Claim, seq: int, text_: str) -> None:
        """A piece of the child's output."""
        with self.database.transaction() as session:
            row = JobLog(job_id=claim.job_id, fence=claim.fence, seq=seq, project_id=claim.project_id, text=text_)
            session.add(row)

    def checkpoint_steps(self, claim: Claim) -> list[int]:
        """The steps that have a checkpoint."""
        with self.database.transaction() as session:
            return [row.step for row in session.scalars(of_job(claim.job_id))]

    # --- looking after all jobs: any poll thread may do it, one at a time ---

    def look_after(self) -> None:
        """Reap lapsed leases and queue due retries, under an advisory lock.

        A lease is reaped only once this process has reached the database for as long as a lease lasts: an outage of the
        database must not look like the death of every worker.
        """
        try:
            with self.database.transaction() as session:
                if not session.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": REAPER_LOCK}):
                    self._connected_since = self._connected_since or time.monotonic()
                    return
                self._connected_since = self._connected_since or time.monotonic()
                for job_id in session.scalars(queries.due_retries()).all():
                    session.execute(queries.transition("due", job_id))
                if time.monotonic() - self._connected_since < self.settings.lease_s:
                    return
                for job_id, fence, failures in session.execute(queries.lapsed(self.settings.grace_s)).all():
                    log.warning("the lease of %s under fence %d has lapsed", job_id, fence)
                    session.execute(self._failure(job_id, fence, failures, "internal", LAPSED))
        except Exception:
            self._connected_since = None
            raise
