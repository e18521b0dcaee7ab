"""A reward model from pairs: the chosen completion's reward has to exceed the rejected one's (Bradley and Terry 1952)."""

from __future__ import annotations

from collections.abc import Sequence

from service.domain.job import JobSpec
from service.domain.preference import RewardModelConfig
from workers.algorithms.base import Algorithm, Collected, Environment, Judged, Policy, Preference, pairs_of
from workers.losses.preference import bradley_terry_loss
from workers.types import LossOutput, PreferenceBatch


class RewardModel(Algorithm):
    """The mean over the step's pairs of −log σ(r_chosen − r_rejected − margin), with centring if asked for."""

    model_kind = "reward"
    best_metrics = ("evaluation.accuracy", "evaluation.loss")

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, RewardModelConfig)
        assert spec.training.batch_size is not None
        self.config = spec.algorithm
        self.batch_size: int = spec.training.batch_size

    def collect(self, environment: Environment) -> Collected:
        """The next `training.batch_size` pairs that are not held out."""
        return Collected(pairs_of(environment.next_preferences(self.batch_size)))

    def refer(self, policy: Policy, environment: Environment, rows: Sequence[Preference]) -> PreferenceBatch:
        """Pairs as a batch; a reward model needs no reference."""
        return pairs_of(rows)

    def judge(self, policy: Policy, batch: PreferenceBatch) -> Judged:
        """The loss of each pair, and the rewards of chosen and rejected."""
        rewards = policy.pair_rewards(batch)
        margins = rewards.new_tensor(batch.margins_P if self.config.use_margins else [0.0] * len(batch.margins_P))
        losses = bradley_terry_loss(rewards[0::2], rewards[1::2], margins, centring=self.config.centring)
        return Judged(losses, rewards.detach())

    def loss(self, policy: Policy, batch: PreferenceBatch) -> LossOutput:
        """The sum over pairs, divided by the pairs of the step."""
        judged = self.judge(policy, batch)
        return LossOutput(judged.losses.sum() / batch.pairs_in_step, judged.metrics())
