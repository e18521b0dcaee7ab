"""Many batches of judged cells at once, for the grading worker's engine: claims with all that they need, the cache, answers.

Every method is one transaction with a fixed number of statements, however many batches and cells there are.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from service.db.queries import abilities as ability_queries
from service.db.queries import cell_work as queries
from service.db.queries import cells as cell_queries
from service.db.queries import spending as spending_queries
from service.domain.asked import Messages, Told
from service.domain.grade import Cell
from service.domain.judge import JudgeConfig, JudgeLimits
from service.domain.pinned import pinned_version
from service.domain.rubric import RubricContent
from service.domain.spending import JudgeBudget
from workers.graders.judge.record import Record
from workers.runs.cells import CellWork, channel
from workers.runs.replies import Kept, keep

OWNERS = 64
"""Jobs and gradings whose pinned rubrics a worker keeps parsed."""


@dataclass(frozen=True, slots=True)
class PinnedJudge:
    """A judge's limits and secret as they are now, and the revision that the owner has pinned."""

    id: str
    revision: int
    config: JudgeConfig
    limits: JudgeLimits
    secret: bytes | None


@dataclass(frozen=True, slots=True)
class Owner:
    """A job or a grading: what it has pinned does not change."""

    resolved: Mapping[str, Any]
    kept: bool = True
    """Whether anything of it is stored; nothing of a `try` is."""
    contents: dict[str, RubricContent] = field(default_factory=dict)

    def content(self, name: str) -> RubricContent:
        """One of its rubrics' versions."""
        if name not in self.contents:
            self.contents[name] = RubricContent.model_validate(pinned_version(self.resolved, name)["content"])
        return self.contents[name]


@dataclass(frozen=True, slots=True)
class Work:
    """A claimed batch with everything that grading it needs. `fresh` cells are not looked up in the cache.

    A batch of plain questions has `questions` and the judge that is `asked`, and neither texts nor a rubric's content.
    """

    id: str
    owner_id: str
    project_id: str
    fence: int
    prompt: dict[str, Any]
    texts: list[str]
    content: RubricContent | None
    judges: dict[str, PinnedJudge]
    budget: JudgeBudget
    todo: list[tuple[int, str]]
    fresh: bool
    questions: list[Messages] | None = None
    asked: str = ""
    kept: bool = True


@dataclass(frozen=True, slots=True)
class Answer:
    """A cell on its way to the table; with a key it goes into the cache too. `record`: what was replied, to it and to those that
    shared its question."""

    work: Work
    index: int
    cell: Cell | Told
    key: bytes | None = None
    record: Record | None = None


