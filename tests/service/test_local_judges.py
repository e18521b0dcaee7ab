"""Judges that are registered models, over HTTP and on the command line: what they take, and what belongs to endpoints."""

import json
import os
import subprocess
import sys

import pytest

from service.client import ApiError
from tests.support.judge_model import make_judge_model
from tests.support.models import make_reward_model

ENDPOINT = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}


@pytest.fixture(scope="module")
def model(stack):
    """A registered model that judges."""
    folder = stack.folder / "local-judge"
    if not folder.exists():
        make_judge_model(folder)
        make_reward_model(folder, stack.folder / "local-judge-reward")
    with stack.client() as api:
        return api.register_model("judge", {"path": str(folder)})["id"]


def test_a_registered_model_is_a_judge(api, model):
    judge = api.post("/v1/judges", {"name": "j", "model": model, "votes": 2, "concurrency": 4})
    assert (judge["model"], judge["endpoint"], judge["has_api_key"]) == (model, None, False)
    assert (judge["structured_output"], judge["concurrency"]) == ("off", 4)
    path = f"/v1/judges/{judge['id']}"
    again = api.patch(path, {"concurrency": 8})
    assert (again["revision"], again["fingerprint"]) == (1, judge["fingerprint"])
    changed = api.patch(path, {"confidence": "logprob", "votes": 1})
    assert (changed["revision"], changed["model"]) == (2, model)
    with pytest.raises(ApiError) as caught:
        api.patch(path, {"model": "mdl_none"})
    assert (caught.value.errors[0]["pointer"], caught.value.errors[0]["code"]) == ("/model", "not_found")
    other = api.register_model("again", {"path": api.get(f"/v1/models/{model}")["source"]["path"]})["id"]
    moved = api.patch(path, {"model": other})
    assert (moved["revision"], moved["model"]) == (3, other)
    assert moved["fingerprint"] != changed["fingerprint"]


@pytest.mark.parametrize(
    ("fields", "pointer", "said"),
    [
        ({"endpoint": ENDPOINT}, "", "exactly one of 'endpoint'"),
        ({"timeout_s": 5}, "/timeout_s", "belongs to judges with an endpoint"),
        ({"rate_limit": {"requests_per_minute": 5}}, "/rate_limit", "belongs to judges with an endpoint"),
        ({"max_attempts": 2}, "/max_attempts", "belongs to judges with an endpoint"),
        ({"price": {"input_per_mtok": 1, "output_per_mtok": 1}}, "/price", "belongs to judges with an endpoint"),
        ({"structured_output": "on"}, "/structured_output", "plain text"),
        ({"sampling": {"top_p": 0.9}}, "/sampling/top_p", "takes no top_p"),
        ({"sampling": {"reasoning_effort": "low"}}, "/sampling/", "registered model"),
        ({"sampling": {"temperature": None}}, "/sampling/temperature", "0 is greedy"),
        ({"model": "mdl_none"}, "/model", "there is no model"),
        ({"model": None}, "", "exactly one of 'endpoint'"),
    ],
)
def test_what_only_endpoints_can_do_is_refused(api, model, fields, pointer, said):
    with pytest.raises(ApiError) as caught:
        api.post("/v1/judges", {"name": "j", "model": model, **fields})
    assert caught.value.status == 422
    assert caught.value.errors[0]["pointer"].startswith(pointer)
    assert said in caught.value.errors[0]["message"]


def test_a_reward_model_writes_no_verdicts(api, stack):
    reward = api.register_model("r", {"path": str(stack.folder / "local-judge-reward")}, kind="reward")["id"]
    with pytest.raises(ApiError) as caught:
        api.post("/v1/judges", {"name": "j", "model": reward})
    assert (caught.value.errors[0]["pointer"], caught.value.errors[0]["code"]) == ("/model", "wrong_kind")


def test_a_judge_stays_where_it_is(api, model):
    local = api.post("/v1/judges", {"name": "j", "model": model})["id"]
    remote = api.post("/v1/judges", {"name": "j", "endpoint": ENDPOINT})["id"]
    cases = [
        (local, {"endpoint": {"base_url": "http://127.0.0.1:2/v1"}}, "/endpoint"),
        (local, {"timeout_s": 3}, "/timeout_s"),
        (local, {"structured_output": "auto"}, "/structured_output"),
        (remote, {"model": model}, "/model"),
    ]
    for judge, body, pointer in cases:
        with pytest.raises(ApiError) as caught:
            api.patch(f"/v1/judges/{judge}", body)
        assert (caught.value.status, caught.value.errors[0]["pointer"]) == (422, pointer)
        assert api.get(f"/v1/judges/{judge}")["revision"] == 1


def test_the_command_makes_one(stack, model):
    def grape(*arguments, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "service.cli.main", *arguments, "--data-dir", str(stack.folder)],
            capture_output=True, text=True, timeout=120, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    judge = json.loads(grape("judge", "create", "mine", "--model", model, "--confidence", "logprob", "--json"))
    assert (judge["model"], judge["endpoint"], judge["confidence"]) == (model, None, "logprob")
    assert model in grape("judge", "show", judge["id"])
    assert "mdl_" in grape("judge", "create", "none", code=2)
