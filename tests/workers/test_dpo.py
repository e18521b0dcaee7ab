"""DPO on a tiny model: it starts at ln 2, its gradient does not depend on the cut, the reference stays the first policy."""

import math

import pytest
import torch

from service.domain.dataset import PreferenceRow
from service.domain.job import LoraSpec
from tests.support.training import PAIRS, algorithm_of, gradient, run_of, spec_of
from workers.algorithms.base import pairs_of
from workers.algorithms.dpo import sums_of
from workers.losses.logprobs import token_logprobs
from workers.policy.tokenization import encode_preference


def prepared(policy, spec):
    run = run_of(policy, spec)
    run.algorithm.prepare(policy, run.environment)
    return run


def plain_sum(model, prompt, tokens):
    """One row alone: no padding, no cache, nothing shared."""
    ids = torch.tensor([[*prompt, *tokens]])
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[0, -len(tokens) :]
    return float(token_logprobs(logits, torch.tensor(tokens)).sum().detach())


@pytest.mark.parametrize("folder", ["tiny_folder", "gpt2_folder"])
def test_the_reference_is_the_plain_forward_of_the_first_policy(request, load, folder):
    policy = load(request.getfixturevalue(folder))
    run = prepared(policy, spec_of("dpo"))
    assert set(run.state.reference) == {row.id for row in PAIRS}
    for row in PAIRS:
        expected = [plain_sum(policy.model, row.prompt, tokens) for tokens in (row.chosen, row.rejected)]
        assert run.state.reference[row.id] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm", "robust"])
@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}])
def test_it_starts_at_ln_2_also_with_dropout(gpt2_folder, load, loss, adapter):
    spec = spec_of("dpo", algorithm={"loss": loss}, adapter=adapter)
    policy = load(gpt2_folder, adapter=spec.adapter)
    run = prepared(policy, spec)
    value = float(run.algorithm.loss(policy, run.algorithm.collect(run.environment).batch).loss.detach())
    assert value == pytest.approx(math.log(2), abs=1e-6)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "sigmoid_norm", "robust"])
def test_the_gradient_does_not_depend_on_the_cut_nor_on_the_order(tiny_folder, load, loss):
    spec = spec_of("dpo", algorithm={"loss": loss})
    policy = load(tiny_folder)
    run = prepared(policy, spec)
    reference = run.state.reference
    whole = gradient(policy, run.algorithm, pairs_of(PAIRS, reference))
    assert whole.abs().max() > 1e-4
    for budget in (8, 14, 30):
        policy.budget = budget
        assert len(policy.microbatches(pairs_of(PAIRS, reference))) > 1
        assert torch.allclose(gradient(policy, run.algorithm, pairs_of(PAIRS, reference)), whole, atol=1e-6)
    policy.budget = 10_000
    assert torch.allclose(gradient(policy, run.algorithm, pairs_of(PAIRS[::-1], reference)), whole, atol=1e-6)


def test_the_gradient_is_the_textbooks(tiny_folder, load):
    """∇ = −β·σ(−βΔ)·(∇log π(chosen) − ∇log π(rejected)), with plain forwards of whole rows (arXiv 2305.18290, section 4)."""
    policy = load(tiny_folder)
    run = prepared(policy, spec_of("dpo", algorithm={"beta": 0.5}))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    rows = PAIRS[:3]
    ours = gradient(policy, run.algorithm, pairs_of(rows, run.state.reference))
    policy.model.zero_grad()
    for row in rows:
        sums = []
        for tokens in (row.chosen, row.rejected):
            ids = torch.tensor([[*row.prompt, *tokens]])
            logits = policy.model(input_ids=ids[:, :-1], use_cache=False).logits[0, -len(tokens) :]
            sums.append(token_logprobs(logits, torch.tensor(tokens)).sum())
        reference = run.state.reference[row.id]
        delta = float((sums[0] - sums[1]).detach()) - reference[0] + reference[1]
        factor = -0.5 / (1 + math.exp(0.5 * delta)) / len(rows)
        (factor * (sums[0] - sums[1])).backward()
    theirs = torch.cat([p.grad.flatten() for p in policy.parameters()])
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_training_prefers_what_was_chosen(tiny_folder, load):
    policy = load(tiny_folder)
    run = run_of(policy, spec_of("dpo", training={"steps": 20, "learning_rate": 0.01}))
    run.go()
    losses, margins = run.recorder.metric["loss"], run.recorder.metric["reward_margin"]
    assert losses[1] == pytest.approx(math.log(2), abs=1e-6)
    assert losses[20] < 0.5
    assert run.recorder.metric["accuracy"][20] == 1.0
    assert margins[20] > margins[1] + 0.5


def test_the_reference_of_a_continued_adapter_is_where_the_job_started(tiny_folder, load):
    """With the adapter off nothing has moved, so Δ measures the whole distance from the start."""
    spec = spec_of("dpo", adapter={"type": "lora", "r": 4})
    policy = load(tiny_folder, adapter=LoraSpec(type="lora", r=4))
    run = run_of(policy, spec)
    run.go()
    batch = pairs_of(PAIRS)
    with torch.no_grad():
        moved = sums_of(policy.pair_logprobs(batch))
    known = [value for row in PAIRS for value in run.state.reference[row.id]]
    assert sums_of(policy.reference_pair_logprobs(batch)).tolist() == pytest.approx(known, abs=1e-5)
    assert (moved - torch.tensor(known)).abs().max() > 0.01


def test_only_pairs_that_will_be_seen_are_run_through_the_reference(tiny_folder, load):
    policy = load(tiny_folder)
    spec = spec_of("dpo", training={"steps": 1, "learning_rate": 0.01, "batch_size": 3})
    run = run_of(policy, spec)
    run.go()
    assert len(run.state.reference) == 3


def test_pairs_share_their_prompt_and_end_with_one_end_token(load, tiny_folder):
    policy = load(tiny_folder)
    row = PreferenceRow(prompt="a b", chosen="c d", rejected="c")
    prompt, chosen, rejected = encode_preference(policy.tokenizer, row, policy.eos_ids)
    ends = [sum(token in policy.eos_ids for token in tokens) for tokens in (prompt, chosen, rejected)]
    assert ends == [0, 1, 1]
    assert chosen[-1] in policy.eos_ids
    assert rejected[-1] in policy.eos_ids
    assert algorithm_of(spec_of("dpo")).needs_reference is False
