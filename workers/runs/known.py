"""Which of the cells that are to be asked for are known already."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from service.domain.grade import Cell
from service.domain.rubric import Criterion
from workers.graders.judge.cache_key import CellKeys
from workers.graders.judge.cell import chunks
from workers.runs.cell_work import Answer, BulkWork, PinnedJudge, Work
from workers.runs.cells import ClaimedBatch


@dataclass(frozen=True, slots=True)
class Ask:
    """The criteria of one completion that one judge grades."""

    work: Work | ClaimedBatch
    index: int
    judge: PinnedJudge
    criteria: list[Criterion]


@dataclass(slots=True)
class Known:
    """The cells of one claim: looked up all at once, and remembered under their keys once they have been asked for.

    `formats` says in which forms a judge's replies may have come, the likeliest first: the form is part of the key. `weights`:
    what a registered model is in the key (`CellKeys`).
    """

    bulk: BulkWork
    formats: Callable[[PinnedJudge], Sequence[str]]
    weights: Callable[[PinnedJudge], str] = lambda judge: ""
    _keys: dict[tuple[str, int, int], CellKeys] = field(default_factory=dict)

    async def part(self, asks: Sequence[Ask]) -> tuple[list[Answer], list[Ask]]:
        """The answers that are known, and what is left to ask for.

        What shares a question is part of a key: where some of a question's criteria are known, the others are looked up again
        as the smaller question that they would be.
        """
        answers: list[Answer] = []
        left = [ask for ask in asks if not self._cached(ask)]
        open_ = [ask for ask in asks if self._cached(ask)]
        while open_:
            tables = [[self.keys(ask, how) for how in self.formats(ask.judge)] for ask in open_]
            found = await asyncio.to_thread(self.bulk.known, self._wanted(open_, tables))
            again: list[Ask] = []
            for ask, forms in zip(open_, tables, strict=True):
                rest: list[Criterion] = []
                for criterion in ask.criteria:
                    hits = (found.get((ask.work.project_id, table[criterion.key])) for table in forms)
                    cell = next((hit for hit in hits if hit is not None), None)
                    if cell is None:
                        rest.append(criterion)
                    else:
                        answers.append(Answer(ask.work, ask.index, _as_cached(cell, criterion, ask.judge)))
                if rest:
                    smaller = len(rest) < len(ask.criteria) and ask.judge.config.batch > 1
                    (again if smaller else left).append(Ask(ask.work, ask.index, ask.judge, rest))
            open_ = again
        return answers, left

    @staticmethod
    def _cached(ask: Ask) -> bool:
        return ask.judge.limits.cache and not ask.work.fresh

    @staticmethod
    def _wanted(asks: Sequence[Ask], tables: Sequence[Sequence[dict[str, bytes]]]) -> dict[str, set[bytes]]:
        wanted: dict[str, set[bytes]] = {}
        for ask, forms in zip(asks, tables, strict=True):
            for table in forms:
                wanted.setdefault(ask.work.project_id, set()).update(table.values())
        return wanted

    def keys(self, ask: Ask, reply_format: str) -> dict[str, bytes]:
        """Criterion -> key, as its cell was or would be answered in this form."""
        place = (ask.judge.id, ask.judge.revision, id(ask.work.content))
        if place not in self._keys:
            self._keys[place] = CellKeys(ask.judge.config, ask.work.content.guidelines, self.weights(ask.judge))
        keys, text = self._keys[place], ask.work.texts[ask.index]
        return {
            criterion.key: keys.of(criterion, chunk, ask.work.prompt, text, reply_format)
            for _, chunk in chunks(ask.criteria, ask.judge.config)
            for criterion in chunk
        }

    def key_of(self, ask: Ask, cell: Cell) -> bytes | None:
        """Under which key a cell that was asked for is remembered; null for failures, and where nothing is to be cached."""
        if cell.status != "ok" or not ask.judge.limits.cache:
            return None
        return self.keys(ask, cell.reply_format or "text")[cell.criterion]


def _as_cached(cell: Cell, criterion: Criterion, judge: PinnedJudge) -> Cell:
    """The cell as one of this owner's. What it once cost stands in it, and is not charged again."""
    who = {"audit": criterion.audit, "judge": judge.id, "revision": judge.revision}
    taken = {"calls": 0, "cost_usd": None if judge.limits.price is None else 0.0}
    return cell.model_copy(update={"cached": True, **taken, **who})
