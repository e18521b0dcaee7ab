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
    unsure = {"prompt": "q", "answer": "a", "verdict": None}
    told = {**unsure, "criterion": None, "reasoning": "", "confidence": None}
    assert api.patch(path, {"examples": [unsure]})["examples"] == [told]
    assert api.get(f"{path}/revisions/1")["config"]["examples"] == [EXAMPLE]
    place = "/examples/0/confidence"
    assert refused(lambda: create(api, examples=[{**EXAMPLE, "confidence": 2}])) == [(place, "less_than_equal")]
    assert refused(lambda: create(api, examples=[{**EXAMPLE, "verdikt": 1}])) == [
        ("/examples/0/verdikt", "unknown_field")
    ]


def test_structured_output_is_probed_unless_it_is_said_otherwise(api):
    judge = create(api)
    assert judge["structured_output"] == "auto"
    path = f"/v1/judges/{judge['id']}"
    off = api.patch(path, {"structured_output": "off"})
    assert (off["structured_output"], off["revision"]) == ("off", 2)
    assert off["fingerprint"] != judge["fingerprint"]
    assert refused(lambda: create(api, structured_output="maybe")) == [("/structured_output", "literal_error")]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"confidence": "logprob", "batch": 2}, ("/batch", "contradiction")),
        ({"confidence": "votes"}, ("/votes", "contradiction")),
        ({"sampling": {"max_tokens": 100, "max_completion_tokens": 100}}, ("/sampling/max_tokens", "contradiction")),
        ({"sampling": {"max_tokens": 1}}, ("/sampling/max_tokens", "greater_than_equal")),
        ({"sampling": {"temprature": 1}}, ("/sampling/temprature", "unknown_field")),
        ({"batch": 0}, ("/batch", "greater_than_equal")),
    ],
)
def test_what_contradicts_itself_is_refused_when_it_is_saved(api, fields, fault):
    assert refused(lambda: create(api, **fields)) == [fault]
    judge = create(api)
    assert refused(lambda: api.patch(f"/v1/judges/{judge['id']}", fields)) == [fault]
    assert api.get(f"/v1/judges/{judge['id']}") == judge


def test_a_change_is_checked_together_with_what_stays(api):
    path = f"/v1/judges/{create(api, batch=4)['id']}"
    assert refused(lambda: api.patch(path, {"confidence": "logprob"})) == [("/batch", "contradiction")]
    assert api.patch(path, {"confidence": "logprob", "batch": 1})["revision"] == 2
    assert api.patch(path, {"confidence": "votes", "votes": 3})["revision"] == 3


def test_a_model_that_reasons_is_sent_neither_a_temperature_nor_max_tokens(api):
    sampling = create(api, sampling={"max_completion_tokens": 4000, "reasoning_effort": "high"})["sampling"]
    assert (sampling["max_tokens"], sampling["temperature"]) == (None, None)
    assert (sampling["max_completion_tokens"], sampling["reasoning_effort"]) == (4000, "high")
    assert create(api)["sampling"]["temperature"] == 0.0


@pytest.mark.parametrize(
    ("criterion", "fault"),
    [
        ({"grader": {"confidence": "votes", "votes": 1}}, ("grader/votes", "contradiction")),
        ({"grader": {"confidence": "logprob"}, "scale": {"type": "unit"}}, ("scale", "contradiction")),
    ],
)
def test_so_is_a_criterion(api, criterion, fault):
    grader = {"type": "judge", "judge": create(api)["id"], **criterion["grader"]}
    content = {"criteria": [{"key": "a", "weight": 1, "text": "t", **criterion, "grader": grader}]}
    place, code = fault
    assert refused(lambda: api.post("/v1/rubrics/validate", {"content": content})) == [
        (f"/content/criteria/0/{place}", code)
    ]


def test_a_stored_key_is_never_sent_to_another_host(api):
    """Who may change judges, but not read keys, would have it there."""
    judge = create(api, endpoint={**ENDPOINT, "api_key": "sk-1"})
    path = f"/v1/judges/{judge['id']}"
    for address in ("http://elsewhere.example/v1", "http://127.0.0.1:2/v1", "https://127.0.0.1:1/v1"):
        assert refused(lambda address=address: api.patch(path, {"endpoint": {"base_url": address}})) == [
            ("/endpoint/api_key", "missing")
        ]
    assert api.get(path) == judge
    same = api.patch(path, {"endpoint": {"base_url": "http://127.0.0.1:1/v2", "model": "n"}})
    assert (same["has_api_key"], same["endpoint"]["base_url"]) == (True, "http://127.0.0.1:1/v2")
    without = api.patch(path, {"endpoint": {"base_url": "http://elsewhere.example/v1", "api_key": None}})
    assert not without["has_api_key"]
    assert (
        api.patch(path, {"endpoint": {"base_url": "http://127.0.0.1:1/v1"}})["revision"] == 4
    )  # there is none to lose
    moved = api.patch(path, {"endpoint": {"base_url": "http://other.example/v1", "api_key": "sk-2"}})
    assert moved["has_api_key"]


PRICE = {"input_per_mtok": 0.4, "output_per_mtok": 1.6}


def test_prices_and_bounds_on_the_cost_stand_outside_of_revisions(api):
    judge = create(api, price=PRICE, max_cost_usd=5)
    assert (judge["price"], judge["max_cost_usd"]) == (PRICE, 5)
    assert judge["spent"] == {
        "judge_calls": 0, "judge_tokens_in": 0, "judge_tokens_out": 0, "judge_cost_usd": None, "estimated_calls": 0,
    }  # fmt: skip
    path = f"/v1/judges/{judge['id']}"
    dearer = api.patch(path, {"price": {**PRICE, "output_per_mtok": 3}, "max_cost_usd": 7.5})
    assert (dearer["revision"], dearer["fingerprint"]) == (1, judge["fingerprint"])
    assert (dearer["price"]["output_per_mtok"], dearer["max_cost_usd"]) == (3, 7.5)
    assert refused(lambda: api.patch(path, {"price": None})) == [("/max_cost_usd", "missing_price")]
    assert api.get(path)["price"] == dearer["price"]
    free = api.patch(path, {"price": None, "max_cost_usd": None})
    assert (free["price"], free["max_cost_usd"], free["revision"]) == (None, None, 1)
    assert refused(lambda: create(api, max_cost_usd=1)) == [("/max_cost_usd", "missing_price")]
    assert refused(lambda: create(api, price={"input_per_mtok": -1, "output_per_mtok": 1})) == [
        ("/price/input_per_mtok", "greater_than_equal")
    ]
    assert refused(lambda: create(api, price={"input_per_mtok": 1})) == [("/price/output_per_mtok", "missing")]
    assert refused(lambda: create(api, price=PRICE, max_cost_usd=0)) == [("/max_cost_usd", "greater_than")]
