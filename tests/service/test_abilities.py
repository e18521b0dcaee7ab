"""What an endpoint cannot do is refused when a judge is saved, whether somebody says so or asking has shown it."""

import pytest

from service.client import ApiError
from tests.support.judge import verdict

ENDPOINT = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}


def create(api, **fields):
    return api.post("/v1/judges", {"name": "j", "endpoint": ENDPOINT, **fields})


def refused(call):
    with pytest.raises(ApiError) as caught:
        call()
    assert caught.value.status == 422
    return {fault["pointer"]: (fault["code"], fault["message"]) for fault in caught.value.errors}


@pytest.mark.parametrize(
    ("missing", "options", "pointer", "advice"),
    [
        ("logprobs", {"confidence": "logprob"}, "/confidence", "take 'verbal', or 'votes'"),
        ("json_schema", {"structured_output": "on"}, "/structured_output", "set it to 'auto' or 'off'"),
        ("temperature", {}, "/sampling/temperature", "set sampling.temperature to null"),
        ("max_tokens", {}, "/sampling/max_tokens", "and sampling.max_completion_tokens to a number"),
        ("seed", {"sampling": {"seed": 3}}, "/sampling/seed", "set sampling.seed to null"),
    ],
)
def test_what_somebody_says_that_it_cannot_do(api, missing, options, pointer, advice):
    found = refused(lambda: create(api, capabilities={missing: False}, **options))
    assert list(found) == [pointer]
    code, message = found[pointer]
    assert code == "unsupported_option"
    assert advice in message
    assert f"capabilities.{missing} says so" in message
    judge = create(api, **options)  # nobody knows: allowed
    path = f"/v1/judges/{judge['id']}"
    assert list(refused(lambda: api.patch(path, {"capabilities": {missing: False}}))) == [pointer]
    assert api.get(path) == judge
    said = api.patch(path, {"capabilities": {missing: True}})
    assert (said["revision"], said["fingerprint"]) == (1, judge["fingerprint"])
    assert said["capabilities"][missing] is True


def test_what_it_can_do_belongs_to_endpoints(api):
    assert create(api)["capabilities"] == dict.fromkeys(
        (
            "json_schema",
            "logprobs",
            "temperature",
            "top_p",
            "max_tokens",
            "max_completion_tokens",
            "seed",
            "reasoning_effort",
        )
    )
    assert list(refused(lambda: create(api, capabilities={"logprob": False}))) == ["/capabilities/logprob"]
    found = refused(lambda: api.post("/v1/judges", {"name": "j", "model": "mdl_0", "capabilities": {"seed": True}}))
    assert list(found) == ["/capabilities"]


def test_what_asking_has_shown(api, judge):
    """A first grading finds out; from then on the same address and model are refused what they do not have."""
    judge.refuses = ("logprobs", "seed")
    judge.answer = verdict
    endpoint = {"base_url": judge.base_url, "model": "m"}
    probing = create(api, endpoint=endpoint, confidence="logprob", structured_output="off")
    seeded = create(api, endpoint=endpoint, sampling={"seed": 1}, max_attempts=1)
    assert (probing["learned"], seeded["learned"]) == ({}, {})
    criteria = [
        {"key": name, "weight": 1, "text": "is nice", "grader": {"type": "judge", "judge": made["id"]}}
        for name, made in (("a", probing), ("b", seeded))
    ]
    rubric = api.post("/v1/rubrics", {"name": "r", "content": {"criteria": criteria}})["id"]
    grading = api.post("/v1/gradings", {"rubric": {"id": rubric}, "texts": [{"prompt": "p", "text": "t"}]})["id"]
    api.wait_grading(grading, timeout_s=60)
    learned = api.get(f"/v1/judges/{probing['id']}")["learned"]
    assert (learned["logprobs"], learned["seed"], learned["temperature"]) == (False, False, True)
    code, message = refused(lambda: create(api, endpoint=endpoint, confidence="logprob"))["/confidence"]
    assert code == "unsupported_option"
    assert "as asking it has shown" in message
    assert "set capabilities.logprobs to true" in message
    assert list(refused(lambda: create(api, endpoint=endpoint, sampling={"seed": 1}))) == ["/sampling/seed"]
    other = {"endpoint": {**endpoint, "model": "another"}, "confidence": "logprob"}
    assert create(api, **other)["learned"] == {}
    assert create(api, endpoint=endpoint, confidence="logprob", capabilities={"logprobs": True})["revision"] == 1
    path = f"/v1/judges/{probing['id']}"
    assert api.patch(path, {"name": "new"})["name"] == "new"  # saved before; a name asks for nothing
    assert list(refused(lambda: api.patch(path, {"votes": 2}))) == ["/confidence"]
    # So are the rubrics that want it of this judge, and what was published before is refused once it is to be asked.
    content = {"criteria": [{**criteria[0], "grader": {**criteria[0]["grader"], "confidence": "logprob"}}]}
    place = "/content/criteria/0/grader/confidence"
    assert list(refused(lambda: api.validate_rubric(content))) == [place]
    body = {"rubric": {"id": rubric}, "texts": [{"prompt": "p", "text": "t"}]}
    assert list(refused(lambda: api.post("/v1/gradings", body))) == ["/rubric"]
