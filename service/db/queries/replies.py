"""What judges replied."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import Delete, Select, delete, select

from service.db.queries.jobs import now, seconds
from service.db.tables import CellRow, Completion, JudgeReplies

KEEP = """
    INSERT INTO judge_replies (id, created_at, project_id, job_id, grading_id, judge_id, judge_revision, body)
    SELECT * FROM unnest(%s::text[], %s::timestamptz[], %s::text[], %s::text[], %s::text[], %s::text[], %s::integer[], %s::bytea[])
    ON CONFLICT DO NOTHING
"""
"""By columns, on the driver's own connection."""


def cell(completion_id: str, criterion: str) -> Select[CellRow]:
    """A completion's cell on one criterion."""
    return select(CellRow).where(CellRow.completion_id == completion_id, CellRow.criterion == criterion)


def replies(project_id: str, replies_id: str) -> Select[JudgeReplies]:
    """What was replied under this id."""
    return select(JudgeReplies).where(JudgeReplies.id == replies_id, JudgeReplies.project_id == project_id)


def these(project_id: str, ids: Collection[str]) -> Select[str, bytes]:
    """The same for many ids."""
    return select(JudgeReplies.id, JudgeReplies.body).where(
        JudgeReplies.project_id == project_id, JudgeReplies.id.in_(ids)
    )


def voted(project_id: str, judge_id: str, revision: int, **where: str | None) -> Select[Any]:
    """The cells for which a revision of a judge was asked more than once, newest first, each with where its scale stands:
    rubric, version, the prompt's own criteria. `where`: `job_id`, `grading_id`, `criterion`."""
    statement = (
        select(
            CellRow.completion_id, CellRow.criterion, CellRow.replies_id,
            Completion.rubric_id, Completion.rubric_version, Completion.prompt["criteria"].label("own"),
        )
        .join(Completion, Completion.id == CellRow.completion_id)
        .where(
            CellRow.project_id == project_id,
            CellRow.judge_id == judge_id,
            CellRow.judge_revision == revision,
            CellRow.votes > 1,
            CellRow.replies_id.is_not(None),
            *(getattr(CellRow, name) == value for name, value in where.items() if value is not None),
        )
        .order_by(CellRow.created_at.desc(), CellRow.completion_id, CellRow.criterion)
    )  # fmt: skip
    return statement


def old_replies(days: float) -> Delete:
    """What was replied more than so many days ago."""
    return delete(JudgeReplies).where(JudgeReplies.created_at < now() - seconds(days * 86_400))
