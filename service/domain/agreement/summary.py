"""One criterion: how far a judge agrees with people, or with another judge; every number with its bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from service.domain.agreement.alpha import Level, krippendorff_alpha
from service.domain.agreement.bootstrap import bootstrap
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

    def of(statistic: Callable[[Sequence[tuple[float, float]]], float | None], wanted: bool = True) -> Statistic:
        if not wanted:
            return Statistic(value=None)
        return _with_interval(ratings, lambda own: statistic(_pairs(own, values)))

    classes = values is not None
    order = sorted(values) if values is not None else []
    return Comparison(
        texts=len(ratings),
        pairs=sum(len(people) for people, _ in ratings),
        level=level,
        agreement=of(observed_agreement, classes),
        kappa=of(cohen_kappa, classes),
        weighted_kappa=of(lambda pairs: weighted_kappa(pairs, order), classes and level == "ordinal"),
        f1=of(balanced_f1, classes),
        alpha=_with_interval(ratings, lambda own: krippendorff_alpha(_units(own, values), level)),
        correlation=_with_interval(ratings, lambda own: _correlation(_pairs(own, None))),
        bias=_with_interval(ratings, lambda own: mean(judge - mean(people) for people, judge in own)),
    )


def _correlation(pairs: Sequence[tuple[float, float]]) -> float | None:
    return correlation([a for a, _ in pairs], [b for _, b in pairs])


def nearest_value(score: float, values: Sequence[float] | None) -> float:
    """The scale's value next to a score, the lower of two equally near ones; the score itself where any number will do."""
    return score if values is None else min(values, key=lambda value: (abs(value - score), value))


def _pairs(ratings: Sequence[Ratings], values: Sequence[float] | None) -> list[tuple[float, float]]:
    return [(person, nearest_value(judge, values)) for people, judge in ratings for person in people]


def _units(ratings: Sequence[Ratings], values: Sequence[float] | None) -> list[list[float]]:
    return [[*people, nearest_value(judge, values)] for people, judge in ratings]


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
    value = statistic(units) if units else None
    interval = bootstrap(units, statistic, resamples=RESAMPLES) if value is not None else None
    if interval is None:
        return Statistic(value=value)
    return Statistic(value=value, low=interval.low, high=interval.high)


RESAMPLES = 200
"""Enough for the second digit of an interval, and few enough for an answer at once."""
