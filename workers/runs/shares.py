"""One worker's shares of the endpoints that it asks: leased from Postgres, used without a round trip per call.

Every worker has a row per endpoint: the slots that it may use, until its lease ends. About once a second, and when it wants
something, it divides the endpoint anew under the row's lock (`allocation`); the others find less or more at their next turn.
What keeps the limit, whoever dies or is stopped, and wherever the network breaks:

- A worker uses only slots that a committed transaction has given it, and none after its lease has ended by its own clock,
  which was read before the lease was set: it ends here before it ends in the table. It is looked at when a call starts and
  once more when its request is written (`egress.FencedStream`).
- Slots given back are given back here first, then in the table; new ones count in the table first.
- When a lease has ended in the table, its slots are free once the calls made under it cannot be open any more: at once if the
  process is known to be gone, since then its connections are closed, else after the longest time that a call may take.

A call is in flight from its first byte until this side has its answer or has closed the connection. An endpoint that works on
for somebody who has gone may see more.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from service.db.engine import Database
from service.db.queries import endpoints as queries
from service.db.tables import EndpointShare, EndpointState
from service.domain.base import canonical_json
from workers.graders.judge.gate import Gate, Turn
from workers.graders.judge.terms import Room, Terms
from workers.runs.allocation import Ceiling, Clocks, Holder, grant, take_turns
from workers.runs.identity import is_gone
from workers.runs.renewing import SOON_S, keep_renewed

EVERY_S = 1.0
AT_ONCE_S = 0.02
LEASE_SAFETY = 0.9
"""The share of a lease that is used; the rest is for clocks that run unequally."""

ROTATION_S = 2.0
NO_TERMS = Terms(1)


@dataclass(frozen=True, slots=True)
class Address:
    """What makes two judges share an endpoint. `key` is a keyed hash of the API key, empty for none."""

    base_url: str
    model: str
    key: str

    @property
    def id(self) -> str:
        """The endpoint's row."""
        return hashlib.sha256(canonical_json([self.base_url, self.model, self.key]).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Worker:
    """Who asks; `lease_s` is how long a share holds without being renewed."""

    id: str
    process: str | None
    lease_s: float


@dataclass(frozen=True, slots=True)
class Wish:
    """What a worker says of itself when it comes to divide an endpoint."""

    terms: Terms
    demand: int
    hold: int
    cut: tuple[float, int] | None = None
    """A 429: how many seconds ago its call started, and how many calls were in flight here when it came."""
    held_s: float = 0.0
    turns: int = 0
    tokens: float = 0.0
    overspent: float = 0.0


@dataclass(frozen=True, slots=True)
class Granted:
    """What it gets: `slots` count as its own, `due` of them it may keep as calls end. `turns` are seconds from now."""

    slots: int
    due: int
    held_s: float
    turns: list[float]
    ceiling: float | None


def divide(session: Session, worker: Worker, address: Address, wish: Wish) -> Granted:
    """Divide an endpoint anew, as far as this worker goes; the transaction must commit before the result is used."""
    state = session.scalar(queries.lock(address.id))
    if state is None:
        session.execute(queries.know(address.id, address.base_url, address.model))
        state = session.scalars(queries.lock(address.id)).one()
    now = session.scalars(queries.clock()).one().timestamp()  # read after the lock, which may have been waited for
    rows = [row for row in session.scalars(queries.shares(address.id)) if row.worker_id != worker.id]
    over = [row.worker_id for row in rows if _over(row, now)]
    if over:
        session.execute(queries.drop_shares(address.id, over))
    rows = [row for row in rows if row.worker_id not in over]
    others = [_holder(row) for row in rows if row.expires_at.timestamp() > now]
    me = Holder(worker.id, wish.terms.concurrency, wish.demand, wish.hold)
    taken = sum(row.slots for row in rows)
    ceiling, changes = _ceiling(state, wish, [me, *others], taken, now)
    slots, due = grant(me, others, taken, ceiling, int(now // ROTATION_S))
    held_until = max(_epoch(state.held_until), now + wish.held_s if wish.held_s else 0.0)
    if held_until > _epoch(state.held_until):
        changes["held_until"] = _moment(held_until)
    starts: list[float] = []
    if wish.terms.paced:
        clocks = Clocks(_epoch(state.requests_at), _epoch(state.tokens_at))
        starts, clocks = take_turns(
            clocks, wish.terms, now=now, wanted=wish.turns, tokens=wish.tokens, overspent=wish.overspent
        )
        changes.update(requests_at=_moment(clocks.requests_at), tokens_at=_moment(clocks.tokens_at))
    if wish.demand or slots:
        values = {
            "endpoint_id": address.id, "worker_id": worker.id, "process": worker.process, "concurrency": wish.terms.concurrency,
            "timeout_s": wish.terms.timeout_s, "demand": wish.demand, "slots": slots,
        }  # fmt: skip
        session.execute(queries.put_share(values, worker.lease_s))
    else:
        session.execute(queries.drop_shares(address.id, [worker.id]))
    if changes:
        session.execute(queries.change(address.id, changes))
    return Granted(slots, due, max(0.0, held_until - now), [start - now for start in starts], ceiling)


def _over(row: EndpointShare, now: float) -> bool:
    """Whether no call under this share can be open any more."""
    grace_s = 0.0 if is_gone(row.process) else row.timeout_s
    return row.expires_at.timestamp() + grace_s < now


def _holder(row: EndpointShare) -> Holder:
    return Holder(row.worker_id, row.concurrency, row.demand, row.slots)


def _ceiling(
    state: EndpointState, wish: Wish, holders: list[Holder], taken: int, now: float
) -> tuple[float | None, dict[str, object]]:
    """The ceiling now, and what changes. A 429 halves what is in flight, once for all calls that were in flight together."""
    concurrency = min((holder.concurrency for holder in holders if holder.demand), default=wish.terms.concurrency)
    if wish.cut is not None and now - wish.cut[0] > _epoch(state.cut_at):
        halved = max(1.0, min(taken + wish.cut[1], concurrency) / 2)
        return halved, {"ceiling": halved, "cut_at": _moment(now)}
    if state.ceiling is None:
        return None, {}
    found = Ceiling(state.ceiling, _epoch(state.cut_at)).at(now, concurrency)
    return found, {"ceiling": None} if found is None else {}


def _epoch(moment: datetime | None) -> float:
    return moment.timestamp() if moment is not None else 0.0


def _moment(epoch: float) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)


@dataclass(slots=True, eq=False)
class _Kept:
    """A gate, and when to see about it next."""

    address: Address
    gate: Gate
    due: float = math.inf
    last: float = -math.inf
    sated: bool = True
    cut: tuple[float, int] | None = None


@dataclass(slots=True)
class Shares:
    """The gates of this worker, fed by a task on the loop that uses them."""

    database: Database
    worker: Worker
    room: Room = field(default_factory=lambda: Room(math.inf))
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def gate(self, address: Address) -> Gate:
        """The gate of an endpoint, the same for all judges that share it."""
        kept = self._kept.get(address.id)
        if kept is None:
            kept = self._kept[address.id] = _Kept(address, Gate(until=-math.inf, room=self.room))
            kept.gate.on_want = lambda: self._want(kept)
            kept.gate.on_limited = lambda started, in_use: self._cut(kept, started, in_use)
        return kept.gate

    def _want(self, kept: _Kept) -> None:
        """Ask for more at once if there may be more; if the endpoint is full, the next regular time is soon enough."""
        if kept.sated or not kept.gate.leased:
            self._see(kept, max(time.monotonic(), kept.last + AT_ONCE_S))

    def _cut(self, kept: _Kept, started: float, in_use: int) -> None:
        kept.cut = (started, in_use)
        self._see(kept, time.monotonic())

    def _see(self, kept: _Kept, moment: float) -> None:
        if moment < kept.due:
            kept.due = moment
            self._changed.set()

    async def run(self) -> None:
        """Keep what is used, ask for what is wanted, until cancelled."""
        await keep_renewed(self._kept.values, self._renew, self._changed, "dividing endpoints")

    async def _renew(self, due: list[_Kept]) -> None:
        wishes = [(kept, self._wish(kept)) for kept in due]

        def work() -> list[tuple[Granted, float]]:
            found = []
            for kept, wish in wishes:
                started = time.monotonic()  # before the lease is set
                with self.database.transaction() as session:
                    granted = divide(session, self.worker, kept.address, wish)
                found.append((granted, started))
            return found

        try:
            answers = await asyncio.to_thread(work)
        except BaseException:
            for kept, wish in wishes:
                kept.gate.overspent += wish.overspent
                kept.cut = kept.cut or (wish.cut and (time.monotonic() - wish.cut[0], wish.cut[1]))
            raise
        for (kept, wish), (granted, started) in zip(wishes, answers, strict=True):
            self._apply(kept, wish, granted, started)

    def _wish(self, kept: _Kept) -> Wish:
        """What we hold is what we keep ourselves to from now on, whether the transaction commits or not."""
        gate, now = kept.gate, time.monotonic()
        demand = min(gate.demand, gate.in_use + self.room.free)
        gate.slots = min(gate.slots, demand) if gate.leased else gate.in_use
        cut, kept.cut = kept.cut, None
        overspent, gate.overspent = gate.overspent, 0.0
        return Wish(
            terms=gate.terms or NO_TERMS,
            demand=demand,
            hold=max(gate.slots, gate.in_use),
            cut=None if cut is None else (now - cut[0], cut[1]),
            held_s=max(0.0, gate.held_until - now),
            turns=max(0, gate.waiting - len(gate.turns)),
            tokens=gate.tokens_per_call,
            overspent=overspent,
        )

    def _apply(self, kept: _Kept, wish: Wish, granted: Granted, started: float) -> None:
        gate, now = kept.gate, time.monotonic()
        gate.until = started + self.worker.lease_s * LEASE_SAFETY
        gate.due = granted.due
        if kept.cut is None:
            gate.slots = max(gate.in_use, granted.due)
        gate.held_until = max(gate.held_until, now + granted.held_s if granted.held_s else 0.0)
        gate.turns.extend(Turn(now + wait, wish.tokens) for wait in granted.turns)
        kept.last = now
        kept.sated = granted.due >= wish.demand and len(granted.turns) >= wish.turns * wish.terms.paced
        kept.due = now + self._pause(kept, wish, granted)
        gate.pump()

    def _pause(self, kept: _Kept, wish: Wish, granted: Granted) -> float:
        """How long until the next look: soon while there is less than wanted, or more than is due."""
        gate = kept.gate
        if kept.cut is not None or (kept.sated and gate.demand > wish.demand):
            return AT_ONCE_S
        if not wish.demand:
            return math.inf
        if kept.sated and granted.ceiling is None and gate.demand:
            return min(EVERY_S, self.worker.lease_s / 4)
        return min(SOON_S, self.worker.lease_s / 4)

    async def leave(self) -> None:
        """Give everything back; no call of ours may be open any more."""

        def work() -> None:
            with self.database.transaction() as session:
                session.execute(queries.leave(self.worker.id))

        await asyncio.to_thread(work)
