"""Gradings as values: when a stored cell answers, which texts a row holds, what a summary says whatever the order."""

import math
import random

import pytest
from pydantic import ValidationError

from service.domain.dataset import PromptRow, prompt_view
from service.domain.grading import GradingSpec, TextIn, graded_texts, prompt_key, scoring_options
from service.domain.identity import cell_identity
from service.domain.rubric import DEFAULT_AGGREGATION, Aggregation, Criterion
from service.domain.summary import MISSING, Summary

JUDGED = {"key": "a", "text": "is a", "weight": 1, "grader": {"type": "judge", "judge": "jdg_1"}}
CHECKED = {"key": "a", "text": "is a", "weight": 1, "grader": {"type": "regex", "pattern": "x"}}
LEVELS = {
    "type": "ordinal",
    "levels": [{"label": "no", "value": 0}, {"label": "yes", "value": 1, "anchor": "all of it"}],
}


def identity(criterion, guidelines="g", **changes):
    return cell_identity(Criterion.model_validate({**criterion, **changes}), guidelines)


@pytest.mark.parametrize(
    "changes",
    [{"weight": 7}, {"audit": True, "weight": None}, {"tags": ["t"]}, {"default_confidence": 0.3}, {"applies_to": {"tags": ["x"]}},
     {"gate": {"mode": "required"}}],
)  # fmt: skip
def test_what_is_made_of_a_cell_leaves_it_the_same(changes):
    assert identity(JUDGED, **changes) == identity(JUDGED)
    assert identity(CHECKED, **changes) == identity(CHECKED)


@pytest.mark.parametrize(
    "changes",
    [{"key": "b"}, {"polarity": "met_is_bad"}, {"text": "is  a"}, {"title": "A"}, {"scale": LEVELS}, {"scope": "step"},
     {"grader": {"type": "judge", "judge": "jdg_2"}}, {"grader": {"type": "judge", "judge": "jdg_1", "votes": 3}}],
)  # fmt: skip
def test_what_a_judge_is_asked_makes_another_cell(changes):
    assert identity(JUDGED, **changes) != identity(JUDGED)


def test_guidelines_and_words_are_read_by_judges_alone():
    assert identity(JUDGED, "g.") != identity(JUDGED, "g")
    assert identity(CHECKED, "g.") == identity(CHECKED, "g")
    assert identity(CHECKED, text="is b", title="B") == identity(CHECKED)
    assert identity(CHECKED, grader={"type": "regex", "pattern": "y"}) != identity(CHECKED)


def test_an_anchor_is_part_of_the_question():
    other = {"type": "ordinal", "levels": [LEVELS["levels"][0], {**LEVELS["levels"][1], "anchor": "most of it"}]}
    assert identity(JUDGED, scale=LEVELS) != identity(JUDGED, scale=other)


def test_equal_prompts_have_one_key_however_they_are_written():
    short = prompt_view(PromptRow(prompt="p"), "1")
    long = prompt_view(PromptRow(messages=[{"role": "user", "content": "p"}]), "2")
    assert prompt_key(short) == prompt_key(long)
    for other in (PromptRow(prompt="q"), PromptRow(prompt="p", reference=1), PromptRow(prompt="p", tags=["t"])):
        assert prompt_key(prompt_view(other, "1")) != prompt_key(short)


def test_a_bare_text_is_a_prompt():
    assert TextIn.model_validate({"prompt": "p", "text": ""}).prompt == PromptRow(prompt="p")
    with pytest.raises(ValidationError):
        TextIn.model_validate({"prompt": "", "text": "a"})


def test_rows_hold_their_texts():
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    ((view, text),) = graded_texts("demonstrations", "ds_1:1", {"messages": turns})
    assert (view["id"], view["messages"], text) == ("ds_1:1", turns[:1], "a")
    ((view, text),) = graded_texts("demonstrations", "ds_1:1", {"prompt": "p", "completion": "c"})
    assert (view["messages"], view["reference"], text) == ([{"role": "user", "content": "p"}], None, "c")
    # a demonstration may go on from the assistant's own words, which no policy is asked to
    ((view, text),) = graded_texts("demonstrations", "r", {"messages": [*turns, turns[1]]})
    assert len(view["messages"]) == 2
    pair = graded_texts("preferences", "r", {"prompt": "p", "chosen": "c", "rejected": "d", "metadata": {"m": 1}})
    assert [text for _, text in pair] == ["c", "d"]
    assert pair[0][0]["metadata"] == {"m": 1}


def test_options_are_the_resolved_aggregation_with_the_default_advantage():
    resolved = Aggregation(weighting="uniform", min_coverage=0.2).over(DEFAULT_AGGREGATION)
    options = scoring_options(resolved)
    assert (options.weighting, options.min_coverage, options.confidence_exponent) == ("uniform", 0.2, 1.0)
    assert (options.baseline, options.scale, options.max_weight_share) == ("group_mean", "group_std", None)


def test_a_summary_does_not_know_the_order():
    rng = random.Random(0)
    cells = [
        (rng.choice("ab"), rng.choice(["ok", "ok", "timeout"]), rng.random() * 10 ** rng.randint(-9, 0))
        for _ in range(999)
    ]
    found = set()
    for _ in range(5):
        rng.shuffle(cells)
        summary = Summary()
        for name, status, score in cells:
            summary.cell([name], status, score if status == "ok" else None, None, False)
            summary.completion(plain_reward=score, audit=None)
        summary.cell(["a"], MISSING, None, None, False)
        found.add(str(summary.as_json()))
    assert len(found) == 1
    said = summary.as_json()
    assert said["plain_reward"] == math.fsum(score for _, _, score in cells) / 999
    assert (said["audit"], said["null_plain_rewards"]) == (None, 0)
    assert said["nulls"] == {"missing": 1, "timeout": sum(status == "timeout" for _, status, _ in cells)}


def test_one_source_and_a_rubric():
    with pytest.raises(ValidationError, match="exactly one of"):
        GradingSpec.model_validate({"rubric": {"id": "rub_1"}})
    with pytest.raises(ValidationError, match="name the rubric"):
        GradingSpec.model_validate({"job": "job_1"})
    assert GradingSpec.model_validate({"job": "job_1", "reuse_cells": True}).source == "job"
