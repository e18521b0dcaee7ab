"""grape.md §4: from cells to rewards. Expected numbers are the design page's, or derived beside them."""

import pytest

from service.domain.scoring import CriterionWeight, Past, ScoredCell, ScoringOptions, plain_reward, score_group
from service.domain.scoring.rewards import filled_plain_reward
from service.domain.scoring.weights import shares_of
from tests.support.scoring import CAP, C, S, W, criteria, rewards, rows, unscaled


def test_golden_case():
    group = score_group(criteria(), rows(S, C))
    assert [w.mean_confidence for w in group.weighting.values()] == pytest.approx([1, 0.8, 0.3])
    assert [w.effective_weight for w in group.weighting.values()] == pytest.approx([2, 0.8, 0.3])
    assert rewards(group) == pytest.approx([0.793548, 0.270968, 0.912903, 0.125806], abs=5e-7)
    assert unscaled(group) == pytest.approx([0.267742, -0.254839, 0.387097, -0.400000], abs=5e-7)
    assert list(group.completions[0].parts.values()) == pytest.approx([0.322581, -0.025806, -0.029032], abs=5e-7)
    # The reference gives A/popstd of the first completion, .801400; ours is the unbiased deviation, √(3/4) of that.
    assert group.completions[0].advantage == pytest.approx(0.801400 * (3 / 4) ** 0.5, abs=2e-6)


def test_golden_case_with_a_missing_cell():
    scores = [list(row) for row in S]
    scores[1][1] = None
    group = score_group(criteria(), rows(scores, C))
    assert unscaled(group) == pytest.approx([0.2935, -0.3323, 0.4129, -0.3742], abs=5e-5)
    assert "b" not in group.completions[1].parts
    assert group.completions[1].plain_reward is None
    assert group.completions[1].coverage == pytest.approx(0.75)


# --- members ---


def test_members_need_coverage():
    cells = rows([[1, 1, 1], [0, None, None], [None, 1, None]])
    group = score_group(criteria(), cells, ScoringOptions(min_coverage=0.5))
    assert [c.member for c in group.completions] == [True, True, False]  # coverage 1, 2/4, 1/4
    assert group.completions[2].reward is None
    assert group.completions[2].advantage is None
    # `b` and `c` have ok cells among the members only in the first completion: they stay, with no spread.
    assert group.weighting["b"].effective_weight is not None


def test_coverage_may_miss_by_a_rounding():
    # .1 + .2 of .1 + .2 + .3 is .5 but for rounding: 0.30000000000000004/0.6000000000000001 < .5 is not a reason to leave
    cells = rows([[1, 1, None], [0, 0, 1]])
    assert score_group(criteria((0.1, 0.2, 0.3)), cells).completions[0].member


def test_a_criterion_without_an_ok_cell_among_the_members_leaves_and_nobody_is_asked_again():
    cells = rows([[1, None, None], [0, None, None], [None, 1, None]])
    group = score_group(criteria(), cells)
    assert group.weighting["b"].effective_weight is None  # its only cell is of a completion that left
    assert group.weighting["a"].share == 1.0
    # Once `b` and `c` are gone, the third would have coverage 0 of `a`; and the first two keep the 2/4 they came in with.
    assert [c.coverage for c in group.completions] == [0.5, 0.5, 0.25]


def test_a_criterion_without_any_ok_cell_counts_against_coverage():
    cells = rows([[None, 1, 1], [None, 0, 1]])  # the judge of `a` (half of the weight) is down
    assert score_group(criteria(), cells, ScoringOptions(min_coverage=0.5)).signal == "ok"
    assert score_group(criteria(), cells, ScoringOptions(min_coverage=0.6)).signal == "too_few_members"


def test_fewer_than_two_members_is_no_signal_and_keeps_plain_reward():
    group = score_group(criteria(), rows([S[0]], [C[0]]))
    (only,) = group.completions
    assert group.signal == "too_few_members"
    assert (only.member, only.reward, only.advantage, only.scale_factor) == (True, None, None, None)
    assert only.plain_reward == pytest.approx((2 * 1 + 0.5 + 0.2) / 4)


