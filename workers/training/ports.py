"""What the loop is handed by the child: where numbers go, who grades, what is wished. Small enough to fake in a test."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from workers.types import CompletionGroup


class Interrupted(Exception):
    """Stop at a checkpoint: a pause, or a drain."""


class Suspended(Exception):
    """Stop at a checkpoint and stay paused until a person resumes: the message is the reason."""


class Control(Protocol):
    """What is wished of this run."""

    def check(self) -> None:
        """Raise `Interrupted` if the run is to stop at a checkpoint. Called often; costs nothing."""


class Recorder(Protocol):
    """Where the run's numbers go; every write is fenced."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Metric values of a step."""

    def progress(self, step: int) -> None:
        """So many optimizer steps are finished."""

    def completions(self, step: int, purpose: str, groups: Sequence[CompletionGroup]) -> None:
        """Graded and scored groups."""

    def revisions(
        self,
        step: int,
        graded: Sequence[tuple[CompletionGroup, Sequence[dict[str, Any]]]],
        results: Sequence[dict[str, Any]],
    ) -> None:
        """What became of revisions, and the pairs that were graded: with each completion's purpose, and whose text or revision it is."""

    def event(self, kind: str, data: dict[str, Any]) -> None:
        """Something worth telling."""


class Revisions(Protocol):
    """Who makes better answers of recorded groups."""

    def run(self, step: int, groups: Sequence[CompletionGroup]) -> dict[str, float]:
        """Revise, grade afresh, record; the metrics."""


class Grading(Protocol):
    """The grading of one rollout: groups go in as soon as they are sampled, and come out with cells."""

    def submit(self, group: CompletionGroup) -> None:
        """Start grading; judged cells are asked for at once, beside the sampling of the next groups."""

    def finish(self) -> None:
        """Wait until every submitted group has its cells."""

    def forget(self) -> None:
        """Have failed cells asked again the next time, instead of remembered."""


class Grader(Protocol):
    """Grades by one rubric."""

    def start(self, purpose: str, step: int) -> Grading:
        """The grading of the rollout of this step."""
