"""grape.md §5: baselines, scales, levels, noise, and what a group without signal gives."""

import math
from statistics import mean, stdev, variance

import pytest

from service.domain.scoring import (
    CriterionWeight,
    GroupCells,
    Past,
    ScoredCell,
    ScoringOptions,
    has_spread,
    score_group,
    score_groups,
)
from tests.support.scoring import C, S, advantages, criteria, rewards, rows, unscaled

ONE = [CriterionWeight("a", 3.0)]


def column(*scores):
    return [{"a": ScoredCell(s, 1.0)} for s in scores]


def test_grpo_golden_numbers():
    # rewards [1,0,0,0]: unbiased std .5, so A = .75/.5 = 1.5 and −.25/.5 = −.5; with TRL's eps 1e-4: 1.4997001, −0.4999000
    cells = column(1, 0, 0, 0)
    assert advantages(score_group(ONE, cells)) == pytest.approx([1.5, -0.5, -0.5, -0.5])
    assert advantages(score_group(ONE, cells, ScoringOptions(scale_eps=1e-4)))[:2] == pytest.approx(
        [1.4997001, -0.4999000], abs=1e-7
    )
    verl = score_group(ONE, cells, ScoringOptions(scale_eps=1e-6))
    assert advantages(verl)[:2] == pytest.approx([1.499997, -0.499999], abs=1e-6)
    # leave-one-out without scale is RLOO: 1, −1/3
    rloo = score_group(ONE, cells, ScoringOptions(baseline="leave_one_out", scale="none"))
    assert advantages(rloo)[:2] == pytest.approx([1, -1 / 3])
    assert rloo.completions[0].scale_factor == pytest.approx(4 / 3)


def test_leave_one_out_is_the_difference_to_the_others():
    group = score_group(criteria(), rows(S, C), ScoringOptions(baseline="leave_one_out", scale="none"))
    own = rewards(group)
    others = [own[i] - mean(own[:i] + own[i + 1 :]) for i in range(4)]
    assert advantages(group) == pytest.approx(others, abs=1e-12)


def test_baseline_none_keeps_the_reward_and_every_part():
    scores = [list(row) for row in S]
    scores[1][1] = None
    group = score_group(criteria(), rows(scores, C), ScoringOptions(baseline="none", scale="none"))
    assert advantages(group) == unscaled(group) == rewards(group)
    share, centre = group.weighting["b"].share, group.weighting["b"].mean_score
    assert group.completions[1].parts["b"] == share * centre  # the missing cell's v·s̄
    for completion in group.completions:
        assert math.fsum(completion.parts.values()) == pytest.approx(completion.reward, abs=1e-12)
    # "no signal" holds for it too: rewards of .5 all around teach nothing here
    assert advantages(score_group(ONE, column(0.5, 0.5), ScoringOptions(baseline="none"))) == [0.0, 0.0]


def test_batch_std_is_one_deviation_for_all_groups():
    options = ScoringOptions(scale="batch_std", scale_eps=0.01)
    columns = [column(1, 0, 0, 0), column(0.6, 0.4), column(0.5, 0.5), column(1)]
    groups = score_groups([GroupCells(ONE, rows) for rows in columns], options)
    # all centred advantages of the step, the group without spread included; the group of one has none
    centred = [0.75, -0.25, -0.25, -0.25, 0.1, -0.1, 0.0, 0.0]
    factor = 1 / (stdev(centred) + 0.01)
    assert [g.completions[0].scale_factor for g in groups] == [pytest.approx(factor), pytest.approx(factor), 0.0, None]
    assert advantages(groups[0]) == pytest.approx([factor * a for a in centred[:4]])
    alone = score_group(ONE, columns[0], ScoringOptions(scale="batch_std"))
    assert advantages(alone) == pytest.approx(advantages(score_group(ONE, columns[0])), abs=1e-12)


# --- level: criterion ---


