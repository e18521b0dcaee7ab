"""What judges were asked and what that cost: the ledger, and what is set aside of budgets before calls are made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import BigInteger, Delete, Executable, Select, cast, delete, func, literal, or_, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.sql.elements import TextClause

from service.db.queries.jobs import now, seconds
from service.db.tables import Grading, Job, Judge, JudgeReservation, JudgeSpending

COUNTED = text(
    """
    INSERT INTO judge_spending AS s
           (owner_id, judge_id, writer, project_id, calls, estimated, tokens_in, tokens_out, cost_usd)
    SELECT d.owner_id, d.judge_id, d.writer, d.project_id, d.calls, d.estimated, d.tokens_in, d.tokens_out, d.cost_usd
    FROM jsonb_to_recordset(CAST(:rows AS jsonb))
           AS d(owner_id text, judge_id text, writer text, project_id text, calls bigint, estimated bigint, tokens_in bigint,
                tokens_out bigint, cost_usd double precision)
    ORDER BY d.owner_id, d.judge_id, d.writer
    ON CONFLICT (owner_id, judge_id, writer) DO UPDATE SET
        calls = greatest(s.calls, excluded.calls),
        estimated = greatest(s.estimated, excluded.estimated),
        tokens_in = greatest(s.tokens_in, excluded.tokens_in),
        tokens_out = greatest(s.tokens_out, excluded.tokens_out),
        cost_usd = greatest(s.cost_usd, excluded.cost_usd),
        updated_at = clock_timestamp()
    """
)
"""Write what writers have counted in all. Again is no harm, and an older count never takes a newer one back."""


# --- budgets: every worker sets calls aside under the locks of the owner and the judge ---

_SEED = 0x7075727365  # "purse"

LOCK: TextClause = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(k, :seed)) FROM unnest(CAST(:ids AS text[])) AS k"
)


def lock(*ids: str) -> tuple[Executable, dict[str, Any]]:
    """Who sets calls aside for these owners and judges is alone until its transaction ends; always in the same order."""
    return LOCK, {"ids": sorted(ids), "seed": _SEED}


def judge_limits(judge_id: str) -> Select[Any]:
    """A judge's limits as they are now."""
    return select(Judge.limits).where(Judge.id == judge_id)


def budgets(owner_ids: Collection[str]) -> Executable:
    """The limits of these jobs and gradings as they are now, by id."""
    ids = list(owner_ids)
    jobs = select(Job.id, Job.spec["limits"].label("limits")).where(Job.id.in_(ids))
    gradings = select(Grading.id, Grading.resolved["limits"].label("limits")).where(Grading.id.in_(ids))
    return jobs.union_all(gradings)


def totals(owner_id: str, judge_id: str) -> Select[*tuple[Any, ...]]:
    """Calls and cost of an owner at all its judges, and the cost of a judge to everybody."""
    table = JudgeSpending
    mine = table.owner_id == owner_id
    return select(
        cast(func.coalesce(func.sum(table.calls).filter(mine), 0), BigInteger).label("calls"),
        func.coalesce(func.sum(table.cost_usd).filter(mine), 0.0).label("cost_usd"),
        func.coalesce(func.sum(table.cost_usd).filter(table.owner_id == judge_id), 0.0).label("judge_cost_usd"),
    ).where(table.owner_id.in_([owner_id, judge_id]))


def reservations(owner_id: str, judge_id: str) -> Select[JudgeReservation, Any]:
    """What is set aside of an owner's and of a judge's budgets, with the database's time."""
    of_either = or_(JudgeReservation.owner_id == owner_id, JudgeReservation.judge_id == judge_id)
    return select(JudgeReservation, now().label("now")).where(of_either)


def reserve(values: Mapping[str, Any], lease_s: float) -> Executable:
    """Set a worker's reservation, with a fresh lease."""
    statement = insert(JudgeReservation).values(**values, expires_at=now() + seconds(lease_s))
    names = ("process", "calls", "cost_usd", "timeout_s", "expires_at")
    return statement.on_conflict_do_update(
        index_elements=["owner_id", "judge_id", "worker_id"], set_={name: statement.excluded[name] for name in names}
    )


def give_back(keys: Collection[tuple[str, str, str]]) -> Delete:
    """Take reservations away, by owner, judge and worker."""
    table = JudgeReservation
    return delete(table).where(tuple_(table.owner_id, table.judge_id, table.worker_id).in_(keys))


def leave(worker_id: str) -> Delete:
    """All reservations of a worker that asks no more."""
    return delete(JudgeReservation).where(JudgeReservation.worker_id == worker_id)


def unpriced(judge_ids: Collection[str]) -> Select[str, str]:
    """Those of these judges whose calls have no price."""
    return select(Judge.id, Judge.name).where(
        Judge.id.in_(judge_ids), func.coalesce(func.jsonb_typeof(Judge.limits["price"]), "null") == "null"
    )


def of_tries_that_are_gone(after_s: float) -> Delete:
    """What tries have taken stands in their judges' totals too, and nobody can ask for a try again."""
    known = select(literal(1)).where(Grading.id == JudgeSpending.owner_id)
    return delete(JudgeSpending).where(
        JudgeSpending.owner_id.like("grd\\_%"), JudgeSpending.updated_at < now() - seconds(after_s), ~known.exists()
    )
