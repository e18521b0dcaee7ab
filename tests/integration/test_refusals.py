"""Bad input: one clear error at the earliest moment, nothing half-made; a job that cannot be served fails with a code."""

import json
import shutil

import pytest

from service.client import ApiError
from tests.integration.conftest import WORDS


@pytest.mark.parametrize(
    ("change", "pointer", "code"),
    [
        ({"policy": {"model": "mdl_none"}}, "/policy/model", "not_found"),
        ({"rubric": {"id": "rub_none"}}, "/rubric/id", "not_found"),
        ({"data": {"prompts": "ds_none"}}, "/data/prompts", "not_found"),
        ({"training": {"step": 3}}, "/training/step", "unknown_field"),
        ({"evaluation": {"prompts": "ds_none"}}, "/evaluation/prompts", "not_found"),
    ],
)
def test_dangling_ids_and_unknown_fields_at_submit(bench, api, change, pointer, code):
    spec = {**bench.spec(), **change}
    before = len(list(api.pages("/v1/jobs", limit=1000)))
    with pytest.raises(ApiError) as caught:
        api.post("/v1/jobs", spec)
    assert (pointer, code) in {(e["pointer"], e["code"]) for e in caught.value.errors}
    assert len(list(api.pages("/v1/jobs", limit=1000))) == before


@pytest.mark.parametrize("value", ["\N{SUPERSCRIPT TWO}".encode("latin-1"), b"9" * 5000, b"-1", b"1.0", b"x"])
def test_last_event_ids_that_are_no_numbers(bench, api, value):
    job = bench.submit("sft", training={"steps": 1})
    with pytest.raises(ApiError) as caught:
        api.request("GET", f"/v1/jobs/{job}/events", headers={"Last-Event-ID": value})
    assert (caught.value.status, caught.value.code) == (422, "invalid_last_event_id")
    api.post(f"/v1/jobs/{job}/cancel")


def test_datasets_of_the_wrong_kind_or_empty(bench, api):
    empty = api.post("/v1/datasets", {"name": "e", "kind": "prompts"})["id"]
    for prompts, code in ((empty, "empty_dataset"), (bench.demonstrations(), "wrong_kind")):
        with pytest.raises(ApiError) as caught:
            api.post("/v1/jobs", bench.spec(prompts=prompts))
        assert caught.value.code == code


def test_versions_and_aliases_are_resolved_at_submit(bench, api):
    rubric = bench.rubric()
    spec = bench.spec(rubric=rubric)
    spec["rubric"] = {"id": rubric, "version": 7}
    with pytest.raises(ApiError, match="latest version is 1"):
        api.post("/v1/jobs", spec)
    api.put(
        f"/v1/rubrics/{rubric}/aliases/production", {"version": 1}, if_match=api.get(f"/v1/rubrics/{rubric}")["etag"]
    )
    spec["rubric"]["version"] = "production"
    job = api.post("/v1/jobs", spec)
    assert job["rubric"]["version"] == 1
    api.post(f"/v1/jobs/{job['id']}/cancel")


def failed(bench, code, **changes):
    job = bench.finish(bench.submit(**changes), expected="failed")
    assert job["error"]["code"] == code
    assert job["finished_at"]
    assert job["result"] is None
    assert job["attempt"] == 1  # a user's fault is not tried again
    assert bench.events(job["id"])[-1]["data"]["error"]["code"] == code
    return job["error"]["message"]


def test_a_prompt_longer_than_the_context_names_its_row(bench):
    prompts = bench.prompts([{"prompt": "a b", "reference": "a"}, {"prompt": " ".join(WORDS * 3), "reference": "a"}])
    message = failed(bench, "data_invalid", prompts=prompts)
    assert f"row {prompts}:2" in message
    assert "context of 64" in message


def test_messages_for_a_model_without_a_chat_template(bench):
    prompts = bench.prompts([{"messages": [{"role": "user", "content": "a"}], "reference": "a"}])
    assert "no chat template" in failed(bench, "data_invalid", prompts=prompts)


def test_a_prompt_without_what_a_grader_needs(bench):
    prompts = bench.prompts([{"prompt": "a", "reference": "a"}, {"prompt": "b"}])
    message = failed(bench, "data_invalid", prompts=prompts)
    assert "reference" in message
    assert f"{prompts}:2" in message


def test_a_judge_that_is_down(bench, api):
    judge = api.post("/v1/judges", {"name": "gone", "endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}})[
        "id"
    ]
    message = failed(bench, "judge_unreachable", rubric=bench.rubric(bench.judged(judge)))
    assert judge in message
    assert "does not answer" in message


def test_a_judge_at_a_private_address(bench, api):
    judge = api.post("/v1/judges", {"name": "inside", "endpoint": {"base_url": "http://10.0.0.1/v1", "model": "m"}})[
        "id"
    ]
    assert "GRAPE_EGRESS__ALLOW" in failed(bench, "judge_unreachable", rubric=bench.rubric(bench.judged(judge)))


def test_a_model_that_has_changed_since_it_was_registered(bench, api, stack):
    source = stack.folder / "bench-model-0"
    bench.model()
    changed = stack.folder / "changed-model"
    shutil.copytree(source, changed, dirs_exist_ok=True)
    model = api.register_model("m", {"path": str(changed)})["id"]
    weights = (changed / "model.safetensors").read_bytes()
    (changed / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert "model.safetensors" in failed(bench, "model_changed", model=model)
    (changed / "model.safetensors").unlink()
    assert "gone" in failed(bench, "model_changed", model=model)


def test_a_model_that_cannot_be_loaded(bench, api, stack):
    bench.model()
    broken = stack.folder / "unloadable"
    shutil.copytree(stack.folder / "bench-model-0", broken, dirs_exist_ok=True)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": 2 * config["hidden_size"]}))
    model = api.register_model("m", {"path": str(broken)})["id"]
    assert "cannot be loaded" in failed(bench, "model_invalid", model=model)
