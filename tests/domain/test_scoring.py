"""grape.md §2, §4, §5: the golden case, and the laws as properties. Expected numbers are the design page's."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.scoring import (
    CriterionWeight,
    RunningMeans,
    ScoredCell,
    ScoringOptions,
    has_spread,
    plain_reward,
    score_group,
    unbiased_std,
)

S = [[1, 0.5, 0.2], [0, 0.9, 0.4], [1, 0.7, 0.9], [0, 0.3, 0.5]]
C = [[1, 0.9, 0.2], [1, 0.8, 0.4], [1, 0.7, 0.3], [1, 0.8, 0.3]]
W = (2, 1, 1)
KEYS = ("a", "b", "c")


def criteria(weights, **extra):
    return [CriterionWeight(key=k, weight=w, **extra) for k, w in zip(KEYS, weights, strict=False)]


def rows(scores, confidences):
    return [
        {k: ScoredCell(s, c) for k, s, c in zip(KEYS, s_row, c_row, strict=False) if s is not None}
        for s_row, c_row in zip(scores, confidences, strict=True)
    ]


def unscaled(group):
    return [c.unscaled_advantage for c in group.completions]


def test_golden_case():
    group = score_group(criteria(W), rows(S, C))
    assert [w.mean_confidence for w in group.weighting.values()] == pytest.approx([1, 0.8, 0.3])
    assert [w.effective_weight for w in group.weighting.values()] == pytest.approx([2, 0.8, 0.3])
    rewards = [c.reward for c in group.completions]
    assert rewards == pytest.approx([0.793548, 0.270968, 0.912903, 0.125806], abs=5e-7)
    assert unscaled(group) == pytest.approx([0.267742, -0.254839, 0.387097, -0.400000], abs=5e-7)
    assert list(group.completions[0].parts.values()) == pytest.approx([0.322581, -0.025806, -0.029032], abs=5e-7)
    # The reference gives A/popstd of the first completion, .801400; ours is the unbiased deviation, √(3/4) of that.
    assert group.completions[0].advantage == pytest.approx(0.801400 * math.sqrt(3 / 4), abs=2e-6)


def test_golden_case_with_a_missing_cell():
    scores = [list(row) for row in S]
    scores[1][1] = None
    group = score_group(criteria(W), rows(scores, C))
    assert unscaled(group) == pytest.approx([0.2935, -0.3323, 0.4129, -0.3742], abs=5e-5)
    assert "b" not in group.completions[1].parts
    assert group.completions[1].plain_reward is None
    assert group.completions[1].coverage == pytest.approx(0.75)


def test_grpo_golden_numbers():
    # rewards [1,0,0,0]: unbiased std .5, so A = .75/.5 = 1.5 and −.25/.5 = −.5; with TRL's eps 1e-4: 1.4997001, −0.4999000
    cells = [{"a": ScoredCell(s, 1.0)} for s in (1, 0, 0, 0)]
    one = [CriterionWeight("a", 3.0)]
    assert [c.advantage for c in score_group(one, cells).completions] == pytest.approx([1.5, -0.5, -0.5, -0.5])
    trl = score_group(one, cells, ScoringOptions(scale_eps=1e-4))
    assert [c.advantage for c in trl.completions[:2]] == pytest.approx([1.4997001, -0.4999000], abs=1e-7)
    # leave-one-out without scale is RLOO: 1, −1/3
    rloo = score_group(one, cells, ScoringOptions(baseline="leave_one_out", scale="none"))
    assert [c.advantage for c in rloo.completions[:2]] == pytest.approx([1, -1 / 3])


def test_members_need_coverage():
    cells = rows([[1, 1, 1], [0, None, None], [None, 1, None]], [[1, 1, 1]] * 3)
    group = score_group(criteria(W), cells, ScoringOptions(min_coverage=0.5))
    assert [c.member for c in group.completions] == [True, True, False]  # coverage 1, 2/4, 1/4
    assert group.completions[2].reward is None
    assert group.completions[2].advantage is None
    # `b` and `c` have ok cells among the members only in the first completion: they stay, with no spread.
    assert group.weighting["b"].effective_weight is not None


def test_a_criterion_without_an_ok_cell_among_the_members_leaves():
    cells = rows([[1, None, None], [0, None, None], [None, 1, None]], [[1, 1, 1]] * 3)
    group = score_group(criteria(W), cells)
    assert group.weighting["b"].effective_weight is None
    assert group.weighting["a"].share == 1.0


def test_fewer_than_two_members_is_no_signal_and_keeps_plain_reward():
    group = score_group(criteria(W), rows([S[0]], [C[0]]))
    assert group.signal == "too_few_members"
    assert group.completions[0].reward is None
    assert group.completions[0].plain_reward == pytest.approx((2 * 1 + 0.5 + 0.2) / 4)


def test_all_cells_failed():
    group = score_group(criteria(W), [{}, {}], ScoringOptions(min_coverage=0.0))
    assert group.signal == "too_few_members"
    assert all(c.reward is None and c.plain_reward is None for c in group.completions)


def test_equal_rewards_give_exactly_zero():
    # 0.35 seven times: a one-pass deviation leaves 1e-4 of rounding, which would be blown up to an advantage.
    for value in (0.1, 0.35, 0.7):
        group = score_group(criteria((1,)), rows([[value]] * 7, [[1]] * 7))
        assert group.signal == "no_spread"
        assert [c.advantage for c in group.completions] == [0.0] * 7


def test_one_of_eight_different_is_bounded():
    for value in (0.1, 0.35, 0.7):
        group = score_group(criteria((1,)), rows([[value]] * 7 + [[value + 0.01]], [[1]] * 8))
        assert max(abs(c.advantage) for c in group.completions) <= math.sqrt(8)


def test_audit_stands_outside_all_sums():
    audit = CriterionWeight("z", 5.0, audit=True)
    cells = rows(S, C)
    with_audit = [{**row, "z": ScoredCell(1.0, 1.0)} for row in cells]
    plain = score_group(criteria(W), cells)
    audited = score_group([*criteria(W), audit], with_audit)
    assert [c.reward for c in audited.completions] == [c.reward for c in plain.completions]
    assert [c.plain_reward for c in audited.completions] == [c.plain_reward for c in plain.completions]
    assert audited.completions[0].audit == 1.0
    assert "z" not in audited.weighting
    assert "z" not in audited.completions[0].parts


@pytest.mark.parametrize(
    ("default", "history", "peers", "value", "source"),
    [
        (0.4, {"a": 0.9}, True, 0.4, "default"),
        (None, {"a": 0.9}, True, 0.9, "history"),
        (None, {}, True, (1 * 0.5 + 3 * 0.7) / 4, "peers"),
        (None, {}, False, 1.0, "none"),
    ],
)
def test_confidence_chain(default, history, peers, value, source):
    specs = [
        CriterionWeight("a", 1.0, default_confidence=default),
        CriterionWeight("b", 1.0),
        CriterionWeight("c", 3.0),
    ]
    stated = (0.5, 0.7) if peers else (None, None)
    cells = [
        {"a": ScoredCell(s, None), "b": ScoredCell(s, stated[0]), "c": ScoredCell(1 - s, stated[1])} for s in (0.0, 1.0)
    ]
    group = score_group(specs, cells, confidence_history=history)
    assert group.weighting["a"].mean_confidence == pytest.approx(value)
    assert group.weighting["a"].source == source


def test_peers_are_judged_criteria_only():
    specs = [CriterionWeight("a", 1.0), CriterionWeight("v", 5.0, judged=False)]
    cells = [{"a": ScoredCell(s), "v": ScoredCell(s, 1.0)} for s in (0.0, 1.0)]
    assert score_group(specs, cells).weighting["a"].source == "none"


def test_no_confidence_anywhere_falls_back_to_weights():
    group = score_group(criteria(W), rows(S, [[0, 0, 0]] * 4))
    uniform = score_group(criteria(W), rows(S, C), ScoringOptions(weighting="uniform"))
    assert group.weighting_fallback
    assert group.weighting["a"].source == "fallback"
    assert [c.reward for c in group.completions] == [c.reward for c in uniform.completions]
    assert group.group_confidence == 0.0


def test_diagnostics():
    group = score_group(criteria(W), rows(S, C))
    # (2+.8+.3)² / (4+.64+.09) and (2+.8+.3)/4
    assert group.effective_criteria == pytest.approx(3.1**2 / 4.73)
    assert group.group_confidence == pytest.approx(3.1 / 4)


def test_running_means_count_earlier_steps_only():
    means = RunningMeans()
    assert means.means() == {}
    means.add("a", [0.2, 0.4])
    means.add("a", [0.9])
    means.add("b", [])
    assert means.means() == {"a": pytest.approx(0.5)}


# --- laws ---

numbers = st.floats(0, 1, allow_subnormal=False)
positive = st.floats(0.01, 1, allow_subnormal=False)
weights_of = st.floats(0.01, 100)


@st.composite
def groups(draw, confidences=positive, min_criteria=1):
    j = draw(st.integers(min_criteria, 3))
    n = draw(st.integers(2, 6))
    weights = draw(st.lists(weights_of, min_size=j, max_size=j))
    scores = draw(st.lists(st.lists(numbers, min_size=j, max_size=j), min_size=n, max_size=n))
    stated = draw(st.lists(st.lists(confidences, min_size=j, max_size=j), min_size=n, max_size=n))
    return weights, scores, stated


def numbers_of(group):
    return [(c.reward, c.unscaled_advantage, c.scale_factor, c.advantage) for c in group.completions]


@given(groups(confidences=numbers))
@settings(max_examples=200, deadline=None)
def test_law_one_criterion_is_grpo_bitwise(case):
    weights, scores, stated = case
    column = [[row[0]] for row in scores]
    grape = score_group(criteria(weights[:1]), rows(column, [[c[0]] for c in stated]))
    grpo = score_group(
        [CriterionWeight("a", 1.0)], rows(column, [[1.0]] * len(column)), ScoringOptions(weighting="uniform")
    )
    assert numbers_of(grape) == numbers_of(grpo)
    assert [c.reward for c in grape.completions] == [row[0] for row in scores]


@given(groups(), st.randoms())
@settings(max_examples=200, deadline=None)
def test_law_order_has_no_influence_bitwise(case, rng: random.Random):
    weights, scores, stated = case
    specs, cells = criteria(weights), rows(scores, stated)
    order = list(range(len(cells)))
    rng.shuffle(order)
    shuffled = list(specs)
    rng.shuffle(shuffled)
    straight, permuted = score_group(specs, cells), score_group(shuffled, [cells[i] for i in order])
    assert [numbers_of(straight)[i] for i in order] == numbers_of(permuted)
    assert straight.weighting == permuted.weighting


@given(groups(), st.sampled_from(["group_mean", "leave_one_out"]))
@settings(max_examples=200, deadline=None)
def test_law_advantages_sum_to_zero_and_parts_to_advantages(case, baseline):
    weights, scores, stated = case
    group = score_group(criteria(weights), rows(scores, stated), ScoringOptions(baseline=baseline))
    assert math.fsum(unscaled(group)) == pytest.approx(0, abs=1e-12)
    for completion in group.completions:
        assert math.fsum(completion.parts.values()) == pytest.approx(completion.unscaled_advantage, abs=1e-9)
        assert completion.advantage == completion.scale_factor * completion.unscaled_advantage


@given(groups(), st.floats(0.01, 1), st.floats(0.01, 100))
@settings(max_examples=200, deadline=None)
def test_law_scaling_all_confidences_or_all_weights_changes_nothing(case, shrink, factor):
    weights, scores, stated = case
    base = score_group(criteria(weights), rows(scores, stated))
    less_sure = score_group(criteria(weights), rows(scores, [[c * shrink for c in row] for row in stated]))
    heavier = score_group(criteria([w * factor for w in weights]), rows(scores, stated))
    assert unscaled(less_sure) == pytest.approx(unscaled(base), abs=1e-12)
    assert unscaled(heavier) == pytest.approx(unscaled(base), abs=1e-12)


@given(groups(), positive)
@settings(max_examples=200, deadline=None)
def test_law_equal_confidence_is_plain_weights(case, confidence):
    weights, scores, _ = case
    group = score_group(criteria(weights), rows(scores, [[confidence] * len(weights)] * len(scores)))
    for completion in group.completions:
        assert completion.reward == pytest.approx(completion.plain_reward, abs=1e-12)


@given(groups(min_criteria=2), st.data())
@settings(max_examples=200, deadline=None)
def test_law_a_null_cell_equals_the_imputed_one(case, data):
    weights, scores, stated = case
    missing = data.draw(st.integers(0, len(scores) - 1))
    others = [i for i in range(len(scores)) if i != missing]
    options = ScoringOptions(min_coverage=0.0)
    holed = rows(scores, stated)
    del holed[missing]["a"]
    mean_score = math.fsum(scores[i][0] for i in others) / len(others)
    mean_confidence = math.fsum(stated[i][0] for i in others) / len(others)
    imputed = rows(scores, stated)
    imputed[missing]["a"] = ScoredCell(mean_score, mean_confidence)
    left = score_group(criteria(weights), holed, options)
    right = score_group(criteria(weights), imputed, options)
    assert unscaled(left) == pytest.approx(unscaled(right), abs=1e-12)


@given(groups(min_criteria=2))
@settings(max_examples=200, deadline=None)
def test_law_no_confidence_in_a_criterion_is_its_absence(case):
    weights, scores, stated = case
    unsure = [[0.0, *row[1:]] for row in stated]
    cells = rows(scores, unsure)
    without = [{k: v for k, v in row.items() if k != "a"} for row in cells]
    left = score_group(criteria(weights), cells)
    right = score_group(criteria(weights)[1:], without)
    assert unscaled(left) == pytest.approx(unscaled(right), abs=1e-12)


@given(groups(), st.randoms())
@settings(max_examples=200, deadline=None)
def test_law_permuting_confidences_of_a_criterion_changes_no_reward(case, rng: random.Random):
    weights, scores, stated = case
    first = [row[0] for row in stated]
    rng.shuffle(first)
    moved = [[c, *row[1:]] for c, row in zip(first, stated, strict=True)]
    base, permuted = (
        score_group(criteria(weights), rows(scores, stated)),
        score_group(criteria(weights), rows(scores, moved)),
    )
    assert numbers_of(base) == numbers_of(permuted)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
def test_no_spread_means_a_tiny_range(values):
    width = max(values) - min(values)
    assert has_spread(values) == (width > 1e-9 + 1e-6 * max(abs(v) for v in values))
    if len(set(values)) == 1:
        # The one-pass formula leaves 1e-8·|x| here; two passes leave the rounding of one mean.
        assert unbiased_std(values) <= 1e-15 * abs(values[0])


def test_plain_reward_is_null_with_a_hole_and_ignores_confidence():
    specs = criteria(W)
    full = rows(S[:1], C[:1])[0]
    assert plain_reward(specs, full) == pytest.approx((2 + 0.5 + 0.2) / 4)
    del full["c"]
    assert plain_reward(specs, full) is None
