"""GRPO against TRL's GRPOTrainer: rewards to advantages to loss to gradient, on the same completions, in float32."""

import pytest

from service.domain.grade import Cell
from service.domain.scoring import CriterionWeight, Past
from tests.support.peer import MARKS, assert_same, causal_model, disturb, loss_and_gradient, put, random_groups, trained
from tests.support.training import algorithm_of, spec_of
from workers.advantages.group import score_step
from workers.algorithms.on_policy import trainer_logprobs
from workers.types import Completion, CompletionGroup, Prompt

pytestmark = MARKS

SAME = {"objective": {"clip_low": 0.2, "clip_high": 0.2}, "advantage": {"scale_eps": 1e-4}}  # TRL adds 1e-4 to the std
LOSSES = [
    # TRL's loss type and its normaliser, and our name for the mean
    pytest.param("dapo", "token_mean", id="dapo-tokens_of_the_step"),
    pytest.param("bnpo", "token_mean", id="bnpo-tokens_of_the_microbatch"),
    pytest.param("grpo", "sequence_mean", id="grpo-tokens_of_each_sequence_then_sequences"),
    pytest.param("dr_grpo", "constant", id="dr_grpo-sequences_times_limit"),
]


def theirs(folder, tmp_path, sampled, policy, *, model=None, **options):
    """The steps of TRL's trainer on these completions."""
    from trl import GRPOConfig, GRPOTrainer

    size = sum(len(group) for group in sampled.groups)
    given = {
        "per_device_train_batch_size": size, "num_generations": len(sampled.groups[0]),
        "max_completion_length": sampled.limit, "beta": 0.0, "epsilon": 0.2, **options,
    }  # fmt: skip
    model = model or causal_model(folder)
    return trained(
        GRPOTrainer, model, sampled.dataset(), policy.tokenizer, GRPOConfig, tmp_path, generate=sampled, **given
    )


def our_batch(algorithm, policy, sampled):
    """The same completions through our grading, scoring and batching; sampled by the policy as it is now."""
    criterion = CriterionWeight("reward", 1.0, judged=False)

    def groups(logprobs):
        rows = iter(logprobs)
        found = []
        for prompt, completions, rewards in zip(sampled.prompts, sampled.groups, sampled.rewards, strict=True):
            made = [Completion(t, next(rows, [0.0] * len(t)), "stop", "") for t in completions]
            said = {"criterion": "reward", "grader": "regex", "status": "ok", "confidence_source": "verifier"}
            cells = [{"reward": Cell(score=reward, confidence=1.0, **said)} for reward in rewards]
            found.append(CompletionGroup(Prompt("p", prompt, {}), made, [criterion], "rubric", cells))
        score_step(found, algorithm.options, lambda rubric: Past())
        return found

    first = algorithm.batch_of(groups([]), skip=False)
    return algorithm.batch_of(groups(trainer_logprobs(policy, first)))


def algorithm_with(sampled, **changes):
    algorithm = {block: {**SAME.get(block, {}), **changes.pop(block, {})} for block in ("objective", "advantage")}
    temperature = changes.pop("temperature", 1.0)
    rollout = {"group_size": 4, "max_completion_tokens": sampled.limit, "temperature": temperature}
    return algorithm_of(spec_of("grpo", algorithm={**algorithm, **changes}, rollout=rollout))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("loss_type", "mean_over"), LOSSES)
def test_loss_types(tiny_folder, load, tmp_path, loss_type, mean_over, seed):
    sampled, policy = random_groups(seed), load(tiny_folder)
    step = theirs(tiny_folder, tmp_path, sampled, policy, loss_type=loss_type)[0]
    algorithm = algorithm_with(sampled, objective={"aggregation": mean_over})
    loss, gradient, _ = loss_and_gradient(policy, algorithm, our_batch(algorithm, policy, sampled))
    assert_same(step, loss, gradient)


