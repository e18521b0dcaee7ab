"""What goes in and out of `/v1/critiques` and `/v1/completions/{id}/labels`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, model_validator

from service.db.tables import Label
from service.domain.base import Value, refuse
from service.domain.conversation import Text
from service.domain.label import Comment, LabelIn, Person, Spans, Verdict, quoted, shown_evidence

CritiqueText = Annotated[Text, StringConstraints(min_length=1, max_length=20_000)]


class LabelsIn(Value):
    """One person's labels of one completion. `blind`: the person has not seen what judges say of it."""

    labels: Annotated[list[LabelIn], Field(min_length=1, max_length=256)]
    person: Person | None = None
    blind: bool = False


class LabelOut(BaseModel):
    """A label. A null score: it could not be assessed. `replaced_at`: it has not counted since. `corrects`: the critique that it
    answers. It counts for every cell of `subject`'s text that was asked the same question."""

    id: str
    completion: str
    subject: str
    rubric: dict[str, Any]
    criterion: str
    person: str
    score: float | None
    blind: bool
    comment: str | None
    evidence: list[dict[str, Any]]
    corrects: str | None
    created_at: datetime
    replaced_at: datetime | None

    @classmethod
    def of(cls, row: Label, text: str | None = None) -> LabelOut:
        """From its row; with the completion's text, spans have their words."""
        same = ("id", "criterion", "person", "score", "blind", "comment", "corrects", "created_at", "replaced_at")
        return cls(
            completion=row.completion_id,
            subject=row.subject_id,
            rubric={"id": row.rubric_id, "version": row.rubric_version},
            evidence=row.evidence if text is None else shown_evidence(row.evidence, text),
            **{name: getattr(row, name) for name in same},
        )


class LabelsOut(BaseModel):
    """The labels of one completion."""

    data: list[LabelOut]


class CritiqueIn(Value):
    """A person's critique of a completion on a criterion; with a `verdict` or a `score` it is a label too."""

    completion: Annotated[Text, StringConstraints(min_length=1, max_length=100)]
    criterion: Annotated[Text, StringConstraints(min_length=1, max_length=300)]
    text: CritiqueText
    evidence: Spans = []
    verdict: Verdict = None
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    person: Person | None = None
    blind: bool = False

    @model_validator(mode="after")
    def _at_most_one(self) -> CritiqueIn:
        if {"verdict", "score"} <= self.model_fields_set:
            refuse((("score",), "one_of", "give 'verdict' or 'score', not both"))
        return self

    def label(self) -> LabelIn | None:
        """What it says in a number, if it does."""
        return labelled(self, self.criterion)


class CorrectionIn(Value):
    """What a critique should have said: the right verdict (or score), and why. `text` becomes a critique of the person's own."""

    verdict: Verdict = None
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    text: CritiqueText | None = None
    evidence: Spans = []
    person: Person | None = None

    @model_validator(mode="after")
    def _one_of(self) -> CorrectionIn:
        if len({"verdict", "score"} & self.model_fields_set) != 1:
            refuse(((), "one_of", "say what is right: 'verdict' (as the judge would) or 'score', one of them"))
        return self


def labelled(given: CritiqueIn | CorrectionIn, criterion: str) -> LabelIn | None:
    """The label in it."""
    name = next(iter({"verdict", "score"} & given.model_fields_set), None)
    if name is None:
        return None
    evidence = [span.model_dump() for span in given.evidence]
    said = {"criterion": criterion, name: getattr(given, name), "comment": given.text, "evidence": evidence}
    return LabelIn.model_validate(said)


class RatingIn(Value):
    """A thumb up (1) or down (−1)."""

    rating: Literal[-1, 1]
    comment: Comment | None = None
    person: Person | None = None


class CritiquePatch(Value):
    """A hidden critique is left out of lists, and of what revisers are told."""

    hidden: bool
    reason: Comment | None = None


class RatingsOut(BaseModel):
    """Thumbs."""

    up: int
    down: int


class CritiqueOut(BaseModel):
    """What a judge or a person wrote about one completion on one criterion.

    `source` says who: `{type: judge, judge, revision}` or `{type: person, person}`. `evidence`: the passages that it is about;
    for a judge, those that its text quotes.
    """

    id: str
    completion: str
    job: str | None
    grading: str | None
    criterion: str
    text: str
    status: str
    score: float | None
    confidence: float | None
    source: dict[str, Any]
    evidence: list[dict[str, Any]]
    corrects: str | None
    ratings: RatingsOut
    hidden: bool
    hidden_reason: str | None
    created_at: datetime

    @classmethod
    def of(cls, row: Any, text: str, ratings: tuple[int, int], hidden: Mapping[str, str | None]) -> CritiqueOut:
        """From its row, and what stands beside it. `text` is the completion's."""
        judged = row.author == "judge"
        source = {"type": "judge", "judge": row.judge_id, "revision": row.judge_revision}
        return cls(
            id=row.id,
            completion=row.completion_id,
            job=row.job_id,
            grading=row.grading_id,
            criterion=row.criterion,
            text=row.text or "",
            status=row.status,
            score=row.score,
            confidence=row.confidence,
            source=source if judged else {"type": "person", "person": row.person},
            evidence=quoted(row.text or "", text) if judged else shown_evidence(row.evidence, text),
            corrects=row.corrects,
            ratings=RatingsOut(up=ratings[0], down=ratings[1]),
            hidden=row.id in hidden,
            hidden_reason=hidden.get(row.id),
            created_at=row.created_at,
        )


class CorrectedOut(BaseModel):
    """What a correction has made: the label, and the person's critique if it has a text."""

    label: LabelOut
    critique: CritiqueOut | None
