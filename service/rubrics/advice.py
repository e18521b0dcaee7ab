"""The linter with what it needs to know: the judges' own options, and which categories and tags the project's prompts have."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from sqlalchemy.ext.asyncio import AsyncSession

from service.contents.includes import Resolved
from service.db.queries import datasets as dataset_queries
from service.domain.lint import Finding, Shares, Subject, lint, shares_of
from service.pins import facts_now

LOOK_AT_ROWS = 200_000
"""A project with more prompts than this is not searched for its categories and tags."""


async def advise(session: AsyncSession, project_id: str, resolved: Resolved, category: str | None) -> list[Finding]:
    """Every finding, with pointers into a body that holds the content as `content`."""
    categories, tags = await _conditions(session, project_id, resolved)
    subject = Subject(
        authored=resolved.authored,
        flat=resolved.flat,
        included=resolved.included,
        category=category,
        judges=await facts_now(session, project_id, resolved.flat.judge_ids()),
        categories=categories,
        tags=tags,
    )
    return [found.model_copy(update={"pointer": f"/content{found.pointer}"}) for found in lint(subject)]


def weigh(resolved: Resolved) -> Shares:
    """Shares of Σw by criterion and module."""
    return shares_of(Subject(resolved.authored, resolved.flat, resolved.included))


async def _conditions(
    session: AsyncSession, project_id: str, resolved: Resolved
) -> tuple[AbstractSet[str] | None, AbstractSet[str] | None]:
    """The categories and tags of the project's prompts, if a criterion asks for some and there are prompts to look at."""
    conditions = [c.applies_to for c in resolved.authored.criteria if c.applies_to is not None]
    if not conditions:
        return None, None
    rows = await session.scalar(dataset_queries.prompt_count(project_id)) or 0
    if not 0 < rows <= LOOK_AT_ROWS:
        return None, None
    categories = set(await session.scalars(dataset_queries.prompt_categories(project_id)))
    tags = set(await session.scalars(dataset_queries.prompt_tags(project_id)))
    return categories, tags
