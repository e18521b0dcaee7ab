"""Bugs that other trainers really had (reference/training.md §2d), planted into sampling, references and resumes.

Each has a check; the real code passes it, and with the bug planted (a wrong variant, or the one function patched) it fails.

| bug | check | real code held to it elsewhere by |
|---|---|---|
| 8 temperature of the sampler and not of the trainer | `ratio_is_one` | `test_policy::test_the_samplers_logprobs_are_the_trainers` |
| 9 temperature on values | `values_know_no_temperature` | `test_plain_algorithms::test_values_are_the_plain_forwards…` |
| 10 cut sampling against a full softmax | `ratio_is_one`; the door | `test_stops::test_what_does_not_go_together…` |
| 11 a sampler with old weights | `fresh_samples_are_of_the_new_weights` | `test_policy` |
| 13 the mask made from token equality (pad is EOS) | `one_end_per_finished_row` | `test_policy` |
| 14 one of several EOS ids | `every_end_ends` | `test_policy::test_every_eos_id_ends…` |
| 15 the end is never trained | `the_end_moves` | `test_training::test_the_end_token_is_trained` |
| 18 tokens through text | `tokens_are_what_was_sampled` | `test_policy` |
| 19 dropout where log-probabilities are compared | `ratio_is_one` | `test_policy` |
| 20 the reference of a continued adapter | `no_divergence_at_the_start` | `test_policy::test_an_adapter_that_was_trained…` |
| 30 weights cast for a rollout | `a_rollout_changes_no_bit` | `test_policy::test_sampling_changes_no_weight…` |
| 31 moments or buffered rollouts lost in a resume | `a_resume_is_no_news` | `test_resume` |
"""

from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from service.domain.job import LoraSpec
from tests.support.training import rollout, run_of, spec_of, weights
from tests.workers.test_policy import batch_of, sample
from tests.workers.test_resume import saver
from workers.algorithms.on_policy import Surrogate, policy_loss
from workers.policy import forward
from workers.policy.loading import ModelFiles, load_policy
from workers.training.checkpoint import read_trainer_state, restore
from workers.training.optim import build_optimizer


def caught(check, *given):
    with pytest.raises(AssertionError):
        check(*given)


# --- 8, 10, 19: ratio 1 on every token before the first step ---


def ratio_is_one(policy, batch):
    stored = torch.tensor([x for row in batch.logprobs_B_T for x in row])
    assert torch.allclose(policy.logprobs(batch).logprobs, stored, atol=1e-5)


def test_8_temperature_on_one_side(gpt2_folder, load):
    policy = load(gpt2_folder)
    batch = batch_of(sample(policy, temperature=0.6), temperature=0.6)
    ratio_is_one(policy, batch)
    caught(ratio_is_one, policy, replace(batch, temperature=1.0))


def test_10_cut_samples(tiny_folder, load):
    policy = load(tiny_folder)
    ratio_is_one(policy, batch_of(sample(policy)))
    caught(ratio_is_one, policy, batch_of(sample(policy, top_p=0.5)))
    for kind in ("grape", "grpo", "reinforce", "ppo", "trpo"):
        with pytest.raises(ValidationError, match="full softmax"):
            spec_of(kind, rollout={"top_p": 0.5})


def test_19_dropout(gpt2_folder, load):
    policy = load(gpt2_folder)
    batch = batch_of(sample(policy))
    ratio_is_one(policy, batch)
    policy.model.train()  # what a trainer does by reflex
    caught(ratio_is_one, policy, batch)


# --- 9 ---


def values_know_no_temperature(values, batch):
    assert torch.equal(values(batch), values(replace(batch, temperature=0.3)))


def test_9_temperature_on_values(tiny_folder, load):
    policy = load(tiny_folder, value="shared")
    with torch.no_grad():
        policy.value.head.weight.normal_(generator=torch.Generator().manual_seed(3))
    batch = batch_of(sample(policy))
    values_know_no_temperature(policy.values, batch)
    caught(values_know_no_temperature, lambda b: policy.values(b) / b.temperature, batch)


