"""grape.md §3: where a completion is cut into steps, and what cell its steps make."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.grade import StepCell
from service.domain.rubric import BLANK_LINES
from service.domain.scoring import MAX_STEPS, pool_steps, split_steps


def pieces(text, separator=BLANK_LINES):
    return [text[a:b] for a, b in split_steps(text, separator)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one", ["one"]),
        ("one\n\ntwo", ["one\n\n", "two"]),
        ("one\ntwo", ["one\ntwo"]),
        ("one\n \t\n\n  two\n\nthree", ["one\n \t\n\n  ", "two\n\n", "three"]),
        ("\n\none\n\ntwo", ["\n\none\n\n", "two"]),  # an empty step joins the next
        ("one\n\ntwo\n\n  \n", ["one\n\n", "two\n\n  \n"]),  # the last has no next: it joins the one before
        ("", [""]),
        (" \n\n ", [" \n\n "]),
    ],
)
def test_blank_lines_cut(text, expected):
    assert pieces(text) == expected


def test_a_pattern_of_ones_own():
    assert pieces("a;b;;c", ";") == ["a;", "b;", ";c"]  # the empty step between two separators joins c
    assert pieces("Step 1 x Step 2 y", r"(?=Step \d)") == ["Step 1 x ", "Step 2 y"]
    with pytest.raises(re.error):
        split_steps("a", "(")


def test_what_follows_the_63rd_step_is_one_step():
    text = "\n\n".join(f"s{k}" for k in range(100))
    steps = pieces(text)
    assert len(steps) == MAX_STEPS == 64
    assert steps[62] == "s62\n\n"
    assert steps[63] == "\n\n".join(f"s{k}" for k in range(63, 100))
    assert len(pieces("\n\n".join("x" for _ in range(64)))) == 64


@given(st.text(alphabet="ab \n;", max_size=300), st.sampled_from([BLANK_LINES, ";", "(?=b)", r"\s+|;"]))
def test_the_steps_tile_the_text(text, separator):
    spans = split_steps(text, separator)
    assert 1 <= len(spans) <= MAX_STEPS
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert all(left[1] == right[0] for left, right in itertools.pairwise(spans))
    if text.strip():
        assert all(text[a:b].strip() for a, b in spans)


def step(score=None, confidence=None, status="parse_error", reason=None):
    return StepCell(start=0, end=1, score=score, confidence=confidence, status="ok" if score is not None else status,
                    reason=reason)  # fmt: skip


def test_mean_and_minimum_over_the_ok_steps():
    steps = [step(0.2, 0.5), step(), step(0.8, 1.0), step(0.5)]
    assert pool_steps(steps) == (pytest.approx(0.5), pytest.approx(0.75), "ok", None)
    assert pool_steps(steps, "min") == (0.2, pytest.approx(0.75), "ok", None)
    assert pool_steps([step(1.0)]).confidence is None


def test_half_of_the_steps_is_enough_and_less_is_the_first_failure():
    assert pool_steps([step(1.0), step()]).status == "ok"
    failed = pool_steps([step(1.0), step(status="timeout", reason="slow"), step(status="refusal", reason="no")])
    assert failed == (None, None, "timeout", "slow")
    with pytest.raises(ValueError, match="at least one step"):
        pool_steps([])
