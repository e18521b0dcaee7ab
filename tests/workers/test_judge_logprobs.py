"""Confidence from answer tokens. Expected numbers: reference/rubrics.md §3.5 and the two formulas of api.md, by hand."""

import math

import pytest

from tests.support.asking import criterion, grade
from tests.support.judge import completion, spoken, verdict
from workers.graders.judge.expectation import expectation

FIVE = {"type": "ordinal", "levels": [{"label": str(k), "value": (k - 1) / 4} for k in range(1, 6)]}
WORDS = {
    "type": "ordinal",
    "levels": [
        {"label": "very bad", "value": 0}, {"label": "very good", "value": 1}, {"label": "fair", "value": 0.5},
    ],
}  # fmt: skip


def said(question, *verdict_tokens, before='"'):
    """A whole reply of which the verdict's tokens are given; everything before ends with `"verdict`."""
    head = f'{{"nonce": "{question.nonce}", "verdicts": [{{"criterion": "clear", "reasoning": "it is 5", "verdict'
    return spoken(head, before, *verdict_tokens, ', "confidence": 0.9}]}')


def ask(judge, answer, scale=None, **config):
    judge.answer = answer
    changes = {"scale": scale} if scale else {}
    return grade(judge, [criterion(**changes)], config={"confidence": "logprob", **config})["clear"]


def test_the_golden_case(judge):
    """p(3, 4, 5) = .1, .6, .3: mean 4.2, on 1..5 that is .8; K = 5: (5·.6 − 1)/4 = .5."""
    cell = ask(judge, lambda q: said(q, ": ", '"', ("4", {"3": 0.1, "4": 0.6, "5": 0.3}), '"'), FIVE)
    assert (cell.status, cell.confidence_source) == ("ok", "logprob")
    assert cell.score == pytest.approx(0.8, abs=1e-12)
    assert cell.confidence == pytest.approx(0.5, abs=1e-12)
    (question,) = judge.questions
    assert (question.body["logprobs"], question.body["top_logprobs"]) == (True, 20)


@pytest.mark.parametrize(("polarity", "score"), [("met_is_good", 0.75), ("met_is_bad", 0.25)])
def test_booleans_turn_with_their_polarity(judge, polarity, score):
    """p(true) = .75: K = 2, confidence 2·.75 − 1 = .5 under either polarity."""
    judge.answer = lambda q: said(q, ":", (" true", {" true": 0.75, " false": 0.25}))
    cell = grade(judge, [criterion(polarity=polarity)], config={"confidence": "logprob"})["clear"]
    assert (cell.score, cell.confidence) == (pytest.approx(score), pytest.approx(0.5))


def test_what_is_no_answer_does_not_count(judge):
    """Of .6 + .2 + .1 (null) + .1 (True) only .6 and .2 are answers: .75 and .25."""
    others = {" true": 0.6, " false": 0.2, " null": 0.1, " True": 0.1}
    cell = ask(judge, lambda q: said(q, ":", (" true", others)))
    assert (cell.score, cell.confidence) == (pytest.approx(0.75), pytest.approx(0.5))


def test_the_verdicts_own_token_is_meant_and_not_an_earlier_one(judge):
    """The reasoning says true and false with other probabilities, the confidence holds digits."""

    def answer(question):
        head = f'{{"nonce": "{question.nonce}", "verdicts": [{{"criterion": "other", "verdict":'
        return spoken(
            head, (" false", {" false": 0.9, " true": 0.1}), '}, {"criterion": "clear", "reasoning": "',
            ("true", {"true": 0.6, "false": 0.4}), ' \\"verdict\\": false", "verdict', '":', (" true", {" true": 0.8, " false": 0.2}),
            ', "confidence": 0.', "5", "}]}",
        )  # fmt: skip

    cell = ask(judge, answer)
    assert (cell.score, cell.confidence) == (pytest.approx(0.8), pytest.approx(0.6))
    assert cell.unasked == 1


