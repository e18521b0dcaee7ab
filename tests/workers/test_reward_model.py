"""Reward models: the right token is read, a text's reward does not depend on its neighbours, and what is saved says the same."""

import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from service.domain.job import LoraSpec
from tests.support.training import PAIRS, gradient, held_out_of, run_of, spec_of
from workers.algorithms.base import Preference, pairs_of
from workers.training.pair_evaluation import split_held_out


def plain_reward(policy, prompt, tokens):
    """One row alone through the backbone, read at its last token.

    Transformers' own class looks for the last token that is not padding, so where padding equals EOS (GPT-2 here) it would read
    the token before the end.
    """
    backbone = getattr(policy.model, policy.model.base_model_prefix)
    states = backbone(input_ids=torch.tensor([[*prompt, *tokens]])).last_hidden_state
    return policy.model.score(states[0, -1]).item()


@pytest.mark.parametrize("folder", ["tiny_folder", "gpt2_folder"])
def test_a_reward_is_read_after_the_last_token_whatever_stands_beside_it(request, load_reward, folder):
    policy = load_reward(request.getfixturevalue(folder))
    batch = pairs_of([*PAIRS, Preference("long", [3, 4, 5, 6, 7], [8, 9, 10, 11, 12, 1], [8, 1], 0.0)])
    expected = [
        plain_reward(policy, prompt, tokens)
        for prompt, *sides in zip(batch.prompts_P_T, batch.chosen_P_T, batch.rejected_P_T, strict=True)
        for tokens in sides
    ]
    assert len({round(x, 4) for x in expected}) > 10
    assert policy.pair_rewards(batch).tolist() == pytest.approx(expected, abs=1e-5)
    for pair in range(len(PAIRS) + 1):
        alone = policy.pair_rewards(batch.select([pair])).tolist()
        assert alone == pytest.approx(expected[2 * pair : 2 * pair + 2], abs=1e-5)


def test_equal_rewards_cost_ln_2(tiny_folder, load_reward):
    policy = load_reward(tiny_folder)
    with torch.no_grad():
        policy.model.score.weight.zero_()
    run = run_of(policy, spec_of("reward_model"))
    loss = run.algorithm.loss(policy, run.algorithm.collect(run.environment).batch).loss
    assert float(loss.detach()) == pytest.approx(math.log(2), abs=1e-6)


def test_the_gradient_does_not_depend_on_the_cut(tiny_folder, load_reward):
    policy = load_reward(tiny_folder)
    algorithm = run_of(policy, spec_of("reward_model", algorithm={"centring": 0.01})).algorithm
    whole = gradient(policy, algorithm, pairs_of(PAIRS))
    for budget in (8, 14, 30):
        policy.budget = budget
        assert len(policy.microbatches(pairs_of(PAIRS))) > 1
        assert torch.allclose(gradient(policy, algorithm, pairs_of(PAIRS)), whole, atol=1e-6)


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}], ids=["full", "lora"])
def test_it_learns_saves_its_head_and_says_the_same_after_loading(tiny_folder, load_reward, tmp_path, adapter):
    spec = spec_of("reward_model", adapter=adapter, training={"steps": 30, "learning_rate": 0.01})
    policy = load_reward(tiny_folder, adapter=spec.adapter)
    run = run_of(policy, spec)
    run.go()
    assert run.recorder.metric["loss"][30] < 0.5 < run.recorder.metric["loss"][1]
    assert run.recorder.metric["accuracy"][30] == 1.0
    policy.save(tmp_path)
    with torch.no_grad():
        before = policy.pair_rewards(pairs_of(PAIRS)).tolist()
    if adapter is None:
        again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
        assert type(again).__name__ == "LlamaForSequenceClassification"
        assert again(torch.tensor([[*PAIRS[0].prompt, *PAIRS[0].chosen]])).logits.item() == pytest.approx(
            before[0], abs=1e-5
        )
    resumed = load_reward(tiny_folder, adapter=spec.adapter, resume=tmp_path, seed=9)
    with torch.no_grad():
        assert resumed.pair_rewards(pairs_of(PAIRS)).tolist() == before


def test_the_head_comes_from_the_jobs_seed(tiny_folder, load_reward):
    heads = [load_reward(tiny_folder, seed=seed).model.score.weight for seed in (0, 0, 1)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_with_an_adapter_the_head_is_trained_too(tiny_folder, load_reward):
    policy = load_reward(tiny_folder, adapter=LoraSpec(type="lora", r=4))
    names = [name for name, _ in policy.named_parameters()]
    assert any("score" in name for name in names)
    assert all("score" in name or "lora" in name for name in names)


def test_margins_ask_for_more(tiny_folder, load_reward):
    policy = load_reward(tiny_folder)
    pairs = [Preference("m", [3], [5, 1], [6, 1], 2.0)]
    losses = []
    for use in (True, False):
        algorithm = run_of(policy, spec_of("reward_model", algorithm={"use_margins": use})).algorithm
        losses.append(float(algorithm.loss(policy, pairs_of(pairs)).loss.detach()))
    rewards = policy.pair_rewards(pairs_of(pairs)).tolist()
    gap = rewards[0] - rewards[1]
    assert losses == pytest.approx([math.log1p(math.exp(2.0 - gap)), math.log1p(math.exp(-gap))], abs=1e-5)


def test_what_is_held_out_shares_no_prompt_with_what_is_trained_on():
    pairs = [Preference(f"p{k}", [k // 3], [5, 1], [6, 1], 0.0) for k in range(30)]
    kept, held = split_held_out(pairs, 0.2, seed=0)
    assert len(held) == 6
    assert len(kept) == 24
    assert not {tuple(p.prompt) for p in kept} & {tuple(p.prompt) for p in held}
    assert split_held_out(pairs, 0.2, seed=0)[1] == held != split_held_out(pairs, 0.2, seed=1)[1]


def test_held_out_pairs_measure_accuracy_and_where_rewards_lie(tiny_folder, load_reward):
    policy = load_reward(tiny_folder)
    run = run_of(policy, spec_of("reward_model"))
    metrics = held_out_of(run, PAIRS).run(3)
    rewards = policy.pair_rewards(pairs_of(PAIRS)).detach()
    assert metrics["evaluation.accuracy"] == pytest.approx(float((rewards[0::2] > rewards[1::2]).float().mean()))
    assert metrics["evaluation.reward_mean"] == pytest.approx(float(rewards.mean()), abs=1e-6)
    assert metrics["evaluation.reward_std"] == pytest.approx(float(rewards.std()), abs=1e-6)
    assert run.recorder.metric["evaluation.pairs"] == {3: 8.0}
