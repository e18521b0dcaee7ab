"""One group on its way from texts to cells: verifiers at once, and the questions that judges are asked."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from service.domain.criteria import criterion_weights
from service.domain.grade import Cell
from service.domain.grading import prompt_key
from service.domain.places import Places, places
from service.domain.rubric import Criterion
from service.domain.scoring import ScoredGroup
from workers.advantages.group import group_cells
from workers.graders.here import grade_here
from workers.gradings.rubrics import GradedBy, Rubrics, criteria_for, score_by
from workers.runs.gradings import Question

TEXTS_PER_QUESTION = 16
"""Small enough that several workers share a large group, large enough that a group is few rows."""


@dataclass(slots=True)
class Member:
    """A text of a group, with the cells that it has by now."""

    position: int
    prompt: dict[str, Any]
    text: str
    source: str | None
    cells: dict[str, Cell] = field(default_factory=dict)


@dataclass(slots=True)
class GroupWork:
    """A group: `questions` has, for each question, the members that its texts are."""

    number: int
    by: GradedBy
    group_id: str | None
    members: list[Member]
    criteria: list[Criterion]
    places: Places
    questions: list[tuple[Question, list[Member]]] = field(default_factory=list)
    _scored: ScoredGroup | None = None

    @property
    def asked_cells(self) -> int:
        """How many cells judges are asked for."""
        return sum(len(question.texts) * len(question.criteria) for question, _ in self.questions)

    @property
    def cell_count(self) -> int:
        """All cells."""
        return sum(len(member.cells) for member in self.members)

    @property
    def failed_count(self) -> int:
        """Cells that have no score."""
        return sum(cell.score is None for member in self.members for cell in member.cells.values())

    def take(self, answers: Mapping[str, list[dict[str, Cell]]]) -> None:
        """The judges' cells."""
        for question, members in self.questions:
            for member, row in zip(members, answers[question.key], strict=True):
                member.cells.update({key: self.by.calibrator.cell(cell) for key, cell in row.items()})

    @property
    def scored(self) -> ScoredGroup:
        """Rewards and advantages, once the cells are there; a grading has no history."""
        if self._scored is None:
            cells = group_cells(criterion_weights(self.criteria), [member.cells for member in self.members])
            self._scored = score_by(cells, self.by)
        return self._scored


def prepare(rows: Iterable[Any], rubrics: Rubrics) -> list[GroupWork]:
    """Groups with their verifiers' cells and their questions, from their members in order of group and position."""
    found = []
    for number, lines in groupby(rows, key=lambda row: row.number):
        listed = list(lines)
        members = [Member(row.position, row.prompt, row.text, row.completion_id) for row in listed]
        by = rubrics.now(members[0].prompt.get("category"))
        criteria = criteria_for(by, rubrics.asked(members[0].prompt))
        where = places(criteria, local_judges=rubrics.local_judges, models_here=False)
        group = GroupWork(number, by, listed[0].group_id, members, criteria, where)
        _verify(group)
        _question(group, rubrics)
        found.append(group)
    return found


def _verify(group: GroupWork) -> None:
    for member in group.members:
        (cells,) = grade_here(group.places.here, member.prompt, [member.text], scorer=None)
        member.cells.update(cells)
        time.sleep(0)  # lets the engine's loop, a thread of this process, go on asking judges


def _question(group: GroupWork, rubrics: Rubrics) -> None:
    """Questions with keys that a successor would give them too: texts with an equal prompt, in input order, a few at a time."""
    by_prompt: dict[str, list[Member]] = {}
    for member in group.members:
        by_prompt.setdefault(prompt_key(member.prompt), []).append(member)
    for members in by_prompt.values():
        for start in range(0, len(members), TEXTS_PER_QUESTION):
            part = members[start : start + TEXTS_PER_QUESTION]
            texts, prompt = [member.text for member in part], rubrics.asked(part[0].prompt)
            for queue, criteria in group.places.asked.items():
                key = f"{group.number}/{len(group.questions)}"
                asked = [c.key for c in criteria]
                question = Question(key, queue, group.by.name, prompt, texts, asked, fresh=rubrics.fresh)
                group.questions.append((question, part))
