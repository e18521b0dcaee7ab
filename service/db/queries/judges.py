"""Judges and their revisions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Select, and_, select, tuple_

from service.db.queries.abilities import of_revision, with_learned
from service.db.queries.spent import with_spent
from service.db.tables import EndpointAbilities, Judge, JudgeRevision


def heads(project_id: str) -> Select[Judge, JudgeRevision]:
    """The judges of a project, each with its current revision."""
    return (
        select(Judge, JudgeRevision)
        .join(JudgeRevision, and_(JudgeRevision.judge_id == Judge.id, JudgeRevision.revision == Judge.revision))
        .where(Judge.project_id == project_id)
        .options(with_spent(Judge.spent, Judge.id), with_learned(Judge.learned))
    )


def exists(project_id: str, judge_id: str) -> Select[str]:
    """The id again, if the project has this judge."""
    return select(Judge.id).where(Judge.project_id == project_id, Judge.id == judge_id)


def current(project_id: str, judge_id: str) -> Select[int]:
    """The number of a judge's current revision."""
    return select(Judge.revision).where(Judge.project_id == project_id, Judge.id == judge_id)


def lock_head(project_id: str, judge_id: str) -> Select[Judge]:
    """One judge, locked."""
    return select(Judge).where(Judge.project_id == project_id, Judge.id == judge_id).with_for_update()


def revisions(judge_id: str) -> Select[JudgeRevision]:
    """All revisions of a judge."""
    return select(JudgeRevision).where(JudgeRevision.judge_id == judge_id)


def revision(judge_id: str, number: int) -> Select[JudgeRevision]:
    """One revision."""
    return revisions(judge_id).where(JudgeRevision.revision == number)


def _facts() -> Select[str, int, str, Any, Any]:
    """Judge, votes, source of confidence, what it is said to be able to do, what was learned."""
    return (
        select(
            JudgeRevision.judge_id,
            JudgeRevision.config["votes"].as_integer(),
            JudgeRevision.config["confidence"].as_string(),
            Judge.limits["capabilities"],
            EndpointAbilities.learned,
        )
        .join(Judge, Judge.id == JudgeRevision.judge_id)
        .outerjoin(EndpointAbilities, of_revision())
    )


def facts(pinned: Mapping[str, int]) -> Select[str, int, str, Any, Any]:
    """What criteria inherit from each of these revisions, and what cannot be asked of them."""
    return _facts().where(tuple_(JudgeRevision.judge_id, JudgeRevision.revision).in_(sorted(pinned.items())))


def facts_now(project_id: str, judge_ids: Collection[str] | None = None) -> Select[str, int, str, Any, Any]:
    """The same of judges of a project as they are now: of these, or of all."""
    current = _facts().where(Judge.project_id == project_id, Judge.revision == JudgeRevision.revision)
    return current if judge_ids is None else current.where(Judge.id.in_(judge_ids))
