"""The categorical policy follows the product's objective exactly; both policies learn what can be learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.claim import categorical, transformer
from benchmarks.claim.judge import SimulatedJudge
from benchmarks.claim.problem import make_problem
from benchmarks.claim.protocol import ALL_ARMS, ARMS, FULL, SETTINGS, Cell, RunKey
from benchmarks.claim.scoring import Scorer
from service.domain.scoring import History
from workers.advantages.group import score_step, scored_row
from workers.algorithms import ALGORITHMS
from workers.losses.policy_gradient import clipped_surrogate
from workers.types import Completion, CompletionGroup


def test_the_gradient_is_that_of_the_products_surrogate():
    rng = np.random.default_rng(0)
    logits, actions = rng.normal(size=(3, 7)), rng.integers(0, 7, (3, 8))
    advantages = rng.normal(size=(3, 8))
    before = categorical.softmax(logits + rng.normal(size=(3, 7)))  # far enough that both clips act
    old = before[np.arange(3)[:, None], actions]
    tensor = torch.tensor(logits, requires_grad=True)
    logprobs = torch.log_softmax(tensor, -1)[torch.arange(3)[:, None], torch.tensor(actions)]
    ratio = logprobs.flatten() - torch.tensor(np.log(old)).flatten()
    loss = clipped_surrogate(ratio, torch.tensor(advantages).flatten(), categorical.CLIP_LOW, categorical.CLIP_HIGH)
    (loss.sum() / 24).backward()
    found = categorical.surrogate_gradient(logits, old, actions, advantages, 24)
    assert found == pytest.approx(tensor.grad.numpy(), abs=1e-12)
    moved = ratio.detach().exp()
    assert (moved > 1.28).any()
    assert (moved < 0.8).any()


def test_clip_range_is_the_products_default():
    objective = transformer.spec_of(FULL.transformers, ARMS["uniform"], 0).algorithm.objective
    assert (objective.clip_low, objective.clip_high) == (categorical.CLIP_LOW, categorical.CLIP_HIGH)


def test_samples_follow_the_policy():
    policy = np.array([[0.1, 0.0, 0.6, 0.3]])
    drawn = categorical.sample(policy, np.random.default_rng(0).random((1, 40_000)))
    shares = np.bincount(drawn[0], minlength=4) / 40_000
    assert shares == pytest.approx(policy[0], abs=0.01)
    assert shares[1] == 0
    assert categorical.sample(policy, np.array([[0.0, 0.0999, 0.1001, 0.7001, 1 - 1e-16]])).tolist() == [
        [0, 0, 2, 3, 3]
    ]


def test_without_noise_the_categorical_policy_gets_there_and_a_run_repeats():
    key = RunKey("categorical", Cell("independent", "none", "any"), "uniform", 0)
    curve = categorical.train(FULL, key)
    assert len(curve) == FULL.categorical.steps + 1
    assert curve[0] == pytest.approx(0, abs=1e-9)
    assert curve[-1] > 0.8
    short = replace(FULL, categorical=replace(FULL.categorical, steps=12))
    assert categorical.train(short, key) == curve[:13]


def test_without_noise_the_language_model_learns():
    protocol = replace(FULL, transformers=replace(FULL.transformers, steps=25))
    curve = transformer.train(protocol, RunKey("transformers", Cell("shared", "none", "any"), "uniform", 0))
    assert len(curve) == 25
    assert abs(curve[0]) < 0.1
    assert curve[-1] > 0.35


def test_quality_is_the_mean_worth_of_the_tokens_in_the_prompts_context():
    problem = make_problem("independent", FULL.transformers, 0)
    worth = transformer.token_worth(problem)
    assert (worth[:, : transformer.FIRST_WORD] == 0).all()
    prompts = transformer.prompts_of(FULL.transformers)
    assert len({p.id for p in prompts}) == len(prompts) == 4 * 32
    for prompt in prompts:
        assert prompt.tokens[0] == transformer.FIRST_WORD + prompt.view["context"]
    # Two words and the end token: (z1 + z2 + 0)/3.
    tokens = [transformer.FIRST_WORD + 5, transformer.FIRST_WORD + 9, transformer.EOS_ID]
    assert worth[2, tokens].mean(axis=0) == pytest.approx((problem.latent[2, 5] + problem.latent[2, 9]) / 3)


def test_arms_differ_only_from_the_first_update_on():
    cell = Cell("shared", "large", "honest")
    curves = {
        arm: categorical.train(
            replace(FULL, categorical=replace(FULL.categorical, steps=3)),
            RunKey("categorical", replace(cell, confidence="any") if arm == "uniform" else cell, arm, 5),
        )
        for arm in ("uniform", "confidence")
    }
    assert curves["uniform"][0] == curves["confidence"][0]
    assert curves["uniform"][1] != curves["confidence"][1]


@pytest.mark.parametrize("name", ALL_ARMS)
def test_both_policies_score_an_arm_by_the_same_options(name):
    """The job's own options, resolved by the product, against those of the categorical policy: first, middle and last step."""
    arm, sizes = ALL_ARMS[name], FULL.transformers
    spec = transformer.spec_of(sizes, arm, 0)
    algorithm = ALGORITHMS[spec.algorithm.type](spec)
    scorer = Scorer(arm, SETTINGS["shared"], 7)
    for step, optimizer_step in ((0, 1), (6, spec.training.steps)):
        assert replace(scorer.options, confidence_exponent=scorer.exponent(step)) == algorithm.options_at(
            optimizer_step
        )
    assert scorer.exponent(3) == pytest.approx(sum(arm.exponents) / 2)
    assert (spec.algorithm.type == "grpo") == (arm.weighting == "uniform")


@pytest.mark.parametrize("name", ["confidence", "shrunk", "inverse_variance_2", "uniform_zero", "lowest", "half"])
def test_a_language_model_run_scores_as_the_categorical_one_does(name):
    """The loop's own way from cells to advantages gives the numbers of the categorical policy's, two steps in a row."""
    cell, arm = Cell("conflicting", "large", "honest", "random"), ALL_ARMS[name]
    problem = make_problem(cell.setting, FULL.transformers, 0)
    judge = SimulatedJudge(FULL.judge, problem, cell, arm, 0)
    grader, scorer, history = transformer.JudgeAsGrader(judge), Scorer(arm, problem.setting, 10), History()
    spec = transformer.spec_of(FULL.transformers, arm, 0)
    options = ALGORITHMS[spec.algorithm.type](spec).options_at(1)
    rng = np.random.default_rng(1)
    for step in (0, 1):
        grading = grader.start("train", step)
        groups = [
            CompletionGroup(
                transformer.prompts_of(FULL.transformers)[40 * k],
                [Completion(rng.integers(3, 35, 6).tolist(), [0.0] * 6, "length", "") for _ in range(8)],
            )
            for k in range(3)
        ]
        for group in groups:
            grading.submit(group)
        grading.finish()
        score_step(groups, options, history.past)
        verdicts = judge.grade(grader.quality(groups), step)
        expected = scorer.score([judge.rows(verdicts, k) for k in range(3)], step)
        for group, ours in zip(groups, expected, strict=True):
            history.add(group.rubric, group.criteria, [scored_row(row) for row in group.cells])
            assert [c.advantage for c in group.scored.completions] == [c.advantage for c in ours.completions]
            assert {k: w.share for k, w in group.scored.weighting.items()} == {
                k: w.share for k, w in ours.weighting.items()
            }
