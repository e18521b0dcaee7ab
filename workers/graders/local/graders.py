"""What a worker of queue `grading_local` grades with: reward models and judges of this machine, loaded once and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from service.domain.grade import Cell
from service.domain.model import UNNORMALISED, Normalisation
from service.domain.rubric import Criterion
from workers.graders.here import grade_here
from workers.graders.local.reward import RewardScorer
from workers.graders.local.shelf import Shelf
from workers.policy.loading import ModelFiles, pick_device


@dataclass(frozen=True, slots=True)
class LocalBatch:
    """Completions of one prompt, and what each is graded on: (index of the text, criterion). `models` is what was pinned."""

    prompt: Mapping[str, Any]
    texts: Sequence[str]
    todo: Sequence[tuple[int, Criterion]]
    models: Mapping[str, Mapping[str, Any]]


class LocalGraders:
    """One thread uses it. `bound` is in bytes of weights; `device` is `auto`, `cpu` or `cuda`."""

    def __init__(self, files: Callable[[str], ModelFiles], *, bound: int, device: str = "auto") -> None:
        self.files = files
        self.shelf = Shelf(bound)
        self.device = pick_device() if device == "auto" else torch.device(device)

    def grade(self, batch: LocalBatch) -> list[tuple[int, Cell]]:
        """Every cell of the batch. The batch alone decides what goes through a model together, so equal batches give equal cells."""

        def constants(model_id: str) -> Normalisation:
            known = batch.models[model_id]["normalisation"]
            return UNNORMALISED if known is None else Normalisation.model_validate(known)

        scorer = RewardScorer(self.files, constants, self.shelf, self.device)
        found: list[tuple[int, Cell]] = []
        for indices, criteria in _alike(batch.todo):
            rows = grade_here(criteria, batch.prompt, [batch.texts[index] for index in indices], scorer)
            found.extend((index, cell) for index, row in zip(indices, rows, strict=True) for cell in row.values())
        return found


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
