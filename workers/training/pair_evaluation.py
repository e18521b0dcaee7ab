"""Held-out pairs, judged by what is trained: its loss on them, how often it is right, how far apart the two sides lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from service.domain.scoring import mean, unbiased_std
from workers.algorithms.base import Environment, LearnsPairs, Policy, Preference
from workers.seeds import ShuffledCursor
from workers.training.ports import Control, Recorder

PIECE = 64


@dataclass(slots=True)
class PairEvaluation:
    """`run` gives `evaluation.*`: loss, accuracy and margin; of a reward model also mean and deviation of all rewards.

    Those two normalise its rewards to scores.
    """

    policy: Policy
    algorithm: LearnsPairs
    environment: Environment
    recorder: Recorder
    control: Control
    pairs: Sequence[Preference]
    every_steps: int | None = None
    scales: bool = True
    """Whether the rewards are a reward model's, whose mean and deviation are of use."""
    by_row: dict[str, float] = field(default_factory=dict)
    """The loss of each pair in the last run."""

    def run(self, step: int) -> dict[str, float]:
        """Judge every held-out pair. A tie counts as half right."""
        found: dict[str, tuple[float, float, float]] = {}
        with torch.no_grad():
            for start in range(0, len(self.pairs), PIECE):
                self.control.check()
                batch = self.algorithm.refer(self.policy, self.environment, self.pairs[start : start + PIECE])
                for piece in self.policy.microbatches(batch):
                    judged = self.algorithm.judge(self.policy, piece)
                    rewards = judged.rewards.tolist()
                    said = zip(judged.losses.tolist(), rewards[0::2], rewards[1::2], strict=True)
                    found.update(zip(piece.ids_P, said, strict=True))
        self.by_row = {name: loss for name, (loss, _, _) in found.items()}
        sides = [(won, lost) for _, won, lost in found.values()]
        metrics = {
            "evaluation.loss": mean(self.by_row.values()),
            "evaluation.accuracy": mean(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in sides),
            "evaluation.reward_margin": mean(a - b for a, b in sides),
            "evaluation.pairs": float(len(self.pairs)),
        }
        if self.scales:
            rewards = [reward for pair in sides for reward in pair]
            metrics["evaluation.reward_mean"] = mean(rewards)
            metrics["evaluation.reward_std"] = unbiased_std(rewards)
        self.recorder.metrics(step, metrics)
        return metrics


def split_held_out(pairs: Sequence[Preference], share: float, seed: int) -> tuple[list[Preference], list[Preference]]:
    """(pairs to train on, pairs held out): at least one of the latter; which ones, the seed decides.

    Pairs of one prompt stay on one side, so that nothing held out has been seen with other completions.
    """
    prompts = sorted({tuple(pair.prompt) for pair in pairs})
    order = ShuffledCursor(len(prompts), seed, "held_out").take(len(prompts))
    wanted = max(1, round(share * len(pairs)))
    held: set[tuple[int, ...]] = set()
    count = 0
    for k in order:
        if count >= wanted:
            break
        held.add(prompts[k])
        count += sum(tuple(pair.prompt) == prompts[k] for pair in pairs)
    kept = [pair for pair in pairs if tuple(pair.prompt) not in held]
    return kept, [pair for pair in pairs if tuple(pair.prompt) in held]
