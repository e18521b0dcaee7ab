"""REINFORCE (Williams 1992): one step per rollout along −A·∇log π, with a baseline that does not depend on the completion."""

from __future__ import annotations

import math
from dataclasses import replace

from service.domain.job import JobSpec
from service.domain.policy_gradient import ReinforceConfig
from workers.advantages.plain import against_others
from workers.algorithms.base import Collected, Environment, Policy
from workers.algorithms.on_policy import Surrogate, divergence_terms, divergences, policy_loss
from workers.algorithms.plain import PlainReward
from workers.types import Batch, LossOutput, PolicyBatch


class Reinforce(PlainReward):
    """Plain rewards; baseline none, a moving average, or the group's others (RLOO)."""

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, ReinforceConfig)
        config = spec.algorithm
        self.config = config
        self.baseline, self.baseline_decay = config.baseline, config.baseline_decay
        self.surrogate = Surrogate(
            kind="reinforce",
            mean_over=config.mean_over,
            entropy_coef=config.entropy_coef,
            **divergence_terms(self.kl),
        )

    def collect(self, environment: Environment) -> Collected:
        """One rollout for one step."""
        return Collected(self.rollout(environment))

    def complete(self, policy: Policy, batch: Batch) -> Batch:
        """With the divergence in the reward: β times what a completion's tokens cost is taken off its advantage, against the
        other completions where a baseline is (of its group for `leave_one_out`, else of the step), so that it stays unbiased."""
        batch = super().complete(policy, batch)
        assert isinstance(batch, PolicyBatch)
        if self.kl.beta == 0 or self.kl.placement == "loss":
            return batch
        found = divergences(policy, batch, self.kl.estimator)
        costs = [self.kl.beta * math.fsum(row) for row in found]
        among = batch.prompt_of_B if self.baseline == "leave_one_out" else [0] * len(costs)
        centred = costs if self.baseline == "none" else against_others(costs, among)
        advantages = [[a - cost for a in row] for row, cost in zip(batch.advantages_B_T, centred, strict=True)]
        return replace(batch, advantages_B_T=advantages, divergences_B_T=found)

    def loss(self, policy: Policy, batch: PolicyBatch) -> LossOutput:
        """−ρ·A per token, with ρ = 1 where it was sampled."""
        return policy_loss(policy, batch, self.surrogate)
