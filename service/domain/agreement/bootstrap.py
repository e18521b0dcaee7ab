"""Intervals by resampling units with replacement."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
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
    if len(units) < 2:
        return None
    generator = random.Random(seed)  # noqa: S311 (statistics, not secrets)
    found = sorted(
        value
        for _ in range(resamples)
        if (value := statistic(generator.choices(units, k=len(units)))) is not None and math.isfinite(value)
    )
    if 2 * len(found) <= resamples:
        return None
    return Interval(_quantile(found, 0.025), _quantile(found, 0.975))


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
