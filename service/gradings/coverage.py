"""Whether every prompt of a grading's source has a rubric: the texts of a request say so themselves, the rest is looked up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import gradings as queries
from service.domain.grading import GradingSpec
from service.domain.pinned import ANY_CATEGORY
from service.errors import Invalid

REPORTED = 20


async def require_versions(
    session: AsyncSession, names: Mapping[str, str], spec: GradingSpec, source: Mapping[str, Any]
) -> None:
    """422 at `/rubric` for prompts of categories that no rubric is named for; it says how many texts that concerns.

    A job's completions are those that there are now: what it samples while the grading waits is looked at again by the worker.
    """
    if ANY_CATEGORY in names or spec.texts is not None:
        return
    if spec.dataset is not None:
        message = f"rows of {source['kind']} have no category; name a rubric for '*': all other categories"
        raise Invalid.at("/rubric", "no_rubric", message)
    statement = queries.outside_categories(
        names, completions=spec.completions, job=source.get("job"), purpose=source.get("purpose"), grading=spec.grading
    )
    faults = [
        {"pointer": "/rubric", "code": "no_rubric", "message": _said(category, count)}
        for category, count in await session.execute(statement.limit(REPORTED))
    ]
    if faults:
        raise Invalid.of(faults)


def _said(category: str | None, count: int) -> str:
    texts = f"the prompts of {count} completions have" if count != 1 else "the prompt of 1 completion has"
    what = "no category" if category is None else f"the category '{category}'"
    return f"{texts} {what}, for which no rubric is named; name one, or one for '*': all other categories"
