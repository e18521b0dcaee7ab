"""How good a judge's confidence was, and is after calibration: what a reliability diagram shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from service.domain.base import Value
from service.domain.calibration.fit import MIN_LABELS, Centred, Method, Observation, centre, fit, slope
from service.domain.scoring import mean

BINS = 10
FOLDS = 5


class SlopeBin(Value):
    """Cells that stated `low`..`high`: how many, the mean of what they stated, the reliability that they had, and its standard error;
    null without cells, or without spread among their scores."""

    low: float
    high: float
    count: int
    stated: float | None
    reliability: float | None
    error: float | None


class CurveReport(Value):
    """One set of labelled cells.

    `reliability`: the slope of people's scores on the judge's over all of them. `bias`: the judge's mean score minus people's.
    `loss_stated` and `loss_calibrated`: the mean of (ỹ − c·s̃)² with c as stated and as calibrated, the latter on cells that the
    curve was not fitted to (five folds). Null where there is nothing to compare.
    """

    labels: int
    reliability: float | None
    bias: float
    loss_stated: float
    loss_calibrated: float | None
    bins: list[SlopeBin]


def report_of(observations: Sequence[Observation], method: Method) -> CurveReport:
    """What is known of these cells' confidence. The folds go by position: the same cells in the same order give the same numbers."""
    centred = centre(observations)
    return CurveReport(
        labels=len(observations),
        reliability=slope(centred),
        bias=mean(one.score - one.truth for one in observations),
        loss_stated=_loss(centred, lambda x: x),
        loss_calibrated=_held_out(centred, method),
        bins=_bins(centred),
    )


def _loss(cells: Sequence[Centred], worth: Callable[[float], float]) -> float:
    return math.fsum((one.truth - worth(one.stated) * one.score) ** 2 for one in cells) / len(cells)


def _held_out(cells: Sequence[Centred], method: Method) -> float | None:
    if len(cells) < MIN_LABELS:
        return None
    total = 0.0
    for fold in range(FOLDS):
        rest = [one for k, one in enumerate(cells) if k % FOLDS != fold]
        own = [one for k, one in enumerate(cells) if k % FOLDS == fold]
        if slope(rest) is None:
            return None
        total += _loss(own, fit(rest, method).at) * len(own)
    return total / len(cells)


def _bins(cells: Sequence[Centred]) -> list[SlopeBin]:
    found = []
    for place in range(BINS):
        own = [one for one in cells if min(BINS - 1, int(one.stated * BINS)) == place]
        reliability = slope(own)
        found.append(
            SlopeBin(
                low=place / BINS,
                high=(place + 1) / BINS,
                count=len(own),
                stated=mean(one.stated for one in own) if own else None,
                reliability=reliability,
                error=None if reliability is None or len(own) < 2 else _error(own, reliability),
            )
        )
    return found


def _error(cells: Sequence[Centred], reliability: float) -> float:
    """√(Σ s̃²(ỹ − r·s̃)²)/Σ s̃²: the slope's standard error, whatever the errors' variances."""
    squares = math.fsum((one.score * (one.truth - reliability * one.score)) ** 2 for one in cells)
    return math.sqrt(squares) / math.fsum(one.score**2 for one in cells)
