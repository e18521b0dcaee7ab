"""What a judge can be asked for, from the request to the cells that are stored: batches, examples, schemas, tokens, steps."""

import json

import pytest

from service.client import ApiError
from tests.support.gradings import cell, grade
from tests.support.judge import spoken, verdict

LEVELS = [{"label": "poor", "value": 0}, {"label": "fair", "value": 0.5}, {"label": "good", "value": 1}]
EXAMPLE = {"prompt": "q", "answer": "a", "criterion": "says", "verdict": True, "reasoning": "for example"}


def test_batches_examples_references_and_a_schema_that_the_endpoint_refuses(bench, judge, api):
    def answer(question):
        verdicts = [
            {"criterion": "tone", "reasoning": "t", "verdict": "fair", "confidence": 0.5},
            {"criterion": "says", "reasoning": "s", "verdict": "7" in question.answer, "confidence": 0.9},
            {"criterion": "made up", "verdict": True},
        ]
        return json.dumps({"nonce": question.nonce, "verdicts": verdicts})

    judge.answer, judge.refuses = answer, ("response_format",)
    judge_id = bench.judge(judge, batch=8, examples=[EXAMPLE], concurrency=1)
    rubric = bench.rubric(
        bench.judged(judge_id, "says", text="says {{ prompt.reference }}"),
        bench.judged(judge_id, "tone", scale={"type": "ordinal", "levels": LEVELS}),
    )
    texts = [{"prompt": {"prompt": "3 + 4?", "reference": "seven"}, "text": text} for text in ("7", "", "8")]
    _, rows = grade(api, {"rubric": {"id": rubric}, "texts": texts})
    assert [(cell(row, "says")["score"], cell(row, "tone")["score"]) for row in rows] == [(1, 0.5), (0, 0.5), (0, 0.5)]
    assert {c["reply_format"] for row in rows for c in row["cells"]} == {"text"}
    assert [sum(c["unasked"] for c in row["cells"]) for row in rows] == [1, 1, 1]
    assert sum(c["tokens_in"] for row in rows for c in row["cells"]) == 3 * 7
    assert len(judge.questions) == 3
    assert judge.refused
    for question in judge.questions:
        assert sorted(question.criteria) == ["says", "tone"]
        assert '- criterion "says": says seven\n' in question.text
        assert "for example" in question.body["messages"][0]["content"]
    assert sum("The answer is empty" in question.text for question in judge.questions) == 1


def test_confidence_from_tokens_and_a_schema_that_works(bench, judge, api):
    """p = .1, .6, .3 on 0, ½, 1: score .6; K = 3: (3·.6 − 1)/2 = .4."""

    def answer(question):
        head = f'{{"nonce": "{question.nonce}", "verdicts": [{{"criterion": "tone", "reasoning": "r", "verdict": "'
        return spoken(head, ("fair", {"poor": 0.1, "fair": 0.6, "good": 0.3}), '", "confidence": null}]}')

    judge.answer = answer
    rubric = bench.rubric(
        bench.judged(bench.judge(judge, confidence="logprob"), "tone", scale={"type": "ordinal", "levels": LEVELS})
    )
    _, (row,) = grade(api, {"rubric": {"id": rubric}, "texts": [{"prompt": "p", "text": "x"}]})
    tone = cell(row, "tone")
    assert (tone["score"], tone["confidence"]) == (pytest.approx(0.6), pytest.approx(0.4))
    assert (tone["confidence_source"], tone["reply_format"]) == ("logprob", "json_schema")
    body = judge.questions[0].body
    assert body["logprobs"]
    labels = body["response_format"]["json_schema"]["schema"]["properties"]["verdicts"]["items"]["properties"][
        "verdict"
    ]
    assert labels["enum"] == ["poor", "fair", "good", None]


def test_steps_are_stored_with_their_places(bench, judge, api):
    judge.answer = lambda q: "what?" if "bad" in q.answer else verdict(q, "fox" in q.answer, 0.5, f"on {q.answer}")
    step = bench.judged(bench.judge(judge), "steps", scope="step")
    finds = {
        "key": "finds",
        "weight": 1,
        "scope": "step",
        "step_pooling": "min",
        "grader": {"type": "regex", "pattern": "fox"},
    }
    text = "A fox.\n\nA hen.\n\nA bad step."
    _, (row,) = grade(api, {"rubric": {"id": bench.rubric(step, finds)}, "texts": [{"prompt": "p", "text": text}]})
    found = cell(row, "steps")
    assert (found["status"], found["score"], found["confidence"]) == ("ok", 0.5, 0.5)
    assert [(text[s["start"] : s["end"]].strip(), s["status"], s["score"]) for s in found["steps"]] == [
        ("A fox.", "ok", 1.0), ("A hen.", "ok", 0.0), ("A bad step.", "parse_error", None),
    ]  # fmt: skip
    assert found["reasoning"] == "Step 1: on A fox.\n\nStep 2: on A hen."
    assert cell(row, "finds")["score"] == 0.0
    assert [s["score"] for s in cell(row, "finds")["steps"]] == [1.0, 0.0, 0.0]
    assert row["plain_reward"] == 0.25


def test_a_prompt_without_what_the_judge_is_told_to_look_for_is_refused_at_once(bench, judge, api):
    rubric = bench.rubric(bench.judged(bench.judge(judge), text="says {{ prompt.reference }}"))
    with pytest.raises(ApiError, match="the prompt has no 'reference'") as caught:
        api.post("/v1/gradings", {"rubric": {"id": rubric}, "texts": [{"prompt": "p", "text": "x"}]})
    assert caught.value.status == 422
    assert judge.questions == []
    with pytest.raises(ApiError, match="cannot stand in what a judge is asked"):
        bench.rubric(bench.judged(bench.judge(judge), text="is like {{ completion.text }}"))
