"""Leave-one-out REINFORCE against TRL's RLOOTrainer; GAE, returns and the value loss against torchrl (TRL has no PPO any more)."""

import random

import pytest
import torch

from service.domain.grade import Cell
from service.domain.scoring import CriterionWeight, Past
from tests.support.peer import MARKS, assert_same, causal_model, loss_and_gradient, random_groups, trained
from tests.support.training import algorithm_of, spec_of
from workers.advantages.gae import gae
from workers.advantages.plain import plain_scores, subtract_baseline
from workers.algorithms.on_policy import trainer_logprobs
from workers.losses.value import value_loss
from workers.types import Completion, CompletionGroup, Prompt

pytestmark = MARKS


@pytest.mark.parametrize("seed", [0, 1])
def test_leave_one_out(tiny_folder, load, tmp_path, seed):
    """TRL's ratio is the whole sequence's product and its normaliser the number of sequences, so where it was sampled its gradient
    is −A·Σ∇log π / sequences. That is our `constant` mean (sequences × limit) times the limit."""
    from trl import RLOOConfig, RLOOTrainer

    sampled, policy = random_groups(seed), load(tiny_folder, budget=40)
    step = trained(
        RLOOTrainer, causal_model(tiny_folder), sampled.dataset(), policy.tokenizer, RLOOConfig, tmp_path,
        generate=sampled, per_device_train_batch_size=12, num_generations=4, max_completion_length=sampled.limit, beta=0.0,
    )[0]  # fmt: skip
    rollout = {"group_size": 4, "max_completion_tokens": sampled.limit}
    spec = spec_of("reinforce", algorithm={"baseline": "leave_one_out", "mean_over": "constant"}, rollout=rollout)
    algorithm = algorithm_of(spec)

    def batch(logprobs):
        rows, groups = iter(logprobs), []
        for prompt, completions, rewards in zip(sampled.prompts, sampled.groups, sampled.rewards, strict=True):
            said = {"criterion": "reward", "grader": "regex", "status": "ok", "confidence_source": "verifier"}
            cells = [{"reward": Cell(score=reward, confidence=1.0, **said)} for reward in rewards]
            made = [Completion(t, next(rows, [0.0] * len(t)), "stop", "") for t in completions]
            criteria = [CriterionWeight("reward", 1.0, judged=False)]
            groups.append(CompletionGroup(Prompt("p", prompt, {}), made, criteria, "rubric", cells))
        scored = [plain_scores(group, Past(), 0.0) for group in groups]
        for group, done in zip(groups, subtract_baseline(scored, "leave_one_out", None), strict=True):
            group.scored = done
        return algorithm.batch_of(groups)

    _, gradient, _ = loss_and_gradient(policy, algorithm, batch(trainer_logprobs(policy, batch([]))))
    assert_same(step, None, gradient, factor=float(sampled.limit))


@pytest.mark.parametrize(("discount", "trace"), [(1.0, 0.95), (0.99, 0.9), (1.0, 1.0), (0.9, 0.0)])
def test_gae_and_returns(discount, trace):
    """torchrl keeps γ and λ in float32, which is what the tolerance is for."""
    from torchrl.objectives.value.functional import generalized_advantage_estimate

    rng = random.Random(3)
    lengths = [1, 5, 12, 40]
    rewards = [[rng.gauss(0, 1) for _ in range(n)] for n in lengths]
    values = [[rng.gauss(0, 1) for _ in range(n)] for n in lengths]
    advantages, returns = gae(rewards, values, discount=discount, trace=trace)
    for r, v, a, target in zip(rewards, values, advantages, returns, strict=True):
        column = torch.tensor(v, dtype=torch.float64).unsqueeze(-1)
        following = torch.cat([column[1:], torch.zeros(1, 1, dtype=torch.float64)])
        done = torch.zeros(len(v), 1, dtype=torch.bool)
        done[-1] = True
        found, wanted = generalized_advantage_estimate(
            discount, trace, column, following, torch.tensor(r, dtype=torch.float64).unsqueeze(-1), done=done
        )
        assert a == pytest.approx(found.squeeze(-1).tolist(), abs=1e-5)
        assert target == pytest.approx(wanted.squeeze(-1).tolist(), abs=1e-5)


@pytest.mark.parametrize("clip_range", [None, 0.2])
def test_the_value_loss(clip_range):
    """torchrl's "l2" critic loss is (V − R)², of which ours is half; its clip is that of PPO2, the larger of the two."""
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule
    from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal
    from torchrl.objectives import ClipPPOLoss

    generator = torch.Generator().manual_seed(0)
    old, now, returns = (torch.randn(64, 1, generator=generator) for _ in range(3))
    critic = TensorDictModule(torch.nn.Linear(1, 1, bias=False), in_keys=["observation"], out_keys=["state_value"])
    torch.nn.init.ones_(critic.module.weight)  # the value is the observation
    net = torch.nn.Sequential(torch.nn.Linear(1, 2), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(net, in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"], distribution_class=TanhNormal,
    )  # fmt: skip
    loss = ClipPPOLoss(
        actor, critic, critic_coeff=1.0, loss_critic_type="l2", clip_value=clip_range or False, reduction="none"
    )
    data = TensorDict({"observation": now, "state_value": old, "value_target": returns}, batch_size=[64])
    theirs = loss.loss_critic(data)
    theirs = theirs[0] if isinstance(theirs, tuple) else theirs
    ours = value_loss(now.squeeze(-1), old.squeeze(-1), returns.squeeze(-1), clip_range)
    assert torch.allclose(2 * ours, theirs.detach().squeeze(-1), atol=1e-6)