# --- 11 ---


def fresh_samples_are_of_the_new_weights(policy, sampling):
    """After an update a prompt that was seen before is sampled again: its log-probabilities are the new weights'."""
    sampling()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    ratio_is_one(policy, batch_of(sampling()))


def test_11_a_sampler_with_old_weights(tiny_folder, load):
    policy = load(tiny_folder)
    fresh_samples_are_of_the_new_weights(policy, lambda: sample(policy))
    policy, stale = load(tiny_folder), load(tiny_folder)
    caught(fresh_samples_are_of_the_new_weights, policy, lambda: sample(stale))


# --- 13, 14, 15, 18: ends and tokens ---


def one_end_per_finished_row(policy, mask):
    """With pad equal to EOS: every finished row trains its end exactly once, and the masks count what the rows have."""
    samples = [s for group in sample(policy) for s in group]
    ids, found = mask([s.tokens for s in samples], policy.pad_id, policy.device)
    assert policy.pad_id in policy.eos_ids
    assert found.sum(-1).tolist() == [len(s.tokens) for s in samples]
    ends = [sum(int(t) in policy.eos_ids for t in row[kept.bool()]) for row, kept in zip(ids, found, strict=True)]
    assert ends == [int(s.finish_reason == "stop") for s in samples]
    assert any(ends)


def test_13_pad_is_eos(gpt2_folder, load):
    policy = load(gpt2_folder)
    policy.tokenizer.pad_token = policy.tokenizer.eos_token

    def by_equality(rows, pad, device):
        ids, _ = forward.pad_right(rows, pad, device)
        return ids, (ids != pad).long()

    one_end_per_finished_row(policy, forward.pad_right)
    caught(one_end_per_finished_row, policy, by_equality)


def every_end_ends(policy, ends):
    """Whatever ids end a completion, nothing follows the first of them, and the completion counts as finished."""
    samples = [s for group in sample(policy, eos_ids=ends, group_size=16, max_tokens=30) for s in group]
    for one in samples:
        known = [t in (1, 11, 12) for t in one.tokens]
        assert not any(known[:-1])
        assert (one.finish_reason == "stop") == known[-1]


def test_14_one_of_several_ends(tiny_folder, load):
    policy = load(tiny_folder)
    every_end_ends(policy, [1, 11, 12])
    caught(every_end_ends, policy, [1])


def the_end_moves(policy, batch, finished):
    """The loss has a gradient at the end of every completion that ended."""
    flat = policy.logprobs(batch)
    flat.logprobs.retain_grad()
    policy_loss(policy, batch, Surrogate(), flat).loss.backward()
    ends = ends_of(policy, batch)
    assert len(ends) == finished > 0
    assert (flat.logprobs.grad[ends].abs() > 1e-6).all()


def ends_of(policy, batch):
    flat = [t for row in batch.tokens_B_T for t in row]
    return [k for k, t in enumerate(flat) if t in policy.eos_ids]


def test_15_the_end_is_dropped(tiny_folder, load):
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec_of())
    batch = algorithm.batch_of(groups, skip=False)
    batch = replace(batch, advantages_B_T=[[1.0] * len(row) for row in batch.tokens_B_T])
    finished = sum(c.finish_reason == "stop" for g in groups for c in g.completions)
    the_end_moves(policy, batch, finished)
    ended = [row[-1] in policy.eos_ids and len(row) > 1 for row in batch.tokens_B_T]

    def cut(rows):
        return [row[:-1] if end else row for row, end in zip(rows, ended, strict=True)]

    dropped = replace(
        batch,
        tokens_B_T=cut(batch.tokens_B_T),
        logprobs_B_T=cut(batch.logprobs_B_T),
        advantages_B_T=cut(batch.advantages_B_T),
    )
    caught(the_end_moves, policy, dropped, finished)


