"""A request's own texts: checked against the rubric before anything is queued, and stored in its order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import grading_items as item_queries
from service.db.tables import Grading
from service.domain.criteria import criteria_of, needs_of
from service.domain.dataset import PromptRow, prompt_view
from service.domain.grader import JudgeGrader, RewardModelGrader, parts_of
from service.domain.grading import prompt_key
from service.domain.inherited import JudgeFacts, contradictions, own_votes
from service.domain.rubric import Criterion
from service.errors import Invalid
from service.grader_checks import grader_faults
from service.gradings.versions import Version, Versions, check_options

TEXTS_AT_ONCE = 2000


@dataclass(frozen=True, slots=True)
class GivenText:
    """A text with its prompt as graders see it, both as they are stored."""

    prompt: dict[str, Any]
    prompt_key: str
    group_key: str
    text: str


@dataclass(frozen=True, slots=True)
class GivenPrompt:
    """A prompt of the request under its id, with what it is graded by."""

    id: str
    version: Version
    criteria: list[Criterion]


@dataclass(slots=True)
class GivenTexts:
    """The texts of a request. `named`: judges and reward models of prompts' own criteria, each with place and who needs it."""

    grading_id: str
    versions: Versions
    texts: list[GivenText] = field(default_factory=list)
    named: dict[str, tuple[str, str]] = field(default_factory=dict)
    cells: int = 0
    _own: list[tuple[str, Criterion]] = field(default_factory=list)
    _prompts: dict[str, GivenPrompt] = field(default_factory=dict)
    _groups: dict[str, tuple[str, GivenPrompt]] = field(default_factory=dict)

    def add(self, prompt: PromptRow, text: str, group: str | None, place: str) -> None:
        """One more text. 422 at `place`, its prompt's pointer, for a prompt that cannot be graded."""
        view = prompt_view(prompt, "")
        key = prompt_key(view)
        if key not in self._prompts:
            version = self.versions.of(prompt.category, place)
            self._check(prompt, view, place)
            assert version.aggregation.prompt_criteria_weight is not None
            criteria = criteria_of(version.content, view, version.aggregation.prompt_criteria_weight)
            self._check_criteria(criteria, view, place)
            self._prompts[key] = GivenPrompt(f"{self.grading_id}:{len(self._prompts)}", version, criteria)
        given = self._prompts[key]
        group_key = f"p:{key}" if group is None else f"g:{group}"
        first, known = self._groups.setdefault(group_key, (place, given))
        if given is not known and (given.version.name, given.criteria) != (known.version.name, known.criteria):
            message = f"the texts of group '{group}' are graded on other criteria here than at {first}; give this one a group of its own"
            raise Invalid.at(place, "mixed_group", message)
        self.texts.append(GivenText({**view, "id": given.id}, key, group_key, text))
        self.cells += len(given.criteria)

    def _check(self, prompt: PromptRow, view: dict[str, Any], place: str) -> None:
        """The row's own criteria, as they are checked when a dataset takes them in."""
        faults = grader_faults(prompt.criteria, f"{place}/criteria")
        if faults:
            raise Invalid.of(faults)
        for position, criterion in enumerate(prompt.criteria):
            self._own.append((f"{place}/criteria/{position}", criterion))
            for below, grader in parts_of(criterion.grader).items():
                here, who = f"{place}/criteria/{position}/grader{below}", f"criterion '{criterion.key}'"
                if isinstance(grader, JudgeGrader):
                    self.named.setdefault(grader.judge, (f"{here}/judge", who))
                if isinstance(grader, RewardModelGrader):
                    self.named.setdefault(grader.model, (f"{here}/model", who))

    def _check_criteria(self, criteria: Sequence[Criterion], view: dict[str, Any], place: str) -> None:
        if all(criterion.audit for criterion in criteria):
            message = "no criterion that counts applies to this prompt; give it another category, tags, or criteria of its own"
            raise Invalid.at(place, "no_criteria", message)
        for criterion in criteria:
            for name in needs_of(criterion):
                if _lookup(view, name) is None:
                    wanted = name.removeprefix("prompt.")
                    message = f"the prompt has no '{wanted}', which criterion '{criterion.key}' needs"
                    raise Invalid.at(f"{place}/{wanted.replace('.', '/')}", "missing", message)

    def require_askable(self, judges: Mapping[str, JudgeFacts]) -> None:
        """422 for prompts' own criteria that their judges cannot be asked as they are now, or that the options do not allow."""
        faults = [
            {"pointer": f"{place}/{found.place}", "code": "contradiction", "message": found.message}
            for place, criterion in self._own
            for found in contradictions(criterion, judges)
        ]
        if faults:
            raise Invalid.of(faults)
        for given in self._prompts.values():
            check_options(given.version.aggregation, [given.criteria], own_votes(judges))

    async def store(self, session: AsyncSession, grading: Grading) -> None:
        """As the grading's items."""
        common = {"grading_id": grading.id, "project_id": grading.project_id}
        for start in range(0, len(self.texts), TEXTS_AT_ONCE):
            rows = [
                {"position": position, "group_key": item.group_key, "prompt": item.prompt, "text": item.text}
                for position, item in enumerate(self.texts[start : start + TEXTS_AT_ONCE], start)
            ]
            await session.execute(item_queries.ADD_TEXTS, {**common, "rows": json.dumps(rows, ensure_ascii=False)})


def _lookup(view: dict[str, Any], name: str) -> Any:
    here: Any = view
    for part in name.split(".")[1:]:
        here = here.get(part) if isinstance(here, dict) else None
    return here
