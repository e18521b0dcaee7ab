"""Two processes train as one does: the same losses, the same weights, checkpoints that either goes on from.

One torchrun for all cases: starting processes that import torch costs seconds.
"""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from tests.support import ranks
from workers.policy import ragged

KINDS = {
    "sft": {"kind": "sft"},
    "sft pieces": {"kind": "sft", "budget": 12},
    "sft adapter": {"kind": "sft", "spec": {"adapter": {"type": "lora", "r": 4}}},
    "dpo": {"kind": "dpo"},
    "dpo adapter": {"kind": "dpo", "spec": {"adapter": {"type": "lora", "r": 4}}},
    "reward_model": {"kind": "reward_model"},
    "reward_model adapter": {"kind": "reward_model", "spec": {"adapter": {"type": "lora", "r": 4}}},
    "grape": {"kind": "grape", "evaluate": True},
    "grape kl": {"kind": "grape", "reference": True, "spec": {"algorithm": {"kl": {"beta": 0.1}, "entropy_coef": 0.01}}},
    "grape tied": {"kind": "grape", "model": "gpt2"},
    "grape padded": {"kind": "grape", "model": "windowed", "budget": 8,
                     "spec": {"rollout": {"group_size": 8, "prompts_per_step": 6, "max_completion_tokens": 8}}},
    "dpo padded": {"kind": "dpo", "model": "windowed"},
    "ppo padded": {"kind": "ppo", "model": "windowed", "budget": 8, "value": "separate", "reference": True},
    "grpo adapter": {
        "kind": "grpo",
        "spec": {"adapter": {"type": "lora", "r": 4}, "algorithm": {"kl": {"beta": 0.1}, "inner_epochs": 2}},
    },
    "reinforce": {"kind": "reinforce"},
    "ppo": {"kind": "ppo", "value": "separate", "reference": True,
            "spec": {"algorithm": {"inner_epochs": 2, "minibatches": 2, "kl": {"beta": 0.1, "placement": "reward"}}}},
    "ppo shared": {"kind": "ppo", "value": "shared", "reference": True, "spec": {"algorithm": {"value": {"model": "shared"}}}},
    "rejection_sampling": {"kind": "rejection_sampling"},
}  # fmt: skip
RESUMED = ("sft", "grpo adapter", "ppo")


def torchrun(folder, plan, place):
    (place / "plan.json").write_text(json.dumps(plan))
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.support.ranks"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command, str(folder), str(place / "plan.json")],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.fixture(scope="module")
def windowed_folder(tiny_folder, tmp_path_factory):
    """Attention that looks at a few tokens: such a model is run padded, a prompt first and its completions after it, if they have more
    than one token. So how often a layer runs is not the same in all processes."""
    from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

    folder = tmp_path_factory.mktemp("windowed")
    torch.manual_seed(2)
    config = MistralConfig(
        vocab_size=29, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, sliding_window=6, bos_token_id=1, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    assert not ragged.takes_ragged(model.eval())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def places(tiny_folder, gpt2_folder, windowed_folder, tmp_path_factory):
    """Every case, run straight by one process and by two, and from the other's checkpoint of step 2."""
    place = tmp_path_factory.mktemp("ranks")

    def case(name, who, **more):
        found = {**KINDS[name], **more, "out": str(place / who / name.replace(" ", "-")), "save": [2, 5]}
        found["spec"] = {
            "training": {"learning_rate": 1e-4},
            "checkpoints": {"every_steps": 2},
            **found.get("spec", {}),
        }
        if "model" in found:
            found["model"] = str({"gpt2": gpt2_folder, "windowed": windowed_folder}[found["model"]])
        os.makedirs(found["out"])
        return found

    def checkpoint(name, who):
        return str(place / who / name.replace(" ", "-") / "step-2")

    for name in KINDS:
        ranks.run_case(tiny_folder, case(name, "one"), None)
    plan = [case(name, "two") for name in KINDS]
    plan += [case(name, "one-then-two", resume=checkpoint(name, "one")) for name in RESUMED]
    torchrun(tiny_folder, plan, place)
    for name in RESUMED:
        ranks.run_case(tiny_folder, case(name, "two-then-one", resume=checkpoint(name, "two")), None)
    return place


def numbers(place, who, name):
    return json.loads((place / who / name.replace(" ", "-") / "metrics.json").read_text())


def weights(place, who, name):
    folder = place / who / name.replace(" ", "-") / "step-5"
    files = [*folder.glob("*.safetensors"), *(folder / "state").glob("value*")]
    return {key: tensor for path in files for key, tensor in load_file(path).items()}


def assert_equal(place, name, who):
    expected, found = numbers(place, "one", name), numbers(place, who, name)
    first = min(int(step) for step in found["loss"])
    assert first == (1 if who == "two" else 3)
    assert set(expected) == set(found)
    for key, values in found.items():
        for step, value in values.items():
            assert value == pytest.approx(expected[key][step], rel=1e-4, abs=1e-5), (key, step)
    ours, theirs = weights(place, "one", name), weights(place, who, name)
    assert ours.keys() == theirs.keys() and ours
    for key, tensor in ours.items():
        assert float((tensor - theirs[key]).abs().max()) < 1e-5, key


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_learn_what_one_does(places, name):
    assert_equal(places, name, "two")


@pytest.mark.parametrize("who", ["one-then-two", "two-then-one"])
@pytest.mark.parametrize("name", RESUMED)
def test_a_checkpoint_is_resumed_by_another_number_of_processes(places, name, who):
    assert_equal(places, name, who)
