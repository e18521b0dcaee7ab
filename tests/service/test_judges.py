"""What decides a judge's verdicts, through the API: stored as it was asked, checked when it is saved."""

import pytest

from service.client import ApiError
from service.domain.judge import PROMPT_VERSION

ENDPOINT = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
EXAMPLE = {"prompt": "q", "answer": "a", "criterion": "clear", "verdict": True, "reasoning": "r", "confidence": 0.9}


def create(api, **fields):
    return api.post("/v1/judges", {"name": "j", "endpoint": ENDPOINT, **fields})


def refused(call):
    with pytest.raises(ApiError) as caught:
        call()
    assert caught.value.status == 422
    return [(fault["pointer"], fault["code"]) for fault in caught.value.errors]


def test_a_new_judge_is_asked_with_todays_texts_and_may_choose_others(api):
    assert create(api)["prompt"] == {"system": "", "version": PROMPT_VERSION}
    assert create(api, prompt={"system": "s"})["prompt"] == {"system": "s", "version": PROMPT_VERSION}
    old = create(api, prompt={"version": 1})
    assert old["prompt"]["version"] == 1
    path = f"/v1/judges/{old['id']}"
    new = api.patch(path, {"prompt": {"system": "s"}})
    assert (new["prompt"], new["revision"]) == ({"system": "s", "version": 1}, 2)
    newer = api.patch(path, {"prompt": {"version": 2}})
    assert (newer["prompt"], newer["revision"]) == ({"system": "s", "version": 2}, 3)
    assert len({old["fingerprint"], new["fingerprint"], newer["fingerprint"]}) == 3
    assert refused(lambda: create(api, prompt={"version": PROMPT_VERSION + 1})) == [
        ("/prompt/version", "less_than_equal")
    ]


def test_examples_are_part_of_a_revision(api):
    judge = create(api, examples=[EXAMPLE], batch=3)
    assert (judge["examples"], judge["batch"]) == ([EXAMPLE], 3)
    path = f"/v1/judges/{judge['id']}"
    assert api.patch(path, {"examples": [EXAMPLE]})["revision"] == 1
    assert api.patch(path, {"examples": []})["revision"] == 2
    assert api.get(f"{path}/revisions/1")["config"]["examples"] == [EXAMPLE]
    place = "/examples/0/confidence"
    assert refused(lambda: create(api, examples=[{**EXAMPLE, "confidence": 2}])) == [(place, "less_than_equal")]
    assert refused(lambda: create(api, examples=[{**EXAMPLE, "verdikt": 1}])) == [
        ("/examples/0/verdikt", "unknown_field")
    ]
