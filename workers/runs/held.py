"""A held job, as its training child sees it: what it reads, and writes that all carry the fence."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import delete, insert, select, update
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from service.db.engine import Database
from service.db.queries import checkpoints as checkpoint_queries
from service.db.queries import completions as completion_queries
from service.db.queries import datasets as dataset_queries
from service.db.queries import jobs as queries
from service.db.queries import judges as judge_queries
from service.db.queries import models as model_queries
from service.db.tables import (
    Attempt,
    CellRow,
    Checkpoint,
    Completion,
    Job,
    JobMetric,
    Judge,
    JudgeRevision,
    Model,
    RevisionResult,
)
from service.domain.dataset import Snapshot
from service.domain.ids import new_id
from service.domain.job import JobSpec
from service.storage import ArtifactStore
from workers.runs.publishing import publish_accepted

OUTAGE_S = 900.0
"""How long a child works on while the database is away; its writes are fenced, so that is safe."""

CHUNK = 1000
T = TypeVar("T")


class StaleFence(Exception):
    """Somebody else holds the job, or nobody: this attempt writes nothing more and ends itself."""


@dataclass(frozen=True, slots=True)
class Held:
    """The job's row, parsed."""

    spec: JobSpec
    resolved: dict[str, Any]
    project_id: str
    attempt: int
    steps: int


def through_outage(database: Database, work: Callable[[Session], T]) -> T:
    """Run `work` in one transaction, again while the connection fails before the commit, up to `OUTAGE_S` seconds."""
    deadline = time.monotonic() + OUTAGE_S
    while True:
        try:
            with database.transaction() as session:
                return work(session)
        except DBAPIError as error:
            if not (isinstance(error, OperationalError | InterfaceError) or error.connection_invalidated):
                raise
            if time.monotonic() > deadline:
                raise
            time.sleep(1.0)


