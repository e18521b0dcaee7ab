"""Includes flatten: keys, weights, guidelines, and what is refused where."""

import pytest
from pydantic import ValidationError

from service.domain.base import pointer
from service.domain.includes import flatten, pinned
from service.domain.rubric import AuthoredContent, RubricContent

REGEX = {"type": "regex", "pattern": "x"}


def criterion(key="a", weight=1, **changes):
    return {"key": key, "weight": weight, "grader": REGEX, **changes}


def flat(*criteria, **rest):
    return RubricContent.model_validate({"criteria": list(criteria) or [criterion()], **rest})


def include(name, **changes):
    return {"as": name, "rubric": "rub_1", "version": 1, **changes}


def authored(*criteria, includes=(), **rest):
    return AuthoredContent.model_validate({"criteria": list(criteria), "includes": list(includes), **rest})


def faults(body, included=()):
    with pytest.raises(ValidationError) as caught:
        flatten(AuthoredContent.model_validate(body), included)
    return {pointer(e["loc"], body): e["type"] for e in caught.value.errors(include_url=False)}


def test_without_includes_the_flat_content_is_the_authored_one():
    body = {"guidelines": " as written \n", "system_prompt": "Be brief.", "criteria": [criterion()]}
    made = flatten(AuthoredContent.model_validate(body), [])
    assert made == RubricContent.model_validate(body)
    assert AuthoredContent.model_validate(body).model_dump(mode="json") == made.model_dump(mode="json")


def test_keys_get_the_prefix_and_weights_multiply_down_the_chain():
    # 0.5 of a module that holds 0.25 of another, whose criterion weighs 8: 0.5 · 0.25 · 8 = 1
    innermost = flat(criterion("deep", 8))
    middle = flatten(authored(criterion("own", 3), includes=[include("inner", weight=0.25)]), [innermost])
    outer = flatten(authored(criterion("top", 2), includes=[include("mod", weight=0.5)]), [middle])
    assert [(c.key, c.weight) for c in outer.criteria] == [("top", 2), ("mod.own", 1.5), ("mod.inner.deep", 1.0)]


def test_one_rubric_may_be_included_twice_under_two_names():
    made = flatten(authored(includes=[include("x", weight=2), include("y")]), [flat(), flat()])
    assert [(c.key, c.weight) for c in made.criteria] == [("x.a", 2), ("y.a", 1)]


def test_guidelines_follow_each_other_and_the_rest_is_the_outer_rubrics():
    inner = flat(guidelines="inner\n", system_prompt="ignored", aggregation={"weighting": "uniform"})
    empty = flat(guidelines="  ")
    body = authored(
        criterion(),
        includes=[include("x"), include("e"), include("y")],
        guidelines="outer",
        system_prompt="mine",
        aggregation={"min_coverage": 0.2},
    )
    made = flatten(body, [inner, empty, flat(guidelines="last")])
    assert made.guidelines == "outer\n\ninner\n\nlast"
    assert made.system_prompt == "mine"
    assert (made.aggregation.weighting, made.aggregation.min_coverage) == (None, 0.2)


def test_an_included_criterion_keeps_everything_but_key_and_weight():
    gated = criterion("g", 4, gate={"mode": "cap", "cap": 0.25}, applies_to={"tags": ["t"]}, polarity="met_is_bad")
    step = criterion("s", 1, scope="step", step_pooling="min", step_separator="\\n")
    audit = {"key": "u", "audit": True, "grader": REGEX}
    made = flatten(authored(includes=[include("m", weight=0.5)]), [flat(gated, step, audit)]).criteria
    assert [c.key for c in made] == ["m.g", "m.s", "m.u"]
    assert [c.weight for c in made] == [2.0, 0.5, 0.5]  # an audit criterion without a weight weighs 1
    assert made[0].gate.factor == 0.25
    assert made[0].applies_to.tags == ["t"]
    assert made[1].step_pooling == "min"
    assert made[2].audit


def test_the_hash_is_of_what_it_resolves_to():
    one = flatten(authored(criterion(), includes=[include("m", version=1)]), [flat(criterion("b", 2))])
    same = flatten(authored(criterion(), includes=[include("m", version=7, rubric="rub_2")]), [flat(criterion("b", 2))])
    weighted = flatten(authored(criterion(), includes=[include("m", weight=2)]), [flat(criterion("b", 1))])
    other = flatten(authored(criterion(), includes=[include("n")]), [flat(criterion("b", 2))])
    assert one.hash == same.hash == weighted.hash
    assert one.hash != other.hash


@pytest.mark.parametrize(
    ("body", "place", "code"),
    [
        ({"criteria": []}, "/criteria", "missing"),
        ({}, "/criteria", "missing"),
        ({"criteria": [criterion("a.b")]}, "/criteria/0/key", "invalid_key"),
        ({"includes": [include("m"), include("m")]}, "/includes/1/as", "duplicate"),
        ({"includes": [{"rubric": "rub_1"}]}, "/includes/0/as", "missing"),
        ({"includes": [include("prompt")]}, "/includes/0/as", "reserved"),
        ({"criteria": [criterion("prompt")]}, "/criteria/0/key", "reserved"),
        ({"includes": [include("a.b")]}, "/includes/0/as", "string_pattern_mismatch"),
        ({"includes": [include("m", weight=0)]}, "/includes/0/weight", "greater_than"),
        ({"includes": [include("m", rubrik="x")]}, "/includes/0/rubrik", "unknown_field"),
        ({"criteria": [criterion("gate", gate={"mode": "required"})]}, "/criteria/0/key", "reserved"),
    ],
)
def test_what_authors_may_not_write(body, place, code):
    assert faults(body).get(place) == code


def test_faults_that_only_the_included_contents_show():
    assert faults({"includes": [include("m", weight=1e-200)]}, [flat(criterion("b", 1e-200))]) == {
        "/includes/0/weight": "invalid_weight"
    }
    assert faults({"includes": [include("m", weight=1e6)]}, [flat(criterion("b", 1e6))]) == {
        "/includes/0/weight": "invalid_weight"
    }
    many = [flat(*(criterion(f"c{k}") for k in range(300)))] * 2
    assert faults({"includes": [include("m"), include("n")]}, many) == {"/includes": "too_long"}
    deep = flat(criterion(".".join(["a"] * 9)))
    assert faults({"includes": [include("m")]}, [deep]) == {"/includes/0/rubric": "too_deep"}
    gated = flat(criterion("g", gate={"mode": "required"}))
    body = {"criteria": [criterion(), criterion("gate")], "includes": [include("m")]}
    assert faults(body, [gated]) == {"/criteria/1/key": "reserved"}


def test_a_module_may_bring_all_that_is_rewarded():
    audit = {"key": "u", "audit": True, "grader": REGEX}
    made = flatten(authored(audit, includes=[include("m")]), [flat()])
    assert [c.key for c in made.criteria] == ["u", "m.a"]


def test_pinned_numbers_take_the_place_of_aliases():
    body = authored(includes=[include("x", version="production"), include("y", version="latest")])
    assert [i.version for i in pinned(body, [4, 9]).includes] == [4, 9]
    assert pinned(body, [4, 9]).model_dump(mode="json")["includes"][0] == {
        "as": "x", "rubric": "rub_1", "version": 4, "weight": 1.0,
    }  # fmt: skip
