"""What an `evaluate` job does: sample a policy, and another model on the same prompts with the same seeds if it is asked to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from workers.training.evaluation import Evaluation
from workers.training.ports import Recorder
from workers.training.scorecard import comparison, scorecard


@dataclass(slots=True)
class Appraisal:
    """Evaluations with their scorecards. `report` has them once `run` is through: `scorecard`, and beside it `comparison`."""

    own: Evaluation
    recorder: Recorder
    seed: int
    other: Evaluation | None = None
    named: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The two models, as they are shown in the comparison."""
    every_steps: int | None = None
    report: dict[str, Any] = field(default_factory=dict)

    def run(self, step: int) -> dict[str, float]:
        """The policy's metrics, and the other model's as `comparison.*`."""
        metrics = self.own.run(step)
        self.report["scorecard"] = scorecard(self.own.groups, self.seed)
        if self.other is not None:
            metrics |= self.other.run(step)
            found = comparison(self.own.groups, self.other.groups, self.seed)
            theirs = scorecard(self.other.groups, self.seed)
            self.report["comparison"] = {**self.named, **found, "scorecard": theirs}
            rate = found["overall"]["win_rate"]["rate"]
            if rate is not None:
                self.recorder.metrics(step, {"comparison.win_rate": rate})
        return metrics
