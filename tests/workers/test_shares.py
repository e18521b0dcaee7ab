"""Endpoints shared by several grading workers: real processes, real sockets, one Postgres."""

import asyncio
import itertools
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from service.db.queries.jobs import now, seconds
from service.db.tables import EndpointShare
from tests.support.cells import GradingProcess, ask, cells_of, finish, judged, make_judge, make_project
from tests.support.judge import verdict
from tests.support.stack import wait_for
from workers.graders.judge.terms import Terms
from workers.runs.identity import is_gone, process_identity
from workers.runs.shares import Address, Shares, Wish, Worker, divide

ENDPOINT = Address("http://127.0.0.1:1/v1", "m", "")


@pytest.fixture
def workers(cluster, database, database_name):
    """Start grading workers as processes; they end with the test."""
    started = []
    make_project(database)

    def start(count=1, **settings):
        fresh = [GradingProcess(cluster.url("grape_app", database_name), **settings) for _ in range(count)]
        started.extend(fresh)
        return fresh

    yield start
    for worker in started:
        worker.stop()


def takes(seconds_):
    """A judge that answers after so long."""

    async def answer(question):
        await asyncio.sleep(seconds_)
        return verdict(question)

    return answer


def texts(count):
    return [f"text {k}" for k in range(count)]


def the_worker(name, lease_s=2.0, process=None):
    return Worker(name, process, lease_s)


def wish(demand, hold=0, concurrency=8, **more):
    return Wish(Terms(concurrency, timeout_s=5.0), demand, hold, **more)


def give(database, worker, wished):
    with database.transaction() as session:
        return divide(session, worker, ENDPOINT, wished)


# --- dividing ---


def test_late_comers_get_what_is_given_back_and_no_more(database):
    a, b = the_worker("a"), the_worker("b")
    assert give(database, a, wish(20)).slots == 8
    assert give(database, b, wish(20)).slots == 0  # all are out
    found = give(database, a, wish(20, hold=8))
    assert (found.slots, found.due) == (8, 4)  # it cannot be taken from, but knows what is due
    assert give(database, a, wish(20, hold=5)).slots == 5
    assert give(database, b, wish(20)).slots == 3
    assert give(database, a, wish(20, hold=4)).slots == 4
    assert give(database, b, wish(20, hold=3)).slots == 4


def test_what_nobody_wants_goes_to_who_wants_it(database):
    a, b = the_worker("a"), the_worker("b")
    assert give(database, a, wish(2)).slots == 2
    assert give(database, b, wish(20)).slots == 6
    assert give(database, a, wish(0)).slots == 0
    assert give(database, b, wish(20, hold=6)).slots == 8


def test_a_lapsed_share_is_free_when_its_calls_can_no_longer_be_open(database):
    """5 s is how long a call may take. A process that is known to be gone has no open calls."""
    dead = "x" + process_identity()[1:]  # of another machine: nobody here can tell
    give(database, the_worker("a", process=dead), wish(20))
    give(database, the_worker("gone", process=gone_process()), wish(20))

    def later(after_s):
        with database.transaction() as session:
            session.execute(
                update(EndpointShare)
                .where(EndpointShare.worker_id != "b")
                .values(expires_at=now() - seconds(after_s), slots=4)
            )
        return give(database, the_worker("b"), wish(20)).slots

    assert later(-1) == 0
    assert later(1) == 4  # those of the process that is gone
    assert later(6) == 8


def gone_process():
    """The identity that a process had which has ended."""
    process = subprocess.Popen(["sleep", "60"])
    place, _, _ = process_identity().rsplit(":", 2)
    started = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    identity = f"{place}:{process.pid}:{started}"
    assert not is_gone(identity)
    process.kill()
    process.wait()
    assert is_gone(identity)
    return identity


def test_is_gone_knows_this_process_and_admits_what_it_cannot_know():
    mine = process_identity()
    assert not is_gone(mine)
    assert not is_gone(None)
    place, pid, started = mine.rsplit(":", 2)
    assert is_gone(f"{place}:{pid}:{int(started) + 1}")  # the number has been given to another process
    assert not is_gone(f"elsewhere:{pid}:{started}")


