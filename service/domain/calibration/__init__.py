"""How much a judge is to be believed when it says how sure it is: fitted to people's labels, aimed at reliability (grape.md §4).

The aim. With c the reliability τ²/(τ²+σ²) of a score, w·c makes the best linear predictor of Σ w·s_true. Reliability is the
slope of the truth on the score, cov(s, y)/var(s): under s = y + error with an independent error it is τ²/(τ²+σ²), it stays right
for scores of 0 and 1, where errors are never independent, and noise in the labels does not bend it. So a calibration maps what a
judge states, x, to the slope at x, and is fitted by least squares of the centred labels ỹ on r(x)·s̃.

**[choice]** Both sides are centred on their means over the criterion's labelled cells: a constant bias of a judge cancels in
every group, and is reported and not punished.
"""

from service.domain.calibration.curves import (
    SHRINKAGE,
    Calibrator,
    Curve,
    Curves,
    Isotonic,
    PinnedCalibration,
    Temperature,
)
from service.domain.calibration.fit import (
    MIN_LABELS,
    Method,
    Observation,
    TooFewLabels,
    fit_curves,
    isotonic,
    isotonic_slope,
    slope,
    temperature,
)
from service.domain.calibration.report import CurveReport, SlopeBin, report_of

__all__ = [
    "MIN_LABELS",
    "SHRINKAGE",
    "Calibrator",
    "Curve",
    "CurveReport",
    "Curves",
    "Isotonic",
    "Method",
    "Observation",
    "PinnedCalibration",
    "SlopeBin",
    "Temperature",
    "TooFewLabels",
    "fit_curves",
    "isotonic",
    "isotonic_slope",
    "report_of",
    "slope",
    "temperature",
]
