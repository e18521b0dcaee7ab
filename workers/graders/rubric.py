"""Grading groups by a rubric: verifiers and reward models here and now, judges through whoever was handed in."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from service.domain.asked import Messages, Told
from service.domain.base import content_hash
from service.domain.calibration import Calibrator
from service.domain.criteria import criteria_of, criterion_weights, needs_of
from service.domain.grade import Cell
from service.domain.pinned import PinnedRubrics
from service.domain.places import Places, places
from service.domain.rubric import DEFAULT_AGGREGATION, Aggregation, Criterion, RubricContent
from service.domain.scoring import CriterionWeight
from workers.graders.here import grade_here
from workers.graders.models import Scorer
from workers.types import CompletionGroup


class Desk(Protocol):
    """Where judged cells are asked for: a table that grading workers read."""

    def ask(
        self, key: str, prompt: dict[str, Any], texts: Sequence[str], criteria: Sequence[str], *, queue: str
    ) -> None:
        """Ask the workers of a queue for a cell for each text and criterion, once per key."""

    def wait(self, keys: Sequence[str]) -> dict[str, list[dict[str, Cell]]]:
        """The cells of these keys, by text, once all are there."""

    def forget(self, keys: Sequence[str]) -> None:
        """Drop what was asked, so that asking again asks anew."""

    def ask_plainly(self, key: str, judge: str, questions: Sequence[Messages], *, queue: str) -> None:
        """Ask a judge's endpoint or model plain questions, once per key."""

    def told(self, keys: Sequence[str]) -> dict[str, list[Told]]:
        """The answers to these keys' questions, in their order, once all are there."""


@dataclass(slots=True)
class RubricGrader:
    """Grades by one version of a rubric, which has this name in the job.

    `aggregation`: the options that its groups are scored with. `votes`: each judge's own number of votes. `calibrator`: what the
    judges' confidences are worth, as the job has pinned it.
    """

    content: RubricContent
    name: str
    desk: Desk
    aggregation: Aggregation = DEFAULT_AGGREGATION
    votes: Mapping[str, int] = field(default_factory=dict)
    scorer: Scorer | None = None
    local_judges: Collection[str] = ()
    calibrator: Calibrator = field(default_factory=Calibrator)

    def start(self, purpose: str, step: int) -> GroupGrading:
        """The grading of one rollout."""
        return GroupGrading(self, f"{purpose}/{step}")

    def criteria_of(self, view: dict[str, Any]) -> list[Criterion]:
        """What a prompt is graded on."""
        return criteria_of(self.content, view, self.aggregation.prompt_criteria_weight or 1.0)

    def weights_of(self, criteria: Sequence[Criterion]) -> list[CriterionWeight]:
        """The same as aggregation needs it."""
        return criterion_weights(criteria, self.votes)

    def places_of(self, criteria: Sequence[Criterion]) -> Places:
        """Where these are graded."""
        return places(criteria, local_judges=self.local_judges, models_here=self.scorer is not None)


def prompt_needs(criteria: Sequence[Criterion]) -> list[str]:
    """What the templates need of a prompt, e.g. `prompt.reference`; checked before anything is sampled."""
    return sorted({name for criterion in criteria for name in needs_of(criterion)})


@dataclass(slots=True)
class GroupGrading:
    """One rollout's groups, on their way to their cells."""

    grader: RubricGrader
    place: str
    _asked: list[tuple[str, CompletionGroup]] = field(default_factory=list)

    def submit(self, group: CompletionGroup) -> None:
        """Grade what can be graded here; ask for the rest."""
        view = group.prompt.view
        criteria = self.grader.criteria_of(view)
        group.criteria, group.rubric = self.grader.weights_of(criteria), self.grader.name
        places = self.grader.places_of(criteria)
        texts = [completion.text for completion in group.completions]
        # Asked first: what others do goes on while we grade here.
        for queue, asked in places.asked.items():
            key = self._key(group, queue)
            self.grader.desk.ask(key, view, texts, [c.key for c in asked], queue=queue)
            self._asked.append((key, group))
        group.cells = grade_here(places.here, view, texts, self.grader.scorer)

    def _key(self, group: CompletionGroup, queue: str) -> str:
        """The same samples at the same place of the job are the same question, also after a resume: never paid twice."""
        tokens = [completion.tokens or completion.text for completion in group.completions]
        return content_hash([self.grader.name, self.place, len(self._asked), queue, group.prompt.id, tokens])

    def finish(self) -> None:
        """Wait for the judges and put their cells beside the verifiers'."""
        if not self._asked:
            return
        found = self.grader.desk.wait([key for key, _ in self._asked])
        for key, group in self._asked:
            for row, judged in zip(group.cells, found[key], strict=True):
                row.update({name: self.grader.calibrator.cell(cell) for name, cell in judged.items()})

    def forget(self) -> None:
        """Have the judges asked again the next time."""
        self.grader.desk.forget([key for key, _ in self._asked])


@dataclass(slots=True)
class CategoryGrader:
    """A rubric for each category of prompts, `*` for all others: every group is graded by that of its prompt."""

    names: PinnedRubrics
    graders: dict[str, RubricGrader]

    def of(self, category: str | None) -> RubricGrader:
        """Who grades prompts of this category. Submitting has made sure that somebody does."""
        name = self.names.name_for(category)
        assert name is not None, category
        return self.graders[name]

    def start(self, purpose: str, step: int) -> CategoryGrading:
        """The grading of one rollout."""
        return CategoryGrading(self, purpose, step)


@dataclass(slots=True)
class CategoryGrading:
    """One rollout's groups, each with the grading of its rubric."""

    grader: CategoryGrader
    purpose: str
    step: int
    _parts: dict[str, GroupGrading] = field(default_factory=dict)

    def submit(self, group: CompletionGroup) -> None:
        """Hand the group to its rubric."""
        own = self.grader.of(group.prompt.view["category"])
        if own.name not in self._parts:
            self._parts[own.name] = own.start(self.purpose, self.step)
        self._parts[own.name].submit(group)

    def finish(self) -> None:
        """Wait for all; everything has been asked already, so one rubric's waiting is not the next one's delay."""
        for part in self._parts.values():
            part.finish()

    def forget(self) -> None:
        """Have the judges asked again the next time."""
        for part in self._parts.values():
            part.forget()
