"""The gate before an endpoint: how many calls this process may have open there, and when the next one may start.

Who hands out the slots stands elsewhere (`workers.runs.shares` leases them to all grading workers from one row per
endpoint). The gate keeps to what it was given: no more calls than slots, none after the lease has ended, none while the
endpoint is held, none before its turn where a rate is limited. Nothing here costs a round trip.

After a 429 half of what is in flight may stay, and comes back by additive steps. The call that was told when to come again
waits for that (`client`). 429s in a row, without an answer between them, hold the whole endpoint; after a hold calls start at
the pace at which answers came before it, and faster with every second.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

from workers.graders.judge.pace import Pace, most_late, recovery_per_s
from workers.graders.judge.terms import Room, Terms

LATE_S = 0.25
"""How late a paced call may start. Later than that its turn is lost, because the next turns are near."""

ROW_OF_429 = 2
"""So many 429s without an answer between them hold the endpoint."""

LONGEST_HOLD_S = 16.0
"""The longest hold of an endpoint that gives no Retry-After."""


class EndpointHeld(Exception):
    """The endpoint has asked for a longer pause than the caller is ready to make."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"the endpoint asks to wait {wait_s:.0f} s")
        self.wait_s = wait_s


class LeaseLapsed(Exception):
    """The slot's lease ended before the request was written: nothing was sent."""


class Turn(NamedTuple):
    """When a paced call may start, and the tokens set aside for it."""

    at: float
    tokens: float


@dataclass(slots=True)
class Pass:
    """One slot in use by one call."""

    gate: Gate
    started: float
    tokens: float = 0.0

    def valid(self) -> bool:
        """Whether the call may still be sent: looked at again at the moment of writing, a process may have been stopped."""
        return self.gate.clock() < self.gate.until


CURRENT: ContextVar[Pass | None] = ContextVar("pass", default=None)
"""The slot of the call that the running task makes; the connection looks at it before it writes."""


@dataclass(slots=True, eq=False)
class _Waiter:
    future: asyncio.Future[Pass]
    terms: Terms
    tokens: int
    patience_s: float
    again: bool


