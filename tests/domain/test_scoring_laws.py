"""The laws of grape.md §5 as properties. Each test names its domain: what the law holds for.

Unless it says less: any w > 0, all cells ok with confidences above 0, group pooling, confidence weighting with α = 1, level
reward, impute, no gates.
"""

import json
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.scoring import (
    CriterionWeight,
    GroupCells,
    Past,
    ScoredCell,
    ScoringOptions,
    score_group,
    score_groups,
)
from tests.support.scoring import criteria, groups, numbers, numbers_of, positive, rows, unscaled

laws = settings(max_examples=200, deadline=None)


# --- bitwise ---


@given(groups(confidences=numbers), st.sampled_from(["group_mean", "leave_one_out", "none"]), st.floats(0, 8))
@laws
def test_one_criterion_is_grpo(case, baseline, exponent):
    """Domain: one criterion, any w, any c (0 as well: then the fallback), any α, any baseline. Bitwise."""
    weights, scores, stated = case
    column = [[row[0]] for row in scores]
    grape = score_group(
        criteria(weights[:1]),
        rows(column, [[c[0]] for c in stated]),
        ScoringOptions(baseline=baseline, confidence_exponent=exponent),
    )
    grpo = score_group(
        [CriterionWeight("a", 1.0)], rows(column), ScoringOptions(weighting="uniform", baseline=baseline)
    )
    assert numbers_of(grape) == numbers_of(grpo)
    assert [c.reward for c in grape.completions] == [row[0] for row in scores]


@given(groups(), st.floats(0, 1e-3))
@laws
def test_one_criterion_standardised_is_grpo_too(case, eps):
    """Domain: one criterion, level `criterion` against level `reward`, any scale_eps. The advantages agree bitwise."""
    weights, scores, stated = case
    cells = rows([[row[0]] for row in scores], [[c[0]] for c in stated])
    by_reward = score_group(criteria(weights[:1]), cells, ScoringOptions(scale_eps=eps))
    by_criterion = score_group(criteria(weights[:1]), cells, ScoringOptions(scale_eps=eps, level="criterion"))
    assert [c.advantage for c in by_reward.completions] == [c.advantage for c in by_criterion.completions]


options_of = st.builds(
    ScoringOptions,
    weighting=st.sampled_from(["confidence", "uniform"]),
    confidence_exponent=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    pooling=st.sampled_from(["group", "shrunk"]),
    min_coverage=st.sampled_from([0.0, 0.5]),
    on_subject_null=st.sampled_from(["impute", "lowest_observed"]),
    min_group_confidence=st.sampled_from([0.0, 0.3]),
    max_weight_share=st.sampled_from([None, 0.4, 0.9]),
    baseline=st.sampled_from(["group_mean", "leave_one_out"]),
    scale=st.sampled_from(["group_std", "batch_std", "none"]),
    scale_eps=st.sampled_from([0.0, 1e-4]),
    level=st.sampled_from(["reward", "criterion"]),
)


@st.composite
def holed(draw):
    """A group with failed cells, some of them the subject's."""
    weights, scores, stated = draw(groups(confidences=numbers))
    cells = rows(scores, stated)
    nulls = [set() for _ in cells]
    for row, lost in zip(cells, nulls, strict=True):
        for key in sorted(row):
            kind = draw(st.sampled_from(["ok", "ok", "infra", "subject"]))
            if kind != "ok":
                del row[key]
            if kind == "subject":
                lost.add(key)
    return GroupCells(criteria(weights), cells, nulls, Past(confidence={"a": 0.7}))


@given(st.lists(holed(), min_size=1, max_size=3), options_of, st.randoms())
@laws
def test_order_has_no_influence(inputs, options, rng: random.Random):
    """Domain: any options without noise, gates or steps, failed cells allowed. Completions, criteria, groups. Bitwise."""
    straight = score_groups(inputs, options)
    order = list(range(len(inputs)))
    rng.shuffle(order)
    moved, places = [], []
    for k in order:
        rows_order = list(range(len(inputs[k].rows)))
        rng.shuffle(rows_order)
        shuffled = list(inputs[k].criteria)
        rng.shuffle(shuffled)
        cells = [dict(rng.sample(sorted(inputs[k].rows[i].items()), len(inputs[k].rows[i]))) for i in rows_order]
        moved.append(GroupCells(shuffled, cells, [inputs[k].subject_nulls[i] for i in rows_order], inputs[k].past))
        places.append(rows_order)
    for k, found, rows_order in zip(order, score_groups(moved, options), places, strict=True):
        assert found.completions == [straight[k].completions[i] for i in rows_order]
        assert (found.weighting, found.signal) == (straight[k].weighting, straight[k].signal)
        assert found.effective_criteria == straight[k].effective_criteria


@given(holed(), options_of)
@laws
def test_stored_cells_give_the_same_numbers_again(group, options):
    """Domain: any options without noise, gates or steps; cells that went through JSON, as they do in the database. Bitwise."""
    text = json.dumps([{key: [cell.score, cell.confidence] for key, cell in row.items()} for row in group.rows])
    stored = [{key: ScoredCell(*pair) for key, pair in row.items()} for row in json.loads(text)]
    again = GroupCells(group.criteria, stored, group.subject_nulls, group.past)
    assert score_groups([group], options) == score_groups([again], options)


# --- to 1e-9 and 1e-12 ---