def test_all_cells_failed():
    group = score_group(criteria(), [{}, {}], ScoringOptions(min_coverage=0.0))
    assert group.signal == "too_few_members"
    assert all(c.reward is None and c.plain_reward is None for c in group.completions)


def test_audit_stands_outside_all_sums():
    audit = CriterionWeight("z", 5.0, audit=True)
    cells = rows(S, C)
    with_audit = [{**row, "z": ScoredCell(1.0, 1.0)} for row in cells]
    plain = score_group(criteria(), cells)
    audited = score_group([*criteria(), audit], with_audit)
    assert rewards(audited) == rewards(plain)
    assert [c.plain_reward for c in audited.completions] == [c.plain_reward for c in plain.completions]
    assert audited.completions[0].audit == 1.0
    assert "z" not in audited.weighting
    assert "z" not in audited.completions[0].parts


# --- confidence ---


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
    group = score_group(specs, cells, past=Past(confidence=history))
    assert group.weighting["a"].mean_confidence == pytest.approx(value)
    assert group.weighting["a"].source == source


def test_null_confidence_on_some_cells_is_left_out_of_the_mean():
    cells = [{"a": ScoredCell(0.0, 0.2)}, {"a": ScoredCell(1.0, None)}, {"a": ScoredCell(1.0, 0.4)}]
    own = score_group([CriterionWeight("a", 1.0, default_confidence=0.9)], cells).weighting["a"]
    assert (own.mean_confidence, own.source) == (pytest.approx(0.3), "group")


def test_peers_are_judged_criteria_that_count():
    specs = [
        CriterionWeight("a", 1.0), CriterionWeight("v", 5.0, judged=False), CriterionWeight("z", 1.0, audit=True),
    ]  # fmt: skip
    cells = [{"a": ScoredCell(s), "v": ScoredCell(s, 1.0), "z": ScoredCell(s, 0.2)} for s in (0.0, 1.0)]
    assert score_group(specs, cells).weighting["a"].source == "none"


def test_shrunk_pooling_draws_the_group_towards_the_history():
    # (n·group + k·history)/(n + k) with n = 4 cells, k = 16: b (4·.8 + 16·.3)/20 = .4; c (4·.3 + 16·.8)/20 = .7
    past = Past(confidence={"b": 0.3, "c": 0.8})
    group = score_group(criteria(), rows(S, C), ScoringOptions(pooling="shrunk"), past)
    assert [w.mean_confidence for w in group.weighting.values()] == pytest.approx([1, 0.4, 0.7])
    silent = [{**row, "b": ScoredCell(row["b"].score)} for row in rows(S, C)]
    # n = 0: the chain, which ends at the history here
    weighting = score_group(criteria(), silent, ScoringOptions(pooling="shrunk"), past).weighting
    assert (weighting["b"].mean_confidence, weighting["b"].source) == (0.3, "history")
    alone = score_group(criteria(), rows(S, C), ScoringOptions(pooling="shrunk"))
    assert alone.weighting == score_group(criteria(), rows(S, C)).weighting


def test_no_confidence_anywhere_falls_back_to_weights():
    group = score_group(criteria(), rows(S, [[0, 0, 0]] * 4))
    uniform = score_group(criteria(), rows(S, C), ScoringOptions(weighting="uniform"))
    assert group.weighting_fallback
    assert group.weighting["a"].source == "fallback"
    assert rewards(group) == rewards(uniform)
    assert group.group_confidence == 0.0


def test_the_exponent_zero_is_uniform_even_without_confidence():
    zero = score_group(criteria(), rows(S, [[0, 0.5, 1]] * 4), ScoringOptions(confidence_exponent=0.0))
    assert not zero.weighting_fallback  # 0⁰ = 1
    assert rewards(zero) == rewards(score_group(criteria(), rows(S), ScoringOptions(weighting="uniform")))


