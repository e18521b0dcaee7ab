"""Judges as values: what a stored revision means never changes, and what decides a verdict decides the fingerprint."""

import pytest
from pydantic import ValidationError

from service.domain.base import content_hash
from service.domain.judge import JudgeConfig
from service.domain.rubric import RubricContent

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
