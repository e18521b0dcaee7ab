"""Counting a grading's groups into its summary: those that are finished now, and those that stand already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from service.domain.criteria import criterion_weights
from service.domain.scoring import CriterionWeight, ScoredCell, audit_score
from service.domain.summary import MISSING, Summary
from workers.gradings.groups import GroupWork
from workers.gradings.rubrics import Rubrics, criteria_for
from workers.runs.gradings import HeldGrading


def count_texts(summary: Summary, group: GroupWork) -> None:
    """A group with its cells."""
    weights = {weight.key: weight for weight in criterion_weights(group.criteria)}
    summary.group(group.scored.signal)
    for member, numbers in zip(group.members, group.scored.completions, strict=True):
        summary.completion(
            plain_reward=numbers.plain_reward,
            audit=numbers.audit,
            coverage=numbers.coverage,
            **group.by.own_score(numbers.reward),
        )
        for key, cell in member.cells.items():
            weight = weights[key]
            summary.cell(weight.series, cell.status, cell.score, cell.confidence, weight.audit)


def count_stored(held: HeldGrading, rubrics: Rubrics, summary: Summary) -> tuple[int, int]:
    """What a worker before this one has finished; its cells, and those of them that have no score."""
    completions, cells = held.stored()
    by_completion: dict[str, list[Any]] = {}
    for cell in cells:
        by_completion.setdefault(cell.id, []).append(cell)
    groups: dict[int, str] = {}
    done = failed = 0
    for row in completions:
        groups[row.group_index] = row.signal
        own = by_completion.get(row.id, [])
        by = rubrics.now(row.prompt.get("category"), row.rubric_id, row.rubric_version)
        criteria = criteria_for(by, row.prompt)
        weights = {weight.key: weight for weight in criterion_weights(criteria)}
        audit = _audit(list(weights.values()), own)
        summary.completion(
            plain_reward=row.plain_reward, audit=audit, coverage=row.coverage, **by.own_score(row.reward)
        )
        for cell in own:
            weight = weights[cell.criterion]
            summary.cell(weight.series, cell.status, cell.score, cell.confidence, weight.audit)
        missing = weights.keys() - {cell.criterion for cell in own}
        for key in missing:
            summary.cell(weights[key].series, MISSING, None, None, weights[key].audit)
        done += len(weights)
        failed += len(missing) + sum(cell.score is None for cell in own)
    for signal in groups.values():
        summary.group(signal)
    return done, failed


def _audit(criteria: Sequence[CriterionWeight], cells: Sequence[Any]) -> float | None:
    return audit_score(criteria, {cell.criterion: ScoredCell(cell.score) for cell in cells if cell.score is not None})
