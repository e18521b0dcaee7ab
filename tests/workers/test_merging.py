"""A merged adapter says what base and adapter said together, loads with plain transformers, and keeps what it was."""

import json
import subprocess
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from service.domain.checkpoint import file_entry
from service.domain.job import LoraSpec
from tests.support.training import PAIRS, run_of, spec_of
from workers.algorithms.base import pairs_of
from workers.merging import files_of, merge
from workers.policy.loading import ModelFiles

LORA = LoraSpec(type="lora", r=4)
IDS = torch.tensor([[3, 4, 5, 6, 7, 8]])


def given(name, folder, base=None):
    files = [file_entry(folder, p).model_dump() for p in sorted(folder.iterdir()) if p.is_file()]
    return {"id": name, "folder": str(folder), "files": files, "base": base}


def trained(policy, folder, kind="sft"):
    """Adapters that have moved a good way."""
    run_of(policy, spec_of(kind, adapter=LORA.model_dump(), training={"steps": 5, "learning_rate": 0.02})).go()
    folder.mkdir()
    policy.save(folder)
    return folder


@pytest.mark.parametrize("kind", ["tiny_folder", "gpt2_folder"])
def test_a_merged_policy_is_base_and_adapter(kind, request, load, tmp_path):
    base = request.getfixturevalue(kind)
    policy = load(base, adapter=LORA)
    first = trained(policy, tmp_path / "adapter")
    with torch.no_grad():
        expected, before = policy.model(input_ids=IDS).logits, load(base).model(input_ids=IDS).logits
    assert (expected - before).abs().max() > 0.01
    out = tmp_path / "merged"
    out.mkdir()
    merge(files_of(given("ckpt_1", first, given("mdl_1", base))), "policy", out)
    again = AutoModelForCausalLM.from_pretrained(out)
    assert type(again).__name__ == {"tiny_folder": "LlamaForCausalLM", "gpt2_folder": "GPT2LMHeadModel"}[kind]
    with torch.no_grad():
        assert torch.allclose(again(input_ids=IDS).logits, expected, atol=1e-5)
    assert not list(out.glob("adapter*"))
    if kind == "tiny_folder":  # an adapter on an adapter: both are in it
        continued = load(out, adapter=LORA, seed=3)
        second = trained(continued, tmp_path / "second")
        whole = tmp_path / "whole"
        whole.mkdir()
        chain = given("ckpt_2", second, given("mdl_2", first, given("mdl_1", base)))
        merge(files_of(chain), "policy", whole)
        with torch.no_grad():
            both = continued.model(input_ids=IDS).logits
            assert torch.allclose(AutoModelForCausalLM.from_pretrained(whole)(input_ids=IDS).logits, both, atol=1e-5)


def test_a_merged_reward_model_scores_as_it_did(tiny_folder, load_reward, tmp_path):
    policy = load_reward(tiny_folder, adapter=LORA)
    adapter = trained(policy, tmp_path / "adapter", "reward_model")
    with torch.no_grad():
        expected = policy.pair_rewards(pairs_of(PAIRS)).tolist()
    out = tmp_path / "merged"
    out.mkdir()
    merge(files_of(given("ckpt_1", adapter, given("mdl_1", tiny_folder))), "reward", out)
    again = AutoModelForSequenceClassification.from_pretrained(out)
    row = torch.tensor([[*PAIRS[0].prompt, *PAIRS[0].chosen]])
    assert again(row).logits.item() == pytest.approx(expected[0], abs=1e-5)
    assert load_reward(out).pair_rewards(pairs_of(PAIRS)).tolist() == pytest.approx(expected, abs=1e-5)
    assert json.loads((out / "config.json").read_text())["reward_input"] == "demonstration"


def test_the_program_says_in_a_line_what_is_wrong(tiny_folder, load, tmp_path):
    adapter = trained(load(tiny_folder, adapter=LORA), tmp_path / "adapter")
    asked = given("ckpt_1", adapter, given("mdl_1", tiny_folder))
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text() + " ")
    (tmp_path / "out").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "workers.merging", "policy", str(tmp_path / "out")],
        input=json.dumps(asked), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "model_changed: model ckpt_1: adapter_config.json is not the file" in done.stderr.splitlines()[-1]
    assert isinstance(files_of(asked), ModelFiles)
    assert not list((tmp_path / "out").iterdir())
