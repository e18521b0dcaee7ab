"""grape.md §6: a step criterion's part, spread over the tokens of its steps."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.scoring import (
    CriterionWeight,
    ScoredCell,
    ScoringOptions,
    mean,
    score_group,
    step_credits,
    token_advantages,
)


@pytest.mark.parametrize(
    ("scores", "pooling", "credit", "expected"),
    [
        # v = .6, s̄ = .5, K = 3: v/K·Σ to the end = .2·(.5 − .5 + .5), .2·(−.5 + .5), .2·.5
        ((1, 0, 1), "mean", "to_go", (0.1, 0.0, 0.1)),
        ((1, 0, 1), "mean", "deepseek_sum", (0.3, 0.0, 0.3)),
        ((1, 0, 1), "mean", "all", (0.1, 0.1, 0.1)),  # v·(2/3 − .5)
        ((1, 0, 1), "min", "to_go", (-0.3, -0.3, 0.0)),  # the part until the first weakest step
        ((1, 0, 0), "min", "to_go", (-0.3, -0.3, 0.0)),
        ((1, 0, 1), "min", "all", (-0.3, -0.3, -0.3)),
        # K and the sums run over ok steps: K = 2; the failed step gets what comes after it
        ((1, None, 0), "mean", "to_go", (0.0, -0.15, -0.15)),
        ((1, None), "mean", "to_go", (0.3, 0.0)),
        ((None, 0), "min", "to_go", (-0.3, -0.3)),
    ],
)
def test_credits_by_hand(scores, pooling, credit, expected):
    assert step_credits(scores, 0.6, 0.5, pooling, credit) == pytest.approx(expected, abs=1e-12)


unit = st.floats(0, 1, allow_subnormal=False)
some_steps = st.lists(st.none() | unit, min_size=1, max_size=64).filter(lambda s: any(x is not None for x in s))


@given(some_steps, unit, unit)
def test_law_at_the_first_step_to_go_is_the_outcome_part(scores, share, centre):
    """Domain: pooling mean, at least one step ok; the first step's credit is v·(mean − s̄), to 1e-12."""
    part = share * (mean(s for s in scores if s is not None) - centre)
    assert step_credits(scores, share, centre, "mean", "to_go")[0] == pytest.approx(part, abs=1e-12)
    assert step_credits(scores, share, centre, "min", "to_go")[0] == pytest.approx(
        share * (min(s for s in scores if s is not None) - centre), abs=1e-12
    )


@given(some_steps, unit, unit, st.sampled_from(["mean", "min"]))
def test_law_to_go_is_bounded_by_the_share(scores, share, centre, pooling):
    """Domain: any steps; no token gets more than v. The paper's sum has no such bound."""
    assert all(abs(x) <= share + 1e-12 for x in step_credits(scores, share, centre, pooling, "to_go"))


def test_padding_pays_in_the_unbounded_sum_only():
    """An answer with one bad step, then the same answer padded with 20 trivially good ones, against s̄ = .6."""
    bad, padded = [0.0], [0.0] + [1.0] * 20
    first = {credit: [step_credits(s, 1.0, 0.6, "mean", credit)[0] for s in (bad, padded)]
             for credit in ("to_go", "deepseek_sum")}  # fmt: skip
    assert first["deepseek_sum"] == pytest.approx([-0.6, 7.4])  # Σ(s − .6) = −.6 + 20·.4
    assert first["to_go"] == pytest.approx([-0.6, 7.4 / 21])  # it lifts the mean, and no further
    assert step_credits(padded, 1.0, 0.6, "min", "to_go")[0] == pytest.approx(-0.6)  # `min` does not


# --- tokens ---

STEPWISE = [CriterionWeight("a", 1.0), CriterionWeight("s", 1.0, step_pooling="mean")]


def stepped(*scores):
    ok = [s for s in scores if s is not None]
    return ScoredCell(mean(ok), 1.0, steps=tuple(scores))


