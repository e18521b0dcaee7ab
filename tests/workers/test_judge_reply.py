"""A judge's reply is exactly what was asked, or a named failure: nothing is repaired, clamped or guessed."""

import json

import pytest

from service.domain.rubric import Criterion
from workers.graders.judge.reply import Failure, Verdict, read_reply

JUDGE = {"type": "judge", "judge": "jdg_1"}
NONCE = "a1b2c3"
LEVELS = [
    {"label": "poor", "value": 0, "anchor": "bad"},
    {"label": "fair", "value": 0.5},
    {"label": "good", "value": 1},
]


def criterion(key="clear", **changes):
    return Criterion.model_validate({"key": key, "weight": 1, "text": "t", "grader": JUDGE, **changes})


BOOLEAN = criterion()
UNIT = criterion(scale={"type": "unit"})
ORDINAL = criterion(scale={"type": "ordinal", "levels": LEVELS})


def entry(**changes):
    return {"criterion": "clear", "reasoning": "r", "verdict": True, "confidence": 0.5, **changes}


def reply(*entries, nonce=NONCE, **more):
    return json.dumps({"nonce": nonce, "verdicts": list(entries) or [entry()], **more})


def read(text, asked=BOOLEAN):
    return read_reply(text, NONCE, [asked]).outcomes["clear"]


ACCEPTED = {
    "plain": reply(),
    "byte order mark": "\ufeff" + reply(),
    "white space": f"\n\n  {reply()}  \n",
    "labelled fence": f"```json\n{reply()}\n```",
    "bare fence": f"```\n{reply()}\n```",
    "prose around": f"Here is my verdict:\n{reply()}\nI hope this helps.",
    "thinking first": f"<think>maybe {reply(entry(verdict=False))}</think>\n{reply()}",
    "a decoy without the nonce": f"{reply(entry(verdict=False), nonce='zzz')}\n{reply()}",
    "broken braces before": f"{{ not json }} {reply()}",
    "an unasked criterion": reply(entry(), entry(criterion="other", verdict=False)),
    "more keys": reply(note="fine"),
    "no reasoning": json.dumps(
        {"nonce": NONCE, "verdicts": [{"criterion": "clear", "verdict": True, "confidence": 0.5}]}
    ),
    "escapes": reply(entry(reasoning='a "quoted" {brace} \\ and é')),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name):
    found = read(ACCEPTED[name])
    assert isinstance(found, Verdict), found
    assert (found.score, found.confidence) == (1.0, 0.5)


REJECTED = {
    "empty object": "{}",
    "no json": "The answer is good. Score: 1.0",
    "a number": "1",
    "no nonce": json.dumps({"verdicts": [entry()]}),
    "wrong nonce": reply(nonce="000000"),
    "two with the nonce": reply() + reply(entry(verdict=False)),
    "the nonce as a number": json.dumps({"nonce": 1, "verdicts": [entry()]}),
    "truncated": reply()[:-9],
    "single quotes": reply().replace('"', "'"),
    "smart quotes": reply().replace('"', "“"),
    "trailing comma": reply().replace("}]}", "},]}"),
    "NaN": reply().replace("0.5", "NaN"),
    "Infinity": reply().replace("0.5", "Infinity"),
    "a key twice": reply().replace('"verdict": true', '"verdict": true, "verdict": false'),
    "an invalid escape": reply(entry(reasoning="x")).replace('"x"', '"\\$"'),
    "unfinished thinking": f"<think>{reply()}",
    "verdicts is an object": json.dumps({"nonce": NONCE, "verdicts": {"clear": True}}),
    "verdicts of strings": json.dumps({"nonce": NONCE, "verdicts": ["clear"]}),
    "another criterion": reply(entry(criterion="other")),
    "by position": json.dumps({"nonce": NONCE, "verdicts": [{"verdict": True, "confidence": 0.5}]}),
    "the criterion twice": reply(entry(), entry()),
    "verdict missing": json.dumps({"nonce": NONCE, "verdicts": [{"criterion": "clear", "confidence": 0.5}]}),
    "verdict as a string": reply(entry(verdict="true")),
    "verdict as a number": reply(entry(verdict=1)),
    "verdict as yes": reply(entry(verdict="yes")),
}


@pytest.mark.parametrize("name", REJECTED)
def test_rejected(name):
    found = read(REJECTED[name])
    assert isinstance(found, Failure), found
    assert found.status == "parse_error"
    assert found.reason


@pytest.mark.parametrize("value", ["4/5", "80%", 80, 1.2, -0.1, True, "0.5", [0.5]])
def test_numbers_out_of_form_are_never_clamped(value):
    assert read(reply(entry(verdict=value)), UNIT).status == "parse_error"


@pytest.mark.parametrize("value", [0, 1, 0.25])
def test_units(value):
    assert read(reply(entry(verdict=value)), UNIT).score == value


@pytest.mark.parametrize(("label", "score"), [("poor", 0), ("fair", 0.5), ("good", 1)])
def test_labels(label, score):
    assert read(reply(entry(verdict=label)), ORDINAL).score == score


@pytest.mark.parametrize("label", ["Good", "great", "good ", 2, True])
def test_labels_off_the_menu(label):
    assert read(reply(entry(verdict=label)), ORDINAL).status == "parse_error"


def test_null_is_an_abstention():
    found = read(reply(entry(verdict=None, reasoning="no idea")))
    assert (found.status, found.reason, found.reasoning) == ("abstain", "no idea", "no idea")


@pytest.mark.parametrize("value", ["high", 1.5, -1, None, True, "0.9"])
def test_a_bad_confidence_keeps_the_score(value):
    found = read(reply(entry(confidence=value)))
    assert (found.score, found.confidence) == (1.0, None)


def test_polarity_turns_booleans():
    bad = criterion(polarity="met_is_bad")
    assert read(reply(entry(verdict=True)), bad).score == 0.0
    assert read(reply(entry(verdict=False)), bad).score == 1.0


def test_several_criteria_fail_alone():
    asked = [BOOLEAN, criterion("short"), criterion("warm")]
    text = reply(entry(), entry(criterion="short", verdict="perhaps"))
    found = read_reply(text, NONCE, asked).outcomes
    assert isinstance(found["clear"], Verdict)
    assert found["short"].status == "parse_error"
    assert found["warm"].status == "parse_error"