@dataclass(slots=True)
class BulkWork:
    """The grading worker's side, for many batches at once; renewing and giving back are `CellWork`'s."""

    cells: CellWork
    replies_bytes: int = 65_536
    """The most that is kept of the replies to one question."""
    _owners: OrderedDict[str, Owner] = field(default_factory=OrderedDict)
    _configs: dict[tuple[str, int], JudgeConfig] = field(default_factory=dict)

    def claim(self, limit: int) -> list[Work]:
        """At most `limit` batches to grade, oldest first."""
        with self.cells.database.transaction() as session:
            statement = cell_queries.claim(self.cells.queue, self.cells.worker_id, self.cells.lease_s, limit)
            rows = list(session.execute(statement))
            if not rows:
                return []
            ids = [row.id for row in rows]
            session.execute(queries.forget_messages(ids))
            todo: dict[str, list[tuple[int, str]]] = {batch_id: [] for batch_id in ids}
            for batch_id, index, criterion in session.execute(queries.unanswered(ids)):
                todo[batch_id].append((index, criterion))
            owners = self._known_owners(session, {row.job_id or row.grading_id for row in rows})
            judges = self._judges(session, owners.values())
            # Read every time: a job's limits may be raised.
            budgets = {
                name: JudgeBudget.model_validate(limits or {})
                for name, limits in session.execute(spending_queries.budgets(owners))
            }
        found = []
        for row in rows:
            owner_id = row.job_id or row.grading_id
            owner = owners[owner_id]
            found.append(
                Work(
                    id=row.id,
                    owner_id=owner_id,
                    project_id=row.project_id,
                    fence=row.fence,
                    prompt=row.payload.get("prompt", {}),
                    texts=row.payload.get("texts", []),
                    content=owner.content(row.payload["rubric"]) if "rubric" in row.payload else None,
                    questions=row.payload.get("questions"),
                    asked=row.payload.get("judge", ""),
                    judges={name: judges[name, number] for name, number in owner.resolved["judges"].items()},
                    budget=budgets[owner_id],
                    todo=todo[row.id],
                    fresh=bool(row.payload.get("fresh")),
                    kept=owner.kept,
                )
            )
        return found

    def _known_owners(self, session: Session, ids: Collection[str]) -> dict[str, Owner]:
        missing = [owner_id for owner_id in ids if owner_id not in self._owners]
        for statement in (queries.jobs_resolved, queries.gradings_resolved) if missing else ():
            for owner_id, resolved, kept in session.execute(statement(missing)):
                self._owners[owner_id] = Owner(resolved, kept)
        found = {owner_id: self._owners[owner_id] for owner_id in ids}
        for owner_id in ids:
            self._owners.move_to_end(owner_id)
        while len(self._owners) > max(OWNERS, len(ids)):
            self._owners.popitem(last=False)
        return found

    def _judges(self, session: Session, owners: Collection[Owner]) -> dict[tuple[str, int], PinnedJudge]:
        pins = {(name, number) for owner in owners for name, number in owner.resolved["judges"].items()}
        if not pins:
            return {}
        missing = [pin for pin in pins if pin not in self._configs]
        if missing:
            for row in session.scalars(queries.revisions(missing)):
                self._configs[row.judge_id, row.revision] = JudgeConfig.model_validate(row.config)
        heads = {row.id: row for row in session.execute(queries.judges({name for name, _ in pins}))}
        limits = {name: JudgeLimits.model_validate(row.limits) for name, row in heads.items()}
        return {
            (name, number): PinnedJudge(name, number, self._configs[name, number], limits[name], heads[name].secret)
            for name, number in pins
        }

    def known(self, keys: Mapping[str, Collection[bytes]]) -> dict[tuple[str, bytes], Cell]:
        """The cached cells among these keys, by project and key."""
        found: dict[tuple[str, bytes], Cell] = {}
        with self.cells.database.transaction() as session:
            for project_id, wanted in keys.items():
                for key, cell in session.execute(queries.known(project_id, list(wanted))):
                    found[project_id, bytes(key)] = Cell.model_validate(cell)
        return found

    def remember(self, project_id: str, cells: Mapping[bytes, Cell]) -> None:
        """Put cells into the cache."""
        rows = [
            {"project_id": project_id, "key": key.hex(), "cell": cell.model_dump(mode="json")}
            for key, cell in cells.items()
        ]
        if rows:
            with self.cells.database.transaction() as session:
                session.execute(queries.REMEMBER, {"cells": _json(rows)})

    def store(
        self, answers: Sequence[Answer], ended: Collection[Work], counts: str | None = None, facts: str | None = None
    ) -> list[str]:
        """Store cells, put those with a key into the cache, and end batches that have all; the owners of these.

        `counts`: what the ledger has counted, with the calls that these answers took. `facts`: what was learned of endpoints.

        Answers of a batch that is no longer ours change nothing there, but are remembered: somebody is about to ask for them.
        """
        rows, cached = [], []
        for answer in answers:
            cell = answer.cell.model_dump(mode="json")
            rows.append(
                {
                    "batch_id": answer.work.id,
                    "fence": answer.work.fence,
                    "completion_index": answer.index,
                    "criterion": answer.cell.criterion,
                    "cell": cell,
                }
            )
            if answer.key is not None:
                cached.append({"project_id": answer.work.project_id, "key": answer.key.hex(), "cell": cell})
        records = [Kept(a.work.project_id, a.work.owner_id, a.record) for a in answers if a.record is not None]
        with self.cells.database.transaction() as session:
            session.execute(queries.ANSWER, {"answers": _json(rows)})
            keep(session, records, self.replies_bytes)
            if counts is not None:
                session.execute(spending_queries.COUNTED, {"rows": counts})
            if facts is not None:
                session.execute(ability_queries.LEARN, {"rows": facts})
            if cached:
                session.execute(queries.REMEMBER, {"cells": _json(cached)})
            done: set[str] = set()
            if ended:
                pairs = [(work.id, work.fence) for work in ended]
                done = set(session.scalars(queries.finish(pairs)))
        owners = sorted({work.owner_id for work in ended if work.id in done})
        for owner_id in owners:
            self.cells.bell.ring(channel(owner_id))
        return owners


def _json(rows: list[dict[str, Any]]) -> str:
    return json.dumps(rows, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
