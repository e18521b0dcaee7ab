"""The purse of a batch that models of this machine grade: its calls are counted, and set aside first where they are bounded.

These calls have no price, so only their number is bounded.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from service.db.engine import Database
from service.domain.spending import JudgeBudget
from workers.graders.judge.purse import Permit, Tokens
from workers.runs.budget import Account, Wish, set_aside
from workers.runs.ledger import Ledger, as_rows
from workers.runs.shares import Worker

AT_ONCE = 64
"""Calls that are set aside together."""

LOOK_S = 0.25

LONGEST_S = 3600.0
"""How long after its lease a call may still be at work if nobody knows that its process is gone: a model is not called back."""


@dataclass(slots=True)
class LocalPurse:
    """One owner's calls to one local judge; it is its own permit, since no call ends before the next is taken or all are made."""

    database: Database
    worker: Worker
    ledger: Ledger
    account: Account
    budget: JudgeBudget
    check: Callable[[], None]
    valid: bool = True
    _pool: int = 0
    _used: int = field(default=0)

    async def take(self, most: Callable[[], Tokens]) -> Permit | str:
        """Set a call aside, or say why there is no budget for it."""
        del most
        while self.budget.judge_calls is not None and not self._pool:
            refused = self._ask()
            if refused is not None:
                return refused
            if not self._pool:  # others may leave something over
                await asyncio.sleep(LOOK_S)
                self.check()
        self._pool -= 1
        self._used += 1
        return self

    def _ask(self) -> str | None:
        owner, judge, project = self.account.owner_id, self.account.judge_id, self.account.project_id
        counts = as_rows([self.ledger.count(who, judge, project) for who in (owner, judge)])
        wish = Wish(counts, self._used + self._pool, 0.0, (0.0,) * AT_ONCE, timeout_s=LONGEST_S)
        with self.database.transaction() as session:
            granted = set_aside(session, self.worker, self.account, wish)
        self._pool += granted.calls
        return None if granted.calls else granted.refusal(0.0)

    def spend(self, tokens: Tokens) -> None:
        """The call was made."""
        self._used -= 1
        self.ledger.add(self.account.owner_id, self.account.judge_id, self.account.project_id, tokens, None)

    def put_back(self) -> None:
        """The call was not made."""
        self._used -= 1
        self._pool += 1
