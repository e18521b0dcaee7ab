"""Group-relative advantages of graded completions (grape.md §4 and §5): from cells as graders leave them to scored groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from service.domain.grade import Cell
from service.domain.scoring import (
    CriterionWeight,
    GroupCells,
    Past,
    ScoredCell,
    ScoredGroup,
    ScoringOptions,
    StepCredit,
    score_groups,
    token_advantages,
)

if TYPE_CHECKING:  # the grading worker scores too, and lives without torch
    from workers.types import CompletionGroup


def scored_row(cells: Mapping[str, Cell]) -> dict[str, ScoredCell]:
    """The ok cells of one completion; failed ones are absent, never a number."""
    return {key: _scored(cell, cell.score) for key, cell in cells.items() if cell.score is not None}


def _scored(cell: Cell, score: float) -> ScoredCell:
    noise = cell.vote_variance / cell.votes if cell.vote_variance is not None else None
    return ScoredCell(score, cell.confidence, noise, tuple(step.score for step in cell.steps or ()))


def group_cells(
    criteria: Sequence[CriterionWeight],
    cells: Sequence[Mapping[str, Cell]],
    past: Past | None = None,
    penalties: Sequence[float] = (),
) -> GroupCells:
    """One group in the form that the arithmetic takes."""
    nulls = [{key for key, cell in row.items() if cell.family == "subject"} for row in cells]
    return GroupCells(criteria, [scored_row(row) for row in cells], nulls, past or Past(), penalties)


def group_advantages(
    criteria: Sequence[CriterionWeight],
    cells: Sequence[Mapping[str, Cell]],
    options: ScoringOptions,
    past: Past | None = None,
) -> ScoredGroup:
    """Rewards, advantages and their parts for the completions of one group that stands alone."""
    return score_groups([group_cells(criteria, cells, past)], options)[0]


def score_step(
    groups: Sequence[CompletionGroup],
    options: ScoringOptions | Callable[[str], ScoringOptions],
    past: Callable[[str], Past],
) -> None:
    """Score all groups of one optimizer step. `past(rubric)` has the running quantities of earlier steps.

    `options`: the same for all, or by rubric.
    """
    own = {group.rubric: options if isinstance(options, ScoringOptions) else options(group.rubric) for group in groups}
    pasts = {rubric: past(rubric) for rubric in sorted({group.rubric for group in groups})}
    inputs = [group_cells(group.criteria, group.cells, pasts[group.rubric], group.penalties) for group in groups]
    for group, scored in zip(groups, score_groups(inputs, [own[group.rubric] for group in groups]), strict=True):
        group.scored = scored


def token_advantages_of(group: CompletionGroup, index: int, credit: StepCredit, *, centred: bool) -> list[float]:
    """The advantage of each token of a member of a scored group (grape.md §6)."""
    assert group.scored is not None
    return token_advantages(
        group.scored.completions[index],
        group.criteria,
        group.scored.weighting,
        scored_row(group.cells[index]),
        group.steps[index] if group.steps else {},
        length=len(group.completions[index].tokens),
        credit=credit,
        centred=centred,
    )