def test_a_429_halves_what_is_in_flight_once_and_it_comes_back(database):
    a, b = the_worker("a"), the_worker("b")
    assert give(database, a, wish(20, concurrency=16)).slots == 16
    give(database, b, wish(20, concurrency=16))
    give(database, a, wish(20, hold=8, concurrency=16))
    assert give(database, b, wish(20, concurrency=16)).slots == 8
    found = give(database, a, wish(20, hold=8, concurrency=16, cut=(0.1, 8)))
    assert (found.ceiling, found.due) == (8.0, 0)
    # b's call was in flight at the same time: no second halving; the ceiling has only grown since
    same = give(database, b, wish(20, hold=8, concurrency=16, cut=(0.5, 8)))
    assert 8.0 <= same.ceiling < 10.0
    time.sleep(0.3)
    assert give(database, a, wish(20, hold=4, concurrency=16)).ceiling >= 8.0 + 4 * 0.3
    time.sleep(2)
    assert give(database, a, wish(20, hold=4, concurrency=16)).ceiling is None


def test_a_hold_is_everybodys(database):
    give(database, the_worker("a"), wish(3, held_s=5.0))
    assert 4.5 < give(database, the_worker("b"), wish(3)).held_s <= 5.0
    assert give(database, the_worker("b"), wish(3, held_s=1.0)).held_s > 4  # the longer one counts


def test_many_workers_at_once_never_have_more_than_there_is(database):
    """Threads divide as fast as they can; whenever the table is looked at, the slots are within the limit."""
    stop, most = threading.Event(), []

    def work(name):
        rng, slots = random.Random(name), 0
        while not stop.is_set():
            slots = give(database, the_worker(name), wish(rng.randint(0, 12), rng.randint(0, slots))).slots

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdef"]
    for thread in threads:
        thread.start()
    for _ in range(100):
        with database.transaction() as session:
            most.append(session.scalar(select(func.sum(EndpointShare.slots))) or 0)
    stop.set()
    for thread in threads:
        thread.join()
    assert max(most) == 8


# --- gates fed by it ---


def test_a_gate_lets_in_what_was_leased_and_gives_it_back(database):
    async def run():
        shares = Shares(database, the_worker("a"))
        gate = shares.gate(ENDPOINT)
        assert gate is shares.gate(Address(ENDPOINT.base_url, "m", ""))
        keeper = asyncio.create_task(shares.run())
        seen = []

        async def call():
            async with gate.slot(Terms(3, timeout_s=5)):
                seen.append(gate.in_use)
                await asyncio.sleep(0.05)

        await asyncio.gather(*(call() for _ in range(12)))
        assert max(seen) == 3
        await asyncio.sleep(0.6)
        with database.transaction() as session:
            assert session.scalar(select(func.count()).select_from(EndpointShare)) == 0
        keeper.cancel()

    asyncio.run(run())


def test_no_call_starts_under_a_lease_that_has_ended(cluster, database):
    """The database goes away for longer than the lease: calls wait, and go on when it is back."""

    async def run():
        shares = Shares(database, the_worker("a", lease_s=0.5))
        gate = shares.gate(ENDPOINT)
        keeper = asyncio.create_task(shares.run())
        async with gate.slot(Terms(3)):
            pass
        keeper.cancel()  # nobody renews
        async with gate.slot(Terms(3)) as slot:
            assert slot.valid()
            await asyncio.sleep(0.5)
            assert not slot.valid()
            waiting = asyncio.create_task(enter(gate))
            await asyncio.sleep(0.1)
            assert not waiting.done()
        keeper = asyncio.create_task(shares.run())
        gate.on_want()
        await asyncio.wait_for(waiting, 2)
        keeper.cancel()

    async def enter(gate):
        async with gate.slot(Terms(3)):
            pass

    asyncio.run(run())


# --- processes ---


def test_several_workers_share_an_endpoint_and_never_exceed_it(database, judge, workers):
    judge.answer = takes(0.1)
    workers(3)
    one, two = make_judge(database, judge.base_url, concurrency=6), make_judge(database, judge.base_url, concurrency=9)
    grading = ask(database, [judged(one, "a"), judged(two, "b")], texts(60), batch=2)
    finish(database, grading)
    assert judge.most_in_flight == 6  # the stricter of the two judges that share it
    assert {cell["status"] for cell in cells_of(database, grading)} == {"ok"}
    assert len(judge.questions) == 120


