"""Krippendorff's alpha: any number of raters, missing ratings, levels of measurement (Krippendorff 2004, ch. 11; 2011)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, Literal

Level = Literal["nominal", "ordinal", "interval"]


def krippendorff_alpha(units: Iterable[Sequence[Any]], level: Level) -> float | None:
    """1 − D_o/D_e over units, each the ratings that it has; units with fewer than two say nothing and are left out.

    Squared differences δ²: nominal [a≠b], interval (a−b)², ordinal the squared distance of cumulated mid-ranks. Ratings of the
    levels ordinal and interval are numbers. Null where no unit has two ratings, and where all ratings are equal (D_e = 0).
    """
    kinds = Counter(tuple(unit) for unit in units if len(unit) >= 2)
    totals: Counter[Any] = Counter()
    for unit, times in kinds.items():
        for value in unit:
            totals[value] += times
    if len(totals) < 2:
        return None
    if level == "nominal":
        return _nominal(kinds, totals)
    places = _mid_ranks(totals) if level == "ordinal" else {value: value for value in totals}
    return _of_moments([(times, *_moments([places[v] for v in unit])) for unit, times in kinds.items()])


def votes_alpha(units: Iterable[tuple[int, float, float | None]]) -> float | None:
    """Alpha at the level interval from each unit's number of ratings, their mean and their unbiased variance.

    Exact, and all that a cell keeps of its votes: Σ_{i≠j}(x_i−x_j)² = 2m(m−1)s². For ratings of 0 and 1 it is nominal alpha too.
    """
    return _of_moments([(1, m, mean, variance) for m, mean, variance in units if m >= 2 and variance is not None])


def _of_moments(units: Sequence[tuple[int, int, float, float]]) -> float | None:
    """From how often a unit of so many ratings, with this mean and variance, is there."""
    n = sum(times * m for times, m, _, _ in units)
    if not units:
        return None
    centre = math.fsum(times * m * mean for times, m, mean, _ in units) / n
    within = math.fsum(times * m * variance for times, m, _, variance in units) / n
    apart = (times * ((m - 1) * variance + m * (mean - centre) ** 2) for times, m, mean, variance in units)
    spread = math.fsum(apart) / (n - 1)
    return 1 - within / spread if spread > 1e-18 else None


def _nominal(kinds: Counter[tuple[Any, ...]], totals: Counter[Any]) -> float:
    """D_o by counting equal pairs within units, D_e over all pairs of ratings."""
    apart = math.fsum(
        times * (len(unit) ** 2 - sum(count * count for count in Counter(unit).values())) / (len(unit) - 1)
        for unit, times in kinds.items()
    )
    n = sum(totals.values())
    expected = (n * n - sum(count * count for count in totals.values())) / (n - 1)
    return 1 - apart / expected


def _mid_ranks(totals: Counter[Any]) -> dict[Any, float]:
    """Σ_{g≤k} n_g − n_k/2 for each value: the difference of two of them is Krippendorff's ordinal distance."""
    values = sorted(totals)
    return {
        value: reached - totals[value] / 2
        for value, reached in zip(values, accumulate(totals[v] for v in values), strict=True)
    }


def _moments(unit: Sequence[float]) -> tuple[int, float, float]:
    m = len(unit)
    mean = math.fsum(unit) / m
    return m, mean, math.fsum((x - mean) ** 2 for x in unit) / (m - 1)
