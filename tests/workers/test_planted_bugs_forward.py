"""Bugs that other trainers really had (reference/training.md §2d), planted into the forward, padded and as one row without padding.

| bug | check | real code held to it elsewhere by |
|---|---|---|
| 12 left padding without positions | `batched_is_alone` | `test_policy::test_shared_prompts_give_the_plain_forward…` |
| 23 inf·0 on padding | `padding_may_say_anything` | – |
| 25 labels shifted twice, chunks out of order | `batched_is_alone` | `test_policy` |
| 26 gradient of a tied head counted twice | `gradient_is_the_plain_forwards` | `test_policy` |
"""

from dataclasses import replace

import pytest
import torch

from tests.workers.test_planted_bugs_sampling import caught
from tests.workers.test_policy import PROMPTS, batch_of, plain_logprobs, sample
from workers.losses.logprobs import token_logprobs
from workers.policy import forward, ragged

# --- 12, 25: the batched forward is that of each row alone ---


def batched_is_alone(policy, batch):
    rows = [
        plain_logprobs(policy.model, PROMPTS[p], tokens)
        for p, tokens in zip(batch.prompt_of_B, batch.tokens_B_T, strict=True)
    ]
    with torch.no_grad():
        assert torch.allclose(policy.logprobs(batch).logprobs, torch.cat(rows), atol=2e-5)


def padded(monkeypatch):
    """Take the forward of models that do not run as one row without padding."""
    monkeypatch.setattr(ragged, "takes_ragged", lambda model: False)


def counted_on(*given):
    """A row whose positions run on from one sequence into the next."""
    row = LAYOUT(*given)
    return replace(row, positions=torch.arange(row.ids.shape[1]).unsqueeze(0) % 50)


def one_further(*given):
    """Each token is read where it stands, not where it was chosen."""
    return [(place + 1) % given[0].ids.shape[1] for place in PLACES(*given)]


LAYOUT, PLACES, IN_ORDER = ragged.layout, ragged.places_before, forward.in_order


@pytest.mark.parametrize("kind", ["tiny_folder", "gpt2_folder"])
def test_12_padding_without_positions(request, load, monkeypatch, kind):
    policy = load(request.getfixturevalue(kind))
    batch = batch_of(sample(policy))
    batched_is_alone(policy, batch)
    with monkeypatch.context() as planted:
        planted.setattr(ragged, "layout", counted_on)
        caught(batched_is_alone, policy, batch)
    padded(monkeypatch)
    batched_is_alone(policy, batch)
    monkeypatch.setattr(
        forward, "positions", lambda mask: torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    )
    caught(batched_is_alone, policy, batch)


def test_25_shifted_twice_or_out_of_order(tiny_folder, load, monkeypatch):
    policy = load(tiny_folder)
    batch = batch_of(sample(policy))
    batched_is_alone(policy, batch)
    with monkeypatch.context() as planted:
        planted.setattr(ragged, "places_before", one_further)
        caught(batched_is_alone, policy, batch)
    padded(monkeypatch)
    batched_is_alone(policy, batch)
    shifted = lambda chunks, read: torch.roll(IN_ORDER(chunks, read), 1)  # noqa: E731
    unordered = lambda chunks, read: torch.cat([read(chunk) for chunk in chunks])  # noqa: E731
    for wrong in (shifted, unordered):
        monkeypatch.setattr(forward, "in_order", wrong)
        caught(batched_is_alone, policy, batch)


# --- 23, 26: padding and the gradient of the forward ---


def spoil_padding(monkeypatch, policy):
    """The last states of padded columns become NaN, as a kernel may leave them, and with them their logits."""
    backbone = policy.model.model
    inner = backbone.forward

    def spoilt(*args, **kwargs):
        out = inner(*args, **kwargs)
        mask = kwargs.get("attention_mask")
        if mask is not None:
            pads = mask[:, -out.last_hidden_state.shape[1] :] == 0
            out.last_hidden_state = out.last_hidden_state.masked_fill(pads.unsqueeze(-1), float("nan"))
        return out

    monkeypatch.setattr(backbone, "forward", spoilt)


def padding_may_say_anything(policy, loss):
    policy.model.zero_grad()
    value = loss()
    value.backward()
    assert torch.isfinite(value)
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters())


def test_23_masked_by_multiplication(tiny_folder, load, monkeypatch):
    policy = load(tiny_folder)
    batch = batch_of(sample(policy))
    assert len({len(row) for row in batch.tokens_B_T}) > 1
    padded(monkeypatch)
    spoil_padding(monkeypatch, policy)

    def by_multiplication():
        rows = [[*PROMPTS[p], *t] for p, t in zip(batch.prompt_of_B, batch.tokens_B_T, strict=True)]
        ids, mask = forward.pad_right(rows, policy.pad_id, policy.device)
        logits = policy.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return (token_logprobs(logits[:, :-1], ids[:, 1:]) * mask[:, 1:]).sum()

    def by_length():
        return policy.logprobs(batch).logprobs.sum()

    padding_may_say_anything(policy, by_length)
    caught(padding_may_say_anything, policy, by_multiplication)


def gradient_is_the_plain_forwards(policy, batch, logprobs):
    policy.model.zero_grad()
    logprobs(batch).sum().backward()
    ours = [p.grad.clone() for p in policy.parameters()]
    policy.model.zero_grad()
    rows = zip(batch.prompt_of_B, batch.tokens_B_T, strict=True)
    torch.cat([plain_logprobs(policy.model, PROMPTS[p], tokens) for p, tokens in rows]).sum().backward()
    for mine, parameter in zip(ours, policy.parameters(), strict=True):
        assert torch.allclose(mine, parameter.grad, atol=1e-4)


def test_26_a_tied_head_counted_twice(gpt2_folder, load):
    policy = load(gpt2_folder)
    head = policy.model.get_output_embeddings().weight
    assert head is policy.model.get_input_embeddings().weight
    batch = batch_of(sample(policy))
    gradient_is_the_plain_forwards(policy, batch, lambda b: policy.logprobs(b).logprobs)

    def twice(b):
        flat = policy.logprobs(b).logprobs
        flat.sum().backward(retain_graph=True)  # once for the embedding, once more for the head
        return flat

    caught(gradient_is_the_plain_forwards, policy, batch, twice)
