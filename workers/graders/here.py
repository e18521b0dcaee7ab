"""Grading on the spot: what needs no judge. Reward models score all texts of a group at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from service.domain.grade import Cell
from service.domain.grader import reward_models_of
from service.domain.rubric import Criterion
from workers.graders.models import GraderFault, Scorer
from workers.graders.verifiers import texts_to_score, verify


def grade_here(
    criteria: Sequence[Criterion], prompt: Mapping[str, Any], texts: Sequence[str], scorer: Scorer | None
) -> list[dict[str, Cell]]:
    """The cells of these texts, by criterion. `scorer` may be null where no criterion asks a reward model."""
    wanted: dict[str, dict[str, None]] = {}
    for criterion in criteria:
        for model in reward_models_of(criterion.grader):
            read = (part for text in texts for part in texts_to_score(criterion, text))
            wanted.setdefault(model, {}).update(dict.fromkeys(read))
    scores: dict[str, dict[str, float | GraderFault]] = {}
    for model, read_once in sorted(wanted.items()):
        assert scorer is not None
        scores[model] = dict(zip(read_once, scorer.score(model, prompt, list(read_once)), strict=True))
    return [{c.key: verify(c, prompt, text, scores) for c in criteria} for text in texts]
