"""Agreement against published numbers: Krippendorff's own worked example, scikit-learn's and torchmetrics' documented values."""

import pytest

from service.domain.agreement import (
    balanced_f1,
    bootstrap,
    brier_score,
    cohen_kappa,
    expected_calibration_error,
    krippendorff_alpha,
    observed_agreement,
    reliability_bins,
    votes_alpha,
    weighted_kappa,
)

# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), example E: 4 observers, 12 units, missing ratings.
OBSERVERS = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
WORKED = [[int(rating) for rating in unit if rating != "."] for unit in zip(*OBSERVERS, strict=True)]

SMALL = [[1, 2], [3, 3], [2, 2, 3], [5, 4], [4, 4], [1, 1]]
BINARY = [[1, 1], [1, 0], [0, 0], [1, 1], [0, 1], [0, 0], [1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize(("level", "expected"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_krippendorffs_worked_example(level, expected):
    assert krippendorff_alpha(WORKED, level) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(
    ("units", "level", "expected"),
    [
        (BINARY, "nominal", 0.3625),
        (SMALL, "nominal", 0.454545),
        (SMALL, "ordinal", 0.883289),
        (SMALL, "interval", 0.866667),
        # The same paper, example B: two observers, ten units.
        (list(zip([0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0], strict=True)), "nominal", 0.095238),
    ],
)
def test_alpha_by_level(units, level, expected):
    """The first four are those of Inspect's own function (reference/rubrics.md §3.8)."""
    assert krippendorff_alpha(units, level) == pytest.approx(expected, abs=1e-6)


def test_alpha_from_the_moments_of_votes_is_alpha_of_the_votes():
    """For ratings of 0 and 1, (a−b)² is [a≠b]: what a cell keeps of its votes is enough."""
    moments = []
    for unit in BINARY:
        mean = sum(unit) / len(unit)
        moments.append((len(unit), mean, sum((x - mean) ** 2 for x in unit) / (len(unit) - 1)))
    assert votes_alpha(moments) == pytest.approx(0.3625, abs=1e-12)
    assert votes_alpha([(1, 0.5, None), (3, 1.0, None)]) is None


def test_kappa():
    """Golden of reference/rubrics.md §3.8 (p_o .8, p_e .52), then scikit-learn's documented example."""
    pairs = list(zip("1101001101", "1001011101", strict=True))
    assert observed_agreement(pairs) == pytest.approx(0.8)
    assert cohen_kappa(pairs) == pytest.approx(0.583333, abs=1e-6)
    first = ["negative", "positive", "negative", "neutral", "positive"]
    second = ["negative", "positive", "negative", "neutral", "negative"]
    assert cohen_kappa(list(zip(first, second, strict=True))) == pytest.approx(0.6875)


@pytest.mark.parametrize(
    ("kappa", "expected"),
    [
        (cohen_kappa, 0.9315),
        (lambda pairs: weighted_kappa(pairs, weights="linear"), 0.9412),
        (lambda pairs: weighted_kappa(pairs, [0, 1, 2], "quadratic"), 0.9541),
    ],
)
def test_weighted_kappa(kappa, expected):
    """The numbers that scikit-learn's own tests hold its cohen_kappa_score to."""
    pairs = list(zip([0] * 46 + [1] * 44 + [2] * 10, [0] * 50 + [1] * 40 + [2] * 10, strict=True))
    assert kappa(pairs) == pytest.approx(expected, abs=5e-5)


def test_kappa_of_a_table():
    """Artstein and Poesio (2008), as in scikit-learn's tests: 100 items, κ = .348."""
    pairs = [(0, 0)] * 20 + [(0, 1)] * 20 + [(1, 0)] * 10 + [(1, 1)] * 50
    assert cohen_kappa(pairs) == pytest.approx(0.348, abs=5e-4)


def test_balanced_f1():
    """scikit-learn's documented f1_score(average="macro"): 0.267."""
    assert balanced_f1([(0, 0), (1, 2), (2, 1), (0, 0), (1, 0), (2, 1)]) == pytest.approx(0.8 / 3)
    # One of two positives found, three negatives kept: F1 2/3 and 6/7.
    assert balanced_f1([(1, 1), (1, 0), (0, 0), (0, 0), (0, 0)]) == pytest.approx((2 / 3 + 6 / 7) / 2)


def test_probabilities():
    """scikit-learn's documented brier_score_loss, torchmetrics' documented BinaryCalibrationError (2 bins, l1)."""
    assert brier_score([(0.1, 0), (0.9, 1), (0.8, 1), (0.3, 0)]) == pytest.approx(0.0375)
    forecasts = [(0.25, 0), (0.25, 0), (0.55, 1), (0.75, 1), (0.75, 1)]
    assert expected_calibration_error(forecasts, bins=2) == pytest.approx(0.29)
    low, high = reliability_bins(forecasts, bins=2)
    assert (low.count, low.stated, low.observed) == (2, 0.25, 0.0)
    assert (high.count, high.observed, high.high) == (3, 1.0, 1.0)
    assert reliability_bins([(1.0, 1)], bins=10)[-1].count == 1


def test_what_is_undefined_is_null():
    constant = [(1, 1), (1, 1)]
    assert cohen_kappa(constant) is None
    assert weighted_kappa(constant) is None
    assert balanced_f1(constant) is None
    for level in ("nominal", "ordinal", "interval"):
        assert krippendorff_alpha([[1, 1], [1, 1, 1]], level) is None
        assert krippendorff_alpha([[1], [2], []], level) is None
    for statistic in (cohen_kappa, weighted_kappa, balanced_f1, observed_agreement, brier_score, votes_alpha):
        assert statistic([]) is None
    assert expected_calibration_error([]) is None


def test_weighted_kappa_knows_its_values():
    with pytest.raises(ValueError, match="3 is not among"):
        weighted_kappa([(0, 3)], [0, 1, 2])


def test_bootstrap():
    """Of the mean of 100 fair 0/1 units: near ±1.96·√(.25/100) = ±.098; the same seed, the same interval."""
    units = [0.0, 1.0] * 50
    found = bootstrap(units, lambda own: sum(own) / len(own), seed=1)
    assert found == bootstrap(units, lambda own: sum(own) / len(own), seed=1)
    assert found.low == pytest.approx(0.402, abs=0.02)
    assert found.high == pytest.approx(0.598, abs=0.02)


def test_a_bootstrap_that_is_mostly_undefined_is_null():
    """One of ten pairs differs: a resample lacks it with probability .9^10 = .35, and kappa of the rest is null."""
    pairs = [(1, 1)] * 9 + [(0, 0)]
    assert bootstrap(pairs, cohen_kappa) is not None
    assert bootstrap([(1, 1)] * 5, cohen_kappa) is None
    assert bootstrap([(1, 0)], cohen_kappa) is None
