"""What a rule sees and what it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from service.domain.base import Value
from service.domain.grader import JudgeGrader
from service.domain.inherited import JudgeFacts
from service.domain.judge import Confidence
from service.domain.rubric import AuthoredContent, Criterion, LevelScale, RubricContent


class Finding(Value):
    """Something that an author may want to change: a code, how much it matters, where, and what to do."""

    code: str
    severity: Literal["warning", "info"]
    pointer: str
    message: str


@dataclass(frozen=True, slots=True)
class Subject:
    """A rubric with what is known around it.

    `included`: the flat content of each include. `category`: the head's. `categories` and `tags`: those of the project's
    prompts, null if nobody has looked.
    """

    authored: AuthoredContent
    flat: RubricContent
    included: Sequence[RubricContent] = ()
    category: str | None = None
    judges: Mapping[str, JudgeFacts] = field(default_factory=dict)
    categories: AbstractSet[str] | None = None
    tags: AbstractSet[str] | None = None

    def own(self) -> Iterator[tuple[str, Criterion]]:
        """The rubric's own criteria, each with its pointer; those of includes are read where they are written."""
        for position, criterion in enumerate(self.authored.criteria):
            yield f"/criteria/{position}", criterion

    def judged(self) -> Iterator[tuple[str, Criterion, JudgeGrader]]:
        """Its own criteria that a judge grades."""
        for place, criterion in self.own():
            if isinstance(criterion.grader, JudgeGrader):
                yield place, criterion, criterion.grader

    def everything(self) -> Iterator[tuple[str, Criterion]]:
        """All flat criteria; an included one has the pointer of its include."""
        own = len(self.authored.criteria)
        names = {include.as_: position for position, include in enumerate(self.authored.includes)}
        for position, criterion in enumerate(self.flat.criteria):
            if position < own:
                yield f"/criteria/{position}", criterion
            else:
                yield f"/includes/{names[criterion.key.split('.')[0]]}", criterion

    def votes(self, grader: JudgeGrader) -> int:
        """How often a criterion is asked."""
        return self.judges.get(grader.judge, JudgeFacts()).votes_for(grader)

    def confidence(self, grader: JudgeGrader) -> Confidence:
        """Where its confidence comes from."""
        return self.judges.get(grader.judge, JudgeFacts()).confidence_for(grader)


def anchored(criterion: Criterion) -> bool:
    """Whether a scale says what each of its levels means, by an anchor or by a label that is a sentence."""
    return isinstance(criterion.scale, LevelScale) and all(
        level.anchor.strip() or len(level.label.split()) >= 4 for level in criterion.scale.levels
    )
