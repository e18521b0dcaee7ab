"""Setting calls aside of budgets, in one transaction: what is granted counts as spent until it is used or given back.

A budget holds as well as this arithmetic, which is done under the locks of the owner and the judge: what is spent, and what all
workers together have set aside, never exceeds a bound. So calls never exceed `limits.judge_calls`; and a cost, of which the most
that a call may take is set aside, exceeds its bound only if a call takes more than that: an endpoint that counts more tokens than
the question has bytes, or one that writes on beyond `max_tokens`.

What a dead worker has set aside comes back: at once if its process is known to be gone, else when its lease and the longest time
of a call are over. The calls that it had in flight are counted by nobody.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy.orm import Session

from service.db.queries import spending as queries
from service.db.tables import JudgeReservation
from service.domain.judge import JudgeLimits
from service.domain.spending import JudgeBudget
from workers.runs.identity import is_gone
from workers.runs.shares import Worker


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays for what: one owner's calls to one judge."""

    owner_id: str
    judge_id: str
    project_id: str


@dataclass(frozen=True, slots=True)
class Wish:
    """What a worker says when it comes: what it has counted, what its calls in flight hold, and what those that wait may cost.

    `spare`: so many more calls, of `each` US dollars at most, would be used soon; they get a part of what is free.
    """

    counts: str
    hold_calls: int
    hold_usd: float
    waiting: tuple[float, ...]
    spare: int = 0
    each: float = 0.0
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Bound:
    """One of the budgets that a call needs. `left` is what nobody has spent, `free` what nobody has set aside either."""

    name: str
    unit: str
    limit: float
    left: float
    free: float
    advice: str

    def refusal(self, need: float) -> str | None:
        """Why a call that needs so much can never be made, although what is set aside may come back; null if it can."""
        if need <= self.left + _DUST:
            return None
        if self.unit == "calls":
            return f"{self.name} is used up: {self.limit - self.left:.0f} of {self.limit:.0f} calls are made; {self.advice}"
        return (
            f"{self.name} is used up: {self.limit - self.left:.6g} of {self.limit:.6g} USD are spent, and the next call may cost "
            f"{need:.3g} USD; {self.advice}"
        )


_DUST = 1e-12
"""US dollars that are lost in sums."""

SPARE_SHARE = 4
"""Calls that nobody waits for yet get at most this part of what is free."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What it gets beside what it holds, and the bounds as they are now."""

    calls: int
    usd: float
    bounds: tuple[Bound, ...]

    def refusal(self, usd: float) -> str | None:
        """Why there can be no budget for a call of this cost; null if there may be, later."""
        said = (bound.refusal(1 if bound.unit == "calls" else usd) for bound in self.bounds)
        return next((sentence for sentence in said if sentence is not None), None)


def set_aside(session: Session, worker: Worker, account: Account, wish: Wish) -> Granted:
    """Set calls aside; the transaction must commit before one is made."""
    session.execute(*queries.lock(account.owner_id, account.judge_id))
    session.execute(queries.COUNTED, {"rows": wish.counts})
    bounds = tuple(_bounds(session, worker, account, wish))
    calls, usd = _fitting(bounds, wish)
    hold_calls, hold_usd = wish.hold_calls + calls, wish.hold_usd + usd
    if hold_calls or hold_usd > _DUST:
        values = {
            "owner_id": account.owner_id, "judge_id": account.judge_id, "worker_id": worker.id, "process": worker.process,
            "calls": hold_calls, "cost_usd": hold_usd, "timeout_s": wish.timeout_s,
        }  # fmt: skip
        session.execute(queries.reserve(values, worker.lease_s))
    else:
        session.execute(queries.give_back([(account.owner_id, account.judge_id, worker.id)]))
    return Granted(calls, usd, bounds)


