"""grape.md §9: what a step reports. Expected numbers are counted by hand beside them, or the standard library's."""

from statistics import correlation as pearson

import pytest

from service.domain.grade import Cell, StepCell
from service.domain.scoring import CriterionWeight, ScoringOptions, correlation
from workers.advantages.diagnostics import null_gap
from workers.advantages.group import score_step
from workers.advantages.report import REASONS, rollout_metrics
from workers.types import Completion, CompletionGroup, Prompt

SPECS = [CriterionWeight("a", 2.0), CriterionWeight("b", 1.0), CriterionWeight("z", 1.0, audit=True)]


def cell(key, score, confidence=1.0, **extra):
    """An ok cell, or a failed one if `score` is a status."""
    if isinstance(score, str):
        return Cell(criterion=key, grader="judge", status=score, reason="why", audit=key == "z")
    return Cell(
        criterion=key, grader="judge", status="ok", score=score, confidence=confidence, audit=key == "z", **extra
    )


def group_of(*rows, lengths=None, specs=SPECS):
    lengths = lengths or [3] * len(rows)
    completions = [Completion([5] * n, [-0.5] * n, "stop", "x") for n in lengths]
    cells = [
        {key: cell(key, score) if not isinstance(score, Cell) else score for key, score in row.items()} for row in rows
    ]
    return CompletionGroup(Prompt("p", [1], {}), completions, criteria=specs, cells=cells)


def metrics_of(*groups, options=None):
    from service.domain.scoring import Past

    score_step(groups, options or ScoringOptions(), lambda rubric: Past())
    return rollout_metrics(groups)


def test_every_series_of_the_page():
    metrics = metrics_of(
        group_of({"a": 1, "b": 0, "z": 1}, {"a": 0, "b": 1, "z": 0}), group_of({"a": 1, "b": 1}, {"a": 0.5, "b": 0.5})
    )
    assert metrics["reward"] == pytest.approx((2 / 3 + 1 / 3 + 1 + 0.5) / 4)
    assert metrics["plain_reward"] == metrics["reward"]  # all confidences are 1
    assert (metrics["audit"], metrics["audit.z"]) == (0.5, 0.5)
    assert (metrics["score.a"], metrics["score.b"]) == (pytest.approx(2.5 / 4), pytest.approx(2.5 / 4))
    assert (metrics["share.a"], metrics["confidence.b"]) == (pytest.approx(2 / 3), 1)
    assert metrics["effective_criteria"] == pytest.approx(9 / 5)  # (2 + 1)²/(4 + 1)
    assert metrics["group_confidence"] == 1
    assert (metrics["coverage"], metrics["completion_length"], metrics["entropy"]) == (1, 3, 0.5)
    assert (metrics["null_cells"], metrics["null_share"], metrics["groups_without_signal"]) == (0, 0, 0)
    assert "step_count" not in metrics
    assert "noise_share.a" not in metrics  # single votes
    assert "null_gap" not in metrics


def test_groups_without_signal_by_reason():
    metrics = metrics_of(
        group_of({"a": 1, "b": 1}, {"a": 1, "b": 1}),  # no_spread
        group_of({"a": 1, "b": 1}, {"a": "timeout", "b": "timeout"}),  # too_few_members
        group_of({"a": 1, "b": 1}, {"a": 0, "b": 1}),
        group_of({"a": cell("a", 1, 0.1), "b": cell("b", 1, 0.1)}, {"a": cell("a", 0, 0.1), "b": cell("b", 1, 0.1)}),
        options=ScoringOptions(min_group_confidence=0.5),
    )
    assert metrics["groups_without_signal"] == 0.75
    assert {reason: metrics[f"groups_without_signal.{reason}"] for reason in REASONS} == {
        "no_spread": 0.25, "too_few_members": 0.25, "below_noise": 0, "low_confidence": 0.25,
    }  # fmt: skip


def test_nulls_by_family_and_status():
    metrics = metrics_of(
        group_of({"a": 1, "b": "timeout"}, {"a": "refusal", "b": 1}, {"a": 0, "b": "abstain"}, {"a": 0, "b": "timeout"})
    )
    counts = {name: value for name, value in metrics.items() if name.startswith("null_cells")}
    assert counts == {
        "null_cells": 4, "null_cells.infra": 2, "null_cells.subject": 2, "null_cells.timeout": 2, "null_cells.refusal": 1,
        "null_cells.abstain": 1,
    }  # fmt: skip
    assert (metrics["null_share"], metrics["infra_null_share"], metrics["subject_null_share"]) == (0.5, 0.25, 0.25)


def test_the_null_gap_compares_on_the_other_criteria():
    """The judge of `b` refuses the worst answer: on `a` it has .1, its group (.1 + .9 + .8)/3 = .6."""
    group = group_of({"a": 0.1, "b": "refusal"}, {"a": 0.9, "b": 0.5}, {"a": 0.8, "b": "timeout"})
    assert null_gap([group]) == pytest.approx(0.1 - 0.6)
    assert (
        null_gap([group_of({"a": 0.1, "b": "timeout"}, {"a": 0.9, "b": 0.5})]) is None
    )  # infra says nothing of the subject
    nothing_left = group_of({"a": "abstain", "b": "refusal"}, {"a": 1, "b": 1})
    assert null_gap([nothing_left]) is None
    assert metrics_of(group)["null_gap"] == pytest.approx(-0.5)


