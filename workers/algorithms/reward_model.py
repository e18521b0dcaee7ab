"""A reward model from pairs: the chosen completion's reward has to exceed the rejected one's (Bradley and Terry 1952)."""

from __future__ import annotations

from service.domain.job import JobSpec
from service.domain.preference import RewardModelConfig
from workers.algorithms.base import Algorithm, Collected, Environment, Policy, pairs_of
from workers.losses.preference import bradley_terry_loss
from workers.types import LossOutput, PreferenceBatch


class RewardModel(Algorithm):
    """The mean over the step's pairs of −log σ(r_chosen − r_rejected − margin), with centring if asked for."""

    model_kind = "reward"
    best_metric = "evaluation.accuracy"

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, RewardModelConfig)
        assert spec.training.batch_size is not None
        self.config = spec.algorithm
        self.batch_size: int = spec.training.batch_size

    def collect(self, environment: Environment) -> Collected:
        """The next `training.batch_size` pairs that are not held out."""
        return Collected(pairs_of(environment.next_preferences(self.batch_size)))

    def loss(self, policy: Policy, batch: PreferenceBatch) -> LossOutput:
        """The sum over pairs, divided by the pairs of the step."""
        rewards = policy.pair_rewards(batch)
        chosen, rejected = rewards[0::2], rewards[1::2]
        margins = rewards.new_tensor(batch.margins_P if self.config.use_margins else [0.0] * len(batch.margins_P))
        per_pair = bradley_terry_loss(chosen, rejected, margins, centring=self.config.centring)
        count = float(len(batch.ids_P))
        won, lost = chosen.detach(), rejected.detach()
        metrics = {
            "accuracy": (float((won > lost).sum()), count),
            "reward_margin": (float((won - lost).sum()), count),
            "reward.chosen": (float(won.sum()), count),
            "reward.rejected": (float(lost.sum()), count),
        }
        return LossOutput(per_pair.sum() / batch.pairs_in_step, metrics)
