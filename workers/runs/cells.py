"""Judged cells between who asks and waits (a training child, a grading) and the grading workers, who claim and answer."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sqlalchemy import insert
from sqlalchemy.orm import Session

from service.db.engine import Database
from service.db.queries import cells as queries
from service.db.queries import jobs as job_queries
from service.db.queries import spending as spending_queries
from service.db.tables import CellRequest, Grading, Job, Judge, JudgeRevision, Model, Outbox
from service.domain.asked import PLAIN, Messages, Told
from service.domain.grade import Cell
from service.domain.ids import new_id
from service.domain.pinned import pinned_version
from service.domain.places import GRADING
from service.domain.rubric import RubricContent
from service.domain.spending import JudgeBudget
from service.queue import Bell
from service.queue import Outbox as OutboxSender
from workers.runs.held import HeldJob
from workers.runs.leases import LeaseQueries, Leases

log = logging.getLogger(__name__)

POLL_S = 0.5
SILENCE_S = 10.0
"""Without a finished batch for this long, the job says that it waits for a grading worker."""


def channel(owner_id: str) -> str:
    """The bell that rings when a batch of a job or a grading is done."""
    return f"grape:cells:{owner_id}"


class CellDesk:
    """The child's side. Asking goes on beside the sampling; `wait` gives back cells, with the table as the truth."""

    def __init__(
        self,
        held: HeldJob,
        project_id: str,
        rubric: str,
        *,
        bell: Bell,
        outbox: OutboxSender,
        check: Callable[[], None],
        fresh: bool = False,
    ) -> None:
        self._held, self._project_id, self._rubric, self._fresh = held, project_id, rubric, fresh
        self._outbox, self._check = outbox, check
        self._wait_for_bell = bell.listen(channel(held.job_id))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ask")
        self._asking: list[Future[None]] = []

    def ask(
        self, key: str, prompt: dict[str, Any], texts: Sequence[str], criteria: Sequence[str], *, queue: str
    ) -> None:
        """Ask the workers of a queue for a cell for each text and criterion, once per key."""
        payload = {
            "rubric": self._rubric,
            "prompt": prompt,
            "texts": list(texts),
            **({"fresh": True} if self._fresh else {}),
        }
        places = [(i, c) for i in range(len(texts)) for c in criteria]
        self._asking.append(self._thread.submit(self._insert, key, payload, places, queue))

    def ask_plainly(self, key: str, judge: str, questions: Sequence[Messages], *, queue: str) -> None:
        """Ask a judge's endpoint or model plain questions, once per key."""
        payload = {"judge": judge, "questions": list(questions)}
        places = [(i, PLAIN) for i in range(len(questions))]
        self._asking.append(self._thread.submit(self._insert, key, payload, places, queue))

    def _insert(self, key: str, payload: dict[str, Any], places: list[tuple[int, str]], queue: str) -> None:
        values = {
            "id": new_id("batch"),
            "project_id": self._project_id,
            "job_id": self._held.job_id,
            "key": key,
            "queue": queue,
            "status": "queued",
            "payload": payload,
        }

        def work(session: Session) -> None:
            self._held.fenced(session)
            batch_id = session.scalar(queries.ask(values))
            if batch_id is None:  # asked before, and answered or on its way
                for statement in queries.ask_beyond_budget_again(self._held.job_id, key):
                    session.execute(statement)
                return
            rows = [
                {"batch_id": batch_id, "completion_index": i, "criterion": c, "project_id": self._project_id}
                for i, c in places
            ]
            session.execute(insert(CellRequest), rows)
            task = queries.GRADING_TASKS[queue]
            session.add(Outbox(id=new_id("event"), subject_id=batch_id, task=task, queue=queue))

        self._held.transact(work)
        self._outbox.flush()

    def wait(self, keys: Sequence[str]) -> dict[str, list[dict[str, Cell]]]:
        """The cells of these keys, by text, once all are there. Obeys pause and drain while it waits."""
        self._until_done(keys)
        return self._collect(keys)

    def told(self, keys: Sequence[str]) -> dict[str, list[Told]]:
        """The answers to these keys' plain questions, in their order, once all are there."""
        self._until_done(keys)
        rows = self._held.transact(lambda session: list(session.execute(queries.answered(self._held.job_id, keys))))
        found: dict[str, list[Told]] = {key: [] for key in keys}
        for key, _, _, answer in rows:
            found[key].append(Told.model_validate(answer))
        return found

    def _until_done(self, keys: Sequence[str]) -> None:
        for future in self._asking:
            future.result()
        self._asking.clear()
        left = len(keys)
        silent_since = time.monotonic()
        said = False
        while True:
            pending = self._held.transact(
                lambda session: list(session.execute(queries.pending(self._held.job_id, keys)))
            )
            if not pending:
                break
            if len(pending) < left:
                left, silent_since = len(pending), time.monotonic()
                if said:
                    said = self._say(None)
            elif not said and time.monotonic() - silent_since > SILENCE_S:
                said = self._say(f"waiting for a grading worker: {left} batches of judged cells are not done")
            self._check()
            self._wait_for_bell(POLL_S)
        if said:
            self._say(None)

    def _say(self, reason: str | None) -> bool:
        self._held.reason(reason)
        self._held.event("grading.waiting" if reason else "grading.resumed", {"reason": reason} if reason else {})
        return reason is not None

    def _collect(self, keys: Sequence[str]) -> dict[str, list[dict[str, Cell]]]:
        rows = self._held.transact(lambda session: list(session.execute(queries.answered(self._held.job_id, keys))))
        found: dict[str, list[dict[str, Cell]]] = {key: [] for key in keys}
        for key, index, criterion, cell in rows:
            table = found[key]
            while len(table) <= index:
                table.append({})
            table[index][criterion] = Cell.model_validate(cell)
        return found

    def forget(self, keys: Sequence[str]) -> None:
        """Drop what was asked, so that asking again asks anew."""

        def work(session: Session) -> None:
            self._held.fenced(session)
            session.execute(queries.forget(self._held.job_id, keys))

        self._held.transact(work)


