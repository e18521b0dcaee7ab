"""Supervised fine-tuning: −log π of the demonstrations' completions, or of all turns of the assistant, each row by its weight."""

from __future__ import annotations

from collections.abc import Sequence

from workers.algorithms.base import Algorithm, Collected, Demonstration, Environment, Policy, supervised_loss
from workers.types import LossOutput, SupervisedBatch


def step_of(rows: Sequence[Demonstration]) -> SupervisedBatch:
    """Demonstrations as one optimizer step."""
    return SupervisedBatch.step(
        [row.prompt for row in rows],
        [row.completion for row in rows],
        [row.weight for row in rows],
        [row.trained or [True] * len(row.completion) for row in rows],
    )


class Sft(Algorithm):
    """Cross-entropy, averaged over all trained tokens of the optimizer step (never a mean of micro-batch means)."""

    def collect(self, environment: Environment) -> Collected:
        """The next `training.batch_size` demonstrations."""
        assert self.spec.training.batch_size is not None
        rows = environment.next_demonstrations(self.spec.training.batch_size)
        batch = step_of(rows)
        environment.report({"completion_length": batch.token_count / len(rows)})
        return Collected(batch)

    def loss(self, policy: Policy, batch: SupervisedBatch) -> LossOutput:
        """Σ weight·(−log π) / Σ weight over the tokens of the step."""
        return supervised_loss(policy, batch)
