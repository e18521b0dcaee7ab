"""Gradings, as the worker that holds them sees them: claims, and writes that all carry the fence."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Executable, insert
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.orm import Session

from service.config import JobsSettings
from service.db.engine import Database
from service.db.queries import cells as cell_queries
from service.db.queries import grading_items as item_queries
from service.db.queries import gradings as queries
from service.db.queries import jobs as job_queries
from service.db.queries.rubrics import these_versions
from service.db.tables import CellBatch, CellRequest, Grading, Outbox
from service.domain.grade import Cell
from service.domain.ids import new_id
from workers.runs.held import StaleFence, through_outage

log = logging.getLogger(__name__)

MAX_BACKOFF_S = 300.0
T = TypeVar("T")


class GradingFailure(Exception):
    """A grading cannot go on, and trying again would not help: a code and a sentence for the person who asked for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class Question:
    """Cells to ask the workers of a queue for: some texts of one group with one prompt. `key` starts with the group's number."""

    key: str
    queue: str
    rubric: str
    prompt: dict[str, Any]
    texts: list[str]
    criteria: list[str]


@dataclass(slots=True)
class GradingClaims:
    """The gradings of this worker process."""

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

    def renew(self, held: dict[str, int]) -> set[str]:
        """Renew leases; the gradings that are still ours."""
        with self.database.transaction() as session:
            rows = session.execute(queries.renew(held, self.worker_id, self.lease_s))
            return {grading_id for grading_id, fence in rows if held.get(grading_id) == fence}

    def release(self) -> None:
        """Give everything back, for another worker to take at once."""
        with self.database.transaction() as session:
            session.execute(queries.release(self.worker_id))

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