def test_diagnostics():
    group = score_group(criteria(), rows(S, C))
    # (2+.8+.3)² / (4+.64+.09) and (2+.8+.3)/4
    assert group.effective_criteria == pytest.approx(3.1**2 / 4.73)
    assert group.group_confidence == pytest.approx(3.1 / 4)


# --- other weightings ---


def test_inverse_variance():
    """e = w/(σ² + .01): a verifier has σ² = 0, `b` pools 4 cells here with 6 of earlier groups."""
    specs = [CriterionWeight("a", 2.0, judged=False), CriterionWeight("b", 1.0), CriterionWeight("c", 1.0)]
    cells = [
        {"a": ScoredCell(a, 1.0), "b": ScoredCell(b, 0.5, noise=0.05), "c": ScoredCell(c, 0.1, noise=0.01)}
        for a, b, c in S
    ]
    past = Past(noise={"b": (6, 6 * 0.1)})
    group = score_group(specs, cells, ScoringOptions(weighting="inverse_variance"), past)
    # σ²_b = (4·.05 + 6·.1)/10 = .08; e = 2/.01, 1/.09, 1/.02
    assert [w.noise for w in group.weighting.values()] == pytest.approx([0, 0.08, 0.01])
    assert [w.effective_weight for w in group.weighting.values()] == pytest.approx([200, 1 / 0.09, 50])
    assert group.group_confidence is None
    with pytest.raises(ValueError, match="'b' has no vote variance"):
        score_group(specs, rows(S), ScoringOptions(weighting="inverse_variance"))


def test_inverse_variance_weighs_as_the_lemma_does():
    # Lemma 8.1 (reference/rubrics.md §3.6): variances .01 and .04 weigh .8 and .2, so x = (.8, .4) gives .72;
    # σ_0² is taken off the variances here so that the sums are the lemma's own.
    specs = [CriterionWeight("a", 1.0), CriterionWeight("b", 1.0)]
    cells = [{"a": ScoredCell(0.8, noise=0.0), "b": ScoredCell(0.4, noise=0.03)} for _ in range(2)]
    group = score_group(specs, cells, ScoringOptions(weighting="inverse_variance"))
    assert rewards(group) == pytest.approx([0.72, 0.72])


def points(*items):
    """HealthBench items (points, met) as criteria and one row: points below 0 become a weight and `met_is_bad`."""
    specs = [CriterionWeight(f"k{i}", abs(p), met_is_bad=p < 0) for i, (p, _) in enumerate(items)]
    return specs, {f"k{i}": ScoredCell(float(met != (p < 0))) for i, (p, met) in enumerate(items)}


@pytest.mark.parametrize(
    ("items", "score"),
    [
        ([(10, True), (5, False), (-8, True)], 0.133333),
        ([(10, False), (5, False), (-8, True)], -0.533333),
        ([(-8, True)], None),
    ],
)
def test_healthbench_golden_numbers(items, score):
    """reference/rubrics.md §3.1: points met over positive points, negative where it is negative, null without positive ones."""
    specs, row = points(*items)
    group = score_group(specs, [row], ScoringOptions(weighting="healthbench"))
    assert group.completions[0].reward == (None if score is None else pytest.approx(score, abs=1e-6))
    assert group.signal == "too_few_members"


def test_healthbench_in_a_group():
    specs, good = points((10, True), (5, False), (-8, True))
    _, bad = points((10, False), (5, False), (-8, True))
    holed = {key: cell for key, cell in good.items() if key != "k1"}
    group = score_group(specs, [good, bad, holed], ScoringOptions(weighting="healthbench", scale="none"))
    assert [c.member for c in group.completions] == [True, True, False]  # the benchmark has no score for a holed answer
    assert unscaled(group)[:2] == pytest.approx([1 / 3, -1 / 3])
    assert sum(group.completions[0].parts.values()) == pytest.approx(1 / 3, abs=1e-12)
    assert group.completions[0].plain_reward == pytest.approx(10 / 23)  # the yardstick is what it always is


