"""What a rubric version's criteria do: discrimination, saturation, redundancy, drift, length; and proposals that a person decides.

Correlations are within groups: scores, lengths and the rest of the rubric less their means over the completions of one prompt, so
that what makes prompts easy or hard makes nothing look alike.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.domain.agreement import Comparison, Statistic
from service.domain.base import Value
from service.domain.queue import Drift, drift_of
from service.domain.scoring import correlation, has_spread, mean

MIN_CELLS = 30
"""Below this many cells nothing is proposed."""
SATURATED = 0.98
REDUNDANT = 0.9
TURNED = -0.2
LENGTHY = 0.5
TRAINABLE_ALPHA = 0.667

Action = Literal["retire", "split", "merge", "reword", "calibrate"]


@dataclass(frozen=True, slots=True)
class Graded:
    """A completion with its ok cells, oldest first: criterion -> (score, confidence)."""

    group: str
    length: int
    cells: Mapping[str, tuple[float, float | None]]
    failed: frozenset[str] = frozenset()


class CriterionDiagnostics(Value):
    """One criterion. `common_value` is the most frequent score, `common_share` its share; `groups_with_spread` the share of groups
    in which it tells completions apart. `discrimination`: correlation with the weighted rest of the rubric. `length`: with the
    text's length. Drifts are from the first to the last third, null where there is none. `people`: agreement with labels."""

    criterion: str
    weight: float
    audit: bool
    cells: int
    null_share: float | None
    mean_score: float | None
    common_value: float | None
    common_share: float | None
    groups_with_spread: float | None
    discrimination: float | None
    length: float | None
    confidence_drift: Drift | None
    score_drift: Drift | None
    people: Comparison | None
    among_people: Statistic | None


class Redundancy(Value):
    """Two criteria, no audit, whose scores go together within groups."""

    criteria: tuple[str, str]
    correlation: float
    completions: int


class Proposal(Value):
    """What somebody may want to do, and why. Nothing is done: publish a version for it."""

    action: Action
    criterion: str
    other: str | None = None
    because: str


class Diagnostics(Value):
    """Of so many completions in so many groups of two or more."""

    completions: int
    groups: int
    criteria: list[CriterionDiagnostics]
    redundant: list[Redundancy]
    proposals: list[Proposal]


@dataclass(slots=True)
class Weights:
    """Weight and kind of a criterion."""

    weight: float
    audit: bool = False


@dataclass(slots=True)
class _Centred:
    """Series over the completions of groups, each less its group's mean; only groups with two or more values count."""

    groups: list[list[Graded]]

    def of(self, values: Mapping[int, float]) -> dict[int, float]:
        found: dict[int, float] = {}
        for members in self.groups:
            own = {id(member): values[id(member)] for member in members if id(member) in values}
            if len(own) > 1:
                centre = mean(own.values())
                found.update({place: value - centre for place, value in own.items()})
        return found


def _together(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float | None, int]:
    both = [place for place in first if place in second]
    return correlation([first[p] for p in both], [second[p] for p in both]), len(both)


People = Mapping[str, tuple[Comparison | None, Statistic | None]]


def diagnose(rows: Sequence[Graded], criteria: Mapping[str, Weights], people: People) -> Diagnostics:
    """Everything about these completions; `people` has what labels say by criterion."""
    by_group: dict[str, list[Graded]] = defaultdict(list)
    for row in rows:
        by_group[row.group].append(row)
    centred = _Centred([members for members in by_group.values() if len(members) > 1])
    scores = {key: centred.of({id(row): row.cells[key][0] for row in rows if key in row.cells}) for key in criteria}
    lengths = centred.of({id(row): float(row.length) for row in rows})
    found = []
    for key, own in criteria.items():
        rest = centred.of(_rest(rows, key, criteria))
        found.append(
            _criterion(key, own, rows, centred.groups, people)
            | {"discrimination": _together(scores[key], rest)[0], "length": _together(scores[key], lengths)[0]}
        )
    diagnosed = [CriterionDiagnostics.model_validate(values) for values in found]
    redundant = _redundant({key: own for key, own in scores.items() if not criteria[key].audit})
    return Diagnostics(
        completions=len(rows),
        groups=len(centred.groups),
        criteria=diagnosed,
        redundant=redundant,
        proposals=[p for c in diagnosed for p in _proposals(c)] + [_merge(pair, criteria) for pair in redundant],
    )


