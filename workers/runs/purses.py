"""The purses of this worker: every call is counted, and where there is a budget it is set aside first, many in one transaction.

A purse has a pool: calls and US dollars that a committed transaction has set aside and that no call has taken yet. A call takes
one call and the most that it may cost out of it, and puts back what it has not used. About once a second, and when calls wait,
the purse says in the database what it still holds, and asks for more (`budget`). The pool is empty meanwhile: what may be used is
what the answer grants. After its lease nothing is taken out of a pool, because others may have it by then.

A call that finds no budget waits as long as calls that are being made may leave something over. It is refused once it could not
be paid for even if nobody used what is set aside.
"""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from service.db.engine import Database
from service.db.queries import spending as queries
from service.domain.judge import JudgeLimits
from service.domain.spending import JudgeBudget
from workers.graders.judge.purse import Permit, Tokens
from workers.runs.budget import Account, Granted, Wish, explain, set_aside
from workers.runs.ledger import Ledger, as_rows
from workers.runs.renewing import SOON_S, keep_renewed
from workers.runs.shares import LEASE_SAFETY, Worker

EVERY_S = 1.0
AT_ONCE_S = 0.02


@dataclass(slots=True)
class _Waiter:
    future: asyncio.Future[_Permit | str]
    usd: float


@dataclass(slots=True, eq=False, weakref_slot=True)
class Purse:
    """One owner's calls to one judge, made by this worker; used on one event loop."""

    book: Purses
    account: Account
    limits: JudgeLimits
    budget: JudgeBudget
    due: float = math.inf
    until: float = -math.inf
    used_calls: int = 0
    used_usd: float = 0.0
    """What calls hold that are being made."""
    _pool_calls: int = 0
    _pool_usd: float = 0.0
    _waiting: deque[_Waiter] = field(default_factory=deque)
    _reserved: bool = False
    _each: float = 0.0
    _last: float = -math.inf

    @property
    def bounded(self) -> bool:
        """Whether calls have to be set aside before they are made."""
        return self.limits.max_cost_usd is not None or self.budget.bounded

    def now_is(self, limits: JudgeLimits, budget: JudgeBudget) -> None:
        """The judge's limits and the owner's budget as they are now."""
        if limits is not self.limits or budget is not self.budget:
            self.limits, self.budget = limits, budget
            self._pump()

    async def take(self, most: Callable[[], Tokens]) -> Permit | str:
        """Set a call aside, or say why there is no budget for it."""
        if not self.bounded:
            return _Permit(self, 0.0, bounded=False)
        refused = explain(self.limits, self.budget, self.account)
        if refused is not None:
            return refused
        waiter = _Waiter(asyncio.get_running_loop().create_future(), self._cost(most))
        self._waiting.append(waiter)
        self._pump()
        if not waiter.future.done():
            self._see(max(time.monotonic(), self._last + AT_ONCE_S))
        try:
            return await waiter.future
        except asyncio.CancelledError:
            given = None if waiter.future.cancelled() else waiter.future.result()
            if isinstance(given, _Permit):
                given.put_back()
            raise

    def _cost(self, most: Callable[[], Tokens]) -> float:
        """The most that a call may cost; 0 where nobody bounds the cost."""
        if self.limits.price is None or (self.limits.max_cost_usd is None and self.budget.judge_cost_usd is None):
            return 0.0
        tokens = most()
        self._each = self.limits.price.of(tokens.input, tokens.output)
        return self._each

    def _pump(self) -> None:
        """Let calls take what is there, first to last. A dear one at the head does not keep cheaper ones waiting."""
        left: deque[_Waiter] = deque()
        leased = time.monotonic() < self.until
        for waiter in self._waiting:
            if waiter.future.done():
                continue
            if not self.bounded:
                waiter.future.set_result(_Permit(self, 0.0, bounded=False))
            elif leased and self._pool_calls >= 1 and self._pool_usd + _DUST >= waiter.usd:
                self._pool_calls -= 1
                self._pool_usd -= waiter.usd
                self.used_calls += 1
                self.used_usd += waiter.usd
                waiter.future.set_result(_Permit(self, waiter.usd, bounded=True))
            else:
                left.append(waiter)
        self._waiting = left

    def _see(self, moment: float) -> None:
        if moment < self.due:
            self.due = moment
            self.book.active.add(self)
            self.book.changed.set()

    # --- what permits do ---

    def spent(self, permit: _Permit, tokens: Tokens) -> None:
        """A call was made."""
        account, price = self.account, self.limits.price
        self.book.ledger.add(account.owner_id, account.judge_id, account.project_id, tokens, price)
        if permit.bounded:
            cost = 0.0 if price is None else price.of(tokens.input, tokens.output)
            self._release(permit.usd, 0, permit.usd - cost if permit.usd else 0.0)

    def unspent(self, permit: _Permit) -> None:
        """A call was not made."""
        if permit.bounded:
            self._release(permit.usd, 1, permit.usd)

    def _release(self, held_usd: float, calls: int, usd: float) -> None:
        self.used_calls -= 1
        self.used_usd = self.used_usd - held_usd if self.used_calls else 0.0
        self._pool_calls += calls
        self._pool_usd += usd
        self._pump()

    # --- what the book does ---

    def wish(self) -> Wish:
        """What is held is what calls in flight hold, whether the transaction commits or not."""
        self._pool_calls, self._pool_usd = 0, 0.0
        waiting = tuple(waiter.usd for waiter in self._waiting if not waiter.future.done())
        account, ledger = self.account, self.book.ledger
        counts = [
            ledger.count(owner, account.judge_id, account.project_id) for owner in (account.owner_id, account.judge_id)
        ]
        return Wish(
            counts=as_rows(counts),
            hold_calls=self.used_calls,
            hold_usd=max(0.0, self.used_usd),
            waiting=waiting,
            spare=self.used_calls + len(waiting),
            each=self._each,
            timeout_s=self.limits.timeout_s,
        )

    def granted(self, wish: Wish, granted: Granted, started: float) -> None:
        """Take what was granted; who cannot hope for anything is told why."""
        self.until = started + self.book.worker.lease_s * LEASE_SAFETY
        self._pool_calls += granted.calls
        self._pool_usd += granted.usd
        self._reserved = bool(wish.hold_calls or wish.hold_usd or granted.calls or granted.usd)
        self._pump()
        for waiter in self._waiting:
            refused = granted.refusal(waiter.usd)
            if refused is not None and not waiter.future.done():
                waiter.future.set_result(refused)
        self._waiting = deque(waiter for waiter in self._waiting if not waiter.future.done())
        self._last = time.monotonic()
        if self._waiting:
            self.due = self._last + (AT_ONCE_S if len(wish.waiting) < len(self._waiting) else SOON_S)
        elif self._reserved:
            self.due = self._last + min(EVERY_S, self.book.worker.lease_s / 4)
        else:
            self.due = math.inf
            self.book.active.discard(self)


