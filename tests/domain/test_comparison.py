"""Two sides on the same prompts: by hand, and what makes them hard to compare (reference/rubrics.md §5.4 #28)."""

import pytest

from service.domain.comparison import FEW, Scored, Side, compare


def side(rewards, fingerprint="f1", rubric=("rub_1", 1), score=None):
    """One completion per reward, by prompt."""
    made = Side()
    for prompt, values in rewards.items():
        for value in values:
            given = value if score is None else score
            cells = [Scored("clear", given, fingerprint, False), Scored("one", 1.0, None, True)]
            made.add(prompt, value, rubric, cells)
    return made


def codes(found):
    return [warning.code for warning in found.warnings]


def test_differences_are_paired_by_prompt():
    """Means by prompt: left .5, .9, right .25, .8; the third prompt stands on one side only."""
    left = side({"a": [0.4, 0.6], "b": [0.9], "c": [0.1]})
    right = side({"a": [0.25], "b": [0.8], "d": [1.0]})
    found = compare(left, right)
    assert (found.prompts, found.only_left, found.only_right) == (2, 1, 1)
    plain = found.plain_reward
    assert (plain.left, plain.right, plain.prompts) == (pytest.approx(0.7), pytest.approx(0.525), 2)
    assert plain.difference == pytest.approx(0.175)
    assert 0.1 - 1e-9 <= plain.low <= plain.difference <= plain.high <= 0.25 + 1e-9
    assert (found.win_rate.rate, found.win_rate.wins, found.win_rate.losses) == (1.0, 3, 0)
    assert found.criteria["clear"].difference == pytest.approx(0.175)
    assert found.criteria["one"].audit
    assert compare(left, right) == found
    swapped = compare(right, left)
    assert swapped.plain_reward.difference == pytest.approx(-0.175)
    assert swapped.win_rate.rate == 0.0


def test_a_tie_is_half_a_win():
    found = compare(side({"a": [0.5], "b": [0.5]}), side({"a": [0.5], "b": [0.4]}))
    assert (found.win_rate.rate, found.win_rate.ties) == (0.75, 1)


def test_scores_of_another_judge_are_no_comparison():
    many = {f"p{n}": [0.5] for n in range(FEW)}
    assert codes(compare(side(many), side(many))) == []
    other = compare(side(many), side(many, fingerprint="f2"))
    assert codes(other) == ["judges_differ"]
    assert other.warnings[0].criterion == "clear"
    assert "f1 (20) on the left, f2 (20) on the right" in other.warnings[0].message
    mixed = side(many)
    mixed.add("p0", 0.5, ("rub_1", 1), [Scored("clear", 1.0, "f2", False)])
    assert codes(compare(mixed, mixed)) == ["judges_differ"]  # not even with itself
    assert codes(compare(side(many), side(many, rubric=("rub_1", 2)))) == ["rubrics_differ"]


def test_what_is_missing_is_said():
    found = compare(side({"a": [0.5, None]}), side({"b": [0.5]}))
    assert codes(found) == ["few_prompts", "nulls"]
    assert (found.plain_reward.difference, found.win_rate.rate, found.prompts) == (None, None, 0)
    alone = compare(side({"a": [0.5]}), side({"a": [0.4]}))
    assert (alone.plain_reward.difference, alone.plain_reward.low) == (pytest.approx(0.1), None)
