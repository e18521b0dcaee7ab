"""How far a judge agrees with itself: shares by hand, alpha as published, and what the marks of reference/rubrics.md §6.5 say."""

import pytest

from service.domain.self_agreement import Judged, agreeing_share, self_agreement


def cells(*votes, scale="boolean", failed=0):
    return [Judged(number, tuple(map(float, scores)), failed, scale) for number, scores in enumerate(votes)]


@pytest.mark.parametrize(
    ("scores", "near", "share"),
    [
        ((1, 1), 0, 1.0), ((1, 0), 0, 0.0), ((1, 1, 0), 0, 1 / 3), ((1, 1, 1, 0, 0), 0, 4 / 10),
        ((0.2, 0.3, 0.5), 0.1, 1 / 3), ((0.2, 0.3, 0.4), 0.1, 2 / 3),
    ],
)  # fmt: skip
def test_pairs_by_hand(scores, near, share):
    assert agreeing_share(scores, near) == pytest.approx(share)


def test_the_statistics_of_four_cells():
    """Pairs that agree: 3/3, 1/3, 3/3, 1/3. Single votes' variances: 0, 1/3, 0, 1/3."""
    found = self_agreement(cells((1, 1, 1), (1, 1, 0), (0, 0, 0), (0, 1, 0), (1,), failed=1))
    assert (found.cells, found.votes, found.unread) == (4, 12, 1)
    assert found.agreement == pytest.approx(2 / 3)
    assert found.unanimous == found.flipping == 0.5
    assert found.vote_variance == pytest.approx(1 / 6)
    assert found.failed_share == pytest.approx(5 / 18)
    assert found.interval.low < found.agreement < found.interval.high
    assert [advice.code for advice in found.advice] == ["unsteady", "unreliable"]


def test_alpha_is_krippendorffs_at_the_level_of_the_scale():
    """Golden numbers of reference/rubrics.md §3.8."""
    units = ((1, 2), (3, 3), (2, 2, 3), (5, 4), (4, 4), (1, 1))
    for scale, level, expected in (
        ("nominal", "nominal", 0.454545), ("ordinal", "ordinal", 0.883289), ("unit", "interval", 0.866667),
    ):  # fmt: skip
        found = self_agreement(cells(*units, scale=scale))
        assert (found.level, found.degenerate) == (level, False)
        assert found.alpha == pytest.approx(expected, abs=1e-6)
    boolean = self_agreement(cells((1, 1), (1, 0), (0, 0), (1, 1), (0, 1), (0, 0), (1, 1, 1), (0, 0, 1)))
    assert boolean.alpha == pytest.approx(0.3625, abs=1e-6)
    assert "unreliable" in [advice.code for advice in boolean.advice]


@pytest.mark.parametrize(
    ("units", "codes"),
    [
        (((1, 1), (0, 0), (1, 1), (0, 0)), []),
        (((1, 1),) * 9 + ((0, 0),) * 9 + ((1, 0),) * 2, []),  # agreement .9 exactly, and alpha .805
        (((1, 1),) * 8 + ((0, 0),) * 9 + ((1, 0),) * 3, ["unsteady", "tentative"]),
    ],
)
def test_marks(units, codes):
    assert [advice.code for advice in self_agreement(cells(*units)).advice] == codes


def test_what_is_undefined_is_null_and_says_so():
    constant = self_agreement(cells((1, 1), (1, 1)))
    assert (constant.agreement, constant.alpha, constant.degenerate) == (1.0, None, True)
    nothing = self_agreement(cells((1,)))
    assert (nothing.cells, nothing.agreement, nothing.interval, nothing.degenerate) == (0, None, None, False)
    assert self_agreement([]).failed_share is None
    mixed = self_agreement([*cells((1, 1), (0, 0)), *cells((0.5, 0.55), scale="unit")], one_criterion=False)
    assert (mixed.agreement, mixed.alpha, mixed.level, mixed.degenerate) == (1.0, None, None, False)
