"""Rubrics, jobs, rows, templates: what is refused, where, and with which words."""

import json

import pytest
from pydantic import ValidationError

from service.domain.base import canonical_json, pointer
from service.domain.dataset import ROWS
from service.domain.ids import new_id
from service.domain.job import JobSpec, resolved
from service.domain.judge import JudgeConfig
from service.domain.rubric import RubricContent
from service.domain.template import TemplateError, check_template, render

JUDGE = "jdg_0000"


def criterion(**changes):
    return {"key": "a", "weight": 1, "grader": {"type": "regex", "pattern": "x"}, **changes}


def faults(model, body):
    with pytest.raises(ValidationError) as caught:
        model.model_validate(body)
    return {pointer(e["loc"], body): (e["type"], e["msg"]) for e in caught.value.errors(include_url=False)}


def rubric_faults(*criteria, **rest):
    return faults(RubricContent, {"criteria": list(criteria), **rest})


def test_unknown_field_is_named_with_the_nearest():
    found = rubric_faults(criterion(wieght=2))
    assert found["/criteria/0/wieght"] == ("unknown_field", "unknown field 'wieght'; did you mean 'weight'?")


def test_unknown_field_inside_a_grader_is_named():
    found = rubric_faults(criterion(grader={"type": "regex", "pattern": "x", "must_mach": True}))
    assert "did you mean 'must_match'?" in found["/criteria/0/grader/must_mach"][1]


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_weight_is_above_zero_and_finite(weight):
    assert "/criteria/0/weight" in rubric_faults(criterion(weight=weight))


def test_weight_is_required_unless_audit():
    assert "/criteria/0/weight" in rubric_faults({"key": "a", "grader": {"type": "regex", "pattern": "x"}})
    body = {"criteria": [criterion(), {"key": "b", "audit": True, "grader": {"type": "regex", "pattern": "x"}}]}
    assert RubricContent.model_validate(body).criteria[1].effective_weight == 1.0


def test_duplicate_keys_are_refused_at_the_second():
    assert rubric_faults(criterion(), criterion())["/criteria/1/key"][0] == "duplicate"


def test_several_faults_come_together():
    found = rubric_faults(criterion(weight=0), criterion(key="b", wait=1), criterion(key=""))
    assert {"/criteria/0/weight", "/criteria/1/wait", "/criteria/2/key"} <= found.keys()


def test_only_audit_criteria_reward_nothing():
    assert "/criteria" in rubric_faults(criterion(audit=True))


def test_judged_criteria_need_a_text():
    assert "/criteria/0/text" in rubric_faults(criterion(grader={"type": "judge", "judge": JUDGE}))


def test_polarity_goes_with_boolean_scales():
    judged = {
        "text": "t",
        "grader": {"type": "judge", "judge": JUDGE},
        "scale": {"type": "unit"},
        "polarity": "met_is_bad",
    }
    assert "/criteria/0/polarity" in rubric_faults(criterion(**judged))
    assert "/criteria/0/scale" in rubric_faults(criterion(scale={"type": "unit"}))


def test_template_with_an_unknown_name_is_refused_at_its_place():
    found = rubric_faults(criterion(grader={"type": "exact", "reference": "{{ prompt.referense }}"}))
    assert "prompt.reference" in found["/criteria/0/grader/reference"][1]


def test_hash_is_of_the_content_with_defaults_and_ignores_key_order():
    plain = RubricContent.model_validate({"criteria": [criterion()]})
    spelled = RubricContent.model_validate(
        {
            "guidelines": "",
            "criteria": [{"grader": {"must_match": True, "pattern": "x", "type": "regex"}, "weight": 1.0, "key": "a"}],
        }
    )
    assert plain.hash == spelled.hash
    assert RubricContent.model_validate({"criteria": [criterion(weight=2)]}).hash != plain.hash
    # known answer, so that versions made by one release are recognised by the next
    assert canonical_json({"b": [1.0, "é"], "a": None}) == '{"a":null,"b":[1.0,"é"]}'


def test_json_schema_grader_survives_a_round_trip():
    body = {"criteria": [criterion(grader={"type": "json_schema", "schema": {"type": "object"}})]}
    content = RubricContent.model_validate(body)
    stored = json.loads(json.dumps(content.model_dump(mode="json")))
    assert stored["criteria"][0]["grader"]["schema"] == {"type": "object"}
    assert RubricContent.model_validate(stored).hash == content.hash


# --- jobs ---

