"""Judges as values: what a stored revision means never changes, and what decides a verdict decides the fingerprint."""

import pytest
from pydantic import ValidationError

from service.domain.base import content_hash
from service.domain.criteria import criteria_of, needs_of
from service.domain.judge import JudgeConfig
from service.domain.rubric import RubricContent
from service.grader_checks import grader_faults

STORED = {
    "endpoint": {"base_url": "http://h/v1", "model": "m"},
    "sampling": {"temperature": 0.0, "top_p": None, "max_tokens": 1024, "seed": None},
    "prompt": {"system": "strict"},
    "votes": 1,
    "confidence": "verbal",
}
"""A revision as release 0.1 stored it."""


def test_a_stored_revision_means_what_it_meant():
    config = JudgeConfig.model_validate(STORED)
    assert (config.prompt.version, config.structured_output, config.batch, config.examples) == (1, "off", 1, [])
    assert config.fingerprint == content_hash(STORED)[:16]  # what release 0.1 computed
    assert JudgeConfig.model_validate(config.model_dump(mode="json")) == config


CHANGES = [
    {"endpoint": {"base_url": "http://h2/v1", "model": "m"}},
    {"endpoint": {"base_url": "http://h/v1", "model": "m2"}},
    {"endpoint": None, "model": "mdl_1"},
    {"sampling": {"temperature": 0.7}},
    {"sampling": {"temperature": None}},
    {"sampling": {"top_p": 0.5}},
    {"sampling": {"max_tokens": 2048}},
    {"sampling": {"seed": 1}},
    {"sampling": {"max_completion_tokens": 1024}},
    {"sampling": {"reasoning_effort": "low"}},
    {"prompt": {"system": "mild"}},
    {"prompt": {"system": "strict", "version": 2}},
    {"examples": [{"prompt": "q", "answer": "a", "verdict": True}]},
    {"examples": [{"prompt": "q", "answer": "a", "verdict": False}]},
    {"votes": 3},
    {"confidence": "none"},
    {"batch": 2},
    {"structured_output": "auto"},
    {"structured_output": "on"},
]


def test_every_field_decides_the_fingerprint():
    """reference/rubrics.md 5.2 #17: a cell that is reused must have been asked in exactly this way."""
    prints = {JudgeConfig.model_validate({**STORED, **change}).fingerprint for change in [{}, *CHANGES]}
    assert len(prints) == len(CHANGES) + 1


@pytest.mark.parametrize(
    ("verdict", "kind"), [(True, bool), (0.5, float), (1, float), ("good", str), ("true", str), (None, type(None))]
)
def test_an_examples_verdict_keeps_its_type(verdict, kind):
    config = JudgeConfig.model_validate({**STORED, "examples": [{"prompt": "q", "answer": "a", "verdict": verdict}]})
    found = config.examples[0].verdict
    assert (found, type(found)) == (verdict, kind)
    again = JudgeConfig.model_validate(config.model_dump(mode="json")).examples[0].verdict
    assert (again, type(again)) == (verdict, kind)


def test_a_fault_of_the_grader_is_the_only_one_that_is_told():
    """The scale's default is worked out from the grader; that it could not be is nothing that an author can mend."""
    grader = {"type": "judge", "judge": "jdg_1", "confidence": "votes", "votes": 1}
    with pytest.raises(ValidationError) as caught:
        RubricContent.model_validate({"criteria": [{"key": "a", "weight": 1, "text": "t", "grader": grader}]})
    assert [(fault["loc"][-1], fault["type"]) for fault in caught.value.errors()] == [("votes", "contradiction")]


# --- what a judge is to look for may refer to the prompt ---

VIEW = {"messages": [], "category": "maths", "tags": [], "reference": "4", "metadata": {"unit": "m", "n": 2}}


def judged(text, **changes):
    return {"key": "a", "weight": 1, "text": text, "grader": {"type": "judge", "judge": "jdg_1"}, **changes}


def asked(text, prompt=VIEW):
    (criterion,) = criteria_of(RubricContent.model_validate({"criteria": [judged(text)]}), prompt)
    return criterion


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It says {{ prompt.reference }}.", "It says 4."),
        ("{{prompt.metadata.n}} {{ prompt.metadata.unit }} in {{ prompt.category }}", "2 m in maths"),
        ("It uses {{ name }} and {x} and <<nonce>>", "It uses {{ name }} and {x} and <<nonce>>"),
        ("plain", "plain"),
    ],
)
def test_its_text_is_asked_with_the_prompts_values(text, expected):
    assert asked(text).text == expected
    assert needs_of(asked(text)) == []


def test_what_is_put_in_is_never_read_again():
    assert (
        asked("{{ prompt.reference }}", {**VIEW, "reference": "{{ prompt.category }}"}).text == "{{ prompt.category }}"
    )


def test_a_value_that_the_prompt_lacks_is_named_before_anything_is_asked():
    assert needs_of(asked("{{ prompt.reference }} {{ prompt.metadata.n }}", {**VIEW, "reference": None})) == [
        "prompt.reference"
    ]


def test_a_rows_own_criterion_may_refer_to_its_row():
    content = RubricContent.model_validate({"criteria": [judged("x")]})
    found = criteria_of(content, {**VIEW, "criteria": [judged("says {{ prompt.reference }}", key="b")]})
    assert [c.text for c in found] == ["x", "says 4"]


@pytest.mark.parametrize("name", ["prompt.referense", "prompt.messages", "completion.text", "prompt"])
def test_what_cannot_stand_there_is_refused_at_publish(name):
    criteria = RubricContent.model_validate({"criteria": [judged(f"It is {{{{ {name} }}}}")]}).criteria
    assert [(fault["pointer"], fault["code"]) for fault in grader_faults(criteria, "/criteria")] == [
        ("/criteria/0/text", "invalid_template")
    ]


def test_separators_are_checked_at_publish():
    criteria = RubricContent.model_validate({"criteria": [judged("x", scope="step", step_separator="(")]}).criteria
    assert [fault["pointer"] for fault in grader_faults(criteria, "/criteria")] == ["/criteria/0/step_separator"]
