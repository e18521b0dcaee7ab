"""PPO (arXiv 1707.06347) on completions: a value model, generalised advantage estimation, several clipped epochs per rollout."""

from __future__ import annotations

from dataclasses import replace

from service.domain.job import JobSpec
from service.domain.policy_gradient import PpoConfig
from workers.advantages.gae import gae, last_token_rewards, whiten
from workers.algorithms.base import Collected, Environment, Policy
from workers.algorithms.on_policy import (
    Surrogate,
    divergence_terms,
    divergences,
    over_pieces,
    policy_loss,
    step_mean,
)
from workers.algorithms.plain import PlainReward
from workers.losses.value import value_loss
from workers.types import Batch, LossOutput, PolicyBatch, flatten


class Ppo(PlainReward):
    """The score stands on the last token of a completion, its end token or the one that hit the limit, never on padding."""

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, PpoConfig)
        config = spec.algorithm
        self.config = config
        self.minibatches = config.minibatches
        self.value_kind = config.value.model
        self.value_learning_rate = config.value.learning_rate
        self.surrogate = Surrogate(
            clip_low=config.objective.clip_low,
            clip_high=config.objective.clip_high,
            ratio=config.objective.ratio,
            mean_over=config.objective.aggregation,
            entropy_coef=config.entropy_coef,
            **divergence_terms(self.kl),
        )

    def collect(self, environment: Environment) -> Collected:
        """One rollout for `inner_epochs` passes over it in `minibatches` pieces."""
        return Collected(self.rollout(environment), self.config.inner_epochs * self.config.minibatches)

    def complete(self, policy: Policy, batch: Batch) -> Batch:
        """Values and divergences under the policy that sampled; rewards per token, advantages and returns."""
        batch = super().complete(policy, batch)
        assert isinstance(batch, PolicyBatch)
        values = over_pieces(policy, batch, policy.values)
        penalties: list[list[float]] | None = None
        found: list[list[float]] = []
        if self.kl.beta > 0 and self.kl.placement == "reward":
            found = divergences(policy, batch, self.kl.estimator)
            penalties = [[self.kl.beta * x for x in row] for row in found]
        lengths = [len(tokens) for tokens in batch.tokens_B_T]
        rewards = last_token_rewards(batch.rewards_B, lengths, penalties)
        advantages, returns = gae(rewards, values, discount=self.config.discount, trace=self.config.trace)
        if self.config.whiten:
            advantages = whiten(advantages)
        return replace(batch, advantages_B_T=advantages, values_B_T=values, returns_B_T=returns, divergences_B_T=found)

    def loss(self, policy: Policy, batch: PolicyBatch) -> LossOutput:
        """The clipped surrogate plus `value.coef` times the value model's loss, both as the same mean over the step."""
        flat = policy.logprobs(batch, entropy=self.config.entropy_coef > 0, values=True)
        output = policy_loss(policy, batch, self.surrogate, flat)
        assert flat.values is not None
        returns = flatten(batch.returns_B_T, policy.device)
        per_token = value_loss(
            flat.values, flatten(batch.values_B_T, policy.device), returns, self.config.value.clip_range
        )
        value = step_mean(per_token, flat.sequence, flat.lengths, batch, self.surrogate.mean_over)
        count = float(per_token.numel())
        error = (flat.values.detach() - returns).square().sum()
        metrics = {
            **output.metrics,
            "value_loss": (float(per_token.detach().sum()), count),
            "value_error": (float(error), count),
            "value": (float(flat.values.detach().sum()), count),
            "return": (float(returns.sum()), count),
        }
        return LossOutput(output.loss + self.config.value.coef * value, metrics)
