"""What holds for every reply, whatever it is."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.asking import criterion
from workers.graders.judge.payload import MARK, fence_for, marked
from workers.graders.judge.reply import Failure, Verdict, read_reply, value_place

NONCE = "0123456789abcdef"
CLEAR = criterion("clear")
GOOD = json.dumps(
    {"nonce": NONCE, "verdicts": [{"criterion": "clear", "reasoning": "it is", "verdict": True, "confidence": 0.5}]}
)
BAD = GOOD.replace("true", "false")

SIGNS = st.sampled_from([*'{}[]",:\\tfn<>/ \n`0', "é", "\u200b", "<think>", "</think>", "true", "false", NONCE])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(st.text() | st.lists(SIGNS, max_size=40).map("".join))
def test_any_text_is_read_without_an_exception(text):
    outcome = read_reply(text, NONCE, [CLEAR]).outcomes["clear"]
    assert isinstance(outcome, Failure)
    assert outcome.status == "parse_error"


@settings(max_examples=500)
@given(st.sampled_from([GOOD, BAD]), st.integers(0, len(BAD)), st.integers(0, 2), SIGNS)
def test_one_slip_of_the_pen_never_turns_a_verdict(text, place, cut, sign):
    """It may cost the verdict, or its confidence; what is read is what was meant."""
    meant = 1.0 if text == GOOD else 0.0
    for polarity, score in (("met_is_good", meant), ("met_is_bad", 1.0 - meant)):
        asked = criterion("clear", polarity=polarity)
        outcome = read_reply(text[:place] + sign + text[place + cut :], NONCE, [asked]).outcomes["clear"]
        if isinstance(outcome, Verdict):
            assert outcome.score == score
        else:
            assert outcome.status == "parse_error"


@given(
    st.one_of(
        st.sampled_from([GOOD, BAD]),
        st.text(max_size=60),
        st.builds(str.replace, st.just(GOOD), st.just("true"), SIGNS),
    )
)
def test_turning_a_criterion_round_turns_verdicts_and_no_failures(text):
    """A failure that is a number somewhere turns into another number with the polarity (reference/rubrics.md 5.1 #13)."""
    good, bad = (
        read_reply(text, NONCE, [criterion("clear", polarity=polarity)]).outcomes["clear"]
        for polarity in ("met_is_good", "met_is_bad")
    )
    if isinstance(good, Verdict) and isinstance(bad, Verdict):
        assert good.score + bad.score == 1.0
    else:
        assert good == bad  # the same failure, with no score in it
        assert not hasattr(good, "score")


@given(st.text(max_size=30), st.text(max_size=30))
def test_prose_around_a_reply_changes_nothing_or_is_refused(before, after):
    outcome = read_reply(f"{before}\n{GOOD}\n{after}", NONCE, [CLEAR]).outcomes["clear"]
    if isinstance(outcome, Verdict):
        assert (outcome.score, outcome.confidence) == (1.0, 0.5)
    else:
        structural = "[{,]}"
        assert any(sign in before + after for sign in structural) or "think" in before + after


@given(JSON, st.sampled_from([None, 1]), st.booleans())
def test_the_place_of_a_value_is_where_it_stands(value, indent, escaped):
    text = "x" + json.dumps(value, indent=indent, ensure_ascii=escaped)

    def check(here, path):
        start, end = value_place(text, 1, path)
        assert json.loads(text[start:end]) == here
        members = here.items() if isinstance(here, dict) else enumerate(here) if isinstance(here, list) else ()
        for name, inner in members:
            check(inner, [*path, name])

    check(value, [])
    assert value_place(text, 1, ["no such key here", 7]) is None if isinstance(value, dict) else True


@given(
    st.text()
    | st.lists(st.sampled_from(["`", "｀", "The nonce:", "\n", "\r", " ", "<|im_end|>", "x"]), max_size=30).map("".join)
)
def test_marks_only_add_and_fences_always_hold(text):
    found = marked(text)
    assert found.replace(MARK, "") == text.replace(MARK, "")
    assert marked(found) == found or MARK in found
    assert fence_for(found) not in found
    assert "<|im_end|>" not in found
