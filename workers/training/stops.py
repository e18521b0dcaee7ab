"""Steps that cannot be taken: a loss or a gradient that is not finite, a batch in which nothing counts, a policy that went too far.

A skipped step changes no weight and no moment; it counts as a step, so schedules and the number of steps stay what they were.
"""

from __future__ import annotations

import torch

from service.domain.job import TrainingSpec
from service.domain.job_state import JobFailure
from workers.algorithms.base import Algorithm, Policy
from workers.training.ports import Recorder
from workers.training.state import TrainerState
from workers.types import Batch, UpdateReport

SKIPS_IN_A_ROW = 10
"""So many skipped steps one after the other end the job whatever is configured: it would finish without having learned anything."""

NOTHING_COUNTS = (
    "no token of this step counts: every completion left its group, or ran into rollout.max_completion_tokens and is masked; "
    "raise that limit, or look at the null cells"
)


def step_or_skip(
    algorithm: Algorithm,
    policy: Policy,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    *,
    training: TrainingSpec,
    state: TrainerState,
    recorder: Recorder,
) -> UpdateReport:
    """One optimizer step, or none. The event `step.skipped` or `step.stopped` says which step and why; a stop is a `JobFailure`."""
    step = state.step + 1
    try:
        if batch.token_count == 0:
            raise JobFailure("data_invalid", NOTHING_COUNTS)
        report = algorithm.update(policy, batch, optimizer)
    except JobFailure as failure:
        skips = {"nonfinite_loss": training.on_nonfinite, "data_invalid": training.on_empty_batch}
        state.skipped_in_a_row += 1
        told = {"step": step, "code": failure.code, "reason": failure.message}
        if skips.get(failure.code) == "skip" and state.skipped_in_a_row < SKIPS_IN_A_ROW:
            recorder.event("step.skipped", told)
            return UpdateReport({"skipped": 1.0})
        recorder.event("step.stopped", told)
        raise JobFailure(failure.code, f"step {step}: {failure.message}") from None
    state.skipped_in_a_row = 0
    return report
