"""Setting calls aside of budgets, by several workers at once, in one Postgres."""

import asyncio
import random
import threading

import pytest
from sqlalchemy import update

from service.db.queries.jobs import now, seconds
from service.db.queries.spending import COUNTED
from service.db.tables import Grading, Judge, JudgeReservation
from service.domain.judge import JudgeLimits
from service.domain.spending import JudgeBudget, Price
from tests.support.cells import (
    PROJECT,
    ask,
    judged,
    make_judge,
    make_project,
)
from tests.support.spending import PRICE, reserved, spent
from workers.graders.judge.purse import Tokens
from workers.runs.budget import Account, Wish, set_aside
from workers.runs.identity import process_identity
from workers.runs.ledger import Ledger, as_rows
from workers.runs.purses import Purses
from workers.runs.shares import Worker


@pytest.fixture
def project(database):
    make_project(database)
    return PROJECT


class Teller:
    """A worker that sets aside and spends, without a judge."""

    def __init__(self, database, name, account, process=None, lease_s=2.0):
        self.database, self.account = database, account
        self.worker = Worker(name, process, lease_s)
        self.ledger = Ledger(name)

    def come(self, *waiting, hold=0, hold_usd=0.0, **more):
        counts = [
            self.ledger.count(owner, self.account.judge_id, PROJECT)
            for owner in (self.account.owner_id, self.account.judge_id)
        ]
        wish = Wish(as_rows(counts), hold, hold_usd, waiting, timeout_s=5.0, **more)
        with self.database.transaction() as session:
            return set_aside(session, self.worker, self.account, wish)

    def spend(self, usd):
        """One call of so many US dollars: a million tokens at that price."""
        price = Price(input_per_mtok=usd, output_per_mtok=0)
        self.ledger.add(self.account.owner_id, self.account.judge_id, PROJECT, Tokens(1_000_000, 0), price)


@pytest.fixture
def account(database, project):
    """A grading with at most 10 calls and 5 USD at a judge with at most 3 USD."""
    judge_id = make_judge(database, "http://127.0.0.1:1/v1", price=PRICE, max_cost_usd=3.0)
    grading = ask(database, [judged(judge_id)], ["t"], limits={"judge_calls": 10, "judge_cost_usd": 5.0})
    return Account(grading, judge_id, PROJECT)


def test_what_is_set_aside_counts_as_spent_until_it_is_given_back(database, account):
    a, b = Teller(database, "a", account), Teller(database, "b", account)
    assert a.come(1.0, 1.0).calls == 2
    granted = b.come(1.0, 1.0)
    assert (granted.calls, granted.usd) == (1, 1.0)  # 3 USD of the judge are set aside now
    assert granted.refusal(1.0) is None  # a's calls may turn out cheaper
    a.spend(0.25)
    a.spend(0.5)
    assert a.come().calls == 0
    assert b.come(1.0, hold=1, hold_usd=1.0).calls == 1  # 3 − 0.75 − 1
    b.spend(1.0)
    b.spend(1.0)
    last = b.come(0.5)
    assert last.calls == 0
    assert "max_cost_usd of judge" in last.refusal(0.5)
    assert "2.75 of 3 USD are spent" in last.refusal(0.5)
    assert last.refusal(0.25) is None
    assert b.come(0.25).calls == 1


def test_calls_are_bounded_over_all_judges_of_the_owner(database, account):
    other = make_judge(database, "http://127.0.0.1:2/v1", price=PRICE)
    a, b = Teller(database, "a", account), Teller(database, "b", Account(account.owner_id, other, PROJECT))
    assert a.come(*[0.0] * 7).calls == 7
    granted = b.come(*[0.0] * 7)
    assert (granted.calls, granted.refusal(0.0)) == (3, None)
    for _ in range(7):
        a.spend(0.0)
    a.come()
    for _ in range(3):
        b.spend(0.0)
    assert "limits.judge_calls is used up: 10 of 10 calls are made" in b.come(0.0).refusal(0.0)


def test_spare_calls_get_a_part_of_what_is_free_and_never_stand_before_calls_that_wait(database, account):
    a = Teller(database, "a", account)
    granted = a.come(0.0, 0.0, spare=100)
    assert granted.calls == 2 + (10 - 2) // 4
    b = Teller(database, "b", account)
    assert b.come(*[0.0] * 10, spare=100).calls == 6
    assert a.come(hold=0).calls == 0


