"""What a grading comes to, over all of its completions.

Every mean is an exact sum, rounded once, so that the order of groups, pages and workers has no influence on a bit of it.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MISSING = "missing"
"""Counted beside the statuses of failed cells: no stored cell answers the criterion (`reuse_cells`)."""


@dataclass(slots=True)
class _Criterion:
    scores: array[float] = field(default_factory=lambda: array("d"))
    confidences: array[float] = field(default_factory=lambda: array("d"))
    nulls: Counter[str] = field(default_factory=Counter)
    audit: bool = False


@dataclass(slots=True)
class Summary:
    """Counts completions and cells in; `as_json` has the means."""

    values: dict[str, array[float]] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    criteria: dict[str, _Criterion] = field(default_factory=lambda: defaultdict(_Criterion))
    signals: Counter[str] = field(default_factory=Counter)
    nulls: Counter[str] = field(default_factory=Counter)
    completions: int = 0

    def group(self, signal: str) -> None:
        """One more group."""
        self.signals[signal] += 1

    def completion(self, **numbers: float | None) -> None:
        """One more completion, with its plain reward, audit, coverage and so on; nulls are left out of the means.

        A reward is compared within its group alone, so its mean is asked for only under `healthbench`, whose reward is the
        benchmark's own score and stands alone.
        """
        self.completions += 1
        for name, number in numbers.items():
            kept = self.values[name]
            if number is not None:
                kept.append(number)

    def cell(
        self, names: Iterable[str], status: str, score: float | None, confidence: float | None, audit: bool
    ) -> None:
        """One more cell, under each of these names (a prompt's own criteria count by tag)."""
        if score is None:
            self.nulls[status] += 1
        for name in names:
            criterion = self.criteria[name]
            criterion.audit = audit
            if score is None:
                criterion.nulls[status] += 1
                continue
            criterion.scores.append(score)
            if confidence is not None:
                criterion.confidences.append(confidence)

    def as_json(self) -> dict[str, Any]:
        """Means, counts, and nulls by status; in all and by criterion."""
        return {
            "completions": self.completions,
            "groups": sum(self.signals.values()),
            "signals": dict(sorted(self.signals.items())),
            **{name: _mean(numbers) for name, numbers in sorted(self.values.items())},
            "null_plain_rewards": self.completions - len(self.values["plain_reward"]),
            "nulls": dict(sorted(self.nulls.items())),
            "criteria": {
                name: {
                    "score": _mean(c.scores),
                    "confidence": _mean(c.confidences),
                    "ok": len(c.scores),
                    "nulls": dict(sorted(c.nulls.items())),
                    "audit": c.audit,
                }
                for name, c in sorted(self.criteria.items())
            },
        }


def _mean(numbers: array[float]) -> float | None:
    return math.fsum(numbers) / len(numbers) if numbers else None