@pytest.mark.parametrize(
    ("tokens", "before"),
    [
        ([": ", '"', ("4", {"3": 0.1, "4": 0.6, "5": 0.3}), '"'], '"'),
        ([('": "4', {'": "3': 0.1, '": "4': 0.6, '": "5': 0.3}), '"'], ""),
        ([":", (' "4"', {' "3"': 0.1, ' "4"': 0.6, ' "5"': 0.3})], '"'),
        ([": ", ('"4', {'"3': 0.1, '"4': 0.6, '"5': 0.3}), '"'], '"'),
        (["  :\n  ", '"', ("4", {"3": 0.1, "4": 0.6, "5": 0.3}), '"'], '"'),
    ],
)
def test_however_the_tokens_fall(judge, tokens, before):
    cell = ask(judge, lambda q: said(q, *tokens, before=before) if before else said(q, *tokens, before=""), FIVE)
    assert (cell.score, cell.confidence) == (pytest.approx(0.8), pytest.approx(0.5))


def test_labels_of_several_tokens_are_followed(judge):
    """p(very) = .8, then p(good | very) = .75: good .6, bad .2, fair .2. Score .6·1 + .2·.5 = .7; (3·.6 − 1)/2 = .4."""
    tokens = [': "', ("very", {"very": 0.8, "fair": 0.2}), (" good", {" good": 0.75, " bad": 0.25}), '"']
    cell = ask(judge, lambda q: said(q, *tokens), WORDS)
    assert (cell.score, cell.confidence) == (pytest.approx(0.7), pytest.approx(0.4))


def test_a_label_that_begins_another_is_told_apart_by_what_follows(judge):
    levels = [{"label": "good", "value": 0.5}, {"label": "good enough", "value": 0}, {"label": "bad", "value": 1}]
    tokens = [': "', ("good", {"good": 1.0}), ('"', {'"': 0.9, " enough": 0.1})]
    cell = ask(judge, lambda q: said(q, *tokens), {"type": "nominal", "levels": levels})
    assert cell.score == pytest.approx(0.45)
    assert cell.confidence == pytest.approx((3 * 0.9 - 1) / 2)


def test_what_may_be_either_label_is_no_distribution(judge):
    """The judge said fair; 30 % went to a token that begins two labels, and nothing says how they share it."""
    tokens = [': "', ("fair", {"fair": 0.7, "very": 0.3}), '"']
    cell = ask(judge, lambda q: said(q, *tokens), WORDS)
    assert (cell.status, cell.score, cell.confidence, cell.confidence_source) == ("ok", 0.5, None, None)
    assert "labels that begin differently" in cell.reason


def test_labels_beyond_ascii(judge):
    levels = [{"label": "schön", "value": 1}, {"label": "schade", "value": 0}]
    tokens = [': "', ("sch", {"sch": 1.0}), ("ön", {"ön": 0.9, "ade": 0.1}), '"']
    cell = ask(judge, lambda q: said(q, *tokens), {"type": "nominal", "levels": levels})
    assert (cell.score, cell.confidence) == (pytest.approx(0.9), pytest.approx(0.8))


def test_a_character_that_is_cut_between_tokens():
    """Byte-level tokens: 好 and 坏 differ from their first byte on; the text of half a character says nothing."""
    scale = {"type": "nominal", "levels": [{"label": "好", "value": 1}, {"label": "坏", "value": 0}]}
    text = '{"verdict": "好"}'

    def entry(raw, p, *others):
        top = [{"token": "?", "bytes": list(b), "logprob": math.log(q)} for b, q in ((raw, p), *others)]
        return {**top[0], "top_logprobs": top}

    good, bad = "好".encode(), "坏".encode()
    entries = [
        entry(b'{"verdict": "', 1.0),
        entry(good[:1], 0.7, (bad[:1], 0.3)) if good[:1] != bad[:1] else entry(good[:1], 1.0),
        entry(good[1:], 0.7, (bad[1:], 0.3)) if good[:1] == bad[:1] else entry(good[1:], 1.0),
        entry(b'"}', 1.0),
    ]
    start = text.index('"好"')
    found = expectation(criterion(scale=scale), text, (start, start + 3), entries)
    assert found.score == pytest.approx(0.7)


