"""What jobs, gradings and judges have taken, as a column beside their own."""

from __future__ import annotations

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, with_expression
from sqlalchemy.sql.base import ExecutableOption

from service.db.tables import JudgeSpending


def with_spent(spent: InstrumentedAttribute[Any], owner_id: InstrumentedAttribute[str]) -> ExecutableOption:
    """Fill `spent` with what the owner has taken of all its judges, in the names of `service.domain.spending.Spent`.

    A judge's own rows, over all owners, have the judge as their owner.
    """
    table = JudgeSpending
    found = select(
        func.jsonb_build_object(
            "judge_calls", func.coalesce(func.sum(table.calls), 0),
            "judge_tokens_in", func.coalesce(func.sum(table.tokens_in), 0),
            "judge_tokens_out", func.coalesce(func.sum(table.tokens_out), 0),
            "judge_cost_usd", func.sum(table.cost_usd),
            "estimated_calls", func.coalesce(func.sum(table.estimated), 0),
        )
    ).where(table.owner_id == owner_id)  # fmt: skip
    return with_expression(spent, found.correlate(owner_id.class_).scalar_subquery())