def test_two_models_or_two_keys_are_two_endpoints(database, judge, workers):
    judge.answer = takes(0.2)
    workers(1)
    one = make_judge(database, judge.base_url, concurrency=2)
    address = {"base_url": judge.base_url, "model": "other"}
    two = make_judge(database, judge.base_url, concurrency=3, config={"endpoint": address})
    grading = ask(database, [judged(one, "a"), judged(two, "b")], texts(12), batch=2)
    finish(database, grading)
    assert judge.most_in_flight == 5


def test_a_killed_workers_slots_and_cells_are_taken_over(database, judge, workers):
    judge.answer = takes(0.3)
    first, _ = workers(2)
    grading = ask(database, [judged(make_judge(database, judge.base_url, concurrency=6))], texts(90), batch=3)
    wait_for(lambda: len(judge.questions) > 20, 20, "both are at it")
    first.kill()
    finish(database, grading)
    assert judge.most_in_flight == 6
    # What was stored is not asked again: only calls in flight when it died, and answers that were on their way to the table.
    twice = [text for text, count in Counter(q.answer for q in judge.questions).items() if count > 1]
    assert len(judge.questions) == 90 + len(twice)
    assert len(twice) <= 12


def test_a_stopped_worker_that_wakes_uses_no_slot_that_has_gone(database, judge, workers):
    """Stopped for longer than its lease and its calls may take (1 s each), the other takes everything over; then it wakes."""
    judge.answer = takes(0.15)
    first, _ = workers(2)
    judge_id = make_judge(database, judge.base_url, concurrency=6, timeout_s=1.0)
    grading = ask(database, [judged(judge_id)], texts(600), batch=4)
    wait_for(lambda: len(judge.questions) > 30, 20, "both are at it")
    for _ in range(2):
        first.signal(signal.SIGSTOP)
        wait_for(lambda: slots(database) == [6], 20, "the other has all slots")
        time.sleep(0.5)
        first.signal(signal.SIGCONT)
        wait_for(lambda: sorted(slots(database)) == [3, 3], 20, "they share again")
        time.sleep(0.3)
    finish(database, grading)
    assert judge.most_in_flight == 6
    assert {cell["status"] for cell in cells_of(database, grading)} == {"ok"}


def slots(database):
    with database.transaction() as session:
        statement = select(EndpointShare.slots).where(EndpointShare.slots > 0, EndpointShare.expires_at > now())
        return list(session.scalars(statement))


def test_a_limited_rate_is_kept_over_all_workers(database, judge, workers):
    """120 a minute are two a second: 9 calls take at least four seconds, whoever makes them."""
    workers(2)
    judge_id = make_judge(database, judge.base_url, rate_limit={"requests_per_minute": 120})
    grading = ask(database, [judged(judge_id)], texts(9))
    finish(database, grading)
    at = sorted(question.at for question in judge.questions)
    assert all(later - earlier > 0.2 for earlier, later in itertools.pairwise(at))
    assert 3.7 < at[-1] - at[0] < 7


def test_a_limited_endpoint_is_asked_to_the_end(database, judge, workers):
    """A token bucket of 40 calls a second: some 429s, no call before its Retry-After, every cell scored."""
    bucket, told, early, lock = [10.0, time.monotonic()], {}, [], threading.Lock()

    def answer(question):
        with lock:
            at = time.monotonic()
            if told.get(question.answer, 0) > at:
                early.append(question.answer)
            bucket[:] = [min(10.0, bucket[0] + (at - bucket[1]) * 40), at]
            if bucket[0] < 1:
                told[question.answer] = at + 0.5
                return (429, {"retry-after": "0.5"}, {"error": "slow down"})
            bucket[0] -= 1
        return verdict(question)

    judge.answer = answer
    workers(2)
    judge_id = make_judge(database, judge.base_url, concurrency=32)
    grading = ask(database, [judged(judge_id)], texts(200), batch=10)
    finish(database, grading)
    assert {cell["status"] for cell in cells_of(database, grading)} == {"ok"}
    assert early == []
    assert 200 < len(judge.questions) < 400
