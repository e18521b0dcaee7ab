"""How far ratings agree: people with judges, a judge with itself, judge with judge. Pure functions, plain Python, float64.

What is undefined is null: chance-corrected agreement where nobody ever varied, an interval of a statistic that most resamples
do not have. Never a 0 or a 1 in its place.
"""

from service.domain.agreement.alpha import Level, krippendorff_alpha, votes_alpha
from service.domain.agreement.bootstrap import Interval, bootstrap, bootstrap_all
from service.domain.agreement.classes import balanced_f1, cohen_kappa, observed_agreement, weighted_kappa
from service.domain.agreement.probabilities import Bin, brier_score, expected_calibration_error, reliability_bins
from service.domain.agreement.summary import (
    Comparison,
    ConfidenceCheck,
    Statistic,
    among,
    check_confidence,
    compare,
    nearest_value,
)

__all__ = [
    "Bin",
    "Comparison",
    "ConfidenceCheck",
    "Interval",
    "Level",
    "Statistic",
    "among",
    "balanced_f1",
    "bootstrap",
    "bootstrap_all",
    "brier_score",
    "check_confidence",
    "cohen_kappa",
    "compare",
    "expected_calibration_error",
    "krippendorff_alpha",
    "nearest_value",
    "observed_agreement",
    "reliability_bins",
    "votes_alpha",
    "weighted_kappa",
]