def by_hand(scores, shares, eps=0.0):
    """Σ v·z over the columns, with the standard library's mean and unbiased deviation."""
    total = [0.0] * len(scores)
    for share, own in zip(shares, zip(*scores, strict=True), strict=True):
        for i, s in enumerate(own):
            total[i] += share * (s - mean(own)) / (stdev(own) + eps)
    return total


def test_level_criterion_standardises_each_criterion():
    shares = (2 / 3.1, 0.8 / 3.1, 0.3 / 3.1)
    for eps in (0.0, 0.1):
        group = score_group(criteria(), rows(S, C), ScoringOptions(level="criterion", scale_eps=eps))
        assert advantages(group) == pytest.approx(by_hand(S, shares, eps))
        assert group.completions[0].scale_factor == 1.0  # not scaled again by group_std
    assert rewards(group) == rewards(score_group(criteria(), rows(S, C)))  # the reward is the same
    looser = score_group(criteria(), rows(S, C), ScoringOptions(level="criterion", baseline="leave_one_out"))
    assert advantages(looser) == pytest.approx([4 / 3 * a for a in by_hand(S, shares)])


def test_level_criterion_leaves_out_who_has_no_spread():
    scores = [[row[0], 0.7, row[2]] for row in S]
    group = score_group(criteria(), rows(scores, C), ScoringOptions(level="criterion"))
    assert advantages(group) == pytest.approx(by_hand([[a, c] for a, _, c in S], (2 / 2.3, 0.3 / 2.3)))
    assert "b" not in group.completions[0].parts
    nothing = score_group(criteria(), rows([[1, 0.7, 0.2]] * 4), ScoringOptions(level="criterion"))
    assert (nothing.signal, advantages(nothing)) == ("no_spread", [0.0] * 4)


def test_level_criterion_has_signal_where_rewards_are_equal():
    # (2·a + b)/3 = .5 for all three, but b moves twice as far: z_b = −z_a, so A = (2/3 − 1/3)·z_a, and z_a = ±1, 0
    two, flat = [CriterionWeight("a", 2.0), CriterionWeight("b", 1.0)], rows([[0.6, 0.3], [0.4, 0.7], [0.5, 0.5]])
    assert score_group(two, flat).signal == "no_spread"
    group = score_group(two, flat, ScoringOptions(level="criterion"))
    assert (group.signal, advantages(group)) == ("ok", pytest.approx([1 / 3, -1 / 3, 0]))


def test_level_criterion_with_holes():
    scores = [list(row) for row in S]
    scores[1][1] = None
    group = score_group(criteria(), rows(scores, C), ScoringOptions(level="criterion"))
    own = [0.5, 0.7, 0.3]
    z = (0.5 - mean(own)) / stdev(own)
    assert group.completions[0].parts["b"] == pytest.approx(group.weighting["b"].share * z)
    assert "b" not in group.completions[1].parts


def test_level_criterion_may_be_scaled_by_the_batch():
    inputs = [GroupCells(criteria(), rows(S, C)), GroupCells(criteria(), rows(S[:3], C[:3]))]
    plain = score_groups(inputs, ScoringOptions(level="criterion"))
    scaled = score_groups(inputs, ScoringOptions(level="criterion", scale="batch_std"))
    deviation = stdev([a for g in plain for a in advantages(g)])
    assert advantages(scaled[1]) == pytest.approx([a / deviation for a in advantages(plain[1])])


def test_criteria_that_cancel_out_everywhere_leave_nothing_to_scale():
    # z_a = −z_b with equal shares: every advantage of the step is 0, and so is their deviation; with an eps, 0/eps = 0
    two, cells = [CriterionWeight("a", 1.0), CriterionWeight("b", 1.0)], rows([[0.0, 1.0], [1.0, 0.0]])
    for scale_eps, signal in ((0.0, "no_spread"), (0.01, "ok")):
        options = ScoringOptions(level="criterion", scale="batch_std", scale_eps=scale_eps)
        group = score_group(two, cells, options)
        assert (group.signal, advantages(group)) == (signal, pytest.approx([0, 0]))


