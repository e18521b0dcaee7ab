"""What was spent and what is set aside, as the tests look at it."""

from __future__ import annotations

from sqlalchemy import select

from service.db.queries.spent import with_spent
from service.db.tables import JudgeReservation
from service.domain.spending import Spent

PRICE = {"input_per_mtok": 1000.0, "output_per_mtok": 10_000.0}
CALL_USD = 7 * 0.001 + 3 * 0.01
"""The scripted judge says 7 tokens in and 3 out: 0.037 USD at this price."""


def spent(database, kind, row_id):
    """What the row's JSON will say."""
    with database.transaction() as session:
        row = session.scalars(select(kind).where(kind.id == row_id).options(with_spent(kind.spent, kind.id))).one()
        return Spent.model_validate(row.spent)


def reserved(database):
    with database.transaction() as session:
        return [tuple(row) for row in session.execute(select(JudgeReservation.calls, JudgeReservation.cost_usd))]
