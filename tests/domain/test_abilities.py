"""What an endpoint is known to lack, and which options that forbids."""

import pytest

from service.domain.abilities import beyond, lacking
from service.domain.judge import JudgeConfig

ENDPOINT = {"base_url": "http://h/v1", "model": "m"}


def config(**options):
    return JudgeConfig.model_validate({"endpoint": ENDPOINT, **options})


def test_what_people_say_counts_over_what_was_learned():
    learned = {"logprobs": False, "json_schema": False, "seed": True}
    assert lacking(None, None) == {}
    assert lacking({"logprobs": None}, learned) == {"logprobs": "learned", "json_schema": "learned"}
    assert lacking({"logprobs": True, "seed": False}, learned) == {"json_schema": "learned", "seed": "said"}


@pytest.mark.parametrize(
    ("options", "lacks", "places"),
    [
        ({"confidence": "logprob"}, "logprobs", ["/confidence"]),
        ({"confidence": "verbal"}, "logprobs", []),
        ({"structured_output": "on"}, "json_schema", ["/structured_output"]),
        ({"structured_output": "auto"}, "json_schema", []),  # it is asked in plain text then
        ({}, "temperature", ["/sampling/temperature"]),  # 0 is sent unless it is null
        ({"sampling": {"temperature": None}}, "temperature", []),
        ({"sampling": {"max_completion_tokens": 500}}, "max_tokens", []),
        ({}, "max_tokens", ["/sampling/max_tokens"]),
        ({"sampling": {"seed": 1}}, "seed", ["/sampling/seed"]),
        ({}, "seed", []),
    ],
)
def test_only_what_is_asked_for_is_refused_with_what_to_do(options, lacks, places):
    for how in ("said", "learned"):
        found = dict(beyond(config(**options), {lacks: how}))
        assert list(found) == places
        assert all((f"set capabilities.{lacks} to true" in message) == (how == "learned") for message in found.values())
    assert list(beyond(config(**options), {})) == []


def test_a_registered_model_has_its_own_rules():
    local = JudgeConfig.model_validate({"model": "mdl_1", "confidence": "logprob"})
    assert list(beyond(local, {"logprobs": "learned"})) == []
