"""Group-relative advantages of graded completions (grape.md §4 and §5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.domain.grade import Cell
from service.domain.scoring import CriterionWeight, ScoredCell, ScoredGroup, ScoringOptions, score_group


def scored_row(cells: Mapping[str, Cell]) -> dict[str, ScoredCell]:
    """The ok cells of one completion; failed ones are absent, never a number."""
    return {key: ScoredCell(cell.score, cell.confidence) for key, cell in cells.items() if cell.score is not None}


def group_advantages(
    criteria: Sequence[CriterionWeight],
    cells: Sequence[Mapping[str, Cell]],
    options: ScoringOptions,
    confidence_history: Mapping[str, float],
) -> ScoredGroup:
    """Rewards, advantages and their parts for the completions of one group."""
    return score_group(criteria, [scored_row(row) for row in cells], options, confidence_history)