class HeldJob:
    """Every method runs one transaction; an outage of the database is waited out up to `OUTAGE_S`."""

    def __init__(self, database: Database, job_id: str, fence: int) -> None:
        self.database, self.job_id, self.fence = database, job_id, fence
        self._clock: tuple[datetime, float] | None = None

    def moment(self) -> datetime:
        """Now, by the database's clock: asked once, and counted on from there by durations of this machine."""
        if self._clock is None:
            self._clock = (
                self.transact(lambda session: session.scalars(select(queries.now())).one()),
                time.monotonic(),
            )
        then, at = self._clock
        return then + timedelta(seconds=time.monotonic() - at)

    def transact(self, work: Callable[[Session], T]) -> T:
        """Run `work` in a transaction, again if the connection fails before the commit."""
        return through_outage(self.database, work)

    def fenced(self, session: Session, **values: Any) -> Any:
        """Lock the row under our fence, with changes to it; `StaleFence` if it is no longer ours."""
        row = session.execute(queries.touch(self.job_id, self.fence, **values)).first()
        if row is None:
            raise StaleFence(f"fence {self.fence} of {self.job_id} is stale")
        return row

    def read(self) -> Held:
        """The job."""

        def work(session: Session) -> Held:
            job = session.get(Job, self.job_id, populate_existing=True)
            if job is None or job.fence != self.fence:
                raise StaleFence(f"fence {self.fence} of {self.job_id} is stale")
            spec = JobSpec.model_validate(job.spec)
            return Held(spec, dict(job.resolved), job.project_id, job.attempt, job.progress_steps or 0)

        return self.transact(work)

    def begin(self, step: int | None, resolved: dict[str, Any]) -> None:
        """Say from which step this attempt goes on (null: from nothing), and what the job has resolved to by now."""

        def work(session: Session) -> None:
            self.fenced(session, progress_step=step or 0, resolved=resolved, status_reason=None)
            session.execute(
                update(Attempt)
                .where(Attempt.job_id == self.job_id, Attempt.fence == self.fence)
                .values(resumed_from_step=-1 if step is None else step)
            )

        self.transact(work)

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """An event that moves nothing."""

        def work(session: Session) -> None:
            if session.execute(queries.append_event(self.job_id, self.fence, kind, data)).first() is None:
                raise StaleFence(f"fence {self.fence} of {self.job_id} is stale")

        self.transact(work)

    def reason(self, text: str | None) -> None:
        """What the job waits for, in its status_reason."""
        self.transact(lambda session: self.fenced(session, status_reason=text))

    def records(
        self,
        *,
        step: int | None,
        metrics: Sequence[dict[str, Any]],
        completions: Sequence[dict[str, Any]],
        cells: Sequence[dict[str, Any]],
        results: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Metrics, completions with their cells, what became of revisions, and progress, in one transaction."""

        def work(session: Session) -> None:
            row = self.fenced(session, **({} if step is None else {"progress_step": step}))
            common = {"job_id": self.job_id, "project_id": row.project_id}
            owned = {**common, "fence": self.fence, "attempt": row.attempt}
            for table, rows, shared in (
                (JobMetric, metrics, owned),
                (Completion, completions, owned),
                (CellRow, cells, common),
                (RevisionResult, results, owned),
            ):
                for start in range(0, len(rows), CHUNK):
                    part: list[dict[str, Any]] = [{**item, **shared} for item in rows[start : start + CHUNK]]
                    session.execute(insert(table), part)

        self.transact(work)

    def publish_revisions(self, datasets: Mapping[str, str], up_to: int) -> dict[str, int]:
        """Put what was accepted up to a step that will not be done again into the job's datasets; how many rows of each kind."""

        def work(session: Session) -> dict[str, int]:
            row = self.fenced(session)
            published = publish_accepted(session, datasets, row.project_id, job_id=self.job_id, up_to=up_to)
            if any(published.values()):
                data = {
                    "step": up_to,
                    **{kind: {"dataset": datasets[kind], "rows": n} for kind, n in published.items()},
                }
                session.execute(queries.append_event(self.job_id, self.fence, "revision.published", data))
            return published

        return self.transact(work)

    # --- models, data, judges ---

    def model(self, model_id: str) -> Model:
        """A model of the project."""

        def work(session: Session) -> Model:
            job = session.get(Job, self.job_id)
            assert job is not None
            return session.scalars(model_queries.model(job.project_id, model_id)).one()

        return self.transact(work)

    def judge(self, judge_id: str, revision: int) -> tuple[Judge, JudgeRevision]:
        """A judge's head and the revision that the job has pinned."""

        def work(session: Session) -> tuple[Judge, JudgeRevision]:
            found = session.scalars(judge_queries.revision(judge_id, revision)).one()
            return session.get_one(Judge, judge_id), found

        return self.transact(work)

    def rows(self, snapshot: Snapshot) -> Iterator[tuple[int, dict[str, Any]]]:
        """The rows of a snapshot, in order, as (sequence number, content)."""
        after = 0
        while True:
            statement = dataset_queries.rows_between(snapshot.dataset, after, snapshot.last_seq, CHUNK)
            part = self.transact(lambda session, s=statement: [(r.seq, r.content) for r in session.scalars(s)])  # type: ignore[misc]
            if not part:
                return
            yield from part
            after = part[-1][0]

    def stored(self, source: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str | None]]:
        """(prompt as graders see it, text, how it ended) of stored completions, in their order."""
        after: list[Any] | None = None
        while True:
            statement = completion_queries.stored(source, after, CHUNK)
            part = self.transact(lambda session, s=statement: [tuple(row) for row in session.execute(s)])  # type: ignore[misc]
            if not part:
                return
            yield from (row[-3:] for row in part)
            after = list(part[-1][:-3])

    # --- checkpoints ---

    def latest_checkpoint(self) -> Checkpoint | None:
        """The one to resume from: the highest registered step."""
        return self.transact(lambda session: session.scalar(checkpoint_queries.latest(self.job_id)))

    def checkpoints(self) -> list[Checkpoint]:
        """All of them, by step."""
        statement = checkpoint_queries.of_job(self.job_id).order_by(Checkpoint.step)
        return self.transact(lambda session: list(session.scalars(statement)))

    def register_checkpoint(self, values: dict[str, Any]) -> str:
        """List a checkpoint whose files are durable, with its event."""
        checkpoint_id = new_id("checkpoint")

        def work(session: Session) -> None:
            row = self.fenced(session)
            session.execute(
                insert(Checkpoint).values(
                    id=checkpoint_id, job_id=self.job_id, project_id=row.project_id, fence=self.fence, **values
                )
            )
            data = {"checkpoint": checkpoint_id, "step": values["step"]}
            session.execute(queries.append_event(self.job_id, self.fence, "checkpoint.created", data))

        self.transact(work)
        return checkpoint_id

    def unlist_checkpoint(self, checkpoint_id: str) -> bool:
        """Take a checkpoint off the list; its files go afterwards. False, and it stays, if it was registered as a model."""

        def work(session: Session) -> bool:
            self.fenced(session)
            # Locked first: who registers it meanwhile is waited for, and seen by the next statement.
            location = session.scalar(checkpoint_queries.location(checkpoint_id).with_for_update())
            if location is None or session.scalar(model_queries.at(location).limit(1)) is not None:
                return False
            session.execute(delete(Checkpoint).where(Checkpoint.id == checkpoint_id))
            return True

        return self.transact(work)


def model_folder(model: Model, store: ArtifactStore) -> Path:
    """Where a registered model's files lie on this host: a folder of its own, or a location of the artifact store."""
    assert model.location is not None
    folder = Path(model.location)
    return folder if folder.is_absolute() else store.fetch(model.location)
