"""Judges and their revisions."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Select, and_, select, tuple_

from service.db.tables import Judge, JudgeRevision


def heads(project_id: str) -> Select[Judge, JudgeRevision]:
    """The judges of a project, each with its current revision."""
    return (
        select(Judge, JudgeRevision)
        .join(JudgeRevision, and_(JudgeRevision.judge_id == Judge.id, JudgeRevision.revision == Judge.revision))
        .where(Judge.project_id == project_id)
    )


def lock_head(project_id: str, judge_id: str) -> Select[Judge]:
    """One judge, locked."""
    return select(Judge).where(Judge.project_id == project_id, Judge.id == judge_id).with_for_update()


def revisions(judge_id: str) -> Select[JudgeRevision]:
    """All revisions of a judge."""
    return select(JudgeRevision).where(JudgeRevision.judge_id == judge_id)


def revision(judge_id: str, number: int) -> Select[JudgeRevision]:
    """One revision."""
    return revisions(judge_id).where(JudgeRevision.revision == number)


def votes(pinned: Mapping[str, int]) -> Select[str, int]:
    """The number of votes of each of these revisions, by judge."""
    return select(JudgeRevision.judge_id, JudgeRevision.config["votes"].as_integer()).where(
        tuple_(JudgeRevision.judge_id, JudgeRevision.revision).in_(sorted(pinned.items()))
    )
