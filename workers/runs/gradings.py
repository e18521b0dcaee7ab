"""A grading, as the worker that holds it sees it: reads, and writes that all carry the fence."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import insert
from sqlalchemy.orm import Session

from service.db.engine import Database
from service.db.queries import cells as cell_queries
from service.db.queries import grading_items as item_queries
from service.db.queries import gradings as queries
from service.db.queries.rubrics import these_versions
from service.db.tables import CellBatch, CellRequest, Grading, Outbox
from service.domain.asked import PLAIN, Messages, Told
from service.domain.grade import Cell
from service.domain.ids import new_id
from workers.runs.copying import copy_rows, driver
from workers.runs.held import StaleFence, through_outage

T = TypeVar("T")


class GradingFailure(Exception):
    """A grading cannot go on, and trying again would not help: a code and a sentence for the person who asked for it."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message


@dataclass(frozen=True, slots=True)
class Question:
    """Cells to ask the workers of a queue for: some texts of one group with one prompt. `key` starts with the group's number.

    `fresh` cells are asked for even where they are known.
    """

    key: str
    queue: str
    rubric: str
    prompt: dict[str, Any]
    texts: list[str]
    criteria: list[str]
    fresh: bool = False

    @property
    def payload(self) -> dict[str, Any]:
        """What the worker is told."""
        found = {"rubric": self.rubric, "prompt": self.prompt, "texts": self.texts}
        return {**found, "fresh": True} if self.fresh else found

    @property
    def places(self) -> list[tuple[int, str]]:
        """(index, criterion) of each cell."""
        return [(i, c) for i in range(len(self.texts)) for c in self.criteria]


@dataclass(frozen=True, slots=True)
class PlainQuestion:
    """Texts to ask a judge's endpoint or model for. `key` starts with the group's number."""

    key: str
    queue: str
    judge: str
    questions: list[Messages]

    @property
    def payload(self) -> dict[str, Any]:
        """What the worker is told."""
        return {"judge": self.judge, "questions": self.questions}

    @property
    def places(self) -> list[tuple[int, str]]:
        """(index, `text`) of each answer."""
        return [(i, PLAIN) for i in range(len(self.questions))]


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

    def ask(
        self,
        numbers: Collection[int],
        questions: Sequence[Question | PlainQuestion],
        priority: int,
        status: str = "asked",
    ) -> None:
        """Ask the judges about these groups, once: a group gets the `status` in the transaction that asks."""
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
                    "payload": question.payload,
                    "fence": 0,
                }
            )
            requests += [
                {"batch_id": batch_id, "completion_index": i, "criterion": c, "project_id": self.project_id}
                for i, c in question.places
            ]

        def work(session: Session) -> None:
            if session.execute(item_queries.mark(self.id, numbers, status)).first() is None:
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

    def told(self, keys: Sequence[str]) -> dict[str, list[Told]]:
        """The answers to the plain questions of these keys, in their order."""
        rows = self.read(lambda session: list(session.execute(cell_queries.answered(self.id, keys))))
        found: dict[str, list[Told]] = {key: [] for key in keys}
        for key, _, _, cell in rows:
            found[key].append(Told.model_validate(cell))
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
        also: Callable[[Session], None] = lambda session: None,
    ) -> None:
        """Completions and cells of these groups, in the transaction that ends them; their batches go."""

        def work(session: Session) -> None:
            if session.execute(item_queries.mark(self.id, numbers, "done")).first() is None:
                return
            copy_rows(session, "completions", completions)
            copy_rows(session, "cells", cells)
            also(session)
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
            with driver(session).cursor(binary=True) as cursor:
                return members, cursor.execute(item_queries.STORED_CELLS, values).fetchall()

        return self.read(work)

    def finish_reused(self, numbers: Collection[int], values: dict[str, Any], *, done: int, failed: int) -> None:
        """Completions of these groups with their new numbers, in the transaction that ends the groups."""
        common = {"project_id": self.project_id, "grading_id": self.id, "fence": self.fence}

        def work(session: Session) -> None:
            if session.execute(item_queries.mark(self.id, numbers, "done")).first() is not None:
                driver(session).execute(item_queries.ADD_REUSED, {**common, **values})

        self.transact(work, done=done, failed=failed)

    def succeed(self, summary: dict[str, Any], **values: Any) -> None:
        """The end; what was only needed on the way goes."""
        self._end("succeeded", summary=summary, **values)

    def fail(self, code: str, message: str, **values: Any) -> None:
        """The other end."""
        self._end("failed", error={"code": code, "message": message}, **values)

    def conclude(self, work: Callable[[Session], dict[str, Any]]) -> None:
        """The good end, with what `work` does in the same transaction; it returns the summary."""

        def end(session: Session) -> None:
            if session.execute(queries.touch(self.id, self.fence)).first() is None:
                raise StaleFence(f"fence {self.fence} of {self.id} is stale")
            session.execute(queries.end(self.id, "succeeded", fence=self.fence, summary=work(session)))
            for statement in queries.leftovers(self.id):
                session.execute(statement)

        self.read(end)

    def _end(self, status: str, **values: Any) -> None:
        def work(session: Session) -> None:
            if session.execute(queries.end(self.id, status, fence=self.fence, **values)).first() is None:
                raise StaleFence(f"fence {self.fence} of {self.id} is stale")
            for statement in queries.leftovers(self.id):
                session.execute(statement)

        self.read(work)
