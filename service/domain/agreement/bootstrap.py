"""Intervals by resampling units with replacement."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


def bootstrap(
    units: Sequence[T], statistic: Callable[[Sequence[T]], float | None], *, seed: int = 0, resamples: int = 500
) -> Interval | None:
    """The 2.5 and 97.5 percentiles of `statistic` over resamples of `units`; the same seed gives the same interval.

    Resamples in which it is undefined are left out; null for fewer than two units, and where half of the resamples or more are
    undefined. What is resampled must be what is independent: completions, not the criteria of one completion.
    """
    return bootstrap_all(units, lambda own: {"": statistic(own)}, seed=seed, resamples=resamples).get("")


def bootstrap_all(
    units: Sequence[T],
    statistics: Callable[[Sequence[T]], Mapping[str, float | None]],
    *,
    seed: int = 0,
    resamples: int = 500,
) -> dict[str, Interval]:
    """The same for several statistics of the same resamples; those without an interval are missing."""
    if len(units) < 2:
        return {}
    generator = random.Random(seed)  # noqa: S311 (statistics, not secrets)
    found: dict[str, list[float]] = {}
    for _ in range(resamples):
        for name, value in statistics(generator.choices(units, k=len(units))).items():
            if value is not None and math.isfinite(value):
                found.setdefault(name, []).append(value)
    return {
        name: Interval(_quantile(values, 0.025), _quantile(values, 0.975))
        for name, values in ((name, sorted(values)) for name, values in found.items())
        if 2 * len(values) > resamples
    }


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