def _rest(rows: Sequence[Graded], key: str, criteria: Mapping[str, Weights]) -> dict[int, float]:
    """The weighted mean of the other criteria that count, of completions that have all of them."""
    others = [name for name, own in criteria.items() if name != key and not own.audit]
    total = sum(criteria[name].weight for name in others)
    return {
        id(row): sum(criteria[name].weight * row.cells[name][0] for name in others) / total
        for row in rows
        if others and all(name in row.cells for name in others)
    }


def _criterion(
    key: str, own: Weights, rows: Sequence[Graded], groups: Sequence[Sequence[Graded]], people: People
) -> dict[str, object]:
    cells = [row.cells[key] for row in rows if key in row.cells]
    failed = sum(key in row.failed for row in rows)
    scores = [score for score, _ in cells]
    confidences = [confidence for _, confidence in cells if confidence is not None]
    value, count = Counter(scores).most_common(1)[0] if scores else (None, 0)
    told = [[m.cells[key][0] for m in members if key in m.cells] for members in groups]
    told = [values for values in told if len(values) > 1]
    agreement = people.get(key, (None, None))
    return {
        "criterion": key,
        "weight": own.weight,
        "audit": own.audit,
        "cells": len(cells),
        "null_share": failed / (failed + len(cells)) if failed + len(cells) else None,
        "mean_score": mean(scores) if scores else None,
        "common_value": value,
        "common_share": count / len(scores) if scores else None,
        "groups_with_spread": sum(map(has_spread, told)) / len(told) if told else None,
        "confidence_drift": drift_of(confidences),
        "score_drift": drift_of(scores),
        "people": agreement[0],
        "among_people": agreement[1],
    }


def _redundant(scores: Mapping[str, Mapping[int, float]]) -> list[Redundancy]:
    keys = list(scores)
    found = []
    for place, first in enumerate(keys):
        for second in keys[place + 1 :]:
            value, count = _together(scores[first], scores[second])
            if value is not None and count >= MIN_CELLS and value >= REDUNDANT:
                found.append(Redundancy(criteria=(first, second), correlation=value, completions=count))
    return found


def _merge(pair: Redundancy, criteria: Mapping[str, Weights]) -> Proposal:
    """The one that counts less goes."""
    less, more = sorted(pair.criteria, key=lambda key: criteria[key].weight)
    message = f"'{less}' and '{more}' correlate by {pair.correlation:.2f} within groups: one quality counts twice"
    return Proposal(action="merge", criterion=less, other=more, because=message)


def _proposals(c: CriterionDiagnostics) -> list[Proposal]:
    found: list[tuple[Action, str]] = []
    if c.cells >= MIN_CELLS:
        if c.common_share is not None and c.common_share >= SATURATED:
            message = f"{c.common_share:.0%} of its scores are {c.common_value:g}: it tells nothing apart any more"
            found.append(("retire", message))
        if c.discrimination is not None and c.discrimination <= TURNED:
            message = f"what it calls good the rest of the rubric calls bad (correlation {c.discrimination:.2f})"
            found.append(("reword", message))
        if c.length is not None and abs(c.length) >= LENGTHY:
            way = "longer" if c.length > 0 else "shorter"
            found.append(
                ("reword", f"it goes with {way} texts (correlation {c.length:.2f}); say that length is no merit")
            )
        if c.confidence_drift is not None:
            moved = c.confidence_drift
            message = (
                f"the judge's confidence went from {moved.before:.2f} to {moved.after:.2f}: label some, and calibrate"
            )
            found.append(("calibrate", message))
    if c.people is not None and c.people.texts >= MIN_CELLS:
        alpha, among = c.people.alpha.value, c.among_people.value if c.among_people is not None else None
        if alpha is not None and alpha < TRAINABLE_ALPHA:
            if among is not None and among < TRAINABLE_ALPHA:
                message = f"people do not agree on it either (alpha {among:.2f}): it may ask two things at once"
                found.append(("split", message))
            else:
                found.append(("reword", f"judge and people do not agree on it (alpha {alpha:.2f})"))
    return [Proposal(action=action, criterion=c.criterion, because=because) for action, because in found]