@pytest.mark.parametrize(
    ("effective", "limit", "expected"),
    [
        ((6, 3, 1), None, (0.6, 0.3, 0.1)),
        ((6, 3, 1), 0.5, (0.5, 0.375, 0.125)),  # the other half goes 3 : 1
        ((6, 3, 1), 0.4, (0.4, 0.4, 0.2)),  # .45 would be over again, and is cut as well
        ((6, 3, 1), 0.2, (1 / 3, 1 / 3, 1 / 3)),  # three cannot all stay below a fifth
        ((1, 0, 0), 0.5, (0.5, 0.25, 0.25)),
        ((5, 5), 0.5, (0.5, 0.5)),
    ],
)
def test_max_weight_share(effective, limit, expected):
    found = shares_of(dict(zip("abc", effective, strict=False)), limit)
    assert tuple(found.values()) == pytest.approx(expected)
    assert sum(found.values()) == pytest.approx(1)


def test_max_weight_share_is_what_the_reward_is_made_of():
    group = score_group(criteria(), rows(S, C), ScoringOptions(max_weight_share=0.5))
    assert [w.share for w in group.weighting.values()] == pytest.approx([0.5, 0.5 * 8 / 11, 0.5 * 3 / 11])
    assert group.weighting["a"].effective_weight == 2
    assert rewards(group)[0] == pytest.approx(0.5 + 0.5 * 8 / 11 * 0.5 + 0.5 * 3 / 11 * 0.2)


# --- nulls must not pay ---


def test_lowest_observed_stands_in_for_subject_nulls_only():
    scores = [list(row) for row in S]
    scores[0][1] = scores[1][2] = None  # b of the first, whose judge refused; c of the second, whose judge timed out
    nulls = [{"b"}, set(), set(), set()]
    options = ScoringOptions(on_subject_null="lowest_observed", scale="none")
    group = score_group(criteria(), rows(scores, C), options, subject_nulls=nulls)
    first, second = group.completions[:2]
    assert first.imputed == {"b": 0.3}  # the worst of .9, .7, .3
    assert second.imputed == {}
    assert group.weighting["b"].mean_score == pytest.approx((0.3 + 0.9 + 0.7 + 0.3) / 4)  # it counts in the mean
    assert group.weighting["b"].mean_confidence == pytest.approx((0.8 + 0.7 + 0.8) / 3)  # and not in the confidence
    assert first.parts["b"] == pytest.approx(group.weighting["b"].share * (0.3 - 0.55))
    assert "c" not in second.parts
    assert (first.plain_reward, first.coverage) == (None, 0.75)
    by_mean = score_group(criteria(), rows(scores, C), subject_nulls=nulls)
    assert by_mean.completions[0].imputed == {}
    assert "b" not in by_mean.completions[0].parts


# --- the reward of algorithms without a group ---


def test_plain_reward_is_null_with_a_hole_and_ignores_confidence():
    full = rows(S[:1], C[:1])[0]
    assert plain_reward(criteria(), full) == pytest.approx((2 + 0.5 + 0.2) / 4)
    del full["c"]
    assert plain_reward(criteria(), full) is None


def test_a_missing_cell_takes_the_mean_of_earlier_steps():
    row = rows([[1, None, 0.2]])[0]
    assert filled_plain_reward(criteria(), row, {"b": 0.6}, 0.5) == pytest.approx((2 + 0.6 + 0.2) / 4)
    assert filled_plain_reward(criteria(), row, {"a": 0.6}, 0.5) is None  # no step has seen `b` yet
    assert filled_plain_reward(criteria(), row, {"b": 0.6}, 0.8) is None  # coverage .75
    full = rows([[1, 0.5, 0.2]])[0]
    assert filled_plain_reward(criteria(), full, {}, 1.0) == plain_reward(criteria(), full)


def test_gates_hold_without_a_group_too():
    specs = [*criteria()[:2], CriterionWeight("c", W[2], gate=CAP)]
    assert filled_plain_reward(specs, rows([[1, None, 0.2]])[0], {"b": 0.6}, 0.5) == pytest.approx(0.25 * 2.8 / 4)
    assert filled_plain_reward(specs, rows([[1, 0.6, None]])[0], {"c": 1.0}, 0.5) is None  # undecided