def test_each_token_has_the_advantage_of_its_step():
    rows = [{"a": ScoredCell(1.0, 1.0), "s": stepped(1.0, 0.0)}, {"a": ScoredCell(0.0, 1.0), "s": stepped(0.5)}]
    group = score_group(STEPWISE, rows, ScoringOptions(scale="none"))
    first = group.completions[0]
    assert first.parts == pytest.approx({"a": 0.25, "s": 0.0})
    tokens = token_advantages(first, STEPWISE, group.weighting, rows[0], {"s": [0, 0, 1]}, length=3, credit="to_go")
    # s̄ = .5, v = .5: .25 + .25·(.5 − .5) and .25 + .25·(−.5)
    assert tokens == pytest.approx([0.25, 0.25, 0.125])
    everywhere = token_advantages(first, STEPWISE, group.weighting, rows[0], {"s": [0, 0, 1]}, length=3, credit="all")
    assert everywhere == pytest.approx([first.advantage] * 3)


def test_without_steps_every_token_has_the_completions_own_advantage_to_the_bit():
    plain = [CriterionWeight("a", 1.0), CriterionWeight("s", 2.0)]
    rows = [
        {"a": ScoredCell(0.1, 0.3), "s": ScoredCell(0.7, 0.2)},
        {"a": ScoredCell(0.9, 0.3), "s": ScoredCell(0.3, 1)},
    ]
    group = score_group(plain, rows)
    for completion, row in zip(group.completions, rows, strict=True):
        found = token_advantages(completion, plain, group.weighting, row, {}, length=5, credit="to_go")
        assert found == [completion.advantage] * 5


def test_a_failed_step_cell_gives_no_credit_and_no_blame():
    rows = [{"a": ScoredCell(1.0, 1.0)}, {"a": ScoredCell(0.0, 1.0), "s": stepped(0.5, 1.0)}]
    group = score_group(STEPWISE, rows, ScoringOptions(scale="none"))
    found = token_advantages(group.completions[0], STEPWISE, group.weighting, rows[0], {}, length=2, credit="to_go")
    assert found == [group.completions[0].advantage] * 2


def test_without_a_signal_no_token_has_an_advantage():
    rows = [{"a": ScoredCell(0.5, 1.0), "s": stepped(1.0, 0.0)}, {"a": ScoredCell(0.5, 1.0), "s": stepped(0.0, 1.0)}]
    group = score_group(STEPWISE, rows)
    assert group.signal == "no_spread"
    first = group.completions[0]
    assert token_advantages(first, STEPWISE, group.weighting, rows[0], {"s": [0, 1]}, length=2, credit="to_go") == [
        0,
        0,
    ]
    left = score_group(STEPWISE, rows[:1]).completions[0]
    assert token_advantages(left, STEPWISE, {}, rows[0], {}, length=2, credit="to_go") == [0, 0]


def test_baseline_none_credits_uncentred():
    rows = [{"a": ScoredCell(1.0, 1.0), "s": stepped(1.0, 0.0)}, {"a": ScoredCell(0.0, 1.0), "s": stepped(0.5)}]
    group = score_group(STEPWISE, rows, ScoringOptions(scale="none", baseline="none"))
    first = group.completions[0]
    found = token_advantages(
        first, STEPWISE, group.weighting, rows[0], {"s": [0, 1]}, length=2, credit="to_go", centred=False
    )
    assert found == pytest.approx([0.75, 0.5])  # v·s of `a` .5, and .25·(1 + 0), .25·0
    assert found[0] == pytest.approx(first.advantage)


@given(st.lists(st.tuples(unit, some_steps), min_size=2, max_size=5), st.sampled_from(["mean", "min"]))
def test_law_the_first_token_has_the_completions_advantage(case, pooling):
    """Domain: `to_go`, either pooling, one outcome and one step criterion, all cells ok. To 1e-9."""
    specs = [CriterionWeight("a", 1.0), CriterionWeight("s", 1.0, step_pooling=pooling)]
    rows = []
    for score, steps in case:
        ok = [s for s in steps if s is not None]
        pooled = mean(ok) if pooling == "mean" else min(ok)
        rows.append({"a": ScoredCell(score, 1.0), "s": ScoredCell(pooled, 0.5, steps=tuple(steps))})
    group = score_group(specs, rows, ScoringOptions(scale="none"))
    for (_, steps), row, completion in zip(case, rows, group.completions, strict=True):
        steps_T = {"s": list(range(len(steps)))}
        found = token_advantages(completion, specs, group.weighting, row, steps_T, length=len(steps), credit="to_go")
        assert len(found) == len(steps)
        assert found[0] == pytest.approx(completion.advantage, abs=1e-9)
        assert all(math.isfinite(x) for x in found)
