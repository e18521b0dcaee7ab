"""What all algorithms that step along a policy gradient share: what a completion's length costs, and which ones count in the loss."""

from __future__ import annotations

from collections.abc import Sequence

from service.domain.job import JobSpec
from service.domain.objective import KlConfig, PolicyGradientConfig
from service.domain.scoring import overlong_penalty
from workers.algorithms.base import Algorithm, Policy
from workers.algorithms.on_policy import correct_for_sampler, minibatch
from workers.types import Batch, CompletionGroup, PolicyBatch


class PolicyGradient(Algorithm):
    """A base. A rollout is corrected for its sampler once, and serves the optimizer steps of all epochs and minibatches."""

    minibatches = 1

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, PolicyGradientConfig)
        self.truncated = spec.algorithm.truncated
        self.importance = spec.algorithm.importance
        self.kl: KlConfig = getattr(spec.algorithm, "kl", KlConfig())
        self.kl_limit = self.kl.max

    @property
    def needs_reference(self) -> bool:
        """Only a KL penalty or a limit needs one."""
        return self.kl.needs_reference

    @property
    def temperature(self) -> float:
        """What completions are sampled at, and their log-probabilities computed at."""
        assert self.spec.rollout.temperature is not None
        return self.spec.rollout.temperature

    def penalise(self, groups: Sequence[CompletionGroup]) -> None:
        """Note what each completion's length costs, before rewards are made."""
        if self.truncated.mode != "penalty":
            return
        limit = self.spec.rollout.max_completion_tokens
        margin = self.truncated.margin_below(limit)
        for group in groups:
            group.penalties = [
                overlong_penalty(len(completion.tokens), limit, margin, self.truncated.penalty)
                for completion in group.completions
            ]

    def in_loss(self, group: CompletionGroup) -> list[int]:
        """The members that the loss and its denominators count: all, or those that ended by themselves (`truncated: mask`)."""
        assert group.scored is not None
        return [
            i
            for i, numbers in enumerate(group.scored.completions)
            if numbers.member and (self.truncated.mode != "mask" or group.completions[i].finish_reason == "stop")
        ]

    def complete(self, policy: Policy, batch: Batch) -> Batch:
        """Weights for samples that the trainer sees with another probability than the sampler, if asked for."""
        assert isinstance(batch, PolicyBatch)
        return correct_for_sampler(policy, batch, self.importance)

    def part(self, batch: Batch, use: int, collected_at: int) -> Batch:
        """One minibatch; each epoch cuts the rollout anew, in an order that the seed decides."""
        assert isinstance(batch, PolicyBatch)
        return minibatch(batch, use, self.minibatches, self.spec.training.seed, collected_at)
