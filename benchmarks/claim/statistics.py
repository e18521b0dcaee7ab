"""From curves to numbers: samples to a level, medians, paired bootstrap intervals. numpy alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_SEED = 20_260
Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over seeds with its 95 % interval; null if too few pairs say anything."""

    value: float
    low: float
    high: float

    def to_json(self) -> list[float | str]:
        """[value, low, high]; JSON knows no infinity."""
        return [round(x, 5) if math.isfinite(x) else "inf" for x in (self.value, self.low, self.high)]


def samples_to(curve: Sequence[float], level: float, samples_per_step: int) -> float:
    """Completions graded until the curve first reaches `level`, linear between steps; ∞ if it never does.

    `curve[t]` is what the policy attains after t steps.
    """
    for t, value in enumerate(curve):
        if value >= level:
            if t == 0:
                return 0.0
            before = curve[t - 1]
            return (t - 1 + (level - before) / (value - before)) * samples_per_step
    return math.inf


def final(curve: Sequence[float], window: int) -> float:
    """The mean of the last `window` values."""
    return math.fsum(curve[-window:]) / len(curve[-window:])


def quantile(values: NDArray[np.float64], q: float) -> float:
    """The smallest value with at least a share q of the values at or below it: never between two values, so ∞ is no trouble."""
    ordered = np.sort(values)
    return float(ordered[max(0, math.ceil(q * len(ordered) - 1e-9) - 1)])


def medians(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median along the last axis; the mean of the middle two for an even count (∞ if either is)."""
    ordered = np.sort(samples, axis=-1)
    count = samples.shape[-1]
    middle: NDArray[np.float64] = (ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2
    return middle


def bootstrap(values: Sequence[float], resamples: int, statistic: Statistic = medians) -> Estimate:
    """A statistic of the values and the percentile interval of its bootstrap distribution: seeds drawn with replacement."""
    array = np.asarray(values, dtype=float)
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = statistic(array[rng.integers(0, len(array), (resamples, len(array)))])
    return Estimate(float(statistic(array)), quantile(drawn, 0.025), quantile(drawn, 0.975))


def ratios(arm: Sequence[float], baseline: Sequence[float]) -> list[float] | None:
    """arm ÷ baseline, seed by seed; a pair of which neither is finite counts as 1, null if those are more than half."""
    pairs = list(zip(arm, baseline, strict=True))
    silent = sum(math.isinf(a) and math.isinf(b) for a, b in pairs)
    if 2 * silent > len(pairs):
        return None
    return [1.0 if math.isinf(a) and math.isinf(b) else _ratio(a, b) for a, b in pairs]


def _ratio(a: float, b: float) -> float:
    if math.isinf(b):
        return 0.0
    return a / b if b > 0 else math.inf


def differences(arm: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """arm − baseline, seed by seed."""
    return [a - b for a, b in zip(arm, baseline, strict=True)]
