"""The criteria of one prompt: which of the rubric's apply, which its row brings, and how these are written."""

import pytest
from pydantic import ValidationError

from service.domain.base import canonical_json, pointer
from service.domain.criteria import criteria_of, criterion_weights
from service.domain.dataset import PromptRow
from service.domain.rubric import RubricContent

REGEX = {"type": "regex", "pattern": "x"}
JUDGED = {"text": "mentions the dose", "grader": {"type": "judge", "judge": "jdg_0"}}


def content(*criteria):
    return RubricContent.model_validate({"criteria": list(criteria)})


def criterion(key, weight=1, **changes):
    return {"key": key, "weight": weight, "grader": REGEX, **changes}


def row(*criteria, **rest):
    return PromptRow.model_validate({"prompt": "p", "criteria": list(criteria), **rest})


def view(found):
    """As the worker and the stored completion see it."""
    criteria = [c.model_dump(mode="json", exclude_unset=True) for c in found.criteria]
    return {"category": found.category, "tags": found.tags, "criteria": criteria}


def keys(rubric, prompt):
    return [c.key for c in criteria_of(rubric, prompt)]


def faults(*criteria):
    body = {"prompt": "p", "criteria": list(criteria)}
    with pytest.raises(ValidationError) as caught:
        PromptRow.model_validate(body)
    return {pointer(e["loc"], body): e["type"] for e in caught.value.errors(include_url=False)}


def test_applicability_is_category_and_tag():
    rubric = content(
        criterion("all"),
        criterion("maths", applies_to={"categories": ["maths", "logic"]}),
        criterion("long", applies_to={"tags": ["long", "hard"]}),
        criterion("both", applies_to={"categories": ["maths"], "tags": ["long"]}),
    )
    assert keys(rubric, {"category": "maths", "tags": ["long"]}) == ["all", "maths", "long", "both"]
    assert keys(rubric, {"category": "maths", "tags": []}) == ["all", "maths"]
    assert keys(rubric, {"category": "code", "tags": ["hard", "x"]}) == ["all", "long"]
    assert keys(rubric, {"category": None, "tags": None}) == ["all"]
    assert keys(rubric, {}) == ["all"]


def test_a_rows_criteria_join_under_prompt_with_their_weight_times_the_option():
    prompt = view(row({**JUDGED, "weight": 4}, {"key": "own", "weight": 3, "grader": REGEX}))
    made = criteria_of(content(criterion("a", 2)), prompt, 0.5)
    assert [(c.key, c.weight) for c in made] == [("a", 2), ("prompt.0", 2.0), ("prompt.own", 1.5)]
    assert [(w.key, w.weight, w.judged) for w in criterion_weights(made)] == [
        ("a", 2, False), ("prompt.0", 2.0, True), ("prompt.own", 1.5, False),
    ]  # fmt: skip
    assert [c.weight for c in criteria_of(content(criterion("a", 2)), prompt)] == [2, 4, 3]


def test_points_below_zero_are_the_weight_of_something_bad():
    made = row({**JUDGED, "points": -7}, {**JUDGED, "points": 5, "tags": ["axis:accuracy"]}, {**JUDGED, "weight": -2})
    assert [(c.key, c.weight, c.polarity) for c in made.criteria] == [
        ("0", 7, "met_is_bad"), ("1", 5, "met_is_good"), ("2", 2, "met_is_bad"),
    ]  # fmt: skip
    assert row({**JUDGED, "points": -7, "polarity": "met_is_bad"}).criteria[0].weight == 7


def test_what_is_stored_reads_as_the_same():
    made = row({**JUDGED, "points": -7, "tags": ["t"]}, {"key": "k", "audit": True, "grader": REGEX}, category="c")
    stored = made.model_dump(mode="json", exclude_unset=True)
    again = PromptRow.model_validate(stored)
    assert again == made
    assert canonical_json(again.model_dump(mode="json", exclude_unset=True)) == canonical_json(stored)


@pytest.mark.parametrize(
    ("criterion_", "place", "code"),
    [
        ({**JUDGED, "points": 0}, "/criteria/0/points", "invalid_points"),
        ({**JUDGED, "points": "3"}, "/criteria/0/points", "invalid_points"),
        ({**JUDGED, "points": 1, "weight": 1}, "/criteria/0/points", "one_of"),
        ({**JUDGED, "points": -1, "polarity": "met_is_good"}, "/criteria/0/polarity", "invalid_polarity"),
        ({**JUDGED, "points": -1, "scale": {"type": "unit"}}, "/criteria/0/polarity", "invalid_polarity"),
        ({**JUDGED}, "/criteria/0/weight", "missing"),
        ({**JUDGED, "weight": 1, "txt": ""}, "/criteria/0/txt", "unknown_field"),
        ({**JUDGED, "weight": 1, "key": "a.b"}, "/criteria/0/key", "invalid_key"),
        ({"points": 2, "grader": {"type": "judge", "judge": "jdg_0"}}, "/criteria/0/text", "missing"),
        ({"points": 2, "grader": {"type": "regexp"}}, "/criteria/0/grader", "union_tag_invalid"),
        ("is kind", "/criteria/0", "model_attributes_type"),
    ],
)
def test_criteria_of_rows_that_are_refused(criterion_, place, code):
    found = faults(criterion_)
    assert found.get(place) == code or (code == "model_attributes_type" and place in found), found


def test_a_given_key_may_not_be_anothers_position():
    assert faults({**JUDGED, "weight": 1}, {**JUDGED, "key": "0", "weight": 1}) == {"/criteria/1/key": "duplicate"}


def test_metrics_of_rows_criteria_are_kept_by_tag():
    tagged = {**JUDGED, "points": 1, "tags": ["axis:accuracy", "level:example"]}
    made = criterion_weights(
        criteria_of(content(criterion("a", tags=["x"])), view(row(tagged, {**JUDGED, "points": 1})))
    )
    assert [c.series for c in made] == [("a",), ("prompt.axis:accuracy", "prompt.level:example"), ("prompt",)]
