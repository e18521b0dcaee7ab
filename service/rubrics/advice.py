"""The linter with what it needs to know: the judges' own options, and which categories and tags the project's prompts have."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import datasets as dataset_queries
from service.db.queries import judges as judge_queries
from service.db.tables import Judge
from service.domain.grader import JudgeGrader
from service.domain.judge import JudgeConfig
from service.domain.lint import Finding, JudgeFacts, Shares, Subject, lint, shares_of
from service.rubrics.includes import Resolved

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
        judges=await _judges(session, project_id, resolved),
        categories=categories,
        tags=tags,
    )
    return [found.model_copy(update={"pointer": f"/content{found.pointer}"}) for found in lint(subject)]


def weigh(resolved: Resolved) -> Shares:
    """Shares of Σw by criterion and module."""
    return shares_of(Subject(resolved.authored, resolved.flat, resolved.included))


async def _judges(session: AsyncSession, project_id: str, resolved: Resolved) -> dict[str, JudgeFacts]:
    wanted = {c.grader.judge for c in resolved.authored.criteria if isinstance(c.grader, JudgeGrader)}
    if not wanted:
        return {}
    rows = await session.execute(judge_queries.heads(project_id).where(Judge.id.in_(wanted)))
    configs = {judge.id: JudgeConfig.model_validate(revision.config) for judge, revision in rows.tuples()}
    return {judge_id: JudgeFacts(config.votes, config.confidence) for judge_id, config in configs.items()}


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
