"""Direct preference optimisation (arXiv 2305.18290) and its kin: pairs of completions, no sampling, no reward model."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from service.domain.job import JobSpec
from service.domain.preference import DpoConfig
from workers.algorithms.base import Algorithm, Collected, Environment, Judged, Policy, Preference, pairs_of
from workers.losses.preference import LENGTH_NORMALISED, preference_logits, preference_loss
from workers.types import FlatLogprobs, LossOutput, PreferenceBatch

PIECE = 64
"""Pairs whose reference is computed between two looks at what is wished of the run."""


class Dpo(Algorithm):
    """The reference is the policy before its first step: its log-probabilities are computed once per pair and kept.

    That costs two numbers per pair instead of a second copy of the model, and each pair is run through the reference once
    however many epochs there are.
    """

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, DpoConfig)
        assert spec.training.batch_size is not None
        self.config = spec.algorithm
        self.batch_size: int = spec.training.batch_size

    def prepare(self, policy: Policy, environment: Environment) -> None:
        """Run the pairs that the job will see through the reference, those that have not been."""
        self._know(policy, environment, environment.all_preferences(self.batch_size))

    def _know(self, policy: Policy, environment: Environment, wanted: Sequence[Preference]) -> None:
        known = environment.reference
        rows = [row for row in wanted if row.id not in known]
        for start in range(0, len(rows), PIECE):
            environment.check()
            for piece in policy.microbatches(pairs_of(rows[start : start + PIECE])):
                sums = sums_of(policy.reference_pair_logprobs(piece)).tolist()
                known.update(zip(piece.ids_P, zip(sums[0::2], sums[1::2], strict=True), strict=True))

    def refer(self, policy: Policy, environment: Environment, rows: Sequence[Preference]) -> PreferenceBatch:
        """Pairs that are held out; the reference is asked about them once, before the first step (and saved, as of all pairs)."""
        self._know(policy, environment, rows)
        return pairs_of(rows, environment.reference)

    def collect(self, environment: Environment) -> Collected:
        """The next `training.batch_size` pairs."""
        rows = environment.next_preferences(self.batch_size)
        lengths = [len(tokens) for row in rows for tokens in (row.chosen, row.rejected)]
        environment.report({"completion_length": sum(lengths) / len(lengths)})
        return Collected(pairs_of(rows, environment.reference))

    def judge(self, policy: Policy, batch: PreferenceBatch) -> Judged:
        """The loss of each pair, and DPO's implicit rewards β·log(π/π_ref) of chosen and rejected."""
        return self._judge(policy, batch)[0]

    def _judge(self, policy: Policy, batch: PreferenceBatch) -> tuple[Judged, Float[Tensor, " batch"]]:
        config = self.config
        flat = policy.pair_logprobs(batch)
        sums = sums_of(flat)
        reference = sums.new_tensor([value for pair in batch.reference_P for value in pair])
        lengths = sums.new_tensor([float(n) for n in flat.lengths])
        delta = preference_logits(
            sums[0::2],
            sums[1::2],
            reference=(reference[0::2], reference[1::2]),
            lengths=(lengths[0::2], lengths[1::2]),
            normalised=config.loss in LENGTH_NORMALISED,
        )
        losses = preference_loss(delta, beta=config.beta, loss=config.loss, label_smoothing=config.label_smoothing)
        return Judged(losses, config.beta * (sums.detach() - reference)), sums.detach()

    def loss(self, policy: Policy, batch: PreferenceBatch) -> LossOutput:
        """The sum over pairs, divided by the pairs of the step."""
        judged, sums = self._judge(policy, batch)
        count = float(len(batch.prompts_P_T))
        metrics = {
            **judged.metrics(),
            "logprob.chosen": (float(sums[0::2].sum()), count),
            "logprob.rejected": (float(sums[1::2].sum()), count),
        }
        return LossOutput(judged.losses.sum() / batch.pairs_in_step, metrics)


def sums_of(flat: FlatLogprobs) -> Float[Tensor, " batch"]:
    """log π of each whole completion."""
    return flat.logprobs.new_zeros(len(flat.lengths)).index_add(0, flat.sequence, flat.logprobs)