@pytest.mark.parametrize(("loss_type", "mean_over"), [LOSSES[0], LOSSES[2], LOSSES[3]])
def test_accumulation_does_not_change_it(tiny_folder, load, tmp_path, loss_type, mean_over):
    """TRL in two micro-batches and ours in many: bnpo is left out because its normaliser is the micro-batch's own."""
    sampled, policy = random_groups(2), load(tiny_folder, budget=30)
    split = {"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}
    step = theirs(tiny_folder, tmp_path, sampled, policy, loss_type=loss_type, **split)[0]
    algorithm = algorithm_with(sampled, objective={"aggregation": mean_over})
    batch = our_batch(algorithm, policy, sampled)
    assert len(policy.microbatches(batch)) > 1
    loss, gradient, _ = loss_and_gradient(policy, algorithm, batch)
    assert_same(step, loss, gradient)


# TRL's "batch" takes the deviation of the raw rewards, ours that of centred advantages (grape.md §5): the same where all groups
# have one mean, here .5.
EQUAL_MEANS = [[0.25, 0.75, 0.5, 0.5], [0.0, 1.0, 0.125, 0.875], [0.5, 0.5, 0.375, 0.625]]


@pytest.mark.parametrize(("scale_rewards", "scale"), [("group", "group_std"), ("batch", "batch_std"), ("none", "none")])
def test_scales_of_rewards(tiny_folder, load, tmp_path, scale_rewards, scale):
    sampled, policy = random_groups(3, rewards=EQUAL_MEANS), load(tiny_folder)
    step = theirs(tiny_folder, tmp_path, sampled, policy, loss_type="dapo", scale_rewards=scale_rewards)[0]
    algorithm = algorithm_with(sampled, advantage={"scale": scale})
    loss, gradient, _ = loss_and_gradient(policy, algorithm, our_batch(algorithm, policy, sampled))
    assert_same(step, loss, gradient)


def test_a_group_without_spread_counts_in_the_denominator_and_nowhere_else(tiny_folder, load, tmp_path):
    """TRL runs it through the model; we leave it out and keep its tokens in dapo's normaliser."""
    sampled, policy = random_groups(4, rewards=[[0.5] * 4, [0, 1, 1, 0], [0.25] * 4]), load(tiny_folder)
    step = theirs(tiny_folder, tmp_path, sampled, policy, loss_type="dapo")[0]
    algorithm = algorithm_with(sampled)
    batch = our_batch(algorithm, policy, sampled)
    assert len(batch.tokens_B_T) == 4
    loss, gradient, _ = loss_and_gradient(policy, algorithm, batch)
    assert_same(step, loss, gradient)


def test_temperature_scales_both_sides(tiny_folder, load, tmp_path):
    sampled, policy = random_groups(5), load(tiny_folder)
    step = theirs(tiny_folder, tmp_path, sampled, policy, loss_type="dapo", temperature=0.7)[0]
    algorithm = algorithm_with(sampled, temperature=0.7)
    loss, gradient, _ = loss_and_gradient(policy, algorithm, our_batch(algorithm, policy, sampled))
    assert_same(step, loss, gradient)


@pytest.mark.parametrize(("loss_type", "mean_over"), LOSSES)
def test_kl_to_the_reference_is_k3_with_its_ratio(tiny_folder, load, tmp_path, loss_type, mean_over):
    """`use_bias_correction_kl` (TRL's default): ρ·k3, whose gradient at ρ = 1 is k2's."""
    sampled, policy = random_groups(6), load(tiny_folder, reference=True)
    moved = disturb(causal_model(tiny_folder))
    step = theirs(tiny_folder, tmp_path, sampled, policy, model=moved, loss_type=loss_type, beta=0.3)[0]
    disturb(policy.model)
    algorithm = algorithm_with(sampled, objective={"aggregation": mean_over}, kl={"beta": 0.3, "estimator": "k3"})
    loss, gradient, metrics = loss_and_gradient(policy, algorithm, our_batch(algorithm, policy, sampled))
    assert metrics["kl"] > 0.01
    assert_same(step, loss, gradient)


def test_the_entropy_bonus_is_the_mean_over_tokens(tiny_folder, load, tmp_path):
    sampled, policy = random_groups(7), load(tiny_folder)
    step = theirs(tiny_folder, tmp_path, sampled, policy, loss_type="dapo", entropy_coef=0.05)[0]
    algorithm = algorithm_with(sampled, entropy_coef=0.05)
    loss, gradient, _ = loss_and_gradient(policy, algorithm, our_batch(algorithm, policy, sampled))
    assert_same(step, loss, gradient)


@pytest.mark.parametrize(
    ("level", "loss_type", "ratio", "mean_over", "low", "high", "beta"),
    [
        ("token", "dapo", "token", "token_mean", 0.02, 0.05, 0.0),
        ("token", "grpo", "token", "sequence_mean", 0.05, 0.02, 0.0),
        ("token", "dr_grpo", "token", "constant", 0.02, 0.02, 0.1),
        ("sequence", "grpo", "sequence", "sequence_mean", 0.1, 0.12, 0.0),  # GSPO
    ],
    ids=["dapo", "grpo", "dr_grpo-kl", "gspo"],
)
def test_the_second_step_on_the_same_samples_is_clipped_alike(
    tiny_folder, load, tmp_path, level, loss_type, ratio, mean_over, low, high, beta
):
    """`num_iterations` 2: the first step moves the policy, so at the second the ratio is not 1 and both clips are hit."""
    sampled = random_groups(8, rewards=[[0, 1, 0.5, 0.25], [1, 0, 0, 1], [0.5, 0.25, 1, 0]])
    policy = load(tiny_folder, reference=beta > 0)
    steps = theirs(
        tiny_folder, tmp_path, sampled, policy, loss_type=loss_type, importance_sampling_level=level, epsilon=low,
        epsilon_high=high, num_iterations=2, max_steps=2, beta=beta, rate=0.3,
    )  # fmt: skip
    objective = {"ratio": ratio, "aggregation": mean_over, "clip_low": low, "clip_high": high}
    algorithm = algorithm_with(sampled, objective=objective, **({"kl": {"beta": beta}} if beta else {}))
    batch = our_batch(algorithm, policy, sampled)
    put(policy.model, steps[1].weights)
    loss, gradient, metrics = loss_and_gradient(policy, algorithm, batch)
    assert 0.05 < metrics["clip_fraction"] < 0.95
    assert_same(steps[1], loss, gradient)
