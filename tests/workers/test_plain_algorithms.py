"""REINFORCE, PPO and TRPO: baselines without bias, values that know no temperature, regions that are measured, exact limits."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from service.domain.rubric import Aggregation
from service.domain.scoring import ScoredCompletion, ScoredGroup, overlong_penalty
from tests.support.training import Grader, gradient, run_of, spec_of, weights
from workers.advantages.plain import subtract_baseline
from workers.algorithms.on_policy import importance_weights, minibatch
from workers.losses.trust_region import flat_of

KINDS = ["reinforce", "ppo", "trpo"]


def scored(*rewards):
    return ScoredGroup(
        "ok", [ScoredCompletion(member=True, coverage=1.0, plain_reward=r, audit=None, reward=r) for r in rewards], {}
    )


def advantages(groups):
    return [[c.advantage for c in group.completions] for group in groups]


# --- baselines ---


def test_leave_one_out_golden():
    # RLOO of rewards 1, 0, 0, 0: 1 and −1/3 (reference/training.md 2c)
    assert advantages(subtract_baseline([scored(1, 0, 0, 0)], "leave_one_out", None))[0] == pytest.approx(
        [1, -1 / 3, -1 / 3, -1 / 3]
    )


def test_one_alone_has_no_others():
    (alone,) = subtract_baseline([scored(0.5)], "leave_one_out", None)
    assert (alone.signal, alone.completions[0].member, alone.completions[0].advantage) == (
        "too_few_members",
        False,
        None,
    )


def test_moving_average_is_of_earlier_steps():
    groups = [scored(1.0), scored(0.0, 0.5)]
    assert advantages(subtract_baseline(groups, "moving_average", 0.25)) == [[0.75], [-0.25, 0.25]]
    # before the first step: the mean of the others, (0 + .5)/2, (1 + .5)/2, (1 + 0)/2
    assert advantages(subtract_baseline(groups, "moving_average", None)) == [[0.75], [-0.75, 0.0]]
    assert advantages(subtract_baseline(groups, "none", 0.25)) == [[1.0], [0.0, 0.5]]


@pytest.mark.parametrize("baseline", ["none", "leave_one_out", "moving_average"])
def test_the_gradient_is_unbiased_with_every_baseline(baseline):
    """Averaged over all pairs of actions with their probabilities, −Σ A·∇log π is −2·∇E[R] for a policy of five actions."""
    logits = torch.tensor([0.3, -1.0, 0.2, 0.9, -0.4], dtype=torch.float64, requires_grad=True)
    rewards = [0.1, 1.0, 0.4, 0.0, 0.7]
    logp = torch.log_softmax(logits, -1)
    p = logp.detach().exp()
    total = torch.zeros(5, dtype=torch.float64)
    for a, b in itertools.product(range(5), repeat=2):
        (group,) = subtract_baseline([scored(rewards[a], rewards[b])], baseline, 0.33)
        first, second = (c.advantage for c in group.completions)
        (step,) = torch.autograd.grad(-(first * logp[a] + second * logp[b]), logits, retain_graph=True)
        total += p[a] * p[b] * step
    (expected,) = torch.autograd.grad(-2 * (logp.exp() * torch.tensor(rewards)).sum(), logits)
    assert torch.allclose(total, expected, atol=1e-12)


def test_the_average_is_corrected_for_its_start_and_saved(tiny_folder, load):
    run = run_of(load(tiny_folder), spec_of("reinforce", algorithm={"baseline_decay": 0.5}))
    assert run.environment.reward_average is None
    for reward in (1.0, 0.0):
        run.environment.note_reward(reward, 0.5)
    assert run.environment.reward_average == pytest.approx((0.25 * 1.0 + 0.5 * 0.0) / 0.75)


def test_overlong_penalty_is_a_straight_line():
    assert [overlong_penalty(n, 100, 20, 2.0) for n in (10, 80, 85, 90, 100)] == [0, 0, 0.5, 1.0, 2.0]


# --- off-policy samples ---


def test_importance_weights():
    sampled, trainer = [[-1.0, -1.0, -1.0]], [[-1.0, -1.0 + math.log(3), -1.0 - math.log(3)]]
    assert importance_weights(trainer, sampled, mode="truncated", cap=2.0)[0] == pytest.approx([1, 2, 1 / 3])
    assert importance_weights(trainer, sampled, mode="masked", cap=2.0)[0] == pytest.approx([1, 0, 0])


@pytest.mark.parametrize("mode", ["truncated", "masked"])
def test_a_correction_where_sampler_and_trainer_agree_changes_nothing(tiny_folder, load, mode):
    # The gradient, not the weights after steps: Adam would hide a wrong scale and blow up rounding.
    gradients = []
    for importance in ({"mode": "off"}, {"mode": mode, "cap": 1.5}):
        policy = load(tiny_folder)
        run, batch = collected(policy, spec_of("reinforce", algorithm={"importance": importance}))
        gradients.append(gradient(policy, run.algorithm, batch))
    assert gradients[0].abs().max() > 1e-3
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-6)


# --- one step ---


def collected(policy, spec, grader=None):
    run = run_of(policy, spec, grader=grader)
    batch = run.algorithm.complete(policy, run.algorithm.collect(run.environment).batch)
    return run, batch


@pytest.mark.parametrize("kind", ["reinforce", "ppo"])
@pytest.mark.parametrize("mean_over", ["token_mean", "sequence_mean", "constant"])
def test_the_gradient_does_not_depend_on_the_cut(tiny_folder, load, kind, mean_over):
    place = {"mean_over": mean_over} if kind == "reinforce" else {"objective": {"aggregation": mean_over}}
    spec = spec_of(kind, algorithm={**place, "kl": {"beta": 0.1}, "entropy_coef": 0.01})
    policy = load(tiny_folder, reference=True, value="separate" if kind == "ppo" else None)
    run, batch = collected(policy, spec)
    whole = gradient(policy, run.algorithm, batch)
    for budget in (12, 30, 60):
        policy.budget = budget
        assert len(policy.microbatches(batch)) > 1
        assert torch.allclose(gradient(policy, run.algorithm, batch), whole, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ratio_is_1_where_it_was_sampled_also_at_a_temperature(gpt2_folder, load, kind):
    spec = spec_of(
        kind, rollout={"group_size": 4, "prompts_per_step": 3, "max_completion_tokens": 8, "temperature": 0.6}
    )
    policy = load(gpt2_folder, value="shared" if kind == "ppo" else None, reference=kind == "ppo")
    run, batch = collected(policy, spec)
    output = run.algorithm.loss(policy, batch)
    total, count = output.metrics["sampler_gap"]
    assert total / count < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_of_which_too_little_is_known_is_in_no_denominator(tiny_folder, load, kind):
    spec = spec_of(kind, algorithm={"aggregation": {"min_coverage": 0.9}})
    grader = Grader(fails=lambda step, index: index == 2)
    policy = load(tiny_folder, value="shared" if kind == "ppo" else None, reference=kind == "ppo")
    _, batch = collected(policy, spec, grader)
    assert len(batch.tokens_B_T) == batch.sequences_in_step == 9
    assert batch.tokens_in_step == sum(len(t) for t in batch.tokens_B_T)


@pytest.mark.parametrize("kind", KINDS)
def test_the_coverage_that_is_needed_is_the_rubric_authors_where_the_job_says_nothing(tiny_folder, load, kind):
    """Coverage 2/3 of a completion whose judge failed: enough by default, not under a rubric that asks for .9."""
    policy = load(tiny_folder, value="shared" if kind == "ppo" else None, reference=kind == "ppo")
    once = {"inner_epochs": 1} if kind == "ppo" else {}
    run = run_of(
        policy,
        spec_of(kind, algorithm=once, training={"steps": 2}),
        grader=Grader(fails=lambda step, index: step == 2 and index == 2),
    )
    run.environment.aggregations = {"": Aggregation(min_coverage=0.9)}
    run.go()
    groups = next(groups for step, _, groups in run.recorder.groups if step == 2)
    assert [[c.member for c in group.scored.completions] for group in groups] == [[True, True, False, True]] * 3


def test_masked_truncation_is_the_batch_without_those_rows(tiny_folder, load):
    policy = load(tiny_folder)
    run, kept = collected(policy, spec_of("reinforce", algorithm={"baseline": "none"}))
    groups = run.recorder.groups[0][2]
    cut = [c.finish_reason == "length" for g in groups for c in g.completions]
    assert any(cut)
    assert not all(cut)
    masking = run_of(
        policy, spec_of("reinforce", algorithm={"baseline": "none", "truncated": {"mode": "mask"}})
    ).algorithm
    masked = masking.batch_of(groups)
    finished = kept.select([b for b, is_cut in enumerate(cut) if not is_cut])
    assert masked.tokens_B_T == finished.tokens_B_T
    assert masked.tokens_in_step == sum(len(t) for t in finished.tokens_B_T)
    by_hand = minibatch(kept, 0, 1, 0, 0)
    assert by_hand is kept


def test_minibatches_cover_the_rollout_once_per_epoch(tiny_folder, load):
    policy = load(tiny_folder, value="shared", reference=True)
    _, batch = collected(policy, spec_of("ppo", algorithm={"minibatches": 3}))
    for epoch in range(2):
        parts = [minibatch(batch, 3 * epoch + k, 3, 0, 5) for k in range(3)]
        assert sorted(map(tuple, (t for p in parts for t in p.tokens_B_T))) == sorted(map(tuple, batch.tokens_B_T))
        assert sum(p.tokens_in_step for p in parts) == batch.tokens_in_step
    assert minibatch(batch, 0, 3, 0, 5).tokens_B_T != minibatch(batch, 3, 3, 0, 5).tokens_B_T


# --- PPO ---


@pytest.mark.parametrize("kind", ["separate", "shared"])
@pytest.mark.parametrize("folder", ["tiny_folder", "gpt2_folder"])
def test_values_are_the_plain_forwards_and_know_no_temperature(request, load, kind, folder):
    policy = load(request.getfixturevalue(folder), value=kind, reference=True)
    _, batch = collected(policy, spec_of("ppo"))
    head = policy.value.model.inner.score if kind == "separate" else policy.value.head
    with torch.no_grad():
        head.weight.normal_(generator=torch.Generator().manual_seed(3))
    found = policy.values(batch)
    expected = []
    for tokens, owner in zip(batch.tokens_B_T, batch.prompt_of_B, strict=True):
        prompt = batch.prompts_P_T[owner]
        model = policy.value.model.inner if kind == "separate" else policy.model
        backbone = getattr(model, model.base_model_prefix)
        states = backbone(input_ids=torch.tensor([[*prompt, *tokens]])).last_hidden_state[0]
        expected.append(head(states[len(prompt) - 1 : -1]).squeeze(-1))
    assert torch.allclose(found, torch.cat(expected), atol=1e-5)
    assert torch.equal(policy.values(replace(batch, temperature=0.3)), found)


def test_with_a_fresh_value_model_and_lambda_1_advantages_are_the_discounted_score(tiny_folder, load):
    policy = load(tiny_folder, value="separate", reference=True)
    spec = spec_of("ppo", algorithm={"trace": 1.0, "discount": 0.9, "whiten": False, "kl": {"beta": 0.0}})
    _, batch = collected(policy, spec)
    for reward, tokens, row in zip(batch.rewards_B, batch.tokens_B_T, batch.advantages_B_T, strict=True):
        n = len(tokens)
        assert row == pytest.approx([reward * 0.9 ** (n - 1 - t) for t in range(n)], abs=1e-9)


def test_the_divergence_is_taken_off_every_token(tiny_folder, load):
    """With λ = γ = 1 and V = 0, the first advantage is the score minus β·Σ of the divergence over the completion."""
    policy = load(tiny_folder, value="shared", reference=True)
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    options = {"trace": 1.0, "whiten": False, "kl": {"beta": 0.5, "estimator": "k1", "placement": "reward"}}
    _, batch = collected(policy, spec_of("ppo", algorithm=options))
    reference = policy.reference_logprobs(batch)
    start = 0
    for reward, tokens, logprobs, row in zip(
        batch.rewards_B, batch.tokens_B_T, batch.logprobs_B_T, batch.advantages_B_T, strict=True
    ):
        divergence = math.fsum(logprobs) - float(reference[start : start + len(tokens)].double().sum())
        assert row[0] == pytest.approx(reward - 0.5 * divergence, abs=1e-4)
        start += len(tokens)


def test_both_models_are_trained_and_the_value_model_at_its_own_rate(tiny_folder, load):
    policy = load(tiny_folder, value="separate", reference=True)
    spec = spec_of("ppo", algorithm={"value": {"learning_rate": 0.02}}, training={"steps": 1, "learning_rate": 0.01})
    run = run_of(policy, spec)
    assert [group.get("factor", 1.0) for group in run.optimizer.param_groups] == [1.0, 2.0]
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    run.go()
    moved = [name for name, p in policy.named_parameters() if not torch.equal(p, before[name])]
    assert any(name.startswith("value.") for name in moved)
    assert any(not name.startswith("value.") for name in moved)


# --- TRPO ---


@pytest.mark.parametrize("adapter", [None, {"type": "lora", "r": 4}], ids=["full", "lora"])
def test_the_measured_divergence_stays_in_the_region_and_the_objective_rises(tiny_folder, load, adapter):
    spec = spec_of("trpo", algorithm={"max_kl": 0.02}, adapter=adapter, training={"steps": 3, "learning_rate": None})
    policy = load(tiny_folder, adapter=spec.adapter)
    run = run_of(policy, spec)
    run.go()
    series = run.recorder.metric
    for step in (1, 2, 3):
        assert series["kl_before"][step] == pytest.approx(0, abs=1e-7)
        assert 0 < series["kl"][step] <= 0.02
        assert series["gain"][step] > 0
        # to second order the step ends on the edge: the first try is near it
        assert series["step_scale"][step] >= 0.5


def test_fisher_products_are_derivatives_of_the_divergences_gradient(tiny_folder, load):
    """F·v = d/dε ∇KL(θ ‖ θ+ε·v) at 0, by central differences of first derivatives."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    from workers.algorithms.on_policy import step_mean
    from workers.losses.trust_region import categorical_kl

    spec = spec_of("trpo", algorithm={"damping": 0.0}, training={"steps": 1, "learning_rate": None})
    policy = load(tiny_folder)
    policy.model.double()
    run, batch = collected(policy, spec)
    parameters = list(policy.parameters())
    vector = torch.randn(
        sum(p.numel() for p in parameters), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    # The padding token's row gets no gradient as an input (torch's padding_idx), so moving along it is none of autograd's business.
    torch.split(vector, [p.numel() for p in parameters])[0].view_as(parameters[0])[0] = 0
    vector = vector / vector.norm()
    with sdpa_kernel(SDPBackend.MATH):
        product = run.algorithm._fisher(policy, policy.microbatches(batch), parameters)(vector)
        with torch.no_grad():
            old = policy.distributions(batch).logits

        def slope(epsilon):
            parts = torch.split(vector, [p.numel() for p in parameters])
            with torch.no_grad():
                for p, part in zip(parameters, parts, strict=True):
                    p.add_(epsilon * part.view_as(p))
            flat = policy.distributions(batch)
            mean = step_mean(categorical_kl(old, flat.logits), flat.sequence, flat.lengths, batch, "token_mean")
            found = flat_of(torch.autograd.grad(mean, parameters, allow_unused=True), parameters)
            with torch.no_grad():
                for p, part in zip(parameters, parts, strict=True):
                    p.sub_(epsilon * part.view_as(p))
            return found

        differences = (slope(1e-2) - slope(-1e-2)) / 2e-2
    assert float((product - differences).norm() / product.norm()) < 1e-3


def test_a_region_that_no_step_fits_into_leaves_every_bit(tiny_folder, load):
    # So small that the surrogate cannot change by a bit: at 1e-12 rounding alone decides, and it
    # depends on the number of threads.
    spec = spec_of(
        "trpo", algorithm={"max_kl": 1e-30, "line_search_steps": 1}, training={"steps": 1, "learning_rate": None}
    )
    policy = load(tiny_folder)
    before = weights(policy)
    run = run_of(policy, spec)
    run.go()
    assert run.recorder.metric["step_scale"][1] == 0.0
    assert torch.equal(weights(policy), before)


# --- all of it ---


@pytest.mark.parametrize("kind", KINDS)
def test_it_gets_better_at_its_rubric(tiny_folder, load, kind):
    algorithm = {"ppo": {"inner_epochs": 2, "kl": {"beta": 0.0}, "value": {"learning_rate": 0.01}}}.get(kind, {})
    if kind == "trpo":
        algorithm = {"max_kl": 0.05}
    rate = {"reinforce": 0.01, "ppo": 0.01}.get(kind)
    rollout = {"group_size": 8, "prompts_per_step": 6, "max_completion_tokens": 8}
    policy = load(tiny_folder, value="separate" if kind == "ppo" else None)
    run = run_of(
        policy, spec_of(kind, algorithm=algorithm, rollout=rollout, training={"steps": 40, "learning_rate": rate})
    )
    run.go()
    rewards = list(run.recorder.metric["plain_reward"].values())
    assert sum(rewards[-6:]) / 6 > sum(rewards[:6]) / 6 + 0.12, rewards


def test_a_missing_cell_takes_the_mean_of_earlier_steps(tiny_folder, load):
    policy = load(tiny_folder)
    run = run_of(policy, spec_of("reinforce", training={"steps": 2, "learning_rate": 0.01}),
                 grader=Grader(fails=lambda step, index: index == 1))  # fmt: skip
    run.go()
    first, second = (groups for _, _, groups in run.recorder.groups)
    assert [group.scored.completions[1].member for group in first] == [
        False
    ] * 3  # nothing is known of earlier steps yet
    said = [row["said"].score for group in first for row in group.cells if row["said"].score is not None]
    for group in second:
        even = group.cells[1]["even"].score
        assert group.scored.completions[1].reward == pytest.approx((2 * even + sum(said) / len(said)) / 3)
        assert group.scored.completions[1].plain_reward is None
