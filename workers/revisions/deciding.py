"""A pair's fresh grading: which cells are asked of whom, and the rows of both texts with what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from service.domain.criteria import criterion_weights
from service.domain.grade import Cell
from service.domain.ids import new_id
from service.domain.rubric import Criterion
from service.domain.scoring import ScoredGroup, ScoringOptions
from workers.advantages.group import group_advantages
from workers.runs.writer import cell_row, score_columns

UNIFORM = ScoringOptions(weighting="uniform")
"""Pairs are compared by plain reward; what else stands in their rows is by uniform weights."""


def scored(criteria: Sequence[Criterion], cells: Sequence[Mapping[str, Cell]]) -> ScoredGroup:
    """The numbers of a pair that stands alone."""
    return group_advantages(criterion_weights(criteria), cells, UNIFORM)


def pair_rows(
    owned: Mapping[str, Any],
    *,
    prompt: Mapping[str, Any],
    texts: Sequence[str],
    cells: Sequence[Mapping[str, Cell]],
    criteria: Sequence[Criterion],
    rubric: tuple[str, int],
    sides: Sequence[Mapping[str, Any]],
    number: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Completions and cells of an original and what is compared with it. `sides`: each one's id, purpose, and whose text it is."""
    created_at = datetime.now(UTC)  # the partition key: a completion and its cells lie in the same month
    group_id = new_id("group")
    completions, cell_rows = [], []
    columns = score_columns(scored(criteria, cells))
    for index, (side, text, row, numbers) in enumerate(zip(sides, texts, cells, columns, strict=True)):
        completions.append(
            {
                "created_at": created_at,
                **owned,
                "attempt": 1,
                "step": 0,
                "group_id": group_id,
                "group_index": number,
                "idx": index,
                "prompt": prompt,
                "text": text,
                "token_ids": [],
                "logprobs": [],
                "rubric_id": rubric[0],
                "rubric_version": rubric[1],
                "position": 2 * number + index,
                **side,
                **numbers,
            }
        )
        shared = {name: value for name, value in owned.items() if name != "fence"}
        cell_rows.extend({**cell_row(cell, side["id"], created_at), **shared} for cell in row.values())
    return completions, cell_rows