def test_length_and_reward_correlate_within_groups():
    # Between the groups longer is worse (a hard prompt with long answers); within each of them longer is better.
    easy = group_of({"a": 0.8, "b": 0.8}, {"a": 0.9, "b": 0.9}, {"a": 1, "b": 1}, lengths=[2, 4, 5])
    hard = group_of({"a": 0.1, "b": 0.1}, {"a": 0.2, "b": 0.2}, lengths=[20, 23])
    xs = [2 - 11 / 3, 4 - 11 / 3, 5 - 11 / 3, -1.5, 1.5]
    ys = [-0.1, 0.0, 0.1, -0.05, 0.05]
    assert metrics_of(easy, hard)["length_reward_correlation"] == pytest.approx(pearson(xs, ys))
    assert "length_reward_correlation" not in metrics_of(group_of({"a": 1, "b": 1}, {"a": 0, "b": 0}))  # equal lengths


def test_steps_are_counted():
    specs = [CriterionWeight("a", 1.0), CriterionWeight("s", 1.0, step_pooling="mean")]

    def stepped(*scores):
        steps = [StepCell(start=k, end=k + 1, status="ok", score=s) for k, s in enumerate(scores)]
        return cell("s", sum(scores) / len(scores), steps=steps)

    group = group_of(
        {"a": 1, "s": stepped(1, 1, 1)}, {"a": 0.5, "s": stepped(1, 0)}, {"a": 0, "s": stepped(0)}, specs=specs
    )
    metrics = metrics_of(group)
    assert metrics["step_count"] == 2
    rewards = [c.reward for c in group.scored.completions]
    assert metrics["step_count_reward_correlation"] == pytest.approx(pearson([3, 2, 1], rewards))


def test_criteria_that_are_flat_and_judges_that_disagree_with_themselves():
    def voted(score):
        return cell("a", score, votes=3, vote_variance=0.06)

    metrics = metrics_of(
        group_of({"a": voted(0.2), "b": 1}, {"a": voted(0.4), "b": 1}),
        group_of({"a": voted(0.6), "b": 1}, {"a": voted(0.6), "b": 0}),
    )
    assert (metrics["no_spread.a"], metrics["no_spread.b"]) == (0.5, 0.5)
    # the averaged vote's variance .06/3 = .02; scores vary by .02 in the first group and by 0 in the second
    assert metrics["noise_share.a"] == pytest.approx(0.02 / 0.01)
    assert "noise_share.b" not in metrics


def test_criteria_of_prompts_count_under_their_tags():
    specs = [CriterionWeight("a", 1.0), CriterionWeight("prompt.0", 1.0, per_prompt=True, tags=("tone",))]
    metrics = metrics_of(group_of({"a": 1, "prompt.0": 0}, {"a": 0, "prompt.0": 0}, specs=specs))
    assert (metrics["score.prompt.tone"], metrics["no_spread.prompt.tone"]) == (0, 1)
    assert not [name for name in metrics if name.endswith("prompt.0")]


def test_correlation_is_pearsons():
    assert correlation([1, 2, 3, 5], [2, 1, 4, 3]) == pytest.approx(pearson([1, 2, 3, 5], [2, 1, 4, 3]))
    assert correlation([1, 1], [0, 1]) is None
    assert correlation([1], [1]) is None
    with pytest.raises(ValueError, match="pairs"):
        correlation([1], [1, 2])


def test_an_evaluation_leaves_nulls_out_of_its_means_and_counts_them():
    from service.domain.scoring import Past
    from workers.training.evaluation import plain_rewards, summary

    group = group_of({"a": 1, "b": 0.5, "z": 1}, {"a": "timeout", "b": 1, "z": "abstain"}, {"a": 0.4, "b": 0.1, "z": 0})
    lost = group_of({"a": "refusal", "b": "refusal", "z": 1})
    lost.prompt = Prompt("q", [1], {})
    score_step([group, lost], ScoringOptions(weighting="uniform"), lambda rubric: Past())
    found = summary([group, lost])
    # complete completions have (2·1 + .5)/3 and (2·.4 + .1)/3; two of four have no plain reward, four cells no score
    assert found["plain_reward"] == pytest.approx((2.5 / 3 + 0.9 / 3) / 2)
    assert (found["null_rewards"], found["null_cells"], found["completions"]) == (2, 4, 4)
    assert found["score.a"] == pytest.approx(0.7)
    assert found["audit"] == pytest.approx(2 / 3)
    assert plain_rewards([group, lost]) == {"p": pytest.approx((2.5 / 3 + 0.9 / 3) / 2)}  # q is in no comparison
