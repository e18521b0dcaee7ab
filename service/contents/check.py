"""Everything that is refused of a content, whoever wants to use it: publish, validate, or the try of a draft."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from service.contents.graders import require_graders
from service.contents.includes import Resolved, resolve
from service.db.queries import rubrics as queries
from service.db.tables import Rubric
from service.domain.rubric import AuthoredContent
from service.errors import Invalid
from service.grader_checks import grader_faults


async def check(
    session: AsyncSession, project_id: str, content: AuthoredContent, rubric_id: str | None = None
) -> Resolved:
    """422 with a place below `/content` for graders that cannot work, unknown judges, includes that lead nowhere.

    `rubric_id`: whose next version it is, or would be.
    """
    faults = grader_faults(content.criteria, "/content/criteria")
    if faults:
        raise Invalid.of(faults)
    resolved = await resolve(session, project_id, content, rubric_id)
    await require_graders(session, project_id, resolved)
    return resolved


async def head_of(session: AsyncSession, project_id: str, rubric_id: str | None) -> Rubric | None:
    """The rubric that a draft says it belongs to, if it says so; 422 at `/rubric` for one that the project does not have."""
    if rubric_id is None:
        return None
    head = await session.scalar(queries.head(project_id, rubric_id))
    if head is None:
        raise Invalid.at("/rubric", "not_found", f"there is no rubric '{rubric_id}'")
    return head
