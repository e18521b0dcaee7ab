"""One row without padding says what padded sequences say, and models that could not are found out."""

import pytest
import torch

from workers.policy import ragged
from workers.policy.forward import completion_chunks, in_order
from workers.types import PreferenceBatch


def plain_states(model, prompts, completions, prompt_of):
    """What the model says where each completion token is chosen, one sequence at a time."""
    found = []
    for tokens, p in zip(completions, prompt_of, strict=True):
        ids = torch.tensor([prompts[p] + tokens])
        found.append(model(input_ids=ids, use_cache=False).logits[0, len(prompts[p]) - 1 : -1])
    return torch.cat(found)


PROMPTS = [[3, 4, 5, 6, 7], [8], [9, 10, 11]]
COMPLETIONS = [[12, 1], [13, 14, 15, 16, 17, 18, 19, 1], [20], [21, 22, 23, 1], [24, 25, 26, 27, 28, 3, 4, 5, 6, 1]]
OWNERS = [0, 0, 1, 2, 2]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_row_is_the_plain_forward_and_its_gradient(kind, request, load):
    policy = load(request.getfixturevalue("tiny_folder" if kind == "llama" else "gpt2_folder"))
    assert ragged.takes_ragged(policy.model)
    gradients, outputs = [], []
    for way in ("row", "plain"):
        policy.model.zero_grad()
        if way == "row":
            chunks = completion_chunks(policy.model, PROMPTS, COMPLETIONS, OWNERS, pad=0, device=policy.device)
            assert len(chunks) == 1
            logits = in_order(chunks, lambda chunk: chunk.logits)
        else:
            logits = plain_states(policy.model, PROMPTS, COMPLETIONS, OWNERS)
        logits.log_softmax(-1).square().mean().backward()
        outputs.append(logits.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in policy.parameters()]))
    assert torch.allclose(*outputs, atol=1e-5)
    assert torch.allclose(*gradients, atol=1e-6)


def test_what_a_sequence_says_does_not_depend_on_who_shares_its_row(tiny_folder, load):
    policy = load(tiny_folder)
    batch = PreferenceBatch(
        ["a", "b"], [[3, 4], [5]], [[6, 7, 1], [8, 1]], [[9, 1], [10, 11, 12, 13, 1]], [0, 0], [], 2
    )
    whole = policy.pair_logprobs(batch).logprobs
    alone = torch.cat([policy.pair_logprobs(batch.select([k])).logprobs for k in (0, 1)])
    assert torch.allclose(whole, alone, atol=1e-6)


def test_a_window_and_another_attention_are_found_out(tiny_folder, load, tmp_path):
    from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

    common = {"vocab_size": 29, "hidden_size": 32, "num_hidden_layers": 2}
    windowed = MistralForCausalLM(
        MistralConfig(
            **common, intermediate_size=64, num_attention_heads=4, num_key_value_heads=2, sliding_window=8, head_dim=8
        )
    )
    state = MambaForCausalLM(MambaConfig(**common, state_size=4))
    for model in (windowed, state):
        assert not ragged.takes_ragged(model.eval())
    before = load(tiny_folder).model.config._attn_implementation
    policy = load(tiny_folder)
    assert ragged.takes_ragged(policy.model)
    assert policy.model.config._attn_implementation == before


def test_an_adapted_model_takes_rows(tiny_folder, load):
    from service.domain.job import LoraSpec

    policy = load(tiny_folder, adapter=LoraSpec(type="lora", r=4))
    assert ragged.takes_ragged(policy.model)
