"""Cells of code among a grading worker's batches: what is known is taken from the cache, the rest runs in sandboxes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.domain.criteria import criteria_of
from service.domain.grader import runs_code
from service.domain.rubric import Criterion
from workers.graders.code import CodeRoom, code_key
from workers.runs.cell_work import Answer, BulkWork, Work


@dataclass(frozen=True, slots=True)
class CodeAsk:
    """A completion's code, or a grader in code, that has no cell yet."""

    work: Work
    index: int
    criterion: Criterion

    @property
    def key(self) -> bytes:
        """Under which its cell is remembered."""
        return code_key(self.criterion, self.work.prompt, self.work.texts[self.index])


def code_asks(work: Work) -> list[CodeAsk]:
    """Of a batch."""
    criteria = {c.key: c for c in criteria_of(work.content, work.prompt) if runs_code(c.grader)}
    return [CodeAsk(work, index, criteria[key]) for index, key in work.todo if key in criteria]


@dataclass(slots=True)
class CodeCells:
    """`put` takes answers on their way to the table."""

    bulk: BulkWork
    put: Callable[[Answer], None]
    places: int | None = None
    room: CodeRoom = field(init=False)

    def __post_init__(self) -> None:
        self.room = CodeRoom(self.places)

    async def part(self, asks: Sequence[CodeAsk]) -> tuple[list[Answer], list[CodeAsk]]:
        """The answers that are known, and what is left to run."""
        keys = {id(ask): ask.key for ask in asks if not ask.work.fresh}
        wanted: dict[str, set[bytes]] = {}
        for ask in asks:
            if id(ask) in keys:
                wanted.setdefault(ask.work.project_id, set()).add(keys[id(ask)])
        found = await asyncio.to_thread(self.bulk.known, wanted) if wanted else {}
        answers: list[Answer] = []
        left: list[CodeAsk] = []
        for ask in asks:
            cell = found.get((ask.work.project_id, keys.get(id(ask), b"")))
            if cell is None:
                left.append(ask)
                continue
            own = {"cached": True, "criterion": ask.criterion.key, "audit": ask.criterion.audit}
            answers.append(Answer(ask.work, ask.index, cell.model_copy(update=own)))
        return answers, left

    async def run(self, ask: CodeAsk) -> None:
        """Run it, and put the cell."""
        cell, lasting = await self.room.grade(ask.criterion, ask.work.prompt, ask.work.texts[ask.index])
        self.put(Answer(ask.work, ask.index, cell, ask.key if lasting else None))

    def close(self) -> None:
        """End what runs."""
        self.room.close()