@given(st.lists(holed(), min_size=1, max_size=3), options_of)
@laws
def test_advantages_sum_to_zero_and_parts_to_advantages(inputs, options):
    """Domain: any options without noise, gates or steps, failed cells allowed, baselines that centre.

    ΣA = 0 to 1e-12 per unit of the largest (level criterion: of complete groups only, for a mean over the ok cells of one
    criterion is not one over the members); unscaled A = Σ parts to 1e-9; A = scale_factor·unscaled; 0 without a signal.
    """
    for group, given_cells in zip(score_groups(inputs, options), inputs, strict=True):
        members = [c for c in group.completions if c.unscaled_advantage is not None]
        if group.signal == "too_few_members":
            assert members == []
            continue
        assert len(members) >= 2
        complete = all(len(row) == len(given_cells.criteria) for row in given_cells.rows)
        if options.level == "reward" or complete:
            unit = max(1.0, *(abs(c.unscaled_advantage) for c in members))
            assert math.fsum(c.unscaled_advantage for c in members) == pytest.approx(0, abs=1e-12 * unit)
        for completion in members:
            unit = max(1.0, abs(completion.unscaled_advantage))
            total = math.fsum(completion.parts.values())
            if options.level == "reward" or group.signal == "ok":
                assert total == pytest.approx(completion.unscaled_advantage, abs=1e-9 * unit)
            assert completion.advantage == completion.scale_factor * completion.unscaled_advantage
            if group.signal != "ok":
                assert completion.scale_factor == 0
                assert completion.advantage == 0


@given(groups(), st.floats(0.01, 1), st.floats(0.01, 100))
@laws
def test_scaling_all_confidences_or_all_weights_changes_nothing(case, shrink, factor):
    """Domain: the page's own. To 1e-12."""
    weights, scores, stated = case
    base = score_group(criteria(weights), rows(scores, stated))
    less_sure = score_group(criteria(weights), rows(scores, [[c * shrink for c in row] for row in stated]))
    heavier = score_group(criteria([w * factor for w in weights]), rows(scores, stated))
    assert unscaled(less_sure) == pytest.approx(unscaled(base), abs=1e-12)
    assert unscaled(heavier) == pytest.approx(unscaled(base), abs=1e-12)


@given(groups(), positive, st.floats(0.1, 4))
@laws
def test_equal_confidence_is_plain_weights(case, confidence, exponent):
    """Domain: one confidence for all cells, any α > 0. R = plain reward to 1e-12."""
    weights, scores, _ = case
    cells = rows(scores, [[confidence] * len(weights)] * len(scores))
    group = score_group(criteria(weights), cells, ScoringOptions(confidence_exponent=exponent))
    for completion in group.completions:
        assert completion.reward == pytest.approx(completion.plain_reward, abs=1e-12)


@given(groups(min_criteria=2), st.data())
@laws
def test_a_null_cell_equals_the_imputed_one(case, data):
    """Domain: one null cell, min_coverage 0. Equal to a cell (s̄, cbar) of the others, to 1e-12."""
    weights, scores, stated = case
    missing = data.draw(st.integers(0, len(scores) - 1))
    others = [i for i in range(len(scores)) if i != missing]
    options = ScoringOptions(min_coverage=0.0)
    lost = rows(scores, stated)
    del lost[missing]["a"]
    mean_score = math.fsum(scores[i][0] for i in others) / len(others)
    mean_confidence = math.fsum(stated[i][0] for i in others) / len(others)
    imputed = rows(scores, stated)
    imputed[missing]["a"] = ScoredCell(mean_score, mean_confidence)
    left = score_group(criteria(weights), lost, options)
    right = score_group(criteria(weights), imputed, options)
    assert unscaled(left) == pytest.approx(unscaled(right), abs=1e-12)


@given(groups(min_criteria=2))
@laws
def test_no_confidence_in_a_criterion_is_its_absence(case):
    """Domain: c = 0 on every cell of one criterion, all cells ok, the others above 0. To 1e-12."""
    weights, scores, stated = case
    cells = rows(scores, [[0.0, *row[1:]] for row in stated])
    without = [{k: v for k, v in row.items() if k != "a"} for row in cells]
    left = score_group(criteria(weights), cells)
    right = score_group(criteria(weights)[1:], without)
    assert unscaled(left) == pytest.approx(unscaled(right), abs=1e-12)


@given(groups(), st.randoms(), st.floats(0, 4))
@laws
def test_permuting_the_confidences_of_a_criterion_changes_no_reward(case, rng: random.Random, exponent):
    """Domain: all cells ok, any α. Bitwise: only the mean of a criterion's confidences counts."""
    weights, scores, stated = case
    first = [row[0] for row in stated]
    rng.shuffle(first)
    moved = [[c, *row[1:]] for c, row in zip(first, stated, strict=True)]
    options = ScoringOptions(confidence_exponent=exponent)
    base = score_group(criteria(weights), rows(scores, stated), options)
    permuted = score_group(criteria(weights), rows(scores, moved), options)
    assert numbers_of(base) == numbers_of(permuted)


@given(groups(), st.sampled_from(["uniform", "confidence"]))
@laws
def test_a_batch_of_one_group_has_the_groups_deviation(case, weighting):
    """Domain: one group, level reward, both centring scales. To 1e-9 of the advantage."""
    weights, scores, stated = case
    cells = rows(scores, stated)
    group = score_group(criteria(weights), cells, ScoringOptions(weighting=weighting))
    batch = score_group(criteria(weights), cells, ScoringOptions(weighting=weighting, scale="batch_std"))
    assert [c.advantage for c in batch.completions] == pytest.approx([c.advantage for c in group.completions], rel=1e-6)