@dataclass(frozen=True, slots=True)
class ClaimedBatch:
    """A batch that this grading worker holds. `fresh` cells are not looked up in the cache; plain questions have no content."""

    id: str
    owner_id: str
    project_id: str
    fence: int
    prompt: dict[str, Any]
    texts: list[str]
    content: RubricContent | None
    judges: dict[str, int]
    local_judges: dict[str, str]
    models: dict[str, Any]
    todo: list[tuple[int, str]]
    fresh: bool
    budget: JudgeBudget
    questions: list[Messages] | None = None
    asked: str = ""
    kept: bool = True
    """Whether anything of it is stored; nothing of a `try` is."""


@dataclass(slots=True)
class CellWork(Leases):
    """The grading worker's side."""

    rows: ClassVar[LeaseQueries] = queries
    database: Database
    bell: Bell
    lease_s: float
    queue: str = GRADING
    worker_id: str = field(default_factory=lambda: new_id("worker"))

    def claim(self, limit: int) -> list[ClaimedBatch]:
        """Batches to grade, with what they need."""
        with self.database.transaction() as session:
            rows = list(session.execute(queries.claim(self.queue, self.worker_id, self.lease_s, limit)))
            claimed = []
            for row in rows:
                session.execute(job_queries.forget_messages(row.id))
                owner = session.get_one(Job, row.job_id) if row.job_id else session.get_one(Grading, row.grading_id)
                todo = [(index, criterion) for index, criterion in session.execute(queries.unanswered(row.id))]
                named = row.payload.get("rubric")
                version = pinned_version(owner.resolved, named) if named is not None else None
                claimed.append(
                    ClaimedBatch(
                        id=row.id,
                        owner_id=owner.id,
                        project_id=row.project_id,
                        fence=row.fence,
                        prompt=row.payload.get("prompt", {}),
                        texts=row.payload.get("texts", []),
                        content=RubricContent.model_validate(version["content"]) if version is not None else None,
                        questions=row.payload.get("questions"),
                        asked=row.payload.get("judge", ""),
                        judges=owner.resolved["judges"],
                        local_judges=owner.resolved.get("local_judges", {}),
                        models=owner.resolved.get("models", {}),
                        todo=todo,
                        fresh=bool(row.payload.get("fresh")),
                        budget=_budget(owner),
                        kept=not isinstance(owner, Grading) or owner.purpose != "try",
                    )
                )
            return claimed

    def model(self, model_id: str) -> Model:
        """A registered model."""
        with self.database.transaction() as session:
            return session.get_one(Model, model_id)

    def judge(self, judge_id: str, revision: int) -> tuple[Judge, JudgeRevision]:
        """A judge as it is now, and the revision that the owner has pinned."""
        with self.database.transaction() as session:
            return session.get_one(Judge, judge_id), session.get_one(JudgeRevision, (judge_id, revision))

    def answer(
        self,
        batch: ClaimedBatch,
        answers: Sequence[tuple[int, Cell | Told]],
        counts: str | None = None,
        also: Callable[[Session], None] = lambda session: None,
    ) -> None:
        """Store cells, if the claim still holds and nobody has; what the ledger has counted; `also` in the same transaction; and
        give back what was set aside."""
        rows = [
            {"completion_index": index, "criterion": cell.criterion, "cell": cell.model_dump(mode="json")}
            for index, cell in answers
        ]
        values = {"answers": json.dumps(rows, allow_nan=False), "batch_id": batch.id, "fence": batch.fence}
        with self.database.transaction() as session:
            session.execute(queries.ANSWER, values)
            also(session)
            if counts is not None:
                session.execute(spending_queries.COUNTED, {"rows": counts})
            if batch.budget.bounded:
                session.execute(spending_queries.leave(self.worker_id))

    def leave_budgets(self) -> None:
        """Give back the calls that were set aside."""
        with self.database.transaction() as session:
            session.execute(spending_queries.leave(self.worker_id))

    def finish(self, batch: ClaimedBatch) -> bool:
        """Done; whoever waits for it is woken."""
        with self.database.transaction() as session:
            done = session.execute(queries.finish(batch.id, batch.fence)).first() is not None
        if done:
            self.bell.ring(channel(batch.owner_id))
        return done

    def released(self, session: Session) -> None:
        """The calls that were set aside."""
        session.execute(spending_queries.leave(self.worker_id))


def _budget(owner: Job | Grading) -> JudgeBudget:
    limits = owner.spec.get("limits") if isinstance(owner, Job) else owner.resolved.get("limits")
    return JudgeBudget.model_validate(limits or {})