SPEC = {
    "algorithm": {"type": "grape"},
    "policy": {"model": "mdl_0"},
    "data": {"prompts": "ds_0"},
    "rubric": {"id": "rub_0", "version": 1},
    "training": {"steps": 2},
}


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"data": {}}, "/data/prompts"),
        ({"rubric": None}, "/rubric"),
        ({"training": {}}, "/training/steps"),
        ({"training": {"steps": 2, "epochs": 1}}, "/training/epochs"),
        ({"rollout": {"group_size": 1}}, "/rollout/group_size"),
        ({"rollout": {"temperature": 0}}, "/rollout/temperature"),
        (
            {"algorithm": {"type": "grpo", "aggregation": {"weighting": "confidence"}}},
            "/algorithm/aggregation/weighting",
        ),
        ({"algorithm": {"type": "grape", "objective": {"clip": 1}}}, "/algorithm/objective/clip"),
        ({"algorithm": {"type": "gripe"}}, "/algorithm"),
        ({"policy": {"model": "x"}}, "/policy/model"),
        ({"training": {"steps": 2, "learning_rate": 0}}, "/training/learning_rate"),
        ({"learning_rate": 1}, "/learning_rate"),
    ],
)
def test_job_faults_name_the_field(change, place):
    assert place in faults(JobSpec, {**SPEC, **change})


def test_sft_needs_demonstrations_and_counts_steps_or_epochs():
    sft = {"algorithm": {"type": "sft"}, "policy": {"model": "mdl_0"}}
    assert "/data/demonstrations" in faults(JobSpec, sft)
    both = {**sft, "data": {"demonstrations": "ds_0"}, "training": {"steps": 1, "epochs": 1}}
    assert "/training/epochs" in faults(JobSpec, both)


def test_evaluate_trains_nothing():
    body = {**SPEC, "algorithm": {"type": "evaluate"}, "training": {}}
    for extra, place in (({"adapter": {"type": "lora"}}, "/adapter"), ({"training": {"steps": 3}}, "/training/steps")):
        assert place in faults(JobSpec, {**body, **extra})
    spec = resolved(JobSpec.model_validate(body))
    assert (spec.rollout.temperature, spec.rollout.group_size) == (0.0, 1)


def test_defaults_are_the_algorithms():
    grape = resolved(JobSpec.model_validate(SPEC))
    assert (grape.rollout.temperature, grape.rollout.group_size, grape.training.learning_rate) == (1.0, 8, 1e-6)
    lora = resolved(JobSpec.model_validate({**SPEC, "adapter": {"type": "lora"}}))
    assert lora.training.learning_rate == pytest.approx(1e-5)


# --- rows, templates, judges, ids ---


@pytest.mark.parametrize(
    ("kind", "row", "place"),
    [
        ("prompts", {}, ""),
        ("prompts", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, ""),
        ("prompts", {"messages": [{"role": "assistant", "content": "b"}]}, "/messages"),
        ("prompts", {"messages": [{"role": "robot", "content": "b"}]}, "/messages/0/role"),
        ("prompts", {"prompt": ""}, "/prompt"),
        ("demonstrations", {"prompt": "a"}, "/completion"),
        ("demonstrations", {"messages": [{"role": "user", "content": "b"}]}, "/messages"),
        ("demonstrations", {"prompt": "a", "completion": "b", "weight": 0}, "/weight"),
    ],
)
def test_rows_that_are_refused(kind, row, place):
    with pytest.raises(ValidationError) as caught:
        ROWS[kind].validate_python(row)
    assert place in {pointer(e["loc"], row) for e in caught.value.errors()}


def test_templates_are_one_pass():
    prompt = {"reference": "{{ completion.text }}", "metadata": {"n": 3}, "category": None}
    assert render("{{ prompt.reference }}/{{ prompt.metadata.n }}", prompt, "X") == "{{ completion.text }}/3"
    assert render("{{completion.text}}", prompt, "{{ prompt.reference }}") == "{{ prompt.reference }}"
    with pytest.raises(TemplateError, match=r"no 'metadata\.m'"):
        render("{{ prompt.metadata.m }}", prompt, "")
    with pytest.raises(TemplateError):
        check_template("{{ prompt.messages }}")
    assert check_template("{ not one } {{ prompt.metadata.x.y }}")


def test_judge_addresses_hold_no_secrets():
    endpoint = {"base_url": "http://user:pw@host/v1", "model": "m"}
    with pytest.raises(ValidationError, match="api_key"):
        JudgeConfig.model_validate({"endpoint": endpoint})


def test_fingerprint_changes_with_what_decides_a_verdict():
    base = JudgeConfig.model_validate({"endpoint": {"base_url": "http://h/v1/", "model": "m"}})
    assert base.endpoint.base_url == "http://h/v1"
    for change in ({"sampling": {"temperature": 0.5}}, {"votes": 3}, {"prompt": {"system": "be strict"}}):
        assert JudgeConfig.model_validate({**base.model_dump(), **change}).fingerprint != base.fingerprint


def test_ids_sort_by_time_and_do_not_repeat():
    import time

    ids = []
    for _ in range(5):
        ids.append(new_id("job"))
        time.sleep(0.002)
    assert ids == sorted(ids)
    assert len({new_id("job") for _ in range(1000)}) == 1000
