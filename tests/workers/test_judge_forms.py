"""The form of a reply as a schema: sent where it works, left out where it does not, never a reason for a second verdict."""

import json

import jsonschema
import pytest

from tests.support.asking import criterion, grade, grade_all
from tests.support.judge import completion, verdict
from workers.graders.judge.cell import fingerprint
from workers.graders.judge.prompt import _text
from workers.graders.judge.schema import response_format

LEVELS = [{"label": "poor", "value": 0}, {"label": "good", "value": 1}]
ALL = [
    criterion("clear"),
    criterion("tone", scale={"type": "ordinal", "levels": LEVELS}),
    criterion("depth", scale={"type": "unit"}),
]
AUTO = {"structured_output": "auto"}
FINE = {"clear": True, "tone": "good", "depth": 0.5}


def schema_of(criteria):
    return response_format(criteria)["json_schema"]["schema"]


def reply(verdicts, **changes):
    entries = [{"criterion": k, "reasoning": "r", "verdict": v, "confidence": 0.5} for k, v in verdicts.items()]
    return {"nonce": "n", "verdicts": entries, **changes}


def valid(value, criteria=ALL):
    return jsonschema.Draft202012Validator(schema_of(criteria)).is_valid(value)


def test_the_schema_is_what_the_reader_accepts():
    assert valid(reply(FINE))
    assert valid(reply(dict.fromkeys(FINE)))
    assert valid({"nonce": "n", "verdicts": [{**reply({"clear": True})["verdicts"][0], "confidence": None}]})
    for wrong in (
        {**FINE, "clear": "true"}, {**FINE, "clear": 1}, {**FINE, "tone": "great"}, {**FINE, "tone": True},
        {**FINE, "depth": "0.5"}, {**FINE, "other": True},
    ):  # fmt: skip
        assert not valid(reply(wrong)), wrong
    assert not valid(reply(FINE, note="x"))
    assert not valid({"verdicts": reply(FINE)["verdicts"]})


@pytest.mark.parametrize("criteria", [ALL, ALL[:1], ALL[1:2]])
def test_the_schema_asks_for_exactly_the_fields_that_the_question_names(criteria):
    """A field that the prompt never asked for made every verdict an abstention elsewhere (reference/rubrics.md 5.1 #9)."""
    request = _text("judge_request_2")
    top, entry = (json_keys(line) for line in request.splitlines() if line.startswith("{"))
    schema = schema_of(criteria)
    items = schema["properties"]["verdicts"]["items"]
    for found, names in [(schema, top), *((one, entry) for one in items.get("anyOf", [items]))]:
        assert list(found["properties"]) == found["required"] == names
        assert found["additionalProperties"] is False
    assert list(schema["properties"]) == ["nonce", "verdicts"]


def json_keys(line):
    import re

    return re.findall(r'"(\w+)":', line)


def test_the_nonce_is_not_in_the_schema(judge):
    """One grammar for all questions of a criterion, and a reply still has to have read the question."""
    grade_all(judge, [criterion()], ["a", "b"], {"structured_output": "on"})
    first, second = (q.body["response_format"] for q in judge.questions)
    assert first == second
    assert judge.questions[0].nonce not in json.dumps(first)


@pytest.mark.parametrize(("mode", "sent"), [("off", False), ("on", True), ("auto", True)])
def test_the_schema_is_sent_as_the_judge_says(judge, mode, sent):
    cell = grade(judge, [criterion()], config={"structured_output": mode})["clear"]
    assert cell.status == "ok"
    assert ("response_format" in judge.questions[0].body) == sent
    assert cell.reply_format == ("json_schema" if sent else "text")


def test_how_it_was_asked_is_part_of_the_fingerprint(judge):
    prints = set()
    for mode in ("off", "on", "auto"):
        cell = grade(judge, [criterion()], config={"structured_output": mode})["clear"]
        prints.add(cell.fingerprint)
    assert len(prints) == 3
    config = config_of(judge, structured_output="auto")
    assert fingerprint(config, "text") == config.fingerprint != fingerprint(config, "json_schema")


def config_of(judge, **changes):
    from service.domain.judge import JudgeConfig

    return JudgeConfig.model_validate({"endpoint": {"base_url": judge.base_url, "model": "m"}, **changes})


def test_an_endpoint_that_refuses_it_is_asked_as_text_from_then_on(judge):
    judge.refuses = ("response_format",)
    cells = [row["clear"] for row in grade_all(judge, [criterion()], ["a"] * 6, AUTO, in_turn=True)]
    assert {(cell.status, cell.reply_format) for cell in cells} == {("ok", "text")}
    assert judge.refused == ["response_format"]
    assert [cell.attempts for cell in cells] == [2, 1, 1, 1, 1, 1]


def test_one_schema_that_is_refused_says_nothing_about_the_others(judge):
    def answer(question):
        if "response_format" in question.body and "bad" in question.criteria:
            return 400, {}, {"error": "Invalid schema for response_format"}
        return verdict(question)

    judge.answer = answer
    (first, second) = grade_all(judge, [criterion("fine"), criterion("bad")], ["a", "b"], AUTO, in_turn=True)
    for row in (second,):
        assert {k: (c.status, c.reply_format) for k, c in row.items()} == {
            "fine": ("ok", "json_schema"), "bad": ("ok", "text"),
        }  # fmt: skip
    assert {cell.status for cell in first.values()} == {"ok"}


