"""A pair on its way: a stored completion, what is to be better, and the questions about both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from service.domain.calibration import Calibrator
from service.domain.criteria import criteria_of
from service.domain.grade import Cell
from service.domain.pinned import version_name
from service.domain.places import GRADING, GRADING_LOCAL, places
from service.domain.revision_request import prompt_with_votes
from service.domain.rubric import DEFAULT_AGGREGATION, Criterion, RubricContent
from workers.graders.here import grade_here
from workers.revisions.asking import Critique
from workers.revisions.rows import Side
from workers.runs.gradings import HeldGrading, Question


@dataclass(slots=True)
class PairWork:
    """A group of a request: one completion that is revised, or the worst and the best of a group."""

    number: int
    kind: str
    prompt: dict[str, Any]
    rubric: tuple[str, int]
    original: Side
    better: Side | None = None
    criteria: list[Criterion] = field(default_factory=list)
    cells: list[dict[str, Cell]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    lineage: dict[str, Any] = field(default_factory=dict)
    critiques: list[Critique] = field(default_factory=list)
    reply: dict[str, Any] | None = None
    """What the reviser's answer took, without its text."""
    keys: list[str] = field(default_factory=list)
    """Of every batch that was asked for it."""

    @property
    def texts(self) -> list[str]:
        """Both, the original first."""
        assert self.better is not None
        return [self.original.text, self.better.text]


@dataclass(slots=True)
class Contents:
    """The versions that a request has pinned, each parsed once."""

    held: HeldGrading
    _parsed: dict[str, RubricContent] = field(default_factory=dict)

    def of(self, rubric: tuple[str, int]) -> RubricContent:
        """A version's content, its judged criteria with as many votes as were asked for."""
        name = version_name(*rubric)
        if name not in self._parsed:
            content = self.held.grading.resolved["rubrics"][name]["content"]
            self._parsed[name] = RubricContent.model_validate(content)
        return self._parsed[name]

    def calibrator(self, rubric: tuple[str, int]) -> Calibrator:
        """What the judges' confidences are worth on this version's criteria."""
        return Calibrator.of(self.held.grading.resolved, self.of(rubric))


def pairs_of(rows: Iterable[Any]) -> list[PairWork]:
    """The groups of a request, from their members in order of group and position."""
    found = []
    for number, lines in groupby(rows, key=lambda row: row.number):
        first, *others = lines
        pair = PairWork(
            number=number,
            kind="revision" if first.group_key.startswith("r:") else "group_pair",
            prompt=first.prompt,
            rubric=(first.rubric_id, first.rubric_version),
            original=Side(first.completion_id, first.text),
            lineage={"rubric": {"id": first.rubric_id, "version": first.rubric_version}},
        )
        if others:
            pair.better = Side(others[0].completion_id, others[0].text)
        found.append(pair)
    return found


def prepare(pair: PairWork, contents: Contents, votes: int) -> None:
    """Grade both texts on what needs no judge, and make the questions for the rest; the same ones after a crash."""
    resolved = contents.held.grading.resolved
    content = contents.of(pair.rubric)
    asked = prompt_with_votes(pair.prompt, votes, resolved["judge_votes"])
    weight = content.aggregation.over(DEFAULT_AGGREGATION).prompt_criteria_weight or 1.0
    pair.criteria = criteria_of(content, asked, weight)
    where = places(pair.criteria, local_judges=resolved["local_judges"], models_here=False)
    pair.cells = grade_here(where.here, asked, pair.texts, scorer=None)
    pair.questions = [
        Question(
            f"{pair.number}/{queue}",
            queue,
            version_name(*pair.rubric),
            asked,
            pair.texts,
            [criterion.key for criterion in criteria],
            fresh=True,
        )
        for queue, criteria in where.asked.items()
    ]


def take(pair: PairWork, answers: Mapping[str, list[dict[str, Cell]]], calibrator: Calibrator) -> None:
    """The judges' cells, their confidences worth what the request has pinned."""
    for question in pair.questions:
        for row, judged in zip(pair.cells, answers[question.key], strict=True):
            row.update({key: calibrator.cell(cell) for key, cell in judged.items()})


def queue_of(held: HeldGrading, judge: str) -> str:
    """Where the workers are that can ask this judge."""
    return GRADING_LOCAL if judge in held.grading.resolved["local_judges"] else GRADING
