"""Fitting curves to labelled cells: by least squares of ỹ on r(x)·s̃."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from service.domain.calibration.curves import Curve, Curves, Isotonic, Temperature
from service.domain.scoring import has_spread, mean

MIN_LABELS = 50
"""A curve is fitted to this many labelled cells or more."""

Method = Literal["isotonic", "temperature"]


@dataclass(frozen=True, slots=True)
class Observation:
    """A labelled cell: what the judge stated and gave, and what people gave (their mean), all in [0,1]."""

    question: str
    source: str
    stated: float
    score: float
    truth: float


@dataclass(frozen=True, slots=True)
class Centred:
    """An observation with score and truth relative to their question's means."""

    stated: float
    score: float
    truth: float


class TooFewLabels(Exception):
    """Nothing can be fitted: a sentence that says what is missing."""


def fit_curves(observations: Sequence[Observation], method: Method) -> Curves:
    """A curve for each source with enough labels, and one for each of its questions with enough.

    A set of cells whose scores are all equal has no slope and gets no curve. `TooFewLabels` if nothing gets one.
    """
    judge: dict[str, Curve] = {}
    questions: dict[str, dict[str, Curve]] = {}
    by_source: dict[str, list[Observation]] = defaultdict(list)
    for one in observations:
        by_source[one.source].append(one)
    for source, own in sorted(by_source.items()):
        curve = _curve(centre(own), method)
        if curve is None:
            continue
        judge[source] = curve
        for question in sorted({one.question for one in own}):
            found = _curve(centre([one for one in own if one.question == question]), method)
            if found is not None:
                questions.setdefault(question, {})[source] = found
    if not judge:
        raise TooFewLabels(_what_is_missing(by_source))
    return Curves(judge=judge, questions=questions)


def _what_is_missing(by_source: dict[str, list[Observation]]) -> str:
    most = max((len(own) for own in by_source.values()), default=0)
    if most < MIN_LABELS:
        return (
            f"a calibration needs {MIN_LABELS} labelled cells with a confidence, of this revision of the judge; there are "
            f"{most}: label more (GET /v1/labelling-queue says which), or grade labelled completions with this revision"
        )
    return f"{most} cells are labelled, and the judge gave all of them the same score: nothing says how reliable it is"


def centre(observations: Sequence[Observation]) -> list[Centred]:
    """Each question by itself, so that an easy criterion beside a hard one is no agreement."""
    groups: dict[str, list[Observation]] = defaultdict(list)
    for one in observations:
        groups[one.question].append(one)
    found = []
    for own in groups.values():
        score, truth = mean(one.score for one in own), mean(one.truth for one in own)
        spread = has_spread([one.score for one in own])
        found += [Centred(one.stated, one.score - score if spread else 0.0, one.truth - truth) for one in own]
    return found


def _curve(observations: Sequence[Centred], method: Method) -> Curve | None:
    if len(observations) < MIN_LABELS or slope(observations) is None:
        return None
    return Curve(labels=len(observations), fit=fit(observations, method))


def fit(observations: Sequence[Centred], method: Method) -> Isotonic | Temperature:
    """By one of the methods."""
    how: Callable[[Sequence[Centred]], Isotonic | Temperature] = isotonic_slope if method == "isotonic" else temperature
    return how(observations)


def slope(observations: Sequence[Centred]) -> float | None:
    """Σs̃ỹ/Σs̃², the reliability of all of them together; null where the scores have no spread."""
    below = math.fsum(one.score**2 for one in observations)
    return math.fsum(one.score * one.truth for one in observations) / below if below > 0 else None


def isotonic_slope(observations: Sequence[Centred]) -> Isotonic:
    """The non-decreasing r(x) in [0,1] that minimises Σ(ỹ − r(x)·s̃)²: isotonic regression of ỹ/s̃ with the weights s̃².

    Cells whose score is the mean say nothing about a slope. A bounded isotonic fit is the unbounded one, clipped.
    """
    at: dict[float, tuple[list[float], list[float]]] = {}
    for one in sorted(observations, key=lambda one: one.stated):
        if one.score != 0.0:
            products, squares = at.setdefault(one.stated, ([], []))
            products.append(one.score * one.truth)
            squares.append(one.score**2)
    stated = list(at)
    weights = [math.fsum(squares) for _, squares in at.values()]
    slopes = [math.fsum(products) / weight for (products, _), weight in zip(at.values(), weights, strict=True)]
    values = [min(1.0, max(0.0, value)) for value in isotonic(slopes, weights)]
    points: list[tuple[float, float]] = []
    for k, (x, value) in enumerate(zip(stated, values, strict=True)):
        inside = 0 < k < len(values) - 1 and values[k - 1] == value == values[k + 1]
        if not inside:
            points.append((x, value))
    return Isotonic(points=points)


def isotonic(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The non-decreasing sequence next to `values` by weighted least squares (pool adjacent violators)."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            before = blocks.pop()
            total = before[1] + block[1]
            pooled = (before[0] * before[1] + block[0] * block[1]) / total
            block = (pooled, total, before[2] + block[2])
        blocks.append(block)
    return [value for value, _, count in blocks for _ in range(count)]


def temperature(observations: Sequence[Centred]) -> Temperature:
    """The T in [1/20, 20] with the least Σ(ỹ − σ(logit(x)/T)·s̃)²: the best of a grid of log T, refined by golden sections."""

    at: dict[float, tuple[list[float], list[float]]] = {}
    for one in observations:
        squares, products = at.setdefault(one.stated, ([], []))
        squares.append(one.score**2)
        products.append(one.score * one.truth)
    sums = [(x, math.fsum(squares), math.fsum(products)) for x, (squares, products) in at.items()]

    def loss(log_t: float) -> float:
        """Less Σỹ², on which T has no influence: Σ r(x)²·Σs̃² − 2r(x)·Σs̃ỹ over what is stated."""
        curve = Temperature(temperature=math.exp(log_t))
        worth = [(curve.at(x), square, product) for x, square, product in sums]
        return math.fsum(r * (r * square - 2 * product) for r, square, product in worth)

    reach, steps = math.log(20), 40
    grid = [reach * (2 * k / steps - 1) for k in range(steps + 1)]
    best = min(range(len(grid)), key=lambda k: loss(grid[k]))
    low, high = grid[max(0, best - 1)], grid[min(steps, best + 1)]
    part = (math.sqrt(5) - 1) / 2
    for _ in range(40):
        left, right = high - part * (high - low), low + part * (high - low)
        low, high = (low, right) if loss(left) <= loss(right) else (left, high)
    return Temperature(temperature=math.exp((low + high) / 2))
