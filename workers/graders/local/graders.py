"""What a worker of queue `grading_local` grades with: reward models and judges of this machine, loaded once and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from service.domain.asked import Messages, Told
from service.domain.grade import Cell
from service.domain.grader import JudgeGrader
from service.domain.job_state import JobFailure
from service.domain.judge import JudgeConfig
from service.domain.model import UNNORMALISED, Normalisation
from service.domain.rubric import Criterion
from workers.graders.here import grade_here
from workers.graders.judge.cell import grade_completion
from workers.graders.judge.client import Reply
from workers.graders.judge.plain import told, with_system_prompt
from workers.graders.judge.purse import UNCOUNTED, Purse
from workers.graders.judge.record import OnRecord
from workers.graders.local.judge import JudgeModel, LocalJudge, load_judge, questions
from workers.graders.local.reward import RewardScorer
from workers.graders.local.shelf import Shelf
from workers.policy.loading import ModelFiles, pick_device

Todo = Sequence[tuple[int, Criterion]]


@dataclass(frozen=True, slots=True)
class PinnedJudge:
    """A judge's revision; `concurrency` questions are decoded together."""

    id: str
    revision: int
    config: JudgeConfig
    concurrency: int


@dataclass(frozen=True, slots=True)
class LocalBatch:
    """Completions of one prompt, and what each is graded on: (index of the text, criterion). `models` is what was pinned.

    `purses`: who pays for the calls of each judge. `on_record` gets what judges replied, if anybody wants to keep it.
    """

    prompt: Mapping[str, Any]
    texts: Sequence[str]
    todo: Todo
    models: Mapping[str, Mapping[str, Any]]
    judges: Mapping[str, PinnedJudge] = field(default_factory=dict)
    guidelines: str = ""
    purses: Mapping[str, Purse] = field(default_factory=dict)
    on_record: OnRecord | None = None
    afresh: bool = False


class LocalGraders:
    """One thread uses it. `bound` is in bytes of weights; `device` is `auto`, `cpu` or `cuda`."""

    def __init__(
        self,
        files: Callable[[str], ModelFiles],
        *,
        bound: int,
        device: str = "auto",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.files, self.check = files, check
        self.shelf = Shelf(bound)
        self.device = pick_device() if device == "auto" else torch.device(device)

    @property
    def precision(self) -> str:
        """How exactly judges compute here (`load_judge`)."""
        return "cuda, bfloat16" if self.device.type == "cuda" else f"{self.device.type}, float32"

    def grade(self, batch: LocalBatch) -> list[tuple[int, Cell]]:
        """Every cell of the batch. The batch alone decides what goes through a model together, so equal batches give equal cells.

        Raises what `check` raises, and whatever a model breaks with.
        """
        by_judge: dict[str, list[tuple[int, Criterion]]] = {}
        others: list[tuple[int, Criterion]] = []
        for index, criterion in batch.todo:
            if isinstance(criterion.grader, JudgeGrader):
                by_judge.setdefault(criterion.grader.judge, []).append((index, criterion))
            else:
                others.append((index, criterion))
        found = self._score(batch, others)
        for judge_id, todo in sorted(by_judge.items()):
            found.extend(self._judge(batch, batch.judges[judge_id], todo))
        return found

    def _score(self, batch: LocalBatch, todo: Todo) -> list[tuple[int, Cell]]:
        def constants(model_id: str) -> Normalisation:
            known = batch.models[model_id]["normalisation"]
            return UNNORMALISED if known is None else Normalisation.model_validate(known)

        scorer = RewardScorer(self.files, constants, self.shelf, self.device)
        found: list[tuple[int, Cell]] = []
        for indices, criteria in _alike(todo):
            rows = grade_here(criteria, batch.prompt, [batch.texts[index] for index in indices], scorer)
            found.extend((index, cell) for index, row in zip(indices, rows, strict=True) for cell in row.values())
        return found

    def ask(self, judge: PinnedJudge, questions: Sequence[Messages], purse: Purse) -> list[Told]:
        """The answers to plain questions, put to the model together. Raises as `grade` does."""
        try:
            loaded = self._load(judge)
        except JobFailure as failure:
            return [Told(status="infra_error", reason=failure.message) for _ in questions]
        asker = LocalJudge(loaded, judge.config, judge.concurrency, len(questions), self.check, purse)

        async def all_of_them() -> list[Reply]:
            asked = [with_system_prompt(messages, judge.config.prompt.system) for messages in questions]
            return await asyncio.gather(*(asker.ask(messages) for messages in asked))

        return [told(reply, None) for reply in asyncio.run(all_of_them())]

    def _load(self, judge: PinnedJudge) -> JudgeModel:
        assert judge.config.model is not None
        files = self.files(judge.config.model)
        size = sum(file.bytes for file in (files.base or files).files)
        return self.shelf.take(f"judge/{files.hash}", size, lambda: load_judge(files, self.device))

    def _judge(self, batch: LocalBatch, judge: PinnedJudge, todo: Todo) -> list[tuple[int, Cell]]:
        try:
            loaded = self._load(judge)
        except JobFailure as failure:
            return [(index, failed(criterion, failure.message)) for index, criterion in todo]
        asked: dict[int, list[Criterion]] = {}
        for index, criterion in todo:
            asked.setdefault(index, []).append(criterion)
        count = sum(questions(criteria, judge.config, batch.texts[index]) for index, criteria in asked.items())
        asker = LocalJudge(
            loaded, judge.config, judge.concurrency, count, self.check, batch.purses.get(judge.id, UNCOUNTED)
        )
        found: list[tuple[int, Cell]] = []

        async def one(index: int, criteria: list[Criterion]) -> None:
            cells = await grade_completion(
                asker,
                criteria,
                judge_id=judge.id,
                revision=judge.revision,
                guidelines=batch.guidelines,
                prompt=batch.prompt,
                text=batch.texts[index],
                on_record=batch.on_record,
                afresh=batch.afresh,
            )
            found.extend((index, cell) for cell in cells)

        async def all_of_them() -> None:
            async with asyncio.TaskGroup() as group:
                for index, criteria in asked.items():
                    group.create_task(one(index, criteria))

        asyncio.run(all_of_them())
        return found


def failed(criterion: Criterion, reason: str) -> Cell:
    """The cell of a criterion whose model could not be used."""
    return Cell(
        criterion=criterion.key,
        status="infra_error",
        reason=reason,
        grader=criterion.grader.type,
        audit=criterion.audit,
    )


def _alike(todo: Sequence[tuple[int, Criterion]]) -> list[tuple[tuple[int, ...], list[Criterion]]]:
    """Criteria that are asked of the same texts go together."""
    indices: dict[str, list[int]] = {}
    criteria = {criterion.key: criterion for _, criterion in todo}
    for index, criterion in todo:
        indices.setdefault(criterion.key, []).append(index)
    together: dict[tuple[int, ...], list[Criterion]] = {}
    for key, asked in indices.items():
        together.setdefault(tuple(sorted(asked)), []).append(criteria[key])
    return list(together.items())
