"""Scorecards: means as the metrics have them, intervals over prompts, ties as halves, nulls left out and counted."""

import random

import pytest

from service.domain.grade import Cell
from service.domain.scoring import CriterionWeight, ScoringOptions, paired_interval, unbiased_std
from workers.advantages.group import group_advantages
from workers.training.evaluation import summary
from workers.training.scorecard import comparison, difference, ratio_interval, scorecard, statistic, win_rate
from workers.types import Completion, CompletionGroup, Prompt

CRITERIA = [CriterionWeight("a", 2.0), CriterionWeight("b", 1.0)]
UNIFORM = ScoringOptions(weighting="uniform")


def cell(key, score):
    if score is None:
        return Cell(criterion=key, grader="judge", status="timeout", reason="too slow")
    return Cell(criterion=key, grader="judge", status="ok", score=score)


def group(name, *rows, category=None):
    """Completions with (a, b) scores; plain reward is (2a + b)/3."""
    cells = [{"a": cell("a", a), "b": cell("b", b)} for a, b in rows]
    done = [Completion([5, 1], [-1.0, -1.0], "stop", "x") for _ in rows]
    found = CompletionGroup(Prompt(name, [3], {"category": category}), done, criteria=CRITERIA, cells=cells)
    found.scored = group_advantages(CRITERIA, cells, UNIFORM)
    return found


GROUPS = [
    group("p1", (1, 1), (0.5, 0.5), category="maths"),
    group("p2", (0, 1), (1, None), category="maths"),
    group("p3", (0.25, 0), (0.5, 1), category="tone"),
    group("p4", (0, 0), (1, 0)),
]


def test_means_are_those_of_the_metrics_and_nulls_are_counted():
    card, metrics = scorecard(GROUPS, 0), summary(GROUPS)
    overall = card["overall"]
    assert overall["plain_reward"]["mean"] == pytest.approx(metrics["plain_reward"], abs=1e-15)
    assert overall["criteria"]["a"]["mean"] == pytest.approx(4.25 / 8, abs=1e-15) == metrics["score.a"]
    assert (overall["plain_reward"]["count"], overall["plain_reward"]["nulls"]) == (7, 1)
    assert overall["criteria"]["b"]["nulls"] == {"timeout": 1}
    assert [(part["category"], part["prompts"]) for part in card["categories"]] == [
        ("maths", 2),
        ("tone", 1),
        (None, 1),
    ]
    assert card["categories"][0]["plain_reward"]["mean"] == pytest.approx((1 + 0.5 + 1 / 3) / 3)
    assert card["categories"][1]["plain_reward"]["low"] is None  # one prompt says nothing about its spread
    assert scorecard(GROUPS, 0) == card


def test_a_prompts_completions_stay_together_in_the_bootstrap():
    """Completions that repeat each other add nothing: the interval of 50 prompts × 4 equal ones is that of 50 numbers."""
    draw = random.Random(0)
    numbers = [draw.gauss(0.5, 0.2) for _ in range(50)]
    found = statistic({f"p{k}": [x] * 4 for k, x in enumerate(numbers)}, seed=3)
    half = 1.96 * unbiased_std(numbers) / 50**0.5  # the normal approximation
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.1)
    assert found["count"] == 200
    low, high = paired_interval(numbers, seed=1)
    assert (found["low"], found["high"]) == pytest.approx((low, high), abs=0.1 * half)


def test_intervals_do_not_depend_on_how_draws_are_blocked():
    draw = random.Random(0)
    numbers = [draw.random() for _ in range(40)]
    whole = ratio_interval(numbers, [1.0] * 40, 5)
    assert ratio_interval(numbers, [1.0] * 40, 5, block=40 * 7) == whole != ratio_interval(numbers, [1.0] * 40, 6)


def test_ties_are_halves_and_every_completion_meets_every_other():
    found = win_rate({"p": [0.5, 1.0], "q": [0.2], "r": []}, {"p": [0.5, 0.0], "q": [0.4], "r": [1.0]}, seed=0)
    # p: .5 = .5, .5 > 0, 1 > .5, 1 > 0 -> 3.5 of 4; q: lost; r has nothing to compare
    assert found["rate"] == pytest.approx((3.5 / 4 + 0) / 2)
    assert (found["wins"], found["ties"], found["losses"], found["prompts"]) == (3, 1, 1, 2)


def test_differences_are_paired():
    """A model that is better by .1 on every prompt is better for certain, however much prompts differ."""
    draw = random.Random(0)
    base = {f"p{k}": [draw.random()] for k in range(30)}
    found = difference({name: [value[0] + 0.1] for name, value in base.items()}, base, seed=0)
    assert found["difference"] == pytest.approx(0.1)
    assert (found["low"], found["high"]) == (pytest.approx(0.1), pytest.approx(0.1))


def test_two_models_on_the_same_prompts():
    worse = [group(g.prompt.id, (0, 0), (0, 0), category=g.prompt.view["category"]) for g in reversed(GROUPS)]
    found = comparison(GROUPS, worse, 0)
    met = found["overall"]["win_rate"]
    assert (met["wins"], met["ties"], met["losses"]) == (
        12,
        2,
        0,
    )  # 7 completions with a reward, one of them 0, against 2 each
    assert met["rate"] == pytest.approx((1 + 1 + 1 + 0.75) / 4)
    assert found["overall"]["criteria"]["a"]["compare_to"] == 0
    assert [part["category"] for part in found["categories"]] == ["maths", "tone", None]
    assert comparison(worse, GROUPS, 0)["overall"]["win_rate"]["rate"] == pytest.approx(1 - met["rate"])
