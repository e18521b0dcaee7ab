"""Calibration: isotonic against scikit-learn's documented numbers, the aim against derivations, the chain of shrinkage by hand."""

import random

import pytest

from service.domain.calibration import (
    Calibrator,
    Curves,
    Observation,
    TooFewLabels,
    fit_curves,
    isotonic,
    report_of,
)
from service.domain.grade import Cell
from service.domain.identity import question_identity
from service.domain.rubric import RubricContent


def two_levels(n=40, question="q", source="verbal"):
    """Of 2n cells, those that state .9 agree with people always; those that state .5 as often as not."""
    sure = [Observation(question, source, 0.9, float(k % 2), float(k % 2)) for k in range(n)]
    unsure = [Observation(question, source, 0.5, float(k % 2), float(k // 2 % 2)) for k in range(n)]
    return sure + unsure


def test_isotonic_regression():
    """scikit-learn's documented isotonic_regression([5, 3, 1, 2, 8, 10, 7, 9, 6, 4])."""
    found = isotonic([5, 3, 1, 2, 8, 10, 7, 9, 6, 4], [1] * 10)
    assert found == pytest.approx([2.75] * 4 + [44 / 6] * 6)
    assert isotonic([1.0, 0.0], [1.0, 3.0]) == [0.25, 0.25]


def test_the_aim_is_the_slope_of_the_truth_on_the_score():
    """At .9 cov/var = 1; at .5 scores and labels are independent: 0. Then (n·fit + 16·prior)/(n + 16), once for the judge, n = 80,
    and once for the criterion with the judge's curve as its prior."""
    curves = fit_curves(two_levels(), "isotonic")
    assert [fit["type"] for fit in [curves.judge["verbal"].fit.model_dump()]] == ["isotonic"]
    assert curves.judge["verbal"].fit.points == [(0.5, 0.0), (0.9, 1.0)]
    judge = {0.9: (80 * 1 + 16 * 0.9) / 96, 0.5: 16 * 0.5 / 96}
    for stated, fitted in ((0.9, 1.0), (0.5, 0.0)):
        assert curves.at(None, "verbal", stated) == pytest.approx(judge[stated], abs=1e-12)
        assert curves.at("q", "verbal", stated) == pytest.approx((80 * fitted + 16 * judge[stated]) / 96, abs=1e-12)
    assert curves.at("other", "verbal", 0.9) == curves.at(None, "verbal", 0.9)
    assert curves.judge["verbal"].fit.at(0.7) == pytest.approx(0.5)  # a straight line between
    assert curves.judge["verbal"].fit.at(0.1) == 0.0
    assert curves.at("q", "votes", 0.9) is None


def test_reliability_of_independent_errors():
    """s = y + error, τ² = 1/12 (uniform), σ² = .0625/3 (uniform of half-width .25) or nine times that: τ²/(τ²+σ²) = .8 and .308."""
    rng = random.Random(0)
    cells = []
    for k in range(4000):
        y = rng.random()
        stated, width = ((0.8, 0.25), (0.3, 0.75))[k % 2]
        cells.append(Observation("q", "verbal", stated, y + rng.uniform(-width, width), y))
    fit = fit_curves(cells, "isotonic").judge["verbal"].fit
    assert fit.at(0.8) == pytest.approx((1 / 12) / (1 / 12 + 0.0625 / 3), abs=0.03)
    assert fit.at(0.3) == pytest.approx((1 / 12) / (1 / 12 + 0.5625 / 3), abs=0.03)


def test_noise_of_people_does_not_bend_it():
    rng = random.Random(1)
    clean, noisy = [], []
    for _ in range(4000):
        y = rng.random()
        s = y + rng.uniform(-0.5, 0.5)
        clean.append(Observation("q", "verbal", 0.9, s, y))
        noisy.append(Observation("q", "verbal", 0.9, s, y + rng.uniform(-0.4, 0.4)))
    slopes = [report_of(cells, "isotonic").reliability for cells in (clean, noisy)]
    assert slopes[0] == pytest.approx(slopes[1], abs=0.03)


def test_a_judge_that_is_surest_where_it_is_wrong():
    """.9 is worthless and .5 is perfect: no non-decreasing curve can say so, and both get the pooled slope, one half."""
    turned = [Observation(o.question, o.source, 1.4 - o.stated, o.score, o.truth) for o in two_levels()]
    fit = fit_curves(turned, "isotonic").judge["verbal"].fit
    assert (fit.at(0.5), fit.at(0.9)) == (pytest.approx(0.5), pytest.approx(0.5))


def test_worse_than_chance_is_worth_nothing():
    cells = [Observation("q", "verbal", 0.9, float(k % 2), 1.0 - k % 2) for k in range(60)]
    assert fit_curves(cells, "isotonic").judge["verbal"].fit.at(0.9) == 0.0


def test_temperature():
    """All state .9 and the slope is .75: σ(ln 9/T) = 3/4 means T = ln 9/ln 3 = 2."""
    # 7 of 8 agree, balanced: the slope of y on s is 2·(7/8) − 1 = 3/4.
    cells = []
    for k in range(80):
        truth = float(k % 2)
        cells.append(Observation("q", "verbal", 0.9, truth if k % 8 not in (0, 1) or k % 16 < 8 else 1 - truth, truth))
    assert sum(c.score == c.truth for c in cells) == 70
    curves = fit_curves(cells, "temperature")
    assert curves.judge["verbal"].fit.temperature == pytest.approx(2.0, abs=1e-4)


def test_criteria_are_centred_by_themselves():
    """An easy criterion beside a hard one: both raters find it easier, and on neither do they agree on anything."""
    easy = [Observation("easy", "verbal", 0.9, 0.8 + 0.1 * (k % 2), 0.8 + 0.1 * (k // 2 % 2)) for k in range(40)]
    hard = [Observation("hard", "verbal", 0.9, 0.1 * (k % 2), 0.1 * (k // 2 % 2)) for k in range(40)]
    curves = fit_curves(easy + hard, "isotonic")
    assert curves.judge["verbal"].fit.at(0.9) == pytest.approx(0.0, abs=1e-9)
    assert curves.questions == {}  # 40 labels each


def test_too_few_labels():
    with pytest.raises(TooFewLabels, match=r"needs 50 labelled cells .* there are 48"):
        fit_curves(two_levels(24), "isotonic")
    with pytest.raises(TooFewLabels, match="there are 0"):
        fit_curves([], "isotonic")
    same = [Observation("q", "verbal", 0.9, 1.0, float(k % 2)) for k in range(60)]
    with pytest.raises(TooFewLabels, match="the same score"):
        fit_curves(same, "isotonic")


def test_what_is_reported():
    found = report_of(two_levels(), "isotonic")
    assert (found.labels, found.reliability, found.bias) == (80, pytest.approx(0.5), pytest.approx(0.0))
    bins = {b.low: b for b in found.bins if b.count}
    assert (bins[0.9].reliability, bins[0.5].reliability) == (pytest.approx(1.0), pytest.approx(0.0))
    assert (bins[0.9].error, bins[0.9].stated) == (pytest.approx(0.0), pytest.approx(0.9))
    # ỹ² = s̃² = 1/4. At .9: (1 − .9)²/4. At .5: (1 + .25)/4, the cross term being 0 on the mean.
    assert found.loss_stated == pytest.approx((0.01 / 4 + 1.25 / 4) / 2)
    # The same with slopes 1 and 0, but for what the folds do to the latter: about half of 1/4.
    assert found.loss_calibrated == pytest.approx(1 / 8, abs=0.01)


def test_cells_say_what_was_stated_and_by_what_they_were_calibrated():
    judged = {"key": "a", "weight": 1, "text": "is a", "grader": {"type": "judge", "judge": "jdg_1"}}
    content = RubricContent.model_validate({"criteria": [judged, {**judged, "key": "b", "text": "is b"}]})
    question = question_identity(content.criteria[0])
    curves = fit_curves(two_levels(question=question), "isotonic")
    pinned = {"id": "cal_1", "version": 3, "revision": 2, "curves": curves.model_dump(mode="json")}
    calibrator = Calibrator.of({"calibrations": {"jdg_1": pinned}}, content)
    assert calibrator.by_judge["jdg_1"].curves == curves  # JSON and back changes no bit
    cell = Cell(criterion="a", status="ok", score=1.0, confidence=0.9, confidence_source="verbal", grader="judge",
                judge="jdg_1", revision=2)  # fmt: skip
    found = calibrator.cell(cell)
    assert (found.confidence, found.stated_confidence) == (curves.at(question, "verbal", 0.9), 0.9)
    assert (found.calibration, found.calibration_version, found.confidence_source) == ("cal_1", 3, "verbal")
    assert calibrator.cell(cell.model_copy(update={"criterion": "b"})).confidence == curves.at(None, "verbal", 0.9)
    for other in ({"revision": 1}, {"judge": "jdg_2"}, {"confidence": None}, {"confidence_source": "votes"}):
        changed = cell.model_copy(update=other)
        assert calibrator.cell(changed) is changed
    assert Calibrator.of({}, content).cell(cell) is cell


def test_curves_are_json():
    curves = fit_curves(two_levels(), "temperature")
    assert Curves.model_validate(curves.model_dump(mode="json")) == curves
