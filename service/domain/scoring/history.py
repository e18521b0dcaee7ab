"""Running quantities of a job, per rubric and criterion: earlier steps only, saved in checkpoints (grape.md §4 and §5)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.domain.scoring.values import CriterionWeight, Past, Row

NOISE_GROUPS = 64
"""How many groups back the noise of votes is pooled over."""


@dataclass(slots=True)
class RunningMeans:
    """Means per key; exact sums of what was added at once."""

    totals: dict[str, tuple[int, float]] = field(default_factory=dict)

    def add(self, key: str, values: Iterable[float]) -> None:
        """Count `values` in."""
        numbers = list(values)
        if numbers:
            count, total = self.totals.get(key, (0, 0.0))
            self.totals[key] = (count + len(numbers), math.fsum([total, *numbers]))

    def means(self) -> dict[str, float]:
        """The mean of each key that has values."""
        return {key: total / count for key, (count, total) in self.totals.items()}


@dataclass(slots=True)
class RubricHistory:
    """What one rubric version's cells were like in earlier steps."""

    confidence: RunningMeans = field(default_factory=RunningMeans)
    score: RunningMeans = field(default_factory=RunningMeans)
    noise: dict[str, deque[tuple[int, float]]] = field(default_factory=dict)

    def past(self) -> Past:
        """As the arithmetic takes it."""
        noise = {
            key: (sum(n for n, _ in window), math.fsum(total for _, total in window))
            for key, window in self.noise.items()
        }
        return Past(self.confidence.means(), self.score.means(), noise)

    def add(self, criteria: Sequence[CriterionWeight], rows: Sequence[Row]) -> None:
        """Count the ok cells of one group in."""
        noise: dict[str, list[float]] = {}
        for c in sorted(criteria, key=lambda c: c.key):
            cells = [row[c.key] for row in rows if c.key in row]
            self.score.add(c.memory, [cell.score for cell in cells])
            self.confidence.add(c.memory, [cell.confidence for cell in cells if cell.confidence is not None])
            noise.setdefault(c.memory, []).extend(cell.noise for cell in cells if cell.noise is not None)
        for key, values in noise.items():
            if values:
                window = self.noise.setdefault(key, deque(maxlen=NOISE_GROUPS))
                window.append((len(values), math.fsum(values)))


@dataclass(slots=True)
class History:
    """All rubrics of a job, by the hash of their version. Add groups once their step is over."""

    rubrics: dict[str, RubricHistory] = field(default_factory=dict)

    def past(self, rubric: str) -> Past:
        """What earlier steps say about this rubric's criteria."""
        found = self.rubrics.get(rubric)
        return found.past() if found is not None else Past()

    def add(self, rubric: str, criteria: Sequence[CriterionWeight], rows: Sequence[Row]) -> None:
        """Count one group in."""
        self.rubrics.setdefault(rubric, RubricHistory()).add(criteria, rows)

    def to_json(self) -> dict[str, Any]:
        """As JSON values; Python writes and reads floats without loss."""
        return {
            rubric: {
                "confidence": {key: list(value) for key, value in own.confidence.totals.items()},
                "score": {key: list(value) for key, value in own.score.totals.items()},
                "noise": {key: [list(pair) for pair in window] for key, window in own.noise.items()},
            }
            for rubric, own in self.rubrics.items()
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> History:
        """The same again."""

        def means(totals: dict[str, Any]) -> RunningMeans:
            return RunningMeans({key: (int(n), float(total)) for key, (n, total) in totals.items()})

        def windows(noise: dict[str, Any]) -> dict[str, deque[tuple[int, float]]]:
            return {
                key: deque(((int(n), float(total)) for n, total in pairs), maxlen=NOISE_GROUPS)
                for key, pairs in noise.items()
            }

        return cls(
            {
                rubric: RubricHistory(means(own["confidence"]), means(own["score"]), windows(own["noise"]))
                for rubric, own in data.items()
            }
        )
