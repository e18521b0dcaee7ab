"""Held-out demonstrations: the loss of supervised fine-tuning on rows that are never trained on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from workers.algorithms.base import Demonstration, Policy
from workers.algorithms.sft import step_of
from workers.training.ports import Control, Recorder

PIECE = 64


@dataclass(slots=True)
class DemonstrationEvaluation:
    """`run` gives `evaluation.loss`, the mean of −log π over the trained tokens of all rows, by their rows' weights, in nats."""

    policy: Policy
    recorder: Recorder
    control: Control
    demonstrations: Sequence[Demonstration]
    every_steps: int | None = None
    by_row: dict[str, float] = field(default_factory=dict)
    """The mean loss of each row's tokens in the last run."""

    def run(self, step: int) -> dict[str, float]:
        """Run every held-out row, without gradient."""
        rows = self.demonstrations
        sums, counts = [0.0] * len(rows), [0] * len(rows)
        with torch.no_grad():
            for start in range(0, len(rows), PIECE):
                self.control.check()
                part = range(start, min(start + PIECE, len(rows)))
                batch = step_of([rows[k] for k in part])
                # The cut puts rows into another order; in place of its weight each row carries its number.
                for piece in self.policy.microbatches(replace(batch, weights_B=[float(k) for k in part])):
                    flat = self.policy.supervised_logprobs(piece)
                    lengths = [piece.trained_tokens(b) for b in range(len(piece.tokens_B_T))]
                    for k, logprobs in zip(piece.weights_B, torch.split(flat.logprobs, lengths), strict=True):
                        sums[int(k)], counts[int(k)] = -float(logprobs.double().sum()), len(logprobs)
        self.by_row = {row.id: total / count for row, total, count in zip(rows, sums, counts, strict=True)}
        weighted = math.fsum(row.weight * total for row, total in zip(rows, sums, strict=True))
        weight = math.fsum(row.weight * count for row, count in zip(rows, counts, strict=True))
        metrics = {
            "evaluation.loss": weighted / weight,
            "evaluation.demonstrations": float(len(rows)),
            "evaluation.tokens": float(sum(counts)),
        }
        self.recorder.metrics(step, metrics)
        return metrics