def test_an_endpoint_without_logprobs_scores_by_its_verdict_and_says_so(judge):
    cell = ask(judge, lambda q: verdict(q, True, 0.9))
    assert (cell.status, cell.score, cell.confidence, cell.confidence_source) == ("ok", 1.0, None, None)
    assert cell.reason == "no confidence: the endpoint gave no log-probabilities"


def test_an_endpoint_that_refuses_logprobs_is_asked_without_and_not_again_with(judge):
    judge.refuses = ("logprobs",)
    cells = grade(judge, [criterion(f"k{n}") for n in range(4)], config={"confidence": "logprob", "votes": 2})
    assert {(c.status, c.score, c.confidence) for c in cells.values()} == {("ok", 1.0, None)}
    assert len(judge.questions) == 8
    assert "logprobs" not in judge.questions[0].body
    judge.refuses = ("logprobs",)
    judge.refused.clear()
    first, second = (grade(judge, [criterion()], config={"confidence": "logprob"})["clear"] for _ in range(2))
    assert judge.refused == ["logprobs"] * 2  # each grade() here is a worker process of its own
    assert first.attempts - first.votes == second.attempts - second.votes == 1


@pytest.mark.parametrize(
    "entries",
    [
        [], [{}], [{"token": "x", "logprob": 0.0}], [{"token": None, "logprob": 0}], "nonsense", [None],
        [{"token": "x", "logprob": "high"}],
    ],
)  # fmt: skip
def test_log_probabilities_that_cannot_be_read_leave_the_verdict(judge, entries):
    cell = ask(judge, lambda q: completion(verdict(q, False), logprobs=entries))
    assert (cell.status, cell.score, cell.confidence) == ("ok", 0.0, None)
    assert cell.reason.startswith("no confidence: ")


def test_probabilities_above_one_are_taken_as_one(judge):
    def answer(question):
        status, headers, body = said(question, ":", (" true", {" true": 0.5, " false": 0.5}))
        for token in body["choices"][0]["logprobs"]["content"]:
            token["logprob"] = 5.0
        return status, headers, body

    cell = ask(judge, answer)
    assert (cell.score, cell.confidence) == (pytest.approx(1 / 1.5), pytest.approx(2 / 1.5 - 1))


def test_a_number_has_no_few_answers(judge):
    cell = ask(judge, lambda q: said(q, ":", (" 0.5", {" 0.5": 0.5, " 0.6": 0.5})), {"type": "unit"})
    assert (cell.score, cell.confidence) == (0.5, None)
    assert "number" in cell.reason


def test_votes_are_averaged(judge):
    """Scores .75 and .25, confidences both .5; unbiased variance (.25² + .25²)/1 = .125."""
    shares = iter([0.75, 0.25])

    def answer(question):
        p = next(shares)
        token = " true" if p > 0.5 else " false"
        return said(question, ":", (token, {" true": p, " false": 1 - p}))

    cell = ask(judge, answer, votes=2)
    assert (cell.score, cell.confidence, cell.vote_variance) == tuple(map(pytest.approx, (0.5, 0.5, 0.125)))


def test_such_a_criterion_is_asked_alone_even_in_a_batch(judge):
    asked = [criterion("a"), criterion("b", grader={"confidence": "logprob"}), criterion("c")]
    cells = grade(judge, asked, config={"batch": 3})
    assert sorted(q.criteria for q in judge.questions) == [["a", "c"], ["b"]]
    assert [q.body.get("logprobs") for q in sorted(judge.questions, key=lambda q: q.criteria)] == [None, True]
    assert cells["b"].confidence is None
