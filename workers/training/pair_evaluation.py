"""Held-out pairs, judged by the reward model that is trained: how often it is right, and where its rewards lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from service.domain.scoring import mean, unbiased_std
from workers.algorithms.base import Preference, pairs_of
from workers.policy.reward import RewardPolicy
from workers.seeds import ShuffledCursor
from workers.training.ports import Control, Recorder

PIECE = 64


@dataclass(slots=True)
class PairEvaluation:
    """`run` gives `evaluation.*`: accuracy, margin, and mean and deviation of all rewards, which normalise them to scores."""

    policy: RewardPolicy
    recorder: Recorder
    control: Control
    pairs: Sequence[Preference]
    every_steps: int | None = None

    def run(self, step: int) -> dict[str, float]:
        """Score every held-out pair. A tie counts as half right."""
        won: list[float] = []
        lost: list[float] = []
        with torch.no_grad():
            for start in range(0, len(self.pairs), PIECE):
                self.control.check()
                for piece in self.policy.microbatches(pairs_of(self.pairs[start : start + PIECE])):
                    rewards = self.policy.pair_rewards(piece).tolist()  # type: ignore[arg-type]
                    won.extend(rewards[0::2])
                    lost.extend(rewards[1::2])
        right = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(won, lost, strict=True)]
        metrics = {
            "evaluation.accuracy": mean(right),
            "evaluation.reward_margin": mean(a - b for a, b in zip(won, lost, strict=True)),
            "evaluation.reward_mean": mean([*won, *lost]),
            "evaluation.reward_std": unbiased_std([*won, *lost]),
            "evaluation.pairs": float(len(self.pairs)),
        }
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
