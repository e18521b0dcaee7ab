"""What people say of completions, calibrations of judges by it, and drafts of criteria that they have accepted."""

from __future__ import annotations

from sqlalchemy import ForeignKey, SmallInteger
from sqlalchemy.orm import Mapped, mapped_column

from service.db.tables.base import Base, Created, Double, Id, Json, Moment, ProjectId


class Label(Base):
    """One person's score on one criterion of a text; `replaced_at` is null for the one that counts.

    `subject_id`: the completion that the text was first stored as. `question`: hash of what was asked. `corrects`: the critique
    that it answers. A null score: the person could not assess it.
    """

    __tablename__ = "labels"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    completion_id: Mapped[str]
    completion_created_at: Mapped[Moment]
    subject_id: Mapped[str]
    rubric_id: Mapped[str]
    rubric_version: Mapped[int]
    criterion: Mapped[str]
    question: Mapped[str]
    person: Mapped[str]
    score: Mapped[Double | None]
    blind: Mapped[bool]
    comment: Mapped[str | None]
    evidence: Mapped[Json]
    corrects: Mapped[str | None]
    key_id: Mapped[str]
    created_at: Mapped[Created]
    replaced_at: Mapped[Moment | None]


class Critique(Base):
    """What a person wrote about a completion on a criterion; what judges wrote stands in their cells."""

    __tablename__ = "critiques"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    completion_id: Mapped[str]
    completion_created_at: Mapped[Moment]
    job_id: Mapped[str | None]
    grading_id: Mapped[str | None]
    criterion: Mapped[str]
    text: Mapped[str]
    evidence: Mapped[Json]
    score: Mapped[Double | None]
    person: Mapped[str]
    corrects: Mapped[str | None]
    key_id: Mapped[str]
    created_at: Mapped[Created]


class CritiqueRating(Base):
    """One person's thumb, up (1) or down (−1), on a judge's or a person's critique."""

    __tablename__ = "critique_ratings"

    critique_id: Mapped[str] = mapped_column(primary_key=True)
    person: Mapped[str] = mapped_column(primary_key=True)
    project_id: Mapped[ProjectId]
    rating: Mapped[int] = mapped_column(SmallInteger)
    comment: Mapped[str | None]
    created_at: Mapped[Created]


class HiddenCritique(Base):
    """A critique that is not to be shown nor used."""

    __tablename__ = "hidden_critiques"

    critique_id: Mapped[Id]
    project_id: Mapped[ProjectId]
    reason: Mapped[str | None]
    key_id: Mapped[str]
    created_at: Mapped[Created]


class Calibration(Base):
    """A fit of one judge revision's confidence to people's labels; it never changes."""

    __tablename__ = "calibrations"

    id: Mapped[Id]
    project_id: Mapped[ProjectId]
    judge_id: Mapped[str]
    revision: Mapped[int]
    version: Mapped[int]
    method: Mapped[str]
    labels: Mapped[int]
    curves: Mapped[Json]
    report: Mapped[Json]
    author: Mapped[str]
    created_at: Mapped[Created]


class AcceptedDraft(Base):
    """A draft that has become a criterion of a rubric's version."""

    __tablename__ = "accepted_drafts"

    request_id: Mapped[str] = mapped_column(ForeignKey("gradings.id", ondelete="CASCADE"), primary_key=True)
    draft: Mapped[str] = mapped_column(primary_key=True)
    rubric_id: Mapped[str] = mapped_column(ForeignKey("rubrics.id"))
    version: Mapped[int] = mapped_column(primary_key=True)
    criterion: Mapped[str]
    project_id: Mapped[ProjectId]
    override: Mapped[str | None]
    key_id: Mapped[str]
    created_at: Mapped[Created]
