"""What this worker has asked of judges, counted per owner and judge, and on its way to the database.

A count is a writer's own and only grows, and what is written is always all of it: written twice it counts once, and a write that
comes late takes nothing back. It is written in the transaction that stores the cells it stands for, so neither is there without
the other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from service.domain.spending import Price
from workers.graders.judge.purse import Tokens

KEPT = 1000
"""Counts that are kept although nobody adds to them any more."""

IDLE_S = 600.0


@dataclass(slots=True, eq=False)
class Count:
    """What one writer has counted. A judge's own count, over all owners, has the judge as its owner."""

    owner_id: str
    judge_id: str
    project_id: str
    writer: str
    calls: int = 0
    estimated: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float | None = None
    written: bool = True
    used_at: float = 0.0

    def add(self, tokens: Tokens, cost_usd: float | None) -> None:
        """One more call."""
        self.calls += 1
        self.estimated += tokens.estimated
        self.tokens_in += tokens.input
        self.tokens_out += tokens.output
        if cost_usd is not None:
            self.cost_usd = (self.cost_usd or 0.0) + cost_usd
        self.written, self.used_at = False, time.monotonic()

    def row(self) -> dict[str, Any]:
        """As it is written."""
        names = (
            "owner_id",
            "judge_id",
            "writer",
            "project_id",
            "calls",
            "estimated",
            "tokens_in",
            "tokens_out",
            "cost_usd",
        )
        return {name: getattr(self, name) for name in names}


@dataclass(slots=True)
class Ledger:
    """The counts of one worker; used in one thread."""

    worker_id: str
    _counts: dict[tuple[str, str], Count] = field(default_factory=dict)
    _unwritten: dict[str, Count] = field(default_factory=dict)
    _writers: int = 0

    def add(self, owner_id: str, judge_id: str, project_id: str, tokens: Tokens, price: Price | None) -> None:
        """A call was made."""
        cost = None if price is None else price.of(tokens.input, tokens.output)
        for owner in (owner_id, judge_id):
            count = self.count(owner, judge_id, project_id)
            count.add(tokens, cost)
            self._unwritten[count.writer] = count

    def count(self, owner_id: str, judge_id: str, project_id: str) -> Count:
        """The count of an owner at a judge."""
        key = (owner_id, judge_id)
        if key not in self._counts:
            self._make_room()
            self._writers += 1  # a count that was dropped and begun anew is another writer's
            self._counts[key] = Count(owner_id, judge_id, project_id, f"{self.worker_id}/{self._writers}")
        return self._counts[key]

    def _make_room(self) -> None:
        if len(self._counts) >= KEPT:
            before = time.monotonic() - IDLE_S
            kept = {key: count for key, count in self._counts.items() if not count.written or count.used_at > before}
            self._counts = kept

    def take(self) -> list[Count]:
        """The counts that have grown since they were written, now to be written."""
        taken, self._unwritten = list(self._unwritten.values()), {}
        for count in taken:
            count.written = True
        return taken

    def put_back(self, counts: Collection[Count]) -> None:
        """These were not written."""
        for count in counts:
            count.written = False
            self._unwritten[count.writer] = count


def as_rows(counts: Collection[Count]) -> str:
    """For `queries.spending.COUNTED`. Taken in the thread that counts: the numbers of one moment."""
    return json.dumps([count.row() for count in counts])