_DUST = 1e-12
"""US dollars that are lost in sums."""


@dataclass(slots=True)
class _Permit:
    """A call that was set aside, or needs not be."""

    purse: Purse
    usd: float
    bounded: bool

    @property
    def valid(self) -> bool:
        """Whether it may still be made."""
        return not self.bounded or time.monotonic() < self.purse.until

    def spend(self, tokens: Tokens) -> None:
        """The call was made."""
        self.purse.spent(self, tokens)

    def put_back(self) -> None:
        """The call was not made."""
        self.purse.unspent(self)


@dataclass(slots=True)
class Purses:
    """The purses of this worker, filled by a task on the loop that uses them."""

    database: Database
    worker: Worker
    ledger: Ledger
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    active: set[Purse] = field(default_factory=set)
    """Those that hold something in the database, or want to; the others live as long as somebody asks with them."""
    _purses: weakref.WeakValueDictionary[Account, Purse] = field(default_factory=weakref.WeakValueDictionary)

    def purse(self, account: Account, limits: JudgeLimits, budget: JudgeBudget) -> Purse:
        """The purse of an owner at a judge, under what limits them now."""
        purse = self._purses.get(account)
        if purse is None:
            purse = self._purses[account] = Purse(self, account, limits, budget)
        purse.now_is(limits, budget)
        return purse

    async def run(self) -> None:
        """Keep what is used, ask for what is wanted, until cancelled."""
        await keep_renewed(lambda: self.active, self._renew, self.changed, "setting calls aside")

    async def _renew(self, due: list[Purse]) -> None:
        wishes = [(purse, purse.wish()) for purse in due]

        def work() -> list[tuple[Granted, float]]:
            found = []
            for purse, wish in wishes:
                started = time.monotonic()  # before the lease is set
                with self.database.transaction() as session:
                    granted = set_aside(session, self.worker, purse.account, wish)
                found.append((granted, started))
            return found

        answers = await asyncio.to_thread(work)
        for (purse, wish), (granted, started) in zip(wishes, answers, strict=True):
            purse.granted(wish, granted, started)

    async def leave(self) -> None:
        """Write what is counted, and give everything back; no call of ours may be open any more."""
        counts = self.ledger.take()
        rows = as_rows(counts)

        def work() -> None:
            with self.database.transaction() as session:
                if counts:
                    session.execute(queries.COUNTED, {"rows": rows})
                session.execute(queries.leave(self.worker.id))

        await asyncio.to_thread(work)