def test_what_a_dead_worker_set_aside_comes_back(database, account):
    """At once if its process is known to be gone, else after the lease and the longest time of a call (5 s here)."""
    unknown = "x" + process_identity()[1:]  # of another machine: nobody here can tell
    place, pid, started = process_identity().rsplit(":", 2)
    Teller(database, "far", account, process=unknown).come(1.0, 1.0)
    assert Teller(database, "gone", account, process=f"{place}:{pid}:{int(started) + 1}").come(1.0).calls == 1
    b = Teller(database, "b", account)
    assert b.come(1.0, 1.0, 1.0).calls == 1

    def later(after_s):
        with database.transaction() as session:
            moved = update(JudgeReservation).where(JudgeReservation.worker_id == "far")
            session.execute(moved.values(expires_at=now() - seconds(after_s)))
        return b.come(*[1.0] * 3).calls

    assert later(4) == 1
    assert later(6) == 3


def test_written_twice_counts_once_and_an_older_count_takes_nothing_back(database, account):
    a = Teller(database, "a", account)
    count = a.ledger.count(account.owner_id, account.judge_id, PROJECT)
    a.spend(1.0)
    older = as_rows([count])
    a.spend(0.5)
    for rows in (as_rows([count]), older, as_rows([count])):
        with database.transaction() as session:
            session.execute(COUNTED, {"rows": rows})
    found = spent(database, Grading, account.owner_id)
    assert (found.judge_calls, found.judge_cost_usd, found.judge_tokens_in) == (2, 1.5, 2_000_000)


def test_many_workers_at_once_never_overspend(database, project):
    """Threads set aside, spend up to what they set aside, and come again, as fast as they can."""
    judge_id = make_judge(database, "http://127.0.0.1:1/v1", price=PRICE, max_cost_usd=40.0)
    limits = {"judge_calls": 90, "judge_cost_usd": 30.0}
    owners = [ask(database, [judged(judge_id)], ["t"], limits=limits) for _ in range(2)]
    made, lock = [], threading.Lock()

    def work(name, owner):
        rng = random.Random(name)
        teller = Teller(database, name, Account(owner, judge_id, PROJECT))
        for _ in range(40):
            needs = [rng.uniform(0.2, 1.0) for _ in range(rng.randint(1, 6))]
            granted = teller.come(*needs)
            for _ in range(granted.calls):
                cost = rng.uniform(0.0, granted.usd / granted.calls)
                teller.spend(cost)
                with lock:
                    made.append((owner, cost))
        teller.come()

    threads = [threading.Thread(target=work, args=(f"w{k}", owners[k % 2])) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = sum(cost for _, cost in made)
    assert total <= 40.0 + 1e-9
    assert total == pytest.approx(spent(database, Judge, judge_id).judge_cost_usd)
    for owner in owners:
        mine = [cost for name, cost in made if name == owner]
        assert len(mine) <= 90
        assert sum(mine) <= 30.0 + 1e-9
        assert spent(database, Grading, owner).judge_calls == len(mine)
    # Nothing was left lying: one bound is used up to less than one call of 1 USD.
    assert total > 39.0 or any(
        sum(c for n, c in made if n == o) > 29.0 or sum(n == o for n, _ in made) == 90 for o in owners
    )
    assert reserved(database) == []


def test_a_purse_that_is_told_more_lets_waiting_calls_in(database, account):
    """Without a lease nothing is taken; what a call leaves over goes to those that wait; the rest is refused, and nothing is held."""

    async def run():
        purses = Purses(database, Worker("a", process_identity(), 2.0), Ledger("a"))
        limits = JudgeLimits.model_validate({"price": PRICE, "max_cost_usd": 3.0})
        purse = purses.purse(account, limits, JudgeBudget(judge_calls=10, judge_cost_usd=5.0))
        keeper = asyncio.create_task(purses.run())
        order = []

        async def call(tokens):
            permit = await purse.take(lambda: Tokens(1000, 0))  # at most 1 USD
            if isinstance(permit, str):
                return permit
            assert permit.valid
            order.append(purse.used_calls)
            await asyncio.sleep(0.02)
            permit.spend(Tokens(tokens, 0))
            return None

        said = await asyncio.gather(*(call(500) for _ in range(8)))
        await asyncio.sleep(1.3)
        keeper.cancel()
        return said, order

    said, order = asyncio.run(run())
    # 3 USD, 0.5 a call, 1 set aside for each: three at a time, and the last one needs 1 USD that nobody has spent.
    assert max(order) == 3
    assert said.count(None) == 5
    assert all("2.5 of 3 USD are spent, and the next call may cost 1 USD" in reason for reason in said if reason)
    assert reserved(database) == []
