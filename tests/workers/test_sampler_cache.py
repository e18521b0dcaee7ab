"""The sampler's cache with room, its limits, and bf16 on a CPU."""

import pytest
import torch

from service.domain.job import LoraSpec
from workers.policy.generation.cache import RoomyLayer, spread
from workers.policy.generation.sampler import SamplingOptions
from workers.policy.loading import BF16_WIDTH, multiplies_bf16, pick_autocast
from workers.types import PolicyBatch

PROMPTS = [[3, 4, 5], [6], [7, 8]]


def sampled(policy, prompts=PROMPTS, **changes):
    given = {"group_size": 4, "temperature": 1.0, "max_tokens": 12, "eos_ids": [1], "pad_id": 0, "seed": 5, **changes}
    groups = {}
    policy.sample(prompts, SamplingOptions(**given), lambda k, samples: groups.update({k: samples}), lambda: None)
    return [groups[k] for k in range(len(prompts))]


def trainer_says(policy, groups):
    rows = [sample for group in groups for sample in group]
    owners = [p for p, group in enumerate(groups) for _ in group]
    tokens = [sample.tokens for sample in rows]
    batch = PolicyBatch(PROMPTS, tokens, [s.logprobs for s in rows], [], owners, 1, 1, 12, 1.0)
    with torch.no_grad():
        found = policy.logprobs(batch).logprobs
    return found, torch.tensor([x for sample in rows for x in sample.logprobs])


def test_a_layer_with_room_holds_what_a_growing_one_holds():
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(2, 3, 5, 4, generator=generator) for _ in range(2))
    owner = torch.tensor([0, 0, 1])
    layer = RoomyLayer(keys, values, owner, 2, torch.float32)
    new = torch.randn(3, 3, 1, 4, generator=generator)
    layer.update(new, -new)
    layer.batch_select_indices(torch.tensor([2, 0]))
    shown, _ = layer.update(new[:2], new[:2])
    wanted = torch.cat([torch.cat([keys[owner], new], dim=2)[[2, 0]], new[:2]], dim=2)
    assert torch.equal(shown, wanted)
    assert layer.get_seq_length() == 7


def test_a_cache_of_another_kind_spreads_itself():
    class Other:
        def batch_select_indices(self, owner):
            self.owner = owner

    assert spread(Other(), torch.tensor([0, 0]), 3, wide=False).owner.tolist() == [0, 0]


def test_each_completion_has_its_own_limit(tiny_folder, load):
    limits = [1, 5, 12, 3, 2, 2, 9, 4, 12, 1, 6, 7]
    groups = sampled(load(tiny_folder), limits=limits)
    for sample, limit in zip([s for group in groups for s in group], limits, strict=True):
        assert len(sample.tokens) == limit or (sample.tokens[-1] == 1 and len(sample.tokens) < limit)
        assert sample.finish_reason == ("stop" if sample.tokens[-1] == 1 else "length")


@pytest.mark.parametrize("adapter", [None, LoraSpec(type="lora", r=4)], ids=["full", "lora"])
def test_a_bf16_sampler_stays_near_its_trainer(tiny_folder, load, adapter):
    """Logits have 8 bits of mantissa: at their size here, below 2, a rounding is up to 2⁻⁸, and log-softmax has two of them."""
    policy = load(tiny_folder, precision="bf16", adapter=adapter)
    trainer, sampler = trainer_says(policy, sampled(policy))
    assert (trainer - sampler).abs().max() < 0.03
    whole = load(tiny_folder, adapter=adapter)
    exact, _ = trainer_says(whole, sampled(policy))
    assert (exact - sampler).abs().mean() < 0.02
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


def test_auto_is_bf16_on_a_cpu_only_where_it_pays(tiny_folder, load):
    policy = load(tiny_folder, precision="auto")
    if policy.device.type != "cpu":
        pytest.skip("there is a GPU")
    assert policy.autocast is None  # too narrow
    policy.model.config.hidden_size = BF16_WIDTH
    expected = torch.bfloat16 if multiplies_bf16() else None
    assert pick_autocast("auto", policy.device, policy.model) is expected
    assert pick_autocast("fp32", policy.device, policy.model) is None
    assert pick_autocast("auto", policy.device) is None
