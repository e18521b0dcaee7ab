"""The loop: collect, update, report, evaluate, checkpoint. It is blind to the algorithm and knows no database."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from service.domain.job import JobSpec
from service.domain.job_state import JobFailure
from service.domain.scoring import mean
from workers.algorithms.base import Algorithm, Environment
from workers.policy.causal import CausalPolicy
from workers.policy.reward import RewardPolicy
from workers.seeds import derive_seed
from workers.training.appraisal import Appraisal
from workers.training.demonstration_evaluation import DemonstrationEvaluation
from workers.training.evaluation import Evaluation
from workers.training.optim import learning_rate
from workers.training.pair_evaluation import PairEvaluation
from workers.training.ports import Control, Interrupted, Recorder, Suspended
from workers.training.rounds import Measure, Rounds, compare, regression_failure, worse_than_before
from workers.training.state import TrainerState
from workers.training.stops import step_or_skip
from workers.types import Batch, UpdateReport


@dataclass(slots=True)
class Run:
    """Everything that one attempt of a job needs."""

    spec: JobSpec
    steps: int
    algorithm: Algorithm
    policy: CausalPolicy | RewardPolicy
    optimizer: torch.optim.Optimizer | None
    environment: Environment
    evaluation: Evaluation | Appraisal | None
    state: TrainerState
    recorder: Recorder
    control: Control
    save: Callable[[TrainerState], None]
    """Write and register a checkpoint of this state; does nothing if the step has one."""
    held_out: DemonstrationEvaluation | PairEvaluation | None = None
    """The loss on rows that are held out, beside `evaluation` or alone."""
    rounds: Rounds | None = None
    finalizing: Callable[[], None] = lambda: None
    """Called once training is over, before the last checkpoint; may raise `Interrupted` for a pause that came first."""

    def go(self) -> None:
        """Train to the last step. `Interrupted` and `Suspended` leave a checkpoint behind and go on to the caller."""
        try:
            if self.rounds is not None:
                self.rounds.begin(self.state)
            self._evaluate_if_due(first=True)
            self.algorithm.prepare(self.policy, self.environment)
            while self.state.step < self.steps:
                self.control.check()
                self._step()
                self._evaluate_if_due()
                if self._every(self.spec.checkpoints.every_steps) and self.state.step < self.steps:
                    self.save(self.state)
            self.finalizing()
        except (Interrupted, Suspended):
            if self.algorithm.trains:
                self.save(self.state)
            raise
        if self.algorithm.trains:
            self.save(self.state)

    def _step(self) -> None:
        started = time.monotonic()
        state = self.state
        if not state.uses_left:
            cursors = dict(state.cursors)
            state.collected = {}
            try:
                collected = self.algorithm.collect(self.environment)
            except (Interrupted, Suspended):
                state.cursors = cursors  # the same prompts again after the resume
                raise
            state.batch = self.algorithm.complete(self.policy, collected.batch)
            state.uses = state.uses_left = collected.uses
            self._watch()
        assert state.batch is not None
        assert self.optimizer is not None
        rate = learning_rate(self.spec.training, state.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("factor", 1.0)
        use = state.uses - state.uses_left
        batch = self.algorithm.part(state.batch, use, state.step - use)
        report = self._update(batch)
        state.uses_left -= 1
        state.step += 1
        seconds = time.monotonic() - started
        self.recorder.metrics(
            state.step,
            {
                **state.collected,
                **report.metrics,
                "learning_rate": rate,
                "tokens_per_s": batch.token_count / seconds,
                "seconds": seconds,
            },
        )
        self.recorder.progress(state.step)
        if not state.uses_left:
            state.batch = None

    def _update(self, batch: Batch) -> UpdateReport:
        assert self.optimizer is not None
        try:
            return step_or_skip(
                self.algorithm, self.policy, batch, self.optimizer,
                training=self.spec.training, state=self.state, recorder=self.recorder,
            )  # fmt: skip
        except JobFailure as failure:
            if failure.code == "kl_limit":
                self.save(self.state)  # these weights are sound: they have only gone far
            raise

    def _watch(self) -> None:
        """Numbers that need the steps before, and flags; for algorithms that sample."""
        if "coverage" in self.state.collected:
            extra, flags = self.state.watch.observe(self.state.collected)
            self.state.collected.update(extra)
            for kind, data in flags:
                self.recorder.event(kind, {"step": self.state.step + 1, **data})

    def _every(self, steps: int | None) -> bool:
        return steps is not None and self.state.step % steps == 0

    def _evaluate_if_due(self, *, first: bool = False) -> None:
        """At the first step, every `every_steps` and at the last step, once each also across resumes."""
        measured = [part for part in (self.evaluation, self.held_out) if part is not None]
        if not measured or self.state.evaluated_step == self.state.step:
            return
        due = (
            self._every(measured[0].every_steps)
            or self.state.step == self.steps
            or (first and self.state.step == 0)
            or (self.rounds is not None and self.rounds.is_over(self.state))
        )
        if due:
            self.state.evaluation = {
                name: value for part in measured for name, value in part.run(self.state.step).items()
            }
            self.state.evaluated_step = self.state.step
            if isinstance(self.evaluation, Evaluation):
                self._stop_if_worse(self.evaluation.by_prompt, "plain reward")
            elif self.held_out is not None:
                self._stop_if_worse({row: -loss for row, loss in self.held_out.by_row.items()}, "loss")
            if self.rounds is not None and isinstance(self.evaluation, Evaluation):
                self._close_round(self.rounds, self.evaluation.by_prompt)

    def _stop_if_worse(self, by_row: dict[str, float], measure: Measure) -> None:
        """Compare with the best evaluation before, if that may end the job; higher is better."""
        spec, state = self.spec.evaluation, self.state
        if spec is None or spec.on_regression != "stop" or not by_row:
            return
        best = state.best_held_out
        found = compare(best, by_row, derive_seed(self.spec.training.seed, "regression", "step", state.step))
        if found.regression:
            self.save(state)
            raise worse_than_before(state.step, found, measure)
        if not best or mean(by_row.values()) > mean(best.values()):
            state.best_held_out = dict(by_row)

    def _close_round(self, rounds: Rounds, by_prompt: dict[str, float]) -> None:
        """After the evaluation at a round's end; that of step 0 is what the first round is compared with."""
        state = self.state
        if state.step == 0:
            state.held_out, state.round_evaluation = dict(by_prompt), dict(state.evaluation)
        elif rounds.is_over(state):
            data = rounds.close(state, by_prompt)
            self.recorder.event("round.finished", data)
            if data["action"] == "stop":
                self.save(state)
                raise regression_failure(data)
            if state.step < self.steps:
                self.save(state)
