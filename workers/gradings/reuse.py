"""Numbers from stored cells, without any call: another version's weights, gates and audit marks, another weighting.

A stored cell counts where the same was asked (`service.domain.identity`); a criterion without one is a missing cell. The sums of
the arithmetic are exact before their one rounding, so neither the order of cells nor the cut into pages changes a bit.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

from service.domain.criteria import criteria_of, criterion_weights
from service.domain.identity import cell_identity
from service.domain.ids import new_id
from service.domain.scoring import CriterionWeight, GroupCells, ScoredCell, ScoredGroup, audit_score
from service.domain.summary import MISSING, Summary
from workers.gradings.expand import expand
from workers.gradings.report import count_stored
from workers.gradings.rubrics import GradedBy, Rubrics, criteria_for, score_by
from workers.runs.gradings import HeldGrading
from workers.runs.writer import score_columns

TAKE_TEXTS = 20_000
TAKE_CELLS = 100_000
"""So many cells are read, scored and written together: a few hundred megabytes at most."""
_NUMBERS = ("member", "coverage", "reward", "plain_reward", "unscaled_advantage", "scale_factor", "advantage")


@dataclass(frozen=True, slots=True)
class Plan:
    """For prompts of one kind and completions of one version: what they are graded on now, and which stored cells answer it."""

    by: GradedBy
    weights: dict[str, CriterionWeight]
    kept: frozenset[str]


@dataclass(slots=True)
class Regrader:
    """Aggregates what `held` names anew."""

    held: HeldGrading
    rubrics: Rubrics
    check: Callable[[], None]
    take_cells: int = TAKE_CELLS
    summary: Summary = field(default_factory=Summary)
    done: int = 0
    failed: int = 0
    _plans: dict[tuple[str, int, str, int, str], Plan] = field(default_factory=dict)

    def run(self) -> None:
        """Until every group is finished."""
        expand(self.held, self.rubrics, self.check)
        if self.held.fence > 1:
            self.rubrics.load_all(self.held.kinds_of_prompts())
            self.done, self.failed = count_stored(self.held, self.rubrics, self.summary)
        while waiting := self.held.groups("waiting", limit=TAKE_TEXTS):
            self.check()
            self._take(waiting)

    def _take(self, waiting: Sequence[tuple[int, int]]) -> None:
        per_text = max(1, (self.held.grading.cells or 0) // max(1, self.held.grading.expanded))
        numbers: list[int] = []
        size = 0
        for number, count in waiting:
            if numbers and (size + count) * per_text > self.take_cells:
                break
            numbers.append(number)
            size += count
        members, stored = self.held.reusable(numbers)
        found: dict[str, list[tuple[Any, ...]]] = {}
        for cell in stored:
            found.setdefault(cell[0], []).append(cell)
        rows = Rows()
        for number, listed in groupby(members, key=lambda member: member.number):
            self._group(number, list(listed), found, rows)
            time.sleep(0)  # lets the engine's loop, a thread of this process, go on asking judges
        self.held.finish_reused(numbers, rows.values(), done=self.done, failed=self.failed)

    def _group(self, number: int, members: list[Any], found: Mapping[str, list[tuple[Any, ...]]], rows: Rows) -> None:
        plans = [self._plan(member) for member in members]
        cells: list[dict[str, ScoredCell]] = []
        nulls: list[set[str]] = []
        reused: list[list[str]] = []
        for member, plan in zip(members, plans, strict=True):
            own, subject, keys = self._cells(plan, found.get(member.cells_of, ()))
            cells.append(own)
            nulls.append(subject)
            reused.append(keys)
        plan = plans[0]
        weights = list(plan.weights.values())
        scored = score_by(GroupCells(weights, cells, nulls), plan.by)
        self.summary.group(scored.signal)
        for own, numbers in zip(cells, scored.completions, strict=True):
            self.summary.completion(
                plain_reward=numbers.plain_reward,
                audit=audit_score(weights, own),
                coverage=numbers.coverage,
                **plan.by.own_score(numbers.reward),
            )
        rows.add(number, plan.by, members, scored, reused)

    def _cells(
        self, plan: Plan, stored: Sequence[tuple[Any, ...]]
    ) -> tuple[dict[str, ScoredCell], set[str], list[str]]:
        """The ok cells that count, the criteria with a null of the family `subject`, and all whose cell counts."""
        own: dict[str, ScoredCell] = {}
        subject: set[str] = set()
        keys: list[str] = []
        for _, criterion, status, family, score, confidence, votes, variance, steps in stored:
            if criterion not in plan.kept:
                continue
            keys.append(criterion)
            weight = plan.weights[criterion]
            self.summary.cell(weight.series, status, score, confidence, weight.audit)
            if score is None:
                self.failed += 1
                if family == "subject":
                    subject.add(criterion)
                continue
            noise = variance / votes if variance is not None else None
            own[criterion] = ScoredCell(score, confidence, noise, _step_scores(steps))
        if len(keys) < len(plan.weights):
            for criterion in plan.weights.keys() - set(keys):
                weight = plan.weights[criterion]
                self.summary.cell(weight.series, MISSING, None, None, weight.audit)
                self.failed += 1
        self.done += len(plan.weights)
        return own, subject, keys

    def _plan(self, member: Any) -> Plan:
        prompt = {"category": member.category, "tags": member.tags or [], "criteria": member.criteria or []}
        kind = json.dumps(prompt, sort_keys=True) if member.criteria or member.tags or member.category else ""
        key = (member.rubric_id, member.rubric_version, member.asked_id, member.asked_version, kind)
        if key not in self._plans:
            by = self.rubrics.now(member.category, member.rubric_id, member.rubric_version)
            before = self.rubrics.content(member.asked_id, member.asked_version)
            answered = {c.key: cell_identity(c, before.guidelines) for c in criteria_of(before, prompt)}
            criteria = criteria_for(by, prompt)
            kept = {c.key for c in criteria if answered.get(c.key) == cell_identity(c, by.content.guidelines)}
            self._plans[key] = Plan(by, {w.key: w for w in criterion_weights(criteria)}, frozenset(kept))
        return self._plans[key]


def _step_scores(steps: Any) -> tuple[float | None, ...]:
    return tuple(step["score"] for step in steps) if steps else ()


@dataclass(slots=True)
class Rows:
    """Completions with their new numbers, as the columns of one statement."""

    columns: dict[str, list[Any]] = field(
        default_factory=lambda: {
            name: []
            for name in ("id", "number", "idx", "position", "source", "source_created_at", *_NUMBERS, "parts", "reused")
        }
    )
    groups: dict[str, list[Any]] = field(
        default_factory=lambda: {
            name: [] for name in ("g_number", "g_weighting", "g_signal", "g_rubric_id", "g_rubric_version")
        }
    )

    def add(
        self, number: int, by: GradedBy, members: Sequence[Any], scored: ScoredGroup, reused: Sequence[Sequence[str]]
    ) -> None:
        """One group."""
        numbers = score_columns(scored)
        group = (number, _json(numbers[0]["weighting"]), scored.signal, by.id, by.version)
        for name, value in zip(self.groups, group, strict=True):
            self.groups[name].append(value)
        columns = self.columns
        for index, (member, line, keys) in enumerate(zip(members, numbers, reused, strict=True)):
            columns["id"].append(new_id("completion"))
            columns["number"].append(number)
            columns["idx"].append(index)
            columns["position"].append(member.position)
            columns["source"].append(member.completion_id)
            columns["source_created_at"].append(member.completion_created_at)
            for name in _NUMBERS:
                columns[name].append(line[name])
            columns["parts"].append(_json(line["parts"]))
            columns["reused"].append(",".join(keys))

    def values(self) -> dict[str, Any]:
        """The parameters."""
        return {"created_at": datetime.now(UTC), **self.columns, **self.groups}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
