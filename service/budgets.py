"""Budgets of jobs and gradings, checked when they are asked for: a limit that could not be kept is refused."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncSession

from service.db.queries import spending as queries
from service.domain.spending import JudgeBudget
from service.errors import Invalid


async def require_prices(
    session: AsyncSession, budget: JudgeBudget, judges: Collection[str], local_judges: Collection[str]
) -> None:
    """422 for a limit on the cost of judges with an endpoint of which nobody knows the price; registered models cost nothing."""
    if budget.judge_cost_usd is None:
        return
    found = await session.execute(queries.unpriced([judge for judge in judges if judge not in local_judges]))
    for judge_id, name in found:
        message = (
            f"judge '{judge_id}' ({name}) has no price, so nobody can tell when the limit is reached; give it one with "
            f'PATCH /v1/judges/{judge_id} {{"price": {{"input_per_mtok": …, "output_per_mtok": …}}}}, or limit \'judge_calls\''
        )
        raise Invalid.at("/limits/judge_cost_usd", "missing_price", message)
