"""REINFORCE (Williams 1992): one step per rollout along −A·∇log π, with a baseline that does not depend on the completion."""

from __future__ import annotations

from service.domain.job import JobSpec
from service.domain.policy_gradient import ReinforceConfig
from workers.algorithms.base import Collected, Environment, Policy
from workers.algorithms.on_policy import Surrogate, policy_loss
from workers.algorithms.plain import PlainReward
from workers.types import LossOutput, PolicyBatch


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
            beta=config.kl.beta,
            estimator=config.kl.estimator,
            entropy_coef=config.entropy_coef,
        )

    @property
    def needs_reference(self) -> bool:
        """Only a KL penalty needs one."""
        return self.config.kl.beta > 0

    def collect(self, environment: Environment) -> Collected:
        """One rollout for one step."""
        return Collected(self.rollout(environment))

    def loss(self, policy: Policy, batch: PolicyBatch) -> LossOutput:
        """−ρ·A per token, with ρ = 1 where it was sampled."""
        return policy_loss(policy, batch, self.surrogate)