@pytest.mark.parametrize("status", [400, 404, 422, 501])
def test_a_refusal_without_a_name_counts_while_nothing_is_known(judge, status):
    judge.answer = lambda q: (status, {}, {"error": "bad request"}) if "response_format" in q.body else verdict(q)
    cell = grade(judge, [criterion()], config=AUTO, limits={"max_attempts": 1})["clear"]
    assert (cell.status, cell.reply_format, cell.attempts) == ("ok", "text", 2)


def test_a_refusal_that_is_not_about_the_form_stays_what_it_is(judge):
    judge.answer = lambda q: (400, {}, {"error": "no such model"})
    cell = grade(judge, [criterion()], config=AUTO)["clear"]
    assert (cell.status, cell.attempts) == ("infra_error", 2)
    assert "no such model" in cell.reason
    judge.questions.clear()
    judge.answer = lambda q: (401, {}, {"error": "key"})
    assert grade(judge, [criterion()], config=AUTO)["clear"].attempts == 1


def test_on_means_on(judge):
    judge.refuses = ("response_format",)
    cell = grade(judge, [criterion()], config={"structured_output": "on"})["clear"]
    assert (cell.status, cell.family, cell.attempts) == ("infra_error", "infra", 1)
    assert "structured_output to 'auto' or 'off'" in cell.reason


def test_an_empty_reply_to_a_schema_is_asked_once_as_text(judge):
    """Long inputs empty some endpoints' structured replies (reference/rubrics.md 5.1 #8)."""
    judge.answer = lambda q: completion("") if "response_format" in q.body else verdict(q)
    cell = grade(judge, [criterion()], config=AUTO)["clear"]
    assert (cell.status, cell.score, cell.reply_format) == ("ok", 1.0, "text")
    assert (cell.attempts, cell.tokens_in) == (2, 14)
    assert ["response_format" in q.body for q in judge.questions] == [True, False]


def test_an_empty_reply_to_text_is_final(judge):
    judge.answer = lambda q: completion("")
    cell = grade(judge, [criterion()], config=AUTO)["clear"]
    assert (cell.status, len(judge.questions)) == ("parse_error", 2)
    judge.questions.clear()
    assert grade(judge, [criterion()], config={"structured_output": "off"})["clear"].status == "parse_error"
    assert len(judge.questions) == 1


@pytest.mark.parametrize("content", ["nonsense", "{}", '{"nonce": "x", "verdicts": []}'])
def test_a_malformed_reply_to_a_schema_is_never_asked_again(judge, content):
    judge.answer = lambda q: content
    assert grade(judge, [criterion()], config=AUTO)["clear"].status == "parse_error"
    assert len(judge.questions) == 1


@pytest.mark.parametrize(
    ("answer", "status"), [(completion(None, refusal="no"), "refusal"), (completion("{", "length"), "judge_truncated")]
)
def test_neither_is_a_refusal_nor_a_truncated_one(judge, answer, status):
    judge.answer = lambda q: answer
    assert grade(judge, [criterion()], config=AUTO)["clear"].status == status
    assert len(judge.questions) == 1


def test_an_endpoint_that_leaves_most_replies_empty_is_no_longer_asked_with_a_schema(judge):
    """Three of four empty: after eight looks it is asked as text alone; every cell is ok all along."""
    seen = []

    def answer(question):
        if "response_format" not in question.body:
            return verdict(question)
        seen.append(question)
        return verdict(question) if len(seen) % 4 == 0 else completion("")

    judge.answer = answer
    cells = [row["clear"] for row in grade_all(judge, [criterion()], ["a"] * 24, AUTO, in_turn=True)]
    assert {cell.status for cell in cells} == {"ok"}
    assert len(seen) == 8
    assert [cell.reply_format for cell in cells[8:]] == ["text"] * 16


# --- sampling parameters ---


def test_sampling_is_sent_under_its_own_names_and_nulls_are_not(judge):
    sampling = {"max_completion_tokens": 500, "reasoning_effort": "low", "seed": 7}
    grade(judge, [criterion()], config={"sampling": sampling})
    body = judge.questions[0].body
    assert {k: body[k] for k in sampling} == sampling
    assert not {"temperature", "max_tokens", "top_p"} & set(body)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("temperature", "sampling.temperature to null"),
        ("max_tokens", "sampling.max_tokens to null and sampling.max_completion_tokens"),
        ("seed", "sampling.seed to null"),
    ],
)
def test_a_parameter_that_the_model_does_not_take_is_named_with_what_to_do(judge, name, advice):
    judge.refuses = (name,)
    cell = grade(judge, [criterion()], config={"sampling": {"seed": 1}})["clear"]
    assert (cell.status, cell.family, cell.attempts) == ("infra_error", "infra", 1)
    assert advice in cell.reason