class HeldGrading:
    """A claimed grading. Every method runs one transaction under its fence; `StaleFence` once it is no longer ours."""

    def __init__(self, database: Database, grading: Grading, fence: int) -> None:
        self.database, self.grading, self.fence = database, grading, fence
        self.id, self.project_id = grading.id, grading.project_id

    def transact(self, work: Callable[[Session], T], **values: Any) -> T:
        """Run `work` under the fence, with changes to the row; an outage of the database is waited out.

        A commit whose answer is lost is done again: `work` finds then that it has been done.
        """

        def fenced(session: Session) -> T:
            if session.execute(queries.touch(self.id, self.fence, **values)).first() is None:
                raise StaleFence(f"fence {self.fence} of {self.id} is stale")
            return work(session)

        return self.read(fenced)

    def read(self, work: Callable[[Session], T]) -> T:
        """The same for reading, which needs no fence."""
        return through_outage(self.database, work)

    def reason(self, text: str | None) -> None:
        """What it waits for."""
        self.transact(lambda session: None, status_reason=text)

    # --- what is graded ---

    def add_items(self, statement: Any, values: dict[str, Any], expanded: int) -> None:
        """More items; `expanded` is their number after this, so that a lost worker's successor goes on from there."""
        common = {"grading_id": self.id, "project_id": self.project_id}

        def work(session: Session) -> None:
            if session.get_one(Grading, self.id).expanded != expanded:
                session.execute(statement, {**common, **values})
                session.execute(queries.touch(self.id, self.fence, expanded=expanded))

        self.transact(work)

    def plan(self, items: int, cells: int) -> None:
        """Make groups of the items; so many items, and so many cells to be graded."""
        values = {"grading_id": self.id, "project_id": self.project_id}
        known = {"planned": True, "expanded": items, "cells": cells}

        def work(session: Session) -> None:
            if not session.get_one(Grading, self.id).planned:
                session.execute(item_queries.PLAN, values)
                session.execute(queries.touch(self.id, self.fence, **known))

        self.transact(work)
        for name, value in known.items():
            setattr(self.grading, name, value)

    def kinds_of_prompts(self) -> list[Any]:
        """How many items there are of each kind of prompt and rubric version."""
        return self.read(lambda session: list(session.execute(item_queries.kinds_of_prompts(self.id))))

    def versions(self, pins: Collection[tuple[str, int]]) -> dict[tuple[str, int], dict[str, Any]]:
        """The contents of rubric versions."""
        return self.read(
            lambda session: {(v.rubric_id, v.version): v.graded_by for v in session.scalars(these_versions(pins))}
        )

    def groups(self, status: str, after: int = -1, limit: int | None = None) -> list[tuple[int, int]]:
        """(number, size) of the groups in this state, in order, from the one after `after`."""
        statement = item_queries.open_groups(self.id, status, after, limit)
        return self.read(lambda session: [tuple(row) for row in session.execute(statement)])

    def texts_of(self, numbers: Collection[int]) -> list[Any]:
        """The members of these groups, in order of group and position."""
        return self.read(lambda session: list(session.execute(item_queries.texts_of(self.id, numbers))))

    def stored(self) -> tuple[list[Any], list[Any]]:
        """What stands already: completions in input order, and their cells."""

        def work(session: Session) -> tuple[list[Any], list[Any]]:
            return list(session.execute(item_queries.stored_numbers(self.id))), list(
                session.execute(item_queries.stored_cells(self.id))
            )

        return self.read(work)

    # --- judges ---

    def ask(self, numbers: Collection[int], questions: Sequence[Question], priority: int) -> None:
        """Ask the judges about these groups, once: a group is `asked` in the transaction that asks."""
        batches, requests = [], []
        for question in questions:
            batch_id = new_id("batch")
            batches.append(
                {
                    "id": batch_id,
                    "project_id": self.project_id,
                    "grading_id": self.id,
                    "key": question.key,
                    "queue": question.queue,
                    "status": "queued",
                    "priority": priority,
                    "payload": {"rubric": question.rubric, "prompt": question.prompt, "texts": question.texts},
                    "fence": 0,
                }
            )
            requests += [
                {"batch_id": batch_id, "completion_index": i, "criterion": c, "project_id": self.project_id}
                for i in range(len(question.texts))
                for c in question.criteria
            ]

        def work(session: Session) -> None:
            if session.execute(item_queries.mark(self.id, numbers, "asked")).first() is None:
                return
            if batches:
                session.execute(insert(CellBatch), batches)
                session.execute(insert(CellRequest), requests)
                firsts = {batch["queue"]: batch["id"] for batch in reversed(batches)}
                for queue, batch_id in firsts.items():
                    task = cell_queries.GRADING_TASKS[queue]
                    session.add(Outbox(id=new_id("event"), subject_id=batch_id, task=task, queue=queue))

        self.transact(work)

    def undone(self) -> set[int]:
        """The groups whose judges have not answered."""
        keys = self.read(lambda session: list(session.scalars(item_queries.unanswered_keys(self.id))))
        return {int(key.partition("/")[0]) for key in keys}

    def answers(self, keys: Sequence[str]) -> dict[str, list[dict[str, Cell]]]:
        """The judges' cells of these keys, by text."""
        rows = self.read(lambda session: list(session.execute(cell_queries.answered(self.id, keys))))
        found: dict[str, list[dict[str, Cell]]] = {key: [] for key in keys}
        for key, index, criterion, cell in rows:
            table = found[key]
            while len(table) <= index:
                table.append({})
            table[index][criterion] = Cell.model_validate(cell)
        return found

    def show_progress(self, done: int, failed: int) -> None:
        """Cells of finished groups, `done` and `failed`, and those that have come for others."""

        def work(session: Session) -> None:
            more = session.execute(item_queries.PROGRESS, {"grading_id": self.id}).one()
            session.execute(queries.touch(self.id, self.fence, done=done + more.done, failed=failed + more.failed))

        self.transact(work)

    # --- results ---

    def finish(
        self,
        numbers: Collection[int],
        keys: Sequence[str],
        *,
        completions: Sequence[dict[str, Any]],
        cells: Sequence[dict[str, Any]],
        done: int,
        failed: int,
    ) -> None:
        """Completions and cells of these groups, in the transaction that ends them; their batches go."""

        def work(session: Session) -> None:
            if session.execute(item_queries.mark(self.id, numbers, "done")).first() is None:
                return
            copy_rows(session, "completions", completions)
            copy_rows(session, "cells", cells)
            if keys:
                session.execute(cell_queries.forget(self.id, keys))

        self.transact(work, done=done, failed=failed)

    # --- cells that are there already ---

    def reusable(self, numbers: Collection[int]) -> tuple[list[Any], list[tuple[Any, ...]]]:
        """The members of these groups, in order of group and position, and their stored cells, in no order."""

        def work(session: Session) -> tuple[list[Any], list[tuple[Any, ...]]]:
            members = list(session.execute(item_queries.cells_to_reuse(self.id, numbers)))
            moments = [member.cells_created_at for member in members]
            values = [list({member.cells_of for member in members}), min(moments), max(moments)]
            with _driver(session).cursor(binary=True) as cursor:
                return members, cursor.execute(item_queries.STORED_CELLS, values).fetchall()

        return self.read(work)

    def finish_reused(self, numbers: Collection[int], values: dict[str, Any], *, done: int, failed: int) -> None:
        """Completions of these groups with their new numbers, in the transaction that ends the groups."""
        common = {"project_id": self.project_id, "grading_id": self.id, "fence": self.fence}

        def work(session: Session) -> None:
            if session.execute(item_queries.mark(self.id, numbers, "done")).first() is not None:
                _driver(session).execute(item_queries.ADD_REUSED, {**common, **values})

        self.transact(work, done=done, failed=failed)

    def succeed(self, summary: dict[str, Any], **values: Any) -> None:
        """The end; what was only needed on the way goes."""
        self._end("succeeded", summary=summary, **values)

    def fail(self, code: str, message: str, **values: Any) -> None:
        """The other end."""
        self._end("failed", error={"code": code, "message": message}, **values)

    def _end(self, status: str, **values: Any) -> None:
        def work(session: Session) -> None:
            if session.execute(queries.end(self.id, status, fence=self.fence, **values)).first() is None:
                raise StaleFence(f"fence {self.fence} of {self.id} is stale")
            for statement in queries.leftovers(self.id):
                session.execute(statement)

        self.read(work)


def copy_rows(session: Session, table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows by COPY, in the session's transaction; all rows have the columns of the first.

    Dictionaries, and lists of them, are JSON; other lists are arrays.
    """
    if not rows:
        return
    columns = list(rows[0])
    names = ", ".join(f'"{name}"' for name in columns)
    with _driver(session).cursor() as cursor, cursor.copy(f'COPY "{table}" ({names}) FROM STDIN') as copy:
        for row in rows:
            copy.write_row([_stored(row[name]) for name in columns])


def _driver(session: Session) -> Any:
    """The driver's own connection, in the session's transaction: for what goes by the hundred thousand."""
    return session.connection().connection.driver_connection


def _stored(value: Any) -> Any:
    if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return value
