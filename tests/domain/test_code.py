"""Code in rubrics: which tests and sources may be published, and where a completion's code is found."""

import pytest
from pydantic import ValidationError

from service.domain.base import pointer
from service.domain.code import code_in
from service.domain.criteria import needs_of
from service.domain.places import GRADING, places
from service.domain.rubric import RubricContent

TESTS = {"type": "unit_tests", "language": "python", "tests": "assert f() == 1"}
GRADE = {"type": "python", "source": "def grade(sample, item):\n    return 1.0"}


def body(grader, **criterion):
    return {"criteria": [{"key": "a", "weight": 1, "grader": grader, **criterion}]}


def faults(grader, **criterion):
    content = body(grader, **criterion)
    with pytest.raises(ValidationError) as caught:
        RubricContent.model_validate(content)
    return {pointer(e["loc"], content): e["type"] for e in caught.value.errors(include_url=False)}


@pytest.mark.parametrize("grader", [TESTS, GRADE])
def test_they_give_a_number_and_have_the_limits_of_the_contract(grader):
    (criterion,) = RubricContent.model_validate(body(grader)).criteria
    assert criterion.scale.type == "unit"
    assert (criterion.grader.timeout_s, criterion.grader.memory_mb) == (10, 512)
    assert places([criterion], local_judges=(), models_here=True).asked == {GRADING: [criterion]}


@pytest.mark.parametrize(
    ("grader", "place", "code"),
    [
        ({**TESTS, "tests": "assert f( =="}, "tests", "invalid_code"),
        ({**TESTS, "tests": "x = 1"}, "tests", "no_tests"),
        ({**TESTS, "tests": "def tests(): pass"}, "tests", "no_tests"),
        ({**TESTS, "tests": "{{ completion.text }}"}, "tests", "invalid_template"),
        ({**TESTS, "tests": "assert 1\n" + "#" * (256 * 1024)}, "tests", "too_long"),
        ({**TESTS, "tests": "-" * 200_000 + "1"}, "tests", "invalid_code"),
        ({**TESTS, "language": "rust"}, "language", "unsupported_language"),
        ({**TESTS, "timeout_s": 0}, "timeout_s", "greater_than"),
        ({**TESTS, "memory_mb": 1}, "memory_mb", "greater_than_equal"),
        ({**GRADE, "source": "def score(): pass"}, "source", "no_grade"),
        ({**GRADE, "source": "def grade(:"}, "source", "invalid_code"),
        ({**GRADE, "source": "def grade(s, i): return 1\n" + "#" * (256 * 1024)}, "source", "too_long"),
    ],
)
def test_what_could_never_run_is_refused_with_its_place(grader, place, code):
    assert faults(grader) == {f"/criteria/0/grader/{place}": code}


def test_tests_are_of_a_whole_completion_and_stand_alone():
    assert faults(TESTS, scope="step") == {"/criteria/0/scope": "invalid_option"}
    RubricContent.model_validate(body(GRADE, scope="step"))
    for grader in (TESTS, GRADE):
        both = {"type": "composite", "formula": "x", "graders": {"x": grader}}
        assert faults(both) == {"/criteria/0/grader/graders/x": "cannot_nest"}


def test_tests_of_the_prompts_row_are_needed_of_it_and_braces_in_code_are_code():
    (criterion,) = RubricContent.model_validate(body({**TESTS, "tests": " {{ prompt.metadata.tests }}\n"})).criteria
    assert needs_of(criterion) == ["prompt.metadata.tests"]
    (criterion,) = RubricContent.model_validate(body({**TESTS, "tests": "assert f'{{x}}' == {(1,): {2}}"})).criteria
    assert needs_of(criterion) == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1", "x = 1"),
        ("a\n```python\nx = 1\n```\nb", "x = 1"),
        ("```python\na\n```\n```python\nb\n```\n```\nc\n```", "b"),
        ("```py\na\n```", "a"),
        ("```Python title=x\na\n```", "a"),
        ("```\na\n```\ntext\n```js\nb\n```", "b"),
        ("```python\na = '''\n~~~\n'''\n```", "a = '''\n~~~\n'''"),
        ("````python\n```\na\n```\n````", "```\na\n```"),
        ("~~~python\na\n~~~", "a"),
        ("```python\nnot closed", "not closed"),
        ("inline ```python x``` only", "inline ```python x``` only"),
        ("```python\n```", ""),
        ("   ```python\n  a\n   ```", "  a"),
        ("", ""),
    ],
)
def test_the_code_is_the_last_python_block_else_the_last_block_else_all(text, code):
    assert code_in(text) == code
