"""Stated probabilities against what happened: Brier score, expected calibration error, the bins of a reliability diagram."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Forecasts = Sequence[tuple[float, float]]
"""What was stated, in [0,1], and what happened: 1 or 0."""


@dataclass(frozen=True, slots=True)
class Bin:
    """`low`..`high` of what was stated (the last bin has both ends), how often, and the means of both sides."""

    low: float
    high: float
    count: int
    stated: float | None
    observed: float | None


def brier_score(forecasts: Forecasts) -> float | None:
    """The mean of (stated − happened)² (Brier 1950); null for nothing."""
    return math.fsum((p - y) ** 2 for p, y in forecasts) / len(forecasts) if forecasts else None


def reliability_bins(forecasts: Forecasts, bins: int = 10) -> list[Bin]:
    """Bins of equal width over [0,1]; a value on an edge belongs to the upper one."""
    found: list[list[tuple[float, float]]] = [[] for _ in range(bins)]
    for p, y in forecasts:
        found[min(bins - 1, int(p * bins))].append((p, y))
    return [
        Bin(
            low=place / bins,
            high=(place + 1) / bins,
            count=len(own),
            stated=math.fsum(p for p, _ in own) / len(own) if own else None,
            observed=math.fsum(y for _, y in own) / len(own) if own else None,
        )
        for place, own in enumerate(found)
    ]


def expected_calibration_error(forecasts: Forecasts, bins: int = 10) -> float | None:
    """Σ (n_b/n)·|mean stated − mean observed| over bins of equal width (Guo et al. 2017, eq. 5); null for nothing."""
    if not forecasts:
        return None
    gaps = [
        b.count * abs(b.stated - b.observed)
        for b in reliability_bins(forecasts, bins)
        if b.stated is not None and b.observed is not None
    ]
    return math.fsum(gaps) / len(forecasts)