def _bounds(session: Session, worker: Worker, account: Account, wish: Wish) -> Iterator[Bound]:
    """The bounds that there are now, with what is left of them."""
    limits = JudgeLimits.model_validate(session.scalars(queries.judge_limits(account.judge_id)).one())
    found = session.execute(queries.budgets([account.owner_id])).first()
    budget = JudgeBudget.model_validate((found.limits if found is not None else None) or {})
    spent = session.execute(queries.totals(account.owner_id, account.judge_id)).one()
    others = _of_others(session, worker, account)
    mine = [row for row in others if row.owner_id == account.owner_id]
    who, advice = "job", f'raise it when you resume: POST /v1/jobs/{account.owner_id}/resume {{"limits": {{…}}}}'
    if account.owner_id.startswith("grd_"):
        who, advice = "grading", "ask for another grading with a higher one: cells that are known are not asked again"
    elif not account.owner_id.startswith("job_"):
        who, advice = "request", "ask again with a higher one"
    if budget.judge_calls is not None:
        held = sum(row.calls for row in mine) + wish.hold_calls
        left = budget.judge_calls - spent.calls
        yield Bound(f"the {who}'s limits.judge_calls", "calls", budget.judge_calls, left, left - held, advice)
    if budget.judge_cost_usd is not None:
        usd_held = math.fsum(row.cost_usd for row in mine) + wish.hold_usd
        usd_left = budget.judge_cost_usd - spent.cost_usd
        yield Bound(
            f"the {who}'s limits.judge_cost_usd", "USD", budget.judge_cost_usd, usd_left, usd_left - usd_held, advice
        )
    if limits.max_cost_usd is not None:
        usd_held = math.fsum(row.cost_usd for row in others if row.judge_id == account.judge_id) + wish.hold_usd
        usd_left = limits.max_cost_usd - spent.judge_cost_usd
        advice = f'raise it, or lift it with null: PATCH /v1/judges/{account.judge_id} {{"max_cost_usd": …}}'
        name = f"max_cost_usd of judge {account.judge_id}"
        yield Bound(name, "USD", limits.max_cost_usd, usd_left, usd_left - usd_held, advice)


def _of_others(session: Session, worker: Worker, account: Account) -> list[JudgeReservation]:
    """What others hold of either budget, and this worker for other owners or judges; what is over is taken away."""
    rows: list[JudgeReservation] = []
    over: list[tuple[str, str, str]] = []
    for row, now in session.execute(queries.reservations(account.owner_id, account.judge_id)):
        if (row.owner_id, row.judge_id, row.worker_id) == (account.owner_id, account.judge_id, worker.id):
            continue
        if is_gone(row.process) or (now - row.expires_at).total_seconds() > row.timeout_s:
            over.append((row.owner_id, row.judge_id, row.worker_id))
        else:
            rows.append(row)
    if over:
        session.execute(queries.give_back(over))
    return rows


def _fitting(bounds: tuple[Bound, ...], wish: Wish) -> tuple[int, float]:
    """How many of the calls that wait fit, first to last, with what they may cost; then spare ones."""
    free_calls = min((bound.free for bound in bounds if bound.unit == "calls"), default=math.inf)
    free_usd = min((bound.free for bound in bounds if bound.unit == "USD"), default=math.inf)
    calls, usd = 0, 0.0
    for need in wish.waiting:
        if calls + 1 <= free_calls and usd + need <= free_usd + _DUST:
            calls, usd = calls + 1, usd + need
    spare = min(float(wish.spare), (free_calls - calls) / SPARE_SHARE)
    if wish.each > 0:
        spare = min(spare, (free_usd - usd) / SPARE_SHARE / wish.each)
    more = max(0, math.floor(spare))
    return calls + more, usd + more * wish.each


def explain(limits: JudgeLimits, budget: JudgeBudget, account: Account) -> str | None:
    """Why no call can be made whatever is left: its cost would be unknown. Null if one can."""
    if budget.judge_cost_usd is None or limits.price is not None:
        return None
    return (
        f"limits.judge_cost_usd needs to know what judge {account.judge_id} costs, and it has no price any more; give it one: "
        f'PATCH /v1/judges/{account.judge_id} {{"price": {{"input_per_mtok": …, "output_per_mtok": …}}}}'
    )
