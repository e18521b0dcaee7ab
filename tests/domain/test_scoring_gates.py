"""grape.md §3: gates act on the reward after aggregation, and their part keeps the sum of parts whole."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.scoring import GATE, CriterionWeight, GateRule, ScoredCell, ScoringOptions, score_group
from tests.support.scoring import CAP, REQUIRED, C, S, groups, positive, rewards, rows, unscaled


def gated(rules, weights=(2, 1, 1)):
    return [CriterionWeight(k, w, gate=rules.get(k)) for k, w in zip("abc", weights, strict=True)]


GOLDEN = (0.793548, 0.270968, 0.912903, 0.125806)


@pytest.mark.parametrize(
    ("rules", "factors"),
    [
        ({}, (1, 1, 1, 1)),
        ({"a": REQUIRED}, (1, 0, 1, 0)),  # scores 1, 0, 1, 0
        ({"a": CAP}, (1, 0.25, 1, 0.25)),  # a factor, so the order of what was capped stays
        ({"b": CAP}, (1, 1, 1, 0.25)),  # .5 is not below .5
        ({"a": GateRule(0.5, 0.6), "c": GateRule(0.45, 0.3)}, (0.3, 0.3, 1, 0.6)),  # both tripped: the smaller
        ({"a": REQUIRED, "c": CAP}, (0.25, 0, 1, 0)),
    ],
)
def test_a_gate_multiplies_the_reward(rules, factors):
    group = score_group(gated(rules), rows(S, C))
    assert rewards(group) == pytest.approx([f * r for f, r in zip(factors, GOLDEN, strict=True)], abs=1e-6)
    # the gate's criterion keeps its weight
    assert [w.effective_weight for w in group.weighting.values()] == pytest.approx([2, 0.8, 0.3])
    plain = [2.7 / 4, 1.3 / 4, 3.6 / 4, 0.8 / 4]
    assert [c.plain_reward for c in group.completions] == pytest.approx(
        [f * p for f, p in zip(factors, plain, strict=True)]
    )


def test_the_part_of_the_gate():
    """R' − R minus its mean: with `required` on `a` the second and fourth lose .270968 and .125806, on average .0991935."""
    group = score_group(gated({"a": REQUIRED}), rows(S, C))
    lost = [0, -0.270968, 0, -0.125806]
    assert [c.parts[GATE] for c in group.completions] == pytest.approx([x + 0.0991935 for x in lost], abs=1e-6)
    assert "gate" not in score_group(gated({}), rows(S, C)).completions[0].parts
    uncentred = score_group(gated({"a": REQUIRED}), rows(S, C), ScoringOptions(baseline="none"))
    assert [c.parts[GATE] for c in uncentred.completions] == pytest.approx(lost, abs=1e-6)


def test_a_null_gate_cell_is_undecided():
    scores = [list(row) for row in S]
    scores[2][1] = None
    group = score_group(gated({"b": CAP}), rows(scores, C))
    left = group.completions[2]
    assert (left.member, left.reward, left.plain_reward, left.advantage) == (False, None, None, None)
    assert left.coverage == pytest.approx(0.75)  # enough, were it not for the gate
    again = score_group(gated({"b": CAP}), rows([S[0], S[1], S[3]], [C[0], C[1], C[3]]))
    assert [r for r in rewards(group) if r is not None] == rewards(again)
    nobody = score_group(gated({"b": CAP}), [{"a": ScoredCell(1.0, 1.0), "c": ScoredCell(0.0, 1.0)}] * 3)
    assert nobody.signal == "too_few_members"


def test_imputing_never_decides_a_gate():
    scores = [list(row) for row in S]
    scores[2][1] = None
    options = ScoringOptions(on_subject_null="lowest_observed")
    group = score_group(gated({"b": CAP}), rows(scores, C), options, subject_nulls=[set(), set(), {"b"}, set()])
    assert not group.completions[2].member


rules = st.dictionaries(st.sampled_from("abc"), st.builds(GateRule, positive, st.floats(0, 0.99)))


@given(groups(min_criteria=3), rules, st.sampled_from(["group_mean", "leave_one_out", "none"]))
@settings(max_examples=200, deadline=None)
def test_law_parts_sum_with_gates(case, rules, baseline):
    """Domain: every cell ok, any gates, any baseline, level reward. Σ parts = unscaled A to 1e-9; capping keeps the order."""
    weights, scores, stated = case
    group = score_group(gated(rules, weights), rows(scores, stated), ScoringOptions(baseline=baseline))
    for completion in group.completions:
        assert math.fsum(completion.parts.values()) == pytest.approx(completion.unscaled_advantage, abs=1e-9)
    if baseline != "none":
        assert math.fsum(unscaled(group)) == pytest.approx(0, abs=1e-12)


@given(groups(min_criteria=3), st.floats(0.01, 0.99))
@settings(max_examples=100, deadline=None)
def test_law_a_cap_keeps_the_order_of_what_it_caps(case, factor):
    """Domain: one `cap` gate that trips for everybody (threshold above every score), every cell ok."""
    weights, scores, stated = case
    low = [[s * 0.9 for s in row] for row in scores]
    free = score_group(gated({}, weights), rows(low, stated))
    capped = score_group(gated({"a": GateRule(1.0, factor)}, weights), rows(low, stated))
    assert rewards(capped) == [factor * r for r in rewards(free)]
