"""One criterion: how far a judge agrees with people, or with another judge; every number with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from service.domain.agreement.alpha import Level, krippendorff_alpha
from service.domain.agreement.bootstrap import bootstrap_all
from service.domain.agreement.classes import balanced_f1, cohen_kappa, observed_agreement, weighted_kappa
from service.domain.agreement.probabilities import brier_score, expected_calibration_error
from service.domain.base import Value
from service.domain.scoring.stats import correlation, mean

T = TypeVar("T")

Ratings = tuple[tuple[float, ...], float]
"""One text: what people gave (or the other judge), at least one of them, and what the judge gave."""


class Statistic(Value):
    """A value with its 95 % interval; null where it is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Comparison(Value):
    """`texts` were rated by both sides, in `pairs` of one person's rating with the judge's.

    `kappa`, `weighted_kappa` (quadratic, ordinal scales), `f1` (balanced over classes, people being right) and `agreement` are on
    the scale's values, a judge's mean of votes counting as the nearest one; null for criteria whose scale is any number. `alpha` is
    Krippendorff's, of all raters, at `level`. `bias`: the judge's scores minus the others'.
    """

    texts: int
    pairs: int
    level: Level
    agreement: Statistic
    kappa: Statistic
    weighted_kappa: Statistic
    f1: Statistic
    alpha: Statistic
    correlation: Statistic
    bias: Statistic


class ConfidenceCheck(Value):
    """A judge's confidence against whether its verdict was people's: Brier score and expected calibration error (ten bins).

    This is the chance of being right; calibrations aim at reliability instead, which is what weights are made of.
    """

    texts: int
    mean_confidence: float
    accuracy: float
    brier: Statistic
    ece: Statistic


def compare(ratings: Sequence[Ratings], level: Level, values: Sequence[float] | None) -> Comparison | None:
    """Everything about these texts; null without any. `values`: the scores that the scale has, null for any number."""
    if not ratings:
        return None
    order = sorted(values) if values is not None else None
    # People's ratings of each text, the judge's as one of the scale's, and as it was.
    texts = [(people, nearest_value(judge, values), judge) for people, judge in ratings]
    found = _with_intervals(texts, lambda own: _statistics(own, level, order))
    return Comparison(texts=len(ratings), pairs=sum(len(people) for people, _ in ratings), level=level, **found)


_Text = tuple[tuple[float, ...], float, float]


def _statistics(texts: Sequence[_Text], level: Level, order: Sequence[float] | None) -> dict[str, float | None]:
    """All at once: every statistic of one resample is made of the same pairs."""
    pairs = [(person, nearest) for people, nearest, _ in texts for person in people]
    raw = [(person, judge) for people, _, judge in texts for person in people]
    classes = order is not None
    return {
        "agreement": observed_agreement(pairs) if classes else None,
        "kappa": cohen_kappa(pairs) if classes else None,
        "weighted_kappa": weighted_kappa(pairs, order) if classes and level == "ordinal" else None,
        "f1": balanced_f1(pairs) if classes else None,
        "alpha": krippendorff_alpha([(*people, nearest) for people, nearest, _ in texts], level),
        "correlation": correlation([a for a, _ in raw], [b for _, b in raw]),
        "bias": mean(judge - mean(people) for people, _, judge in texts),
    }


def nearest_value(score: float, values: Sequence[float] | None) -> float:
    """The scale's value next to a score, the lower of two equally near ones; the score itself where any number will do."""
    return score if values is None else min(values, key=lambda value: (abs(value - score), value))


def among(people: Sequence[Sequence[float]], level: Level) -> Statistic:
    """Krippendorff's alpha of people with each other, over texts that several have rated."""
    return _with_interval([own for own in people if len(own) > 1], lambda own: krippendorff_alpha(own, level))


def check_confidence(
    ratings: Sequence[tuple[float, Ratings]], values: Sequence[float] | None
) -> ConfidenceCheck | None:
    """A stated confidence with the ratings of its text; right is the share of people who gave the judge's value. Null for scales
    that are any number, where nobody is ever exactly right."""
    if not ratings or values is None:
        return None
    said = [
        (stated, mean(float(nearest_value(judge, values) == person) for person in people))
        for stated, (people, judge) in ratings
    ]
    return ConfidenceCheck(
        texts=len(said),
        mean_confidence=mean(stated for stated, _ in said),
        accuracy=mean(right for _, right in said),
        brier=_with_interval(said, brier_score),
        ece=_with_interval(said, expected_calibration_error),
    )


def _with_interval(units: Sequence[T], statistic: Callable[[Sequence[T]], float | None]) -> Statistic:
    return _with_intervals(units, lambda own: {"": statistic(own)})[""] if units else Statistic(value=None)


def _with_intervals(
    units: Sequence[T], statistics: Callable[[Sequence[T]], Mapping[str, float | None]]
) -> dict[str, Statistic]:
    values = statistics(units)
    wanted = [name for name, value in values.items() if value is not None]
    intervals = bootstrap_all(units, statistics, resamples=RESAMPLES) if wanted else {}
    found = {}
    for name, value in values.items():
        interval = intervals.get(name) if value is not None else None
        low, high = interval if interval is not None else (None, None)
        found[name] = Statistic(value=value, low=low, high=high)
    return found


RESAMPLES = 200
"""Enough for the second digit of an interval, and few enough for an answer at once."""
