"""Scores of reward models, as the rest of the graders sees them: without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

from service.domain.grade import CellStatus


class GraderFault(Exception):
    """The grader's own side failed: a null cell with this status."""

    def __init__(self, status: CellStatus, reason: str) -> None:
        super().__init__(reason)
        self.status: CellStatus = status
        self.reason = reason


ScoresOfText = Mapping[str, float | GraderFault]
"""Reward model -> its score of one text, in [0, 1], or why there is none."""

ModelScores = Mapping[str, ScoresOfText]
"""Reward model -> text -> the same."""

NO_SCORES: ModelScores = MappingProxyType({})


class Scorer(Protocol):
    """Whoever has the reward models."""

    def score(self, model_id: str, prompt: Mapping[str, Any], texts: Sequence[str]) -> list[float | GraderFault]:
        """The scores of completions of one prompt, in [0, 1], or why there is none; never raises for what a model does."""
