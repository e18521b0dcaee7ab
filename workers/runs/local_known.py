"""Cells of judges that are registered models, known before a model is loaded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from service.db.tables import Judge, JudgeRevision
from service.domain.grade import Cell
from service.domain.grader import JudgeGrader
from service.domain.job_state import JobFailure
from service.domain.judge import JudgeConfig, JudgeLimits
from service.domain.rubric import Criterion
from workers.runs.cell_work import BulkWork, PinnedJudge
from workers.runs.cells import ClaimedBatch
from workers.runs.known import Ask, Known

FORMAT = "text"
"""A model that runs here writes plain text."""

Todo = list[tuple[int, Criterion]]


@dataclass(slots=True)
class LocalKnown:
    """The cache as the worker of local models uses it, for one batch. `weights`: what a model is in the keys of its cells."""

    bulk: BulkWork
    batch: ClaimedBatch
    judges: Mapping[str, tuple[Judge, JudgeRevision]]
    weights: Callable[[str], str]

    def part(self, todo: Todo) -> tuple[list[tuple[int, Cell]], Todo, dict[tuple[int, str], bytes]]:
        """The cells that are known; what is left to grade; and under which key each of those is remembered if it is ok."""
        asks, rest = self._asks(todo)
        known = Known(self.bulk, lambda judge: (FORMAT,), lambda judge: self.weights(judge.config.model or ""))
        answers, left = asyncio.run(known.part(asks))
        keys = {
            (ask.index, name): key
            for ask in left
            if ask.judge.limits.cache
            for name, key in known.keys(ask, FORMAT).items()
        }
        rest += [(ask.index, criterion) for ask in left for criterion in ask.criteria]
        return [(answer.index, answer.cell) for answer in answers], rest, keys

    def remember(self, cells: Sequence[tuple[int, Cell]], keys: Mapping[tuple[int, str], bytes]) -> None:
        """Put what came out well into the cache; a failure is asked for again."""
        found = {(index, cell.criterion): cell for index, cell in cells if cell.status == "ok"}
        self.bulk.remember(self.batch.project_id, {keys[place]: found[place] for place in keys.keys() & found.keys()})

    def _asks(self, todo: Todo) -> tuple[list[Ask], Todo]:
        """What may be known, by completion and judge; and what no cache is for: reward models, and models that cannot be had."""
        usable = {name: pinned for name, pinned in map(self._pinned, self.judges) if pinned is not None}
        by_judge: dict[tuple[int, str], list[Criterion]] = {}
        rest: Todo = []
        for index, criterion in todo:
            if isinstance(criterion.grader, JudgeGrader) and criterion.grader.judge in usable:
                by_judge.setdefault((index, criterion.grader.judge), []).append(criterion)
            else:
                rest.append((index, criterion))
        asks = [Ask(self.batch, index, usable[judge], criteria) for (index, judge), criteria in by_judge.items()]
        return asks, rest

    def _pinned(self, judge_id: str) -> tuple[str, PinnedJudge | None]:
        head, row = self.judges[judge_id]
        config = JudgeConfig.model_validate(row.config)
        try:
            self.weights(config.model or "")
        except JobFailure:  # its cells will say why
            return judge_id, None
        limits = JudgeLimits.model_validate(head.limits)
        return judge_id, PinnedJudge(judge_id, row.revision, config, limits, None)
