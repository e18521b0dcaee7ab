"""What several processes cannot do is refused, with what to do instead."""

import pytest
from pydantic import ValidationError

from service.domain.job import JobSpec

PROMPTS = {"data": {"prompts": "ds_0"}, "rubric": {"id": "rub_0"}}


def body(kind, processes, **changes):
    data = {"data": {"demonstrations": "ds_0"}} if kind == "sft" else PROMPTS
    training = {} if kind == "evaluate" else {"steps": 4}
    return {
        "algorithm": {"type": kind, **changes.pop("algorithm", {})}, "policy": {"model": "mdl_0"}, "training": training,
        "resources": {"processes": processes}, **data, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (body("trpo", 2), "trpo's second derivatives need all weights in one process"),
        (body("evaluate", 2), "evaluate trains nothing"),
        (
            body("grape", 2, algorithm={"rounds": 2}, evaluation={"prompts": "ds_1"}),
            "grape keeps whole copies of the weights between rounds",
        ),
        (
            body("grape", 7, rollout={"group_size": 3, "prompts_per_step": 2}),
            "a step of 6 sequences .* cannot be shared by 7 processes; ask for at most 6",
        ),
        (body("grape", 2, algorithm={"revision": {"uses": ["pairs"]}}), "algorithm.revision samples in one process"),
        (body("sft", 17), r"a step of 16 sequences \(training.batch_size\)"),
        (body("sft", 0), "greater than or equal to 1"),
        (body("sft", 65), "less than or equal to 64"),
        (body("sft", "two"), "valid integer"),
    ],
)
def test_it_is_refused_with_a_sentence(spec, said):
    with pytest.raises(ValidationError, match=said):
        JobSpec.model_validate(spec)


@pytest.mark.parametrize("kind", ["sft", "grape", "grpo", "reinforce", "ppo"])
def test_every_other_algorithm_takes_several(kind):
    assert JobSpec.model_validate(body(kind, 2)).resources.processes == 2
    assert JobSpec.model_validate(body(kind, 1)).resources.processes == 1
