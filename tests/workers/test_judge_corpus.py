"""Replies as judges give them, each with what has to become of it: data/judge_replies.jsonl, over real sockets.

`NONCE` stands for the question's nonce. Every reply is about the criterion `clear`; `scale` is boolean where nothing is said.
"""

import json
from pathlib import Path

import pytest

from tests.support.asking import criterion, grade
from tests.support.judge import FakeJudge

LINES = Path(__file__).with_name("data").joinpath("judge_replies.jsonl").read_text().splitlines()
CORPUS = [json.loads(line) for line in LINES]
LEVELS = [
    {"label": "poor", "value": 0, "anchor": "bad"},
    {"label": "fair", "value": 0.5, "anchor": "neither"},
    {"label": "good", "value": 1, "anchor": "good"},
]
SCALES = {"boolean": {"type": "boolean"}, "unit": {"type": "unit"}, "ordinal": {"type": "ordinal", "levels": LEVELS}}


@pytest.fixture(scope="module")
def judge():
    """One endpoint for all of them."""
    with FakeJudge() as fake:
        yield fake


def text_of(reply, nonce):
    if reply is None:
        return None
    parts = [reply] if isinstance(reply, str) else reply
    text = "".join(part if isinstance(part, str) else part["repeat"] * part["times"] for part in parts)
    for name, value in (("NONCE_UPPER", nonce.upper() + "X"), ("NONCE_SHORT", nonce[:-1]), ("NONCE", nonce)):
        text = text.replace(name, value)
    return text


def respond(row):
    def answer(question):
        message = {"role": "assistant", "content": text_of(row["reply"], question.nonce), **row.get("message", {})}
        return 200, {}, {"choices": [{"message": message, "finish_reason": row.get("finish_reason", "stop")}]}

    return answer


def test_the_corpus_is_large_and_mostly_malformed():
    assert sum(row["status"] != "ok" for row in CORPUS) >= 40
    assert {row["status"] for row in CORPUS} == {"ok", "abstain", "parse_error", "refusal", "judge_truncated"}


@pytest.mark.parametrize("row", CORPUS, ids=lambda row: row["name"])
def test_every_reply_is_what_was_asked_or_a_named_failure(judge, row):
    judge.answer = respond(row)
    judge.questions.clear()
    cell = grade(judge, [criterion(scale=SCALES[row.get("scale", "boolean")])])["clear"]
    assert cell.status == row["status"], cell.reason
    assert (cell.score, cell.confidence) == (row.get("score"), row.get("confidence"))
    if cell.status != "ok":
        assert cell.reason
        assert cell.family == "subject"
    assert len(judge.questions) == 1, "a subject failure is never asked again"
    for text in (cell.reason, cell.reasoning):
        assert "\x00" not in (text or "")
        (text or "").encode()  # Postgres takes neither NUL nor half a surrogate


FAILED = [row for row in CORPUS if row["status"] != "ok" and "scale" not in row]


@pytest.mark.parametrize("row", FAILED, ids=lambda row: row["name"])
def test_a_failure_is_the_same_for_what_is_bad_when_met(judge, row):
    """A failure default would be a reward on a penalty (reference/rubrics.md 5.1 #2)."""
    judge.answer = respond(row)
    cell = grade(judge, [criterion(polarity="met_is_bad")])["clear"]
    assert (cell.status, cell.score, cell.confidence) == (row["status"], None, None)
