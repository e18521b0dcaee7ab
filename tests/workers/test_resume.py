"""A stopped run goes on as if it had never stopped, and its checkpoints load anywhere."""

import contextlib
import json

import pytest
import torch

from service.domain.job import JobSpec
from tests.support.training import Control, run_of, spec_of, weights
from workers.training.checkpoint import read_trainer_state, restore, write_checkpoint
from workers.training.optim import build_optimizer
from workers.training.ports import Interrupted

# --- stopping and going on ---


def saver(folder, policy, optimizer, spec):
    def save(state):
        place = folder / f"step-{state.step}"
        if not place.exists():
            place.mkdir()
            job = {"id": "job_0", "spec": spec.model_dump(mode="json"), "resolved": {"policy": {"sha256": None}}}
            write_checkpoint(place, policy, optimizer, state, job)

    return save


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}])
@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [
        ("grape", {}),
        ("grape", {"inner_epochs": 2}),
        (
            "grape",
            {"minibatches": 2, "importance": {"mode": "masked"}, "truncated": {"mode": "penalty"},
             "without_signal": {"mode": "resample"}},
        ),
        ("sft", {}),
        ("dpo", {}),
        ("reward_model", {}),
        ("rejection_sampling", {}),
        ("reinforce", {}),
        ("ppo", {"inner_epochs": 2}),
        ("trpo", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)  # fmt: skip
@pytest.mark.parametrize("stop_at", [2, 9, 30])
def test_a_stopped_run_ends_with_the_same_bits(
    tiny_folder, load, load_reward, tmp_path, kind, algorithm, stop_at, adapter
):
    measured = {"evaluate": kind != "reward_model", "held_out": kind in ("sft", "dpo", "reward_model")}
    load = load if measured["evaluate"] else load_reward
    spec = spec_of(kind, algorithm=algorithm, adapter=adapter)
    extra = {"adapter": spec.adapter, **({"reference": True, "value": "separate"} if kind == "ppo" else {})}
    straight = load(tiny_folder, **extra)
    whole = run_of(straight, spec, **measured)
    whole.go()

    policy = load(tiny_folder, **extra)
    optimizer = build_optimizer(policy, spec.training)
    first = run_of(policy, spec, control=Control(stop_at), optimizer=optimizer, **measured,
                   save=saver(tmp_path, policy, optimizer, spec))  # fmt: skip
    with contextlib.suppress(Interrupted):
        first.go()
    assert kind != "grape" or first.state.step < 5, "it was not stopped; the test proves nothing"
    folder = max(tmp_path.iterdir(), key=lambda path: int(path.name.split("-")[1]))
    again = load(tiny_folder, resume=folder, **extra)
    optimizer = build_optimizer(again, spec.training)
    restore(folder, again, optimizer)
    second = run_of(again, spec, state=read_trainer_state(folder), optimizer=optimizer, **measured)
    second.go()
    assert torch.equal(weights(again), weights(straight))
    assert second.recorder.step in (0, 5)
    for name, values in second.recorder.metric.items():
        for step, value in values.items():
            if name not in ("seconds", "tokens_per_s", "sampling_s", "grading_wait_s"):
                assert whole.recorder.metric[name][step] == value, (name, step)
    merged = {**first.recorder.metric.get("loss", {}), **second.recorder.metric.get("loss", {})}
    assert merged == whole.recorder.metric["loss"]


def test_two_runs_with_one_seed_are_the_same_and_with_two_are_not(tiny_folder, load):
    results = []
    for seed in (0, 0, 1):
        policy = load(tiny_folder)
        run_of(policy, spec_of(training={"seed": seed})).go()
        results.append(weights(policy))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_checkpoints_load_with_plain_transformers(tiny_folder, load, tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    policy, spec = load(tiny_folder), spec_of()
    optimizer = build_optimizer(policy, spec.training)
    run_of(policy, spec, optimizer=optimizer, save=saver(tmp_path, policy, optimizer, spec)).go()
    folder = tmp_path / "step-5"
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(loaded(ids).logits, policy.model(ids).logits)
    assert AutoTokenizer.from_pretrained(folder)("a b")["input_ids"] == policy.tokenizer("a b")["input_ids"]
    manifest = json.loads((folder / "manifest.json").read_text())
    on_disk = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {f["path"] for f in manifest["files"]} == on_disk - {"manifest.json"}
    assert not [p for p in on_disk if p.endswith((".bin", ".pt", ".pkl", ".pth"))]
    state = json.loads((folder / "state" / "job.json").read_text())
    assert JobSpec.model_validate(state["spec"]) == spec


def test_adapter_checkpoints_load_with_plain_peft(tiny_folder, load, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    spec = spec_of(adapter={"type": "lora", "r": 4})
    policy = load(tiny_folder, adapter=spec.adapter)
    optimizer = build_optimizer(policy, spec.training)
    run_of(policy, spec, optimizer=optimizer, save=saver(tmp_path, policy, optimizer, spec)).go()
    folder = tmp_path / "step-5"
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folder), folder)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.allclose(loaded(ids).logits, policy.model(ids).logits, atol=1e-6)
    assert str(tiny_folder) not in (folder / "adapter_config.json").read_text()
