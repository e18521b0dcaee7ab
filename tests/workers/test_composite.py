"""Composites: a formula over graders, what fails in it, and what never becomes a number."""

import pytest

from service.domain.rubric import Criterion
from workers.graders.verifiers import verify

PROMPT = {"reference": "42", "category": None, "metadata": {"zero": "0"}, "messages": []}
RIGHT = {"type": "numeric", "reference": "{{ prompt.reference }}"}
SHORT = {"type": "regex", "pattern": "^.{0,9}$"}
LIKE = {"type": "similarity", "metric": "fuzzy_match", "reference": "42"}


def cell(formula, text="42", **graders):
    grader = {"type": "composite", "formula": formula, "graders": graders}
    return verify(Criterion.model_validate({"key": "a", "weight": 1, "grader": grader}), PROMPT, text)


@pytest.mark.parametrize(
    ("text", "expected", "reason"),
    [
        ("42", 1.0, "like = 1, right = 1, short = 1"),
        ("41", 0.1 + 0.2 * 0.5, "like = 0.5, right = 0, short = 1"),  # '4' in common: 2·1/(2 + 2)
        ("no number at all", 0.0, "like = 0, right = 0, short = 0"),
    ],
)
def test_the_formula_of_the_scores(text, expected, reason):
    found = cell("0.7 * right + 0.1 * short + 0.2 * like", text, right=RIGHT, short=SHORT, like=LIKE)
    assert (found.status, found.confidence, found.confidence_source, found.grader) == (
        "ok",
        1.0,
        "verifier",
        "composite",
    )
    assert found.score == pytest.approx(expected, abs=1e-12)
    assert found.reason == reason


@pytest.mark.parametrize(
    "formula",
    [
        "right / (1 - right)",
        "log(1 - right)",
        "right + 1",
        "right - 2",
        "1e308 * 10 * right",
        "1e308 * 10 * right - 1e308 * 10",
    ],
)
def test_no_value_in_0_1_is_an_invalid_score_never_a_number(formula):
    found = cell(formula, right=RIGHT)
    assert (found.status, found.family, found.score) == ("invalid_score", "infra", None)
    assert "right = 1" in found.reason


def test_a_rounding_beyond_the_edge_is_the_edge():
    # 0.1 + 0.7 + 0.2 is 0.9999999999999999 in binary, and 0.3 + 0.6 + 0.1 + 2e-16 is above 1
    assert cell("(right * 0.7 + right * 0.1 + right * 0.2) * 1.0000000001", right=RIGHT).score == 1.0


@pytest.mark.parametrize(
    ("grader", "status"),
    [
        ({"type": "numeric", "reference": "{{ prompt.metadata.absent }}"}, "infra_error"),
        ({"type": "regex", "pattern": r"(a|aa)+$"}, "timeout"),
        ({"type": "similarity", "metric": "rouge_5", "reference": "two words"}, "infra_error"),
    ],
)
def test_a_grader_that_fails_fails_the_cell_with_its_status(grader, status):
    found = cell("min(right, other) * 0", "a" * 60 + "b", right=RIGHT, other=grader)
    assert (found.status, found.score) == (status, None)
    assert found.reason.startswith("'other': ")
