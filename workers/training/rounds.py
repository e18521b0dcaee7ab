"""Rounds (grape.md §7): after each, held-out prompts say whether the policy got better, and the reference is refreshed.

A round that made plain reward worse ends the job, is told and kept, or is undone. Worse: the paired 95 % interval (by prompt,
bootstrap) of plain reward against the end of the round before lies below 0. The first round is compared with the policy that
the job started from. `training.steps` are spread evenly over the rounds; what cannot be spread evenly goes to the first ones.
Every round begins with fresh samples: what is left of a rollout's inner epochs is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch

from service.domain.algorithm import OnPolicyConfig
from service.domain.job import JobSpec
from service.domain.job_state import JobFailure
from service.domain.rejection import round_steps
from service.domain.scoring import mean, paired_interval
from workers.algorithms.base import Algorithm
from workers.seeds import derive_seed
from workers.training.optim import optimizer_tensors, put_optimizer_tensors
from workers.training.state import TrainerState

WEIGHT = "weight."
Measure = Literal["plain reward", "loss"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Held-out plain reward of this round's end against the one before, over the prompts that have both."""

    prompts: int
    left_out: int
    before: float | None
    after: float | None
    low: float | None
    high: float | None

    @property
    def regression(self) -> bool:
        """The interval of the difference lies below 0."""
        return self.high is not None and self.high < 0


def compare(before: dict[str, float], after: dict[str, float], seed: int) -> Comparison:
    """Paired by prompt; prompts without a plain reward on one side are left out. No interval from fewer than two pairs."""
    both = [prompt for prompt in before if prompt in after]
    left_out = len(before.keys() | after.keys()) - len(both)
    if len(both) < 2:
        return Comparison(len(both), left_out, None, None, None, None)
    low, high = paired_interval([after[p] - before[p] for p in both], seed)
    return Comparison(len(both), left_out, mean(before[p] for p in both), mean(after[p] for p in both), low, high)


@dataclass(slots=True)
class Rounds:
    """The rounds of one run. What must survive a resume lies in the state: which round it is, and how it began."""

    ends: list[int]
    on_regression: Literal["stop", "continue", "roll_back"]
    seed: int
    policy: Any
    optimizer: torch.optim.Optimizer
    refreshes: bool

    @classmethod
    def of(
        cls, spec: JobSpec, algorithm: Algorithm, policy: Any, optimizer: torch.optim.Optimizer | None
    ) -> Rounds | None:
        """Null for jobs of a single round."""
        config = spec.algorithm
        if not isinstance(config, OnPolicyConfig) or config.rounds == 1:
            return None
        assert spec.training.steps is not None
        assert optimizer is not None
        ends = list(accumulate(round_steps(spec.training.steps, config.rounds)))
        return cls(ends, config.on_regression, spec.training.seed, policy, optimizer, algorithm.needs_reference)

    def begin(self, state: TrainerState) -> None:
        """Remember how the first round begins, if it may have to be undone; a resumed state remembers already."""
        if self.on_regression == "roll_back" and not state.round_start:
            state.round_start = self._snapshot()

    def is_over(self, state: TrainerState) -> bool:
        """Whether this step is the last one of the round that the state is in."""
        return state.round < len(self.ends) and state.step == self.ends[state.round]

    def close(self, state: TrainerState, by_prompt: dict[str, float]) -> dict[str, Any]:
        """End the round: judge it, keep or undo it, refresh the reference. The data of its event, `action` among them.

        `action` is `stop` where the job has to fail; the state is left as it is then.
        """
        number = state.round + 1
        found = compare(state.held_out, by_prompt, derive_seed(self.seed, "regression", number))
        action = self.on_regression if found.regression else "continue"
        audits = [metrics.get("evaluation.audit") for metrics in (state.round_evaluation, state.evaluation)]
        data = {
            "round": number,
            "rounds": len(self.ends),
            "step": state.step,
            "plain_reward": {"before": found.before, "after": found.after, "low": found.low, "high": found.high},
            "audit": {"before": audits[0], "after": audits[1]},
            "prompts": found.prompts,
            "left_out": found.left_out,
            "regression": found.regression,
            "action": action,
        }
        if action == "stop":
            return data
        if action == "roll_back":
            self._put_back(state.round_start)
            state.evaluation = dict(state.round_evaluation)
        else:
            state.held_out, state.round_evaluation = dict(by_prompt), dict(state.evaluation)
            if self.on_regression == "roll_back":
                state.round_start = self._snapshot()
        if self.refreshes:
            self.policy.refresh_reference()
        state.batch, state.uses, state.uses_left = None, 0, 0
        state.round = number
        return data

    def _snapshot(self) -> dict[str, torch.Tensor]:
        weights = {f"{WEIGHT}{name}": p.detach().cpu().clone() for name, p in self.policy.named_parameters()}
        moments = {name: tensor.clone() for name, tensor in optimizer_tensors(self.optimizer, self.policy).items()}
        return weights | moments

    def _put_back(self, tensors: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                parameter.copy_(tensors[f"{WEIGHT}{name}"])
        put_optimizer_tensors(self.optimizer, self.policy, tensors)


def regression_failure(data: dict[str, Any]) -> JobFailure:
    """What a job that has to stop fails with."""
    change = data["plain_reward"]
    return JobFailure(
        "regression",
        f"round {data['round']} of {data['rounds']} made held-out plain reward worse: {change['before']:.4f} became "
        f"{change['after']:.4f} on {data['prompts']} prompts, the 95 % interval of the difference is {change['low']:.4f} to "
        f"{change['high']:.4f}. The checkpoints are kept; algorithm.on_regression 'continue' or 'roll_back' would have gone on",
    )


def worse_than_before(step: int, found: Comparison, measure: Measure) -> JobFailure:
    """What a job fails with whose held-out evaluation is worse than an earlier one."""
    assert found.before is not None
    assert found.after is not None
    assert found.low is not None
    assert found.high is not None
    before, after, low, high = found.before, found.after, found.low, found.high
    if measure == "loss":  # compared as −loss, so that higher is better for both
        before, after, low, high = -before, -after, -high, -low
    return JobFailure(
        "regression",
        f"held-out {measure} got worse: {before:.4f} at the best evaluation before became {after:.4f} at step {step} "
        f"on {found.prompts} {'rows' if measure == 'loss' else 'prompts'}, the 95 % interval of the difference is {low:.4f} to "
        f"{high:.4f}. The checkpoints are kept; evaluation.on_regression 'continue' would have gone on",
    )