def tokens_are_what_was_sampled(batch, groups):
    sampled = [c for g in groups for c in g.completions]
    assert batch.tokens_B_T == [c.tokens for c in sampled]
    assert [len(row) for row in batch.logprobs_B_T] == [len(c.tokens) for c in sampled]


def test_18_tokens_through_text(tiny_folder, load):
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec_of())
    batch = algorithm.batch_of(groups, skip=False)
    tokens_are_what_was_sampled(batch, groups)
    again = [policy.tokenizer(c.text)["input_ids"] or [1] for g in groups for c in g.completions]
    caught(tokens_are_what_was_sampled, replace(batch, tokens_B_T=again), groups)


# --- 20 ---


def no_divergence_at_the_start(policy, reference):
    batch = batch_of(sample(policy))
    assert torch.allclose(policy.logprobs(batch).logprobs, reference(batch), atol=1e-5)


def test_20_the_reference_of_a_continued_adapter(tiny_folder, load, tmp_path):
    base = ModelFiles("mdl_0", tiny_folder, [])
    common = {"precision": "fp32", "budget": 10_000, "reference": False}
    first = load_policy(base, adapter=LoraSpec(type="lora", r=2), seed=0, **common)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1)
    first.save(tmp_path)
    files = ModelFiles("mdl_1", tmp_path, [], base=base)
    second = load_policy(files, adapter=LoraSpec(type="lora", r=2), seed=1, **common)
    no_divergence_at_the_start(second, second.reference_logprobs)
    bare = load(tiny_folder)
    caught(no_divergence_at_the_start, second, lambda batch: bare.logprobs(batch).logprobs)


# --- 30, 31 ---


def a_rollout_changes_no_bit(policy, sampling):
    before = [p.detach().clone() for p in policy.parameters()]
    sampling()
    for old, new in zip(before, policy.parameters(), strict=True):
        assert new.dtype == old.dtype
        assert torch.equal(old, new)


def test_30_weights_cast_for_a_rollout(tiny_folder, load):
    policy = load(tiny_folder)
    a_rollout_changes_no_bit(policy, lambda: sample(policy))

    def cast():
        policy.model.to(torch.bfloat16)
        sample(policy)
        policy.model.to(torch.float32)

    caught(a_rollout_changes_no_bit, policy, cast)


def a_resume_is_no_news(folder, load, tiny_folder, straight, spec, forget):
    """The bits of the weights are those of the run that was never stopped."""
    again = load(tiny_folder, resume=folder)
    optimizer = build_optimizer(again, spec.training)
    restore(folder, again, optimizer)
    state = read_trainer_state(folder)
    forget(state, optimizer)
    run_of(again, spec, state=state, optimizer=optimizer).go()
    assert torch.equal(weights(again), straight)


def test_31_what_a_resume_may_not_lose(tiny_folder, load, tmp_path):
    spec = spec_of(algorithm={"inner_epochs": 2}, training={"steps": 5}, checkpoints={"every_steps": 1})
    policy = load(tiny_folder)
    optimizer = build_optimizer(policy, spec.training)
    run_of(policy, spec, optimizer=optimizer, save=saver(tmp_path, policy, optimizer, spec)).go()
    straight = weights(policy)

    def buffered(state, optimizer):
        state.uses_left = 0

    def moments(state, optimizer):
        optimizer.state.clear()

    def cursor(state, optimizer):
        state.cursors.clear()

    # In the middle of a rollout's two steps, and between two rollouts.
    for step, losses in ((1, (buffered, moments)), (2, (moments, cursor))):
        given = (tmp_path / f"step-{step}", load, tiny_folder, straight, spec)
        assert read_trainer_state(given[0]).uses_left == step % 2
        a_resume_is_no_news(*given, lambda state, optimizer: None)
        for forget in losses:
            caught(a_resume_is_no_news, *given, forget)