@dataclass(slots=True, eq=False)
class Gate:
    """The slots of one endpoint in this process. Used on one event loop; `slots` and `until` are set by who leases them."""

    slots: int = 0
    due: int | None = None
    """What may be kept; slots above it are given back as calls end."""
    until: float = math.inf
    on_want: Callable[[], None] = lambda: None
    """There are calls without a slot, or turns are needed."""
    on_limited: Callable[[float, int], None] | None = None
    """A call that started at this time got a 429, with so many in flight. Without it the gate takes the cut back by itself."""
    room: Room = field(default_factory=lambda: Room(math.inf))
    clock: Callable[[], float] = time.monotonic
    in_use: int = 0
    held_until: float = 0.0
    turns: deque[Turn] = field(default_factory=deque)
    """First to last."""
    overspent: float = 0.0
    """Tokens used beyond what was set aside (below zero: fewer), until somebody settles them."""
    _waiting: deque[_Waiter] = field(default_factory=deque)
    _terms: Counter[Terms] = field(default_factory=Counter)
    _pace: Pace = field(default_factory=Pace)
    _row: int = 0
    _row_since: float = math.inf
    _cut_at: float = -math.inf
    _timer: asyncio.TimerHandle | None = None
    _mean_tokens: float | None = None
    _full: int = 0
    _recovery: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self._full = self.slots
        self.room.gates.append(self)

    @property
    def waiting(self) -> int:
        """Calls without a slot."""
        return len(self._waiting)

    @property
    def demand(self) -> int:
        """Calls that are made or wait."""
        return self.in_use + len(self._waiting)

    @property
    def terms(self) -> Terms | None:
        """The strictest terms of the calls that are made or wait; null if there are none."""
        found: Terms | None = None
        for terms in self._terms:
            found = terms if found is None else found & terms
        return found

    @property
    def leased(self) -> bool:
        """Whether the lease holds now."""
        return self.clock() < self.until

    @property
    def tokens_per_call(self) -> float:
        """What to set aside for a call: the mean of those before, or what the first in the queue thinks it will take."""
        if self._mean_tokens is not None:
            return self._mean_tokens
        return float(self._waiting[0].tokens) if self._waiting else 0.0

    @asynccontextmanager
    async def slot(
        self, terms: Terms, *, tokens: int = 0, again: bool = False, patience_s: float = math.inf
    ) -> AsyncIterator[Pass]:
        """A slot for one call, when it is its turn; calls that are made again come first.

        `tokens` is what the call may take, for a limited rate of tokens. Raises `EndpointHeld` if the endpoint is held for
        longer than `patience_s`, or has answered with nothing but 429s for so long.
        """
        waiter = _Waiter(asyncio.get_running_loop().create_future(), terms, tokens, patience_s, again)
        self._terms[terms] += 1
        if again:
            self._waiting.appendleft(waiter)
        else:
            self._waiting.append(waiter)
        try:
            self.pump()
            if not waiter.future.done():
                self.on_want()
            found = await waiter.future
            token = CURRENT.set(found)
            try:
                yield found
            finally:
                CURRENT.reset(token)
        finally:
            self._leave(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        if waiter.future.done() and not waiter.future.cancelled() and waiter.future.exception() is None:
            self.in_use -= 1
            self.room.left(self)
            if self.due is not None and self.slots > self.due:
                self.slots = max(self.in_use, self.due)
        else:
            with suppress(ValueError):
                self._waiting.remove(waiter)
        self._terms[waiter.terms] -= 1
        if not self._terms[waiter.terms]:
            del self._terms[waiter.terms]
        self.pump()

    def pump(self) -> None:
        """Let calls in, as many as may start now; called whenever something has changed."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        terms = self.terms
        if terms is None:
            return
        self._disappoint()
        while self._waiting and self.room.free > 0 and self.in_use < min(self.slots, terms.concurrency):
            now = self.clock()
            if now >= self.until:
                return
            start = max(self.held_until, self._pace.wait_until(now))
            if now < start:
                self._again_at(start)
                return
            if self._waiting[0].future.cancelled():
                self._waiting.popleft()
                continue
            tokens = 0.0
            if terms.paced:
                turn = self._next_turn(now)
                if turn is None:
                    return
                tokens = turn.tokens
            self.in_use += 1
            self.room.used += 1
            self._pace.started(now)
            self._waiting.popleft().future.set_result(Pass(self, now, tokens))

    def _disappoint(self) -> None:
        """Calls that will not wait for the end of the hold, or for an endpoint that has long given no answer."""
        held_s, row_s = self.held_until - self.clock(), self.held_until - self._row_since
        if held_s <= 0:
            return
        for waiter in list(self._waiting):
            if (held_s if waiter.again else row_s) > waiter.patience_s and not waiter.future.done():
                self._waiting.remove(waiter)
                waiter.future.set_exception(EndpointHeld(held_s))

    def _next_turn(self, now: float) -> Turn | None:
        while self.turns and self.turns[0].at < now - LATE_S:
            self.overspent -= self.turns.popleft().tokens
        if not self.turns:
            self.on_want()
            return None
        if self.turns[0].at > now:
            self._again_at(self.turns[0].at)
            return None
        return self.turns.popleft()

    def _again_at(self, moment: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(max(0.0, moment - self.clock()), self.pump)

    # --- what calls come back with ---

    def answered(self) -> None:
        """An answer that is no 429."""
        self._row = 0
        self._pace.answered()

    def used(self, slot: Pass, tokens: int) -> None:
        """The tokens that a call has really taken."""
        self.overspent += tokens - slot.tokens
        if tokens:
            mean = self._mean_tokens if self._mean_tokens is not None else float(tokens)
            self._mean_tokens = mean + 0.1 * (tokens - mean)

    def limited(self, slot: Pass, retry_after_s: float | None) -> None:
        """A 429: halve what is in flight, once for all calls that were in flight together."""
        if self._row == 0:
            self._row_since = self.clock()
        self._row += 1
        self.used(slot, 0)
        if self._row >= ROW_OF_429:
            wait_s = retry_after_s or min(LONGEST_HOLD_S, 0.5 * 2.0 ** (self._row - ROW_OF_429))
            # Calls that were told to come back then are back in the queue by the end of the hold, and go first.
            now, until = self.clock(), self.clock() + wait_s + most_late(wait_s)
            if now >= self.held_until:
                self._pace.held(now, until)
            self.held_until = max(self.held_until, until)
        if slot.started > self._cut_at:
            self._cut_at = self.clock()
            self.slots = max(1, min(self.slots, self.in_use) // 2)
            if self.on_limited is not None:
                self.on_limited(slot.started, self.in_use)
            else:
                self._recover()

    def _recover(self) -> None:
        """Nobody leases slots: they come back by themselves, one after another."""
        if self.slots < self._full and self._recovery is None:
            loop = asyncio.get_running_loop()
            self._recovery = loop.call_later(1.0 / recovery_per_s(self._full), self._one_more)

    def _one_more(self) -> None:
        self._recovery = None
        self.slots = min(self._full, self.slots + 1)
        self.pump()
        self._recover()
