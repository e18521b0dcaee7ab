"""Sums and spreads in float64. Every sum is `math.fsum`, exact before its one rounding, so order changes no bit."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence


def mean(values: Iterable[float]) -> float:
    """fsum(x)/n; ValueError for no values."""
    numbers = list(values)
    if not numbers:
        raise ValueError("the mean of nothing is undefined")
    return math.fsum(numbers) / len(numbers)


def unbiased_std(values: Sequence[float]) -> float:
    """√(Σ(x−x̄)²/(n−1)) in two passes, so that equal values leave at most a rounding of the mean; 0 for fewer than two."""
    if len(values) < 2:
        return 0.0
    centre = mean(values)
    return math.sqrt(math.fsum((x - centre) ** 2 for x in values) / (len(values) - 1))


def has_spread(values: Sequence[float]) -> bool:
    """Whether max − min exceeds 1e-9 + 1e-6·max|x|: below that, differences are rounding, not signal."""
    if not values:
        return False
    return max(values) - min(values) > 1e-9 + 1e-6 * max(abs(x) for x in values)


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float | None:
    """Pearson's correlation; null for fewer than two pairs, or where either side has no spread."""
    if len(xs) != len(ys):
        raise ValueError("a correlation is one of pairs")
    if len(xs) < 2 or not has_spread(xs) or not has_spread(ys):
        return None
    x_mean, y_mean = mean(xs), mean(ys)
    together = math.fsum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    apart = math.fsum((x - x_mean) ** 2 for x in xs) * math.fsum((y - y_mean) ** 2 for y in ys)
    return max(-1.0, min(1.0, together / math.sqrt(apart)))


def paired_interval(differences: Sequence[float], seed: int, resamples: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences, by bootstrap over the pairs (percentiles of resampled means).

    The same seed gives the same interval. ValueError for fewer than two pairs.
    """
    if len(differences) < 2:
        raise ValueError("an interval needs two pairs or more")
    generator = random.Random(seed)  # noqa: S311 (statistics, not secrets)
    means = sorted(mean(generator.choices(differences, k=len(differences))) for _ in range(resamples))
    return _quantile(means, 0.025), _quantile(means, 0.975)


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
