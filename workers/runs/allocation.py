"""Who may have how many calls in flight at an endpoint: plain arithmetic, under the endpoint's lock.

The invariant: the slots of all workers, added up, are never raised above the endpoint's limit, which is the smallest
`concurrency` among the judges that are asked there now, or the ceiling after a 429. A worker counts with what it may still
use; it gives slots back only when it can no longer use them. So a limit that falls is reached as calls end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from workers.graders.judge.gate import LATE_S
from workers.graders.judge.pace import recovery_per_s
from workers.graders.judge.terms import Terms

HORIZON_S = 1.5
"""Turns are given out this far ahead, so that a worker that dies takes few of them along."""

MINUTE_S = 60.0 + 0.05 + LATE_S
"""A paced call may start late, so a minute's calls are spread over a little more: in no minute there are too many."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A worker at an endpoint: what it wants, and what it may use now."""

    worker_id: str
    concurrency: int
    demand: int
    slots: int


def limit_of(holders: Sequence[Holder], ceiling: float | None) -> int:
    """How many calls may be in flight: the strictest of the judges asked now, and no more than the ceiling."""
    strictest = min((holder.concurrency for holder in holders if holder.demand), default=0)
    return strictest if ceiling is None else max(min(1, strictest), min(strictest, int(ceiling)))


def fair_shares(limit: int, demands: Mapping[str, int], turn: int = 0) -> dict[str, int]:
    """Max-min fair: everybody gets what he wants, or as much as anybody who does not get all. `turn` moves the odd slots on."""
    shares: dict[str, int] = {}
    left = limit
    waiting = sorted(demands, key=lambda name: (demands[name], name))
    while waiting and demands[waiting[0]] * len(waiting) <= left:
        name = waiting.pop(0)
        shares[name] = demands[name]
        left -= demands[name]
    if waiting:
        each, odd = divmod(left, len(waiting))
        first = turn % len(waiting)
        order = sorted(waiting)
        for position, name in enumerate(order[first:] + order[:first]):
            shares[name] = each + (position < odd)
    return shares


def grant(me: Holder, others: Sequence[Holder], taken: int, ceiling: float | None, turn: int) -> tuple[int, int]:
    """The slots that a worker counts with from now on, and how many of them it may keep as calls end.

    `me.slots` is what it can use in any case: calls in flight, and slots that it has not given back. `taken` is what all
    others may use, the dead among them included as long as their calls may be open. A worker whose lease had lapsed may come
    back with calls in flight although everything is taken: they count, and are followed by no others.
    """
    limit = limit_of([me, *others], ceiling)
    demands = {holder.worker_id: holder.demand for holder in (me, *others)}
    share = fair_shares(limit, demands, turn)[me.worker_id]
    due = max(0, min(share, limit - taken))
    return max(me.slots, due), due


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What an endpoint takes after a 429: half of what was in flight at `cut_at`, and more with every second since."""

    value: float
    cut_at: float

    def at(self, now: float, concurrency: int) -> float | None:
        """The ceiling now; null once it is back at the concurrency."""
        found = self.value + recovery_per_s(concurrency) * max(0.0, now - self.cut_at)
        return None if found >= concurrency else found


class Clocks(NamedTuple):
    """From when on the next call may start, for its request and for its tokens."""

    requests_at: float
    tokens_at: float


def take_turns(
    clocks: Clocks, terms: Terms, *, now: float, wanted: int, tokens: float, overspent: float
) -> tuple[list[float], Clocks]:
    """Start times for at most `wanted` calls of `tokens` each, evenly spaced, and the clocks after them.

    `overspent` tokens were used beyond those set aside earlier (below zero: fewer); they move the clock of tokens.
    """
    request_s = MINUTE_S / terms.requests_per_minute if terms.requests_per_minute else 0.0
    token_s = MINUTE_S / terms.tokens_per_minute if terms.tokens_per_minute else 0.0
    requests_at = max(now, clocks.requests_at)
    tokens_at = max(now, clocks.tokens_at + overspent * token_s)
    starts: list[float] = []
    while len(starts) < wanted:
        start = max(requests_at, tokens_at)
        if start > now + HORIZON_S:
            break
        starts.append(start)
        requests_at, tokens_at = start + request_s, start + tokens * token_s
    return starts, Clocks(requests_at, tokens_at)
