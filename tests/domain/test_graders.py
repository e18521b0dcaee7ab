"""Graders with numbers and parts: what a rubric may say of them, and what is refused where."""

import pytest
from pydantic import ValidationError

from service.domain.base import pointer
from service.domain.grader import templates_of
from service.domain.rubric import RubricContent

SIMILAR = {"type": "similarity", "metric": "rouge_l", "reference": "{{ prompt.reference }}"}
SHORT = {"type": "regex", "pattern": "^.{0,9}$"}


def composite(formula, **graders):
    return {"type": "composite", "formula": formula, "graders": graders}


def content(**criterion):
    return RubricContent.model_validate({"criteria": [{"key": "a", "weight": 1, **criterion}]})


def faults(**criterion):
    body = {"criteria": [{"key": "a", "weight": 1, **criterion}]}
    with pytest.raises(ValidationError) as caught:
        RubricContent.model_validate(body)
    return {pointer(e["loc"], body): (e["type"], e["msg"]) for e in caught.value.errors(include_url=False)}


@pytest.mark.parametrize(
    ("grader", "scale"),
    [
        (SIMILAR, "unit"),
        ({**SIMILAR, "threshold": 0.5}, "boolean"),
        (composite("a", a=SHORT), "unit"),
        (SHORT, "boolean"),
    ],
)
def test_the_scale_follows_the_grader_and_survives_a_round_trip(grader, scale):
    found = content(grader=grader)
    assert found.criteria[0].scale.type == scale
    again = RubricContent.model_validate(found.model_dump(mode="json"))
    assert again.hash == found.hash
    assert content(grader=grader, scale={"type": scale}).hash == found.hash


@pytest.mark.parametrize("grader", [SIMILAR, composite("a", a=SHORT)])
def test_a_number_is_goodness_already(grader):
    assert faults(grader=grader, polarity="met_is_bad")["/criteria/0/polarity"][0] == "invalid_polarity"
    assert faults(grader=grader, scale={"type": "boolean"})["/criteria/0/scale"][0] == "invalid_scale"
    assert (
        faults(grader={**SIMILAR, "threshold": 0.5}, scale={"type": "unit"})["/criteria/0/scale"][0] == "invalid_scale"
    )
    assert content(grader={**SIMILAR, "threshold": 0.5}, polarity="met_is_bad").criteria[0].polarity == "met_is_bad"


@pytest.mark.parametrize(("metric", "why"), [("meteor", "WordNet"), ("cosine", "embedding model")])
def test_metrics_that_need_a_download_are_refused_by_name(metric, why):
    kind, message = faults(grader={**SIMILAR, "metric": metric})["/criteria/0/grader/metric"]
    assert kind == "unsupported_metric"
    assert why in message


def test_a_fault_in_the_grader_is_the_only_fault():
    assert faults(grader={**SIMILAR, "metrik": 1}).keys() == {"/criteria/0/grader/metrik"}


def test_an_unknown_metric_is_refused_with_the_known_ones():
    assert "rouge_l" in faults(grader={**SIMILAR, "metric": "rouge"})["/criteria/0/grader/metric"][1]


@pytest.mark.parametrize(
    ("grader", "place", "code", "said"),
    [
        (composite("a +", a=SHORT), "formula", "invalid_formula", "at character 3"),
        (composite("a + b", a=SHORT), "formula", "invalid_formula", "uses 'b'"),
        (composite("a", a=SHORT, b=SHORT), "graders/b", "unused", "does not use 'b'"),
        (composite("1"), "graders", "too_short", "at least 1"),
        (composite("min", min=SHORT), "graders/min", "invalid_name", "is a function"),
        (composite("a.b", a=SHORT), "formula", "invalid_formula", "at character 1"),
        (composite("a" + "+a" * 500, a=SHORT), "formula", "too_long", "1000"),
        (composite("a", a={"type": "judge", "judge": "jdg_0"}), "graders/a", "cannot_nest", "criterion of its own"),
        (composite("a", a=composite("b", b=SHORT)), "graders/a", "cannot_nest", "no other composite"),
        (composite("a", a={**SHORT, "mustmatch": 1}), "graders/a/mustmatch", "unknown_field", "must_match"),
        (composite("a", a={"type": "magic"}), "graders/a", "union_tag_invalid", "magic"),
    ],
)
def test_composites_are_checked_as_a_whole(grader, place, code, said):
    kind, message = faults(grader=grader)[f"/criteria/0/grader/{place}"]
    assert kind == code
    assert said in message


def test_names_in_a_composite_are_words():
    assert any("graders" in place for place in faults(grader=composite("a", **{"a-b": SHORT})))


def test_templates_of_parts_are_found():
    grader = content(grader=composite("a + b", a=SIMILAR, b={"type": "contains", "values": ["{{ prompt.category }}"]}))
    assert templates_of(grader.criteria[0].grader) == ["{{ prompt.reference }}", "{{ prompt.category }}"]
