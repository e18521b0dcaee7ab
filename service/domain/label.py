"""What a person says of one completion on one criterion: a verdict as a judge would give it, or a score that is one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, StringConstraints, model_validator

from service.domain.base import Value, refuse
from service.domain.conversation import Text
from service.domain.rubric import Criterion, LevelScale

Person = Annotated[Text, StringConstraints(min_length=1, max_length=200)]
"""Who says it, as the project names its people; without one, the API key that it is said with."""

Verdict = bool | Annotated[float, Field(ge=0, le=1)] | Annotated[Text, StringConstraints(max_length=100)] | None
Comment = Annotated[Text, StringConstraints(max_length=20_000)]

SHORTEST_QUOTE = 3
"""A judge's quotes of fewer characters are words about the text, not passages of it."""

_QUOTES = re.compile(r'"([^"\n]+)"|“([^”\n]+)”|`([^`\n]+)`|«([^»\n]+)»|‘([^’\n]+)’')


class Evidence(Value):
    """Characters `start`..`end` of the completion's text (end excluded)."""

    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _forwards(self) -> Evidence:
        if self.end <= self.start:
            refuse((("end",), "empty_span", "a span ends behind its start"))
        return self


Spans = Annotated[list[Evidence], Field(max_length=100)]


class LabelIn(Value):
    """One label. `verdict` as a judge would say it: true or false (met or not), a level's label, or a number; null: cannot be
    assessed. `score` is goodness in [0,1], after polarity; give one of the two."""

    criterion: Annotated[Text, StringConstraints(min_length=1, max_length=300)]
    verdict: Verdict = None
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    comment: Comment | None = None
    evidence: Spans = []

    @model_validator(mode="after")
    def _one_of(self) -> LabelIn:
        if len({"verdict", "score"} & self.model_fields_set) != 1:
            refuse(
                ((), "one_of", "give 'verdict' (as a judge would; null: it cannot be assessed) or 'score', one of them")
            )
        if "score" in self.model_fields_set and self.score is None:
            refuse((("score",), "null", 'where it cannot be assessed, give "verdict": null'))
        return self

    def goodness(self, criterion: Criterion) -> float | None:
        """The score in [0,1], 1 is good; null if it cannot be assessed. ValueError, with what would do, for no value of the scale."""
        if "score" in self.model_fields_set:
            return _allowed(criterion, self.score)
        return None if self.verdict is None else _of_verdict(criterion, self.verdict)


def _of_verdict(criterion: Criterion, verdict: bool | float | str) -> float:
    scale = criterion.scale
    if isinstance(scale, LevelScale):
        for level in scale.levels:
            if level.label == verdict:
                return level.value
        raise ValueError(f"this criterion's levels are {_listed(level.label for level in scale.levels)}")
    if scale.type == "boolean":
        if not isinstance(verdict, bool):
            raise ValueError("this criterion is met or not: true or false")
        return float(verdict == (criterion.polarity == "met_is_good"))
    if isinstance(verdict, bool | str):
        raise ValueError("this criterion's scale is a number between 0 and 1")
    return float(verdict)


def _allowed(criterion: Criterion, score: float | None) -> float:
    assert score is not None
    known = values_of(criterion)
    if known is not None and score not in known:
        raise ValueError(f"the scores of this criterion are {_listed(known)}")
    return score


def _listed(values: Any) -> str:
    return ", ".join(f"'{value}'" if isinstance(value, str) else f"{value:g}" for value in values)


def values_of(criterion: Criterion) -> list[float] | None:
    """The scores that this criterion can have, ascending; null for any number in [0,1]."""
    if isinstance(criterion.scale, LevelScale):
        return sorted({level.value for level in criterion.scale.levels})
    return [0.0, 1.0] if criterion.scale.type == "boolean" else None


def outside(evidence: Sequence[Evidence], text: str) -> int | None:
    """The position of the first span that reaches beyond the text."""
    return next((place for place, span in enumerate(evidence) if span.end > len(text)), None)


def shown_evidence(evidence: Sequence[Mapping[str, Any]], text: str) -> list[dict[str, Any]]:
    """Spans with the words that stand there."""
    return [{"start": e["start"], "end": e["end"], "text": text[e["start"] : e["end"]]} for e in evidence]


def quoted(reasoning: str, text: str) -> list[dict[str, Any]]:
    """The passages of `text` that a judge quotes in its reasoning, each where it stands first: evidence that nobody had to ask for."""
    return shown_evidence([{"start": start, "end": end} for start, end in dict.fromkeys(_found(reasoning, text))], text)


def _found(reasoning: str, text: str) -> Iterator[tuple[int, int]]:
    for match in _QUOTES.finditer(reasoning):
        said = next(part for part in match.groups() if part is not None).strip().removesuffix("…").removesuffix("...")
        place = text.find(said) if len(said) >= SHORTEST_QUOTE else -1
        if place >= 0:
            yield place, place + len(said)
