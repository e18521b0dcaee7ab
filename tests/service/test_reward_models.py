"""Reward models over HTTP and on the command line: what is one, its constants, and rubrics that name it."""

import json
import subprocess
import sys

import pytest

from examples.tiny_model import make_tiny_model
from service.client import ApiError
from tests.support.models import make_reward_model

WORDS = [chr(ord("a") + k) for k in range(26)]


@pytest.fixture(scope="module")
def folders(stack):
    """A policy, a reward model on it, and a classifier with two labels."""
    policy = stack.folder / "rm-policy"
    if not policy.exists():
        make_tiny_model(policy, WORDS, seed=0, hidden=32)
        make_reward_model(policy, stack.folder / "rm-reward")
        make_reward_model(policy, stack.folder / "rm-two", labels=2)
    return {name: str(stack.folder / f"rm-{name}") for name in ("policy", "reward", "two")}


def content(model, **grader):
    grader = {"type": "reward_model", "model": model, **grader}
    return {"criteria": [{"key": "rm", "weight": 1, "grader": grader}]}


def test_a_reward_model_has_constants_that_may_change(api, folders):
    model = api.register_model("r", {"path": folders["reward"]}, kind="reward")
    assert (model["kind"], model["status"], model["normalisation"]) == ("reward", "ready", None)
    assert ["mean 0 and std 1" in warning for warning in model["warnings"]] == [True]
    path = f"/v1/models/{model['id']}"
    changed = api.patch(path, {"normalisation": {"mean": 1.5, "std": 2}}, if_match=model["etag"])
    assert (changed["normalisation"], changed["warnings"]) == ({"mean": 1.5, "std": 2.0}, [])
    assert changed["sha256"] == model["sha256"]
    assert api.get(path) == changed
    with pytest.raises(ApiError) as caught:
        api.patch(path, {"name": "mine"}, if_match=model["etag"])
    assert caught.value.status == 412
    assert api.patch(path, {"name": "mine"})["name"] == "mine"
    given = api.register_model("s", {"path": folders["reward"]}, kind="reward", normalisation={"mean": -1, "std": 0.5})
    assert given["normalisation"] == {"mean": -1.0, "std": 0.5}
    assert {m["id"] for m in api.pages("/v1/models", kind="reward", limit=1000)} >= {model["id"], given["id"]}


@pytest.mark.parametrize(
    ("name", "more", "pointer", "said"),
    [
        ("policy", {"kind": "reward"}, "/source/path", "LlamaForCausalLM"),
        ("two", {"kind": "reward"}, "/source/path", "one output, and this one has 2"),
        ("reward", {"kind": "critic"}, "/kind", "policy"),
        ("reward", {"normalisation": {"mean": 0, "std": 1}}, "/normalisation", "kind 'reward'"),
        ("reward", {"kind": "reward", "normalisation": {"mean": 0, "std": 0}}, "/normalisation/std", "greater than 0"),
        ("reward", {"kind": "reward", "normalisation": {"mean": 0}}, "/normalisation/std", "required"),
    ],
)
def test_what_is_no_reward_model_is_refused(api, folders, name, more, pointer, said):
    with pytest.raises(ApiError) as caught:
        api.post("/v1/models", {"name": "m", "source": {"path": folders[name]}, **more})
    assert caught.value.status == 422
    fault = next(e for e in caught.value.errors if e["pointer"] == pointer)
    assert said in fault["message"]


def test_a_policy_takes_no_constants(api, folders):
    policy = api.register_model("p", {"path": folders["policy"]})
    for body in ({"normalisation": {"mean": 0, "std": 1}}, {"name": None}, {"kind": "reward"}):
        with pytest.raises(ApiError) as caught:
            api.patch(f"/v1/models/{policy['id']}", body)
        assert caught.value.status == 422


def test_rubrics_name_reward_models_that_exist_and_are_one(api, folders):
    policy = api.register_model("p", {"path": folders["policy"]})["id"]
    reward = api.register_model("r", {"path": folders["reward"]}, kind="reward")["id"]
    graders = {"a": {"type": "reward_model", "model": policy}}
    cases = [
        (content("mdl_none"), "/content/criteria/0/grader/model", "not_found"),
        (content(policy), "/content/criteria/0/grader/model", "wrong_kind"),
        (content(reward, typo=1), "/content/criteria/0/grader/typo", "unknown_field"),
        ({"criteria": [{"key": "c", "weight": 1, "grader": {"type": "composite", "formula": "a", "graders": graders}}]},
         "/content/criteria/0/grader/graders/a/model", "wrong_kind"),
    ]  # fmt: skip
    for body, pointer, code in cases:
        with pytest.raises(ApiError) as caught:
            api.post("/v1/rubrics", {"name": "r", "content": body})
        assert (caught.value.status, [(e["pointer"], e["code"]) for e in caught.value.errors]) == (
            422,
            [(pointer, code)],
        )
    version = api.post("/v1/rubrics", {"name": "r", "content": content(reward)})["version"]
    assert version["content"]["criteria"][0]["scale"] == {"type": "unit"}


def test_the_command_registers_and_normalises(api, stack, folders, tmp_path):
    def grape(*arguments, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "service.cli.main", *arguments, "--data-dir", str(stack.folder)],
            capture_output=True, text=True, timeout=120, env={**__import__("os").environ, "COLUMNS": "200"},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    register = ("model", "register", "r", "--path", folders["reward"], "--kind", "reward")
    said = grape(*register)
    assert "mean 0 and std 1" in said
    model = json.loads(grape(*register, "--mean", "0.5", "--std", "2", "--json"))
    assert model["normalisation"] == {"mean": 0.5, "std": 2.0}
    again = json.loads(grape("model", "normalise", model["id"], "--mean", "1", "--std", "3", "--json"))
    assert (again["id"], again["normalisation"]) == (model["id"], {"mean": 1.0, "std": 3.0})
    assert "--mean and --std together" in grape(*register, "--mean", "1", code=2)