def test_rounding_left_by_criteria_that_cancel_is_not_blown_up_to_an_advantage():
    # weights 1 : 1 and b = 1 − a/3: z_b = −z_a, so A is 0 but for rounding
    a = [0.1, 0.35, 0.7, 0.2]
    two = [CriterionWeight("a", 1.0), CriterionWeight("b", 1.0)]
    options = ScoringOptions(level="criterion", scale="batch_std")
    group = score_group(two, rows([[x, 1 - x / 3] for x in a]), options)
    assert (group.signal, advantages(group)) == ("no_spread", [0.0] * 4)


# --- noise ---


def noisy(*scores, noise):
    return [{"a": ScoredCell(s, 1.0, noise=noise)} for s in scores]


def test_noise_shrinks_the_advantage():
    # σ_J² = v²·u = .02 (a single vote's variance .06 over 3 votes), σ_group² = .18 for (.2, .8): 1 − 1/9
    plain = score_group(ONE, noisy(0.2, 0.8, noise=0.02))
    aware = score_group(ONE, noisy(0.2, 0.8, noise=0.02), ScoringOptions(noise_aware=True))
    assert variance([0.2, 0.8]) == pytest.approx(0.18)
    assert advantages(aware) == pytest.approx([8 / 9 * a for a in advantages(plain)])
    assert aware.completions[0].scale_factor == pytest.approx(8 / 9 * plain.completions[0].scale_factor)
    assert unscaled(aware) == unscaled(plain)


def test_a_spread_below_the_noise_is_no_signal():
    group = score_group(ONE, noisy(0.4, 0.6, noise=0.02), ScoringOptions(noise_aware=True))  # σ_group² = .02
    assert (group.signal, advantages(group)) == ("below_noise", [0.0, 0.0])
    assert rewards(group) == [0.4, 0.6]


def test_noise_is_pooled_with_earlier_groups_and_verifiers_have_none():
    specs = [CriterionWeight("a", 1.0), CriterionWeight("v", 3.0, judged=False)]
    cells = [{"a": ScoredCell(s, 1.0, noise=0.02), "v": ScoredCell(1 - s, 1.0)} for s in (0.2, 0.8)]
    group = score_group(specs, cells, ScoringOptions(noise_aware=True, scale="none"), Past(noise={"a": (8, 0.6)}))
    # u_a = (.6 + 2·.02)/10 = .064; R = .25·(.2, .8) + .75·(.8, .2) = (.65, .35), variance .045; σ_J² = .0625·.064 = .004
    assert group.completions[0].scale_factor == pytest.approx(1 - 0.004 / 0.045)


# --- no signal ---


def test_equal_rewards_give_exactly_zero():
    # 0.35 seven times: a one-pass deviation leaves 1e-4 of rounding, which would be blown up to an advantage.
    for value in (0.1, 0.35, 0.7):
        group = score_group(criteria((1,)), rows([[value]] * 7))
        assert (group.signal, advantages(group)) == ("no_spread", [0.0] * 7)


def test_one_of_eight_different_is_bounded():
    for value in (0.1, 0.35, 0.7):
        group = score_group(criteria((1,)), rows([[value]] * 7 + [[value + 0.01]]))
        assert max(abs(a) for a in advantages(group)) <= math.sqrt(8)


def test_little_confidence_is_no_signal_where_one_says_so():
    # Σe/Σw = .775 in the golden case
    assert score_group(criteria(), rows(S, C), ScoringOptions(min_group_confidence=0.77)).signal == "ok"
    group = score_group(criteria(), rows(S, C), ScoringOptions(min_group_confidence=0.78))
    assert (group.signal, advantages(group)) == ("low_confidence", [0.0] * 4)
    assert rewards(group) == rewards(score_group(criteria(), rows(S, C)))


def test_no_spread_means_a_tiny_range():
    assert not has_spread([])
    assert not has_spread([0.5, 0.5 + 1e-9])
    assert has_spread([0.5, 0.5 + 2e-6])
    assert not has_spread([1000.0, 1000.0 + 9e-4])
