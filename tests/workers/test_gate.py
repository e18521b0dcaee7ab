"""The gate before an endpoint, through the client and a real socket: halving, holds, order, deadlines."""

import asyncio
import itertools
import time

import pytest

from service.domain.judge import JudgeConfig, JudgeLimits
from tests.support.judge import verdict
from workers.graders.judge.client import Endpoint
from workers.graders.judge.connections import judge_client
from workers.graders.judge.gate import EndpointHeld, Gate, Pass
from workers.graders.judge.terms import Room, Terms

REQUEST = [{"role": "user", "content": "The nonce: n"}]


def ask(judge, count, **limits):
    """Ask `count` questions at once; the replies, and when each was there."""

    async def run():
        async with judge_client(["loopback"]) as client:
            made = JudgeLimits.model_validate({"timeout_s": 5, **limits})
            config = JudgeConfig.model_validate({"endpoint": {"base_url": judge.base_url, "model": "m"}})
            endpoint = Endpoint(client, config, made, None, Gate(made.concurrency))

            async def one(k):
                reply = await endpoint.ask([{"role": "user", "content": f"The nonce: {k}\n"}])
                return reply, time.monotonic()

            return await asyncio.gather(*(one(k) for k in range(count)))

    return asyncio.run(run())


def test_waiting_for_a_slot_is_no_failure(judge):
    """Eight questions of 0.15 s, one at a time, with a deadline of half a second each."""

    async def slowly(question):
        await asyncio.sleep(0.15)
        return verdict(question)

    judge.answer = slowly
    found = ask(judge, 8, concurrency=1, deadline_s=0.5)
    assert {reply.status for reply, _ in found} == {"ok"}
    assert judge.most_in_flight == 1
    assert all(reply.latency_ms < 400 for reply, _ in found)  # of the calls, not of the queue


def test_a_429_halves_what_is_in_flight_and_it_comes_back(judge):
    seen = []

    async def answer(question):
        if question.nonce == "20":
            return (429, {"retry-after": "0.2"}, {})
        seen.append((time.monotonic(), judge.in_flight))
        await asyncio.sleep(0.1)
        return verdict(question)

    judge.answer = answer
    found = ask(judge, 400, concurrency=16, max_attempts=1)
    assert sorted({reply.status for reply, _ in found}) == ["ok", "rate_limited"]
    (limited_at,) = [at for reply, at in found if reply.status == "rate_limited"]
    after = [n for at, n in seen if limited_at + 0.15 < at < limited_at + 0.35]
    assert max(after) <= 8 + 2  # a quarter of the limit comes back per second: 4
    assert max(n for at, n in seen if at > limited_at + 2.3) == 16


def test_only_the_call_that_was_told_so_waits(judge):
    """One 429 among answers: the others go on."""
    first = []

    def answer(question):
        if question.nonce == "5" and not first:
            first.append(question.at)
            return (429, {"retry-after": "0.8"}, {})
        return verdict(question)

    judge.answer = answer
    found = ask(judge, 60, concurrency=4)
    assert {reply.status for reply, _ in found} == {"ok"}
    again = [q.at for q in judge.questions if q.nonce == "5"][1]
    assert again - first[0] >= 0.8
    others = [q.at for q in judge.questions if q.nonce != "5"]
    assert max(others) - first[0] < 0.7


def test_429s_in_a_row_hold_the_endpoint(judge):
    """Nobody is asked for as long as it said, then those who were told to come back go first, each at its own moment."""
    told = []

    def answer(question):
        if len(told) < 4:
            told.append(question)
            return (429, {"retry-after": "0.6"}, {})
        return verdict(question)

    judge.answer = answer
    found = ask(judge, 30, concurrency=4)
    assert {reply.status for reply, _ in found} == {"ok"}
    held_from = told[1].at
    assert not [q for q in judge.questions if held_from + 0.05 < q.at < held_from + 0.55]
    later = [q.nonce for q in judge.questions[4:]]
    assert set(later[:4]) == {q.nonce for q in told}
    waits = sorted(q.at - held_from for q in judge.questions[4:8])
    assert waits[-1] - waits[0] > 0.005


def test_without_a_retry_after_the_hold_grows(judge):
    judge.answer = lambda q: (429, {}, {})
    found = ask(judge, 12, concurrency=2, max_attempts=3, deadline_s=4)
    assert {reply.status for reply, _ in found} == {"rate_limited"}
    assert max(at for _, at in found) - judge.questions[0].at < 6  # nobody waits for ever
    at = [q.at for q in judge.questions]
    gaps = sorted((b - a for a, b in itertools.pairwise(at)), reverse=True)
    assert gaps[0] > 1.0


def test_a_hold_longer_than_the_deadline_is_a_failure_at_once(judge):
    async def run():
        gate = Gate(2)
        gate.limited(Pass(gate, time.monotonic()), 60)
        gate.limited(Pass(gate, time.monotonic()), 60)
        with pytest.raises(EndpointHeld):
            async with gate.slot(Terms(2), patience_s=5):
                pass

    asyncio.run(run())
    judge.answer = lambda q: (429, {"retry-after": "30"}, {})
    started = time.monotonic()
    found = ask(judge, 5, concurrency=1, deadline_s=2)
    assert {reply.status for reply, _ in found} == {"rate_limited"}
    assert time.monotonic() - started < 2
    assert len(judge.questions) == 2  # two in a row: the others are not even asked
    assert any("asks to wait" in reply.reason for reply, _ in found)


def test_cancelled_calls_give_their_slots_back():
    async def run():
        gate = Gate(1)
        entered = asyncio.Event()

        async def call():
            async with gate.slot(Terms(1)):
                entered.set()
                await asyncio.sleep(60)

        running, waiting = asyncio.create_task(call()), asyncio.create_task(call())
        await entered.wait()
        assert (gate.in_use, gate.waiting, gate.demand) == (1, 1, 2)
        waiting.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (gate.in_use, gate.waiting) == (1, 0)
        running.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)
        assert (gate.in_use, gate.waiting, gate.terms) == (0, 0, None)

    asyncio.run(run())


def test_the_strictest_terms_count():
    a = Terms(8, 60.0, None, 10.0)
    b = Terms(4, 100.0, 500.0, 30.0)
    assert a & b == Terms(4, 60.0, 500.0, 30.0)
    assert (a & Terms(9)).paced
    assert not Terms(9).paced


def test_a_worker_has_no_more_calls_open_than_it_has_room_for():
    """Two endpoints with many slots, room for three calls: both get their turns."""

    async def run():
        room = Room(3)
        gates = {name: Gate(8, room=room) for name in "ab"}
        order, most = [], [0]

        async def call(name):
            async with gates[name].slot(Terms(8)):
                most[0] = max(most[0], gates["a"].in_use + gates["b"].in_use)
                order.append(name)
                await asyncio.sleep(0.01)

        await asyncio.gather(*(call(name) for name in "a" * 12 + "b" * 12))
        assert most[0] == 3
        assert "b" in order[:5]  # not only after all of a
        assert room.used == 0

    asyncio.run(run())
