"""Rejection sampling: the policy imitates the best of its own completions (best-of-n distillation, as in arXiv 2307.09288, §3.2.3)."""

from __future__ import annotations

from collections.abc import Sequence

from service.domain.job import JobSpec
from service.domain.job_state import JobFailure
from service.domain.rejection import RejectionSamplingConfig, round_steps
from service.domain.scoring import ScoringOptions, mean
from workers.advantages.group import score_step
from workers.advantages.report import rollout_metrics
from workers.algorithms.base import Algorithm, Collected, Environment, Policy, supervised_loss
from workers.seeds import ShuffledCursor
from workers.types import Batch, Completion, CompletionGroup, LossOutput, SupervisedBatch

UNIFORM = ScoringOptions(weighting="uniform")
"""What is stored with the completions; nothing is trained on these advantages."""


class RejectionSampling(Algorithm):
    """Each round's kept completions are the demonstrations of its optimizer steps."""

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, RejectionSamplingConfig)
        assert spec.training.batch_size is not None
        assert spec.training.steps is not None
        self.config = spec.algorithm
        self.batch_size: int = spec.training.batch_size
        self.plan = round_steps(spec.training.steps, self.config.rounds)

    def collect(self, environment: Environment) -> Collected:
        """One round: sample, grade, keep."""

        def score(groups: Sequence[CompletionGroup]) -> None:
            score_step(groups, UNIFORM, environment.past)

        count = self.config.prompts_per_round or environment.prompt_count
        groups = environment.rollout(environment.next_prompts(count), score)
        sampled = sum(len(group.completions) for group in groups)
        kept = [(group, completion, reward) for group in groups for completion, reward in self.keep(group)]
        if not kept:
            raise JobFailure(
                "data_invalid",
                f"none of the {sampled} completions of this round was good enough to be kept; lower algorithm.threshold or "
                "algorithm.floors, or sample more per prompt",
            )
        environment.report(
            {
                **rollout_metrics(groups),
                "kept": float(len(kept)),
                "kept_share": len(kept) / sampled,
                "plain_reward.kept": mean(reward for _, _, reward in kept),
            }
        )
        batch = SupervisedBatch(
            prompts_B_T=[group.prompt.tokens for group, _, _ in kept],
            tokens_B_T=[completion.tokens for _, completion, _ in kept],
            weights_B=[1.0] * len(kept),
            weight_in_step=float(sum(len(completion.tokens) for _, completion, _ in kept)),
        )
        return Collected(batch, self._steps_of_round(environment.step))

    def _steps_of_round(self, step: int) -> int:
        for count in self.plan:
            if step < count:
                return count - step
            step -= count
        raise AssertionError("there is no round after the last step")

    def rewards_of(self, group: CompletionGroup) -> dict[int, float]:
        """Plain reward by index of the completions that may be kept: finished, with every cell, above every floor."""
        assert group.scored is not None
        found = {}
        for i, numbers in enumerate(group.scored.completions):
            cells = group.cells[i]
            floors = self.config.floors.items()
            passes = all(key in cells and (cells[key].score or 0.0) >= least for key, least in floors)
            if numbers.plain_reward is not None and passes and group.completions[i].finish_reason == "stop":
                found[i] = numbers.plain_reward
        return found

    def keep(self, group: CompletionGroup) -> list[tuple[Completion, float]]:
        """The best completion, or all above the threshold, each text once; of equal ones the first. With their plain rewards.

        A completion that ran into the token limit is never kept: imitating it would unlearn to stop.
        """
        rewards = self.rewards_of(group)
        least = self.config.threshold if self.config.threshold is not None else 0.0
        good = [i for i, reward in rewards.items() if reward >= least]
        if self.config.select == "best":
            good = [min(good, key=lambda i: (-rewards[i], i))] if good else []
        distinct = {tuple(group.completions[i].tokens): i for i in reversed(good)}
        return [(group.completions[i], rewards[i]) for i in reversed(distinct.values())]

    def part(self, batch: Batch, use: int, collected_at: int) -> Batch:
        """The next `training.batch_size` of what was kept, epoch after epoch, in an order that the seed decides."""
        assert isinstance(batch, SupervisedBatch)
        rows = len(batch.tokens_B_T)
        size = min(self.batch_size, rows)
        cursor = ShuffledCursor(rows, self.spec.training.seed, f"kept/{collected_at}", position=use * size)
        return batch.minibatch(cursor.take(size))

    def loss(self, policy: Policy, batch: SupervisedBatch) -> LossOutput:
        """Cross-entropy, as in supervised fine-tuning."""
        return supervised_loss(policy, batch)
