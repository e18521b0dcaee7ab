"""The terms of the loss beside the surrogate, and options that move over the steps."""

import pytest
import torch

from tests.support.training import Grader, equal_scores, gradient, rollout, run_of, scored_again, spec_of, weights
from workers.losses.logprobs import token_entropy

D = torch.float64


def test_entropy_is_that_of_the_categorical_distribution():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 7, generator=generator)
    for temperature in (1.0, 0.6):
        expected = torch.distributions.Categorical(logits=logits / temperature).entropy()
        assert torch.allclose(token_entropy(logits, temperature), expected, atol=1e-6)
    assert token_entropy(torch.zeros(5)).item() == pytest.approx(1.6094379)  # ln 5
    assert token_entropy(torch.zeros(2, dtype=torch.bfloat16)).dtype == torch.float32


def test_entropy_has_its_gradient_and_survives_what_is_ruled_out():
    logits = torch.randn(6, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
    (own,) = torch.autograd.grad(token_entropy(logits), logits)
    p = torch.softmax(logits.detach(), -1)
    # ∂H/∂x_k = −p_k·(log p_k + H)
    assert torch.allclose(own, -p * (p.log() + token_entropy(logits.detach())), atol=1e-6)
    masked = torch.tensor([1.0, 2.0, float("-inf")], requires_grad=True)
    entropy = token_entropy(masked)
    entropy.backward()
    assert entropy.item() == pytest.approx(torch.distributions.Categorical(logits=masked[:2].detach()).entropy().item())
    assert torch.isfinite(masked.grad).all()
    assert masked.grad[2] == 0


def entropies(policy, batch):
    """H at every completion token, from a plain forward of each sequence on its own."""
    found = []
    for tokens, prompt in zip(batch.tokens_B_T, batch.prompt_of_B, strict=True):
        whole = batch.prompts_P_T[prompt] + tokens
        logits = policy.model(torch.tensor([whole])).logits[0, len(whole) - len(tokens) - 1 : -1]
        found.append(torch.distributions.Categorical(logits=logits.double() / batch.temperature).entropy())
    return found


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean"])
def test_the_entropy_term_is_the_coefficient_times_the_mean_entropy(tiny_folder, load, aggregation):
    policy = load(tiny_folder)
    objective = {"objective": {"aggregation": aggregation}}
    rolled = {"rollout": {"group_size": 4, "prompts_per_step": 3, "max_completion_tokens": 8, "temperature": 0.7}}
    algorithm, groups = rollout(policy, spec_of(algorithm={"entropy_coef": 0.3, **objective}, **rolled))
    plain, _ = rollout(policy, spec_of(algorithm=objective, **rolled))
    batch = algorithm.batch_of(groups)
    by_token = entropies(policy, batch)
    expected = (
        torch.cat(by_token).mean() if aggregation == "token_mean" else torch.stack([h.mean() for h in by_token]).mean()
    )
    with_term, without = algorithm.loss(policy, batch), plain.loss(policy, batch)
    assert (without.loss - with_term.loss).item() == pytest.approx(0.3 * expected.item(), abs=1e-6)
    total, count = with_term.metrics["entropy"]
    assert total / count == pytest.approx(torch.cat(by_token).mean().item(), abs=1e-6)
    (expected * 0.3).backward()
    analytic = torch.cat([p.grad.flatten() for p in policy.parameters()])
    difference = gradient(policy, plain, batch) - gradient(policy, algorithm, batch)
    assert torch.allclose(difference, analytic, atol=1e-6)


def test_with_an_entropy_term_nothing_is_skipped(tiny_folder, load):
    policy = load(tiny_folder)
    algorithm, groups = rollout(policy, spec_of(algorithm={"entropy_coef": 0.1}))
    for group in groups:
        equal_scores(group)
        group.scored = scored_again(algorithm, group)
    batch = algorithm.batch_of(groups)
    assert len(batch.tokens_B_T) == 12
    assert gradient(policy, algorithm, batch).abs().max() > 1e-6
    policy.budget = 30
    assert len(policy.microbatches(batch)) > 1
    whole = gradient(policy, algorithm, batch)
    policy.budget = 10_000
    assert torch.allclose(gradient(policy, algorithm, batch), whole, atol=1e-6)


def test_an_entropy_term_keeps_the_entropy_up(tiny_folder, load):
    last = []
    for coefficient in (0.0, 0.5):
        policy = load(tiny_folder)
        spec = spec_of(algorithm={"entropy_coef": coefficient}, training={"steps": 25, "learning_rate": 0.01})
        run = run_of(policy, spec)
        run.go()
        last.append(run.recorder.metric["entropy"][25])
    assert last[1] > last[0] + 0.3


def test_the_exponent_moves_in_a_straight_line(tiny_folder, load):
    spec = spec_of(algorithm={"aggregation": {"confidence_exponent": 1.0, "confidence_exponent_final": 0.0}})
    policy = load(tiny_folder)
    run = run_of(policy, spec)
    run.go()
    assert run.recorder.metric["confidence_exponent"] == pytest.approx({1: 1, 2: 0.75, 3: 0.5, 4: 0.25, 5: 0})
    last = [group for step, _, groups in run.recorder.groups for group in groups if step == 5]
    for group in last:  # α = 0: the author's weights
        assert {key: w.effective_weight for key, w in group.scored.weighting.items()} == {"even": 2.0, "said": 1.0}
    first = next(groups for step, _, groups in run.recorder.groups if step == 1)
    assert all(group.scored.weighting["said"].effective_weight < 1 for group in first)


def test_one_criterion_makes_grape_grpo_to_the_bit_with_every_centring_option(tiny_folder, load):
    from service.domain.scoring import CriterionWeight

    for advantage in ({"scale": "batch_std"}, {"baseline": "leave_one_out", "scale": "none"}, {"level": "criterion"}):
        results = []
        for kind in ("grape", "grpo"):
            policy = load(tiny_folder)
            spec = spec_of(kind, algorithm={"advantage": advantage}, training={"steps": 2})
            run_of(policy, spec, grader=Grader(criteria=[CriterionWeight("said", 3.0)])).go()
            results.append(weights(policy))
        assert torch.equal(*results)
