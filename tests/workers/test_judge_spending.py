"""Budgets and the ledger as grading workers keep them: real processes, real sockets, one Postgres."""

import asyncio
import signal
import time

import pytest
from sqlalchemy import func, select

from service.db.queries.spending import of_tries_that_are_gone
from service.db.tables import Grading, Judge, JudgeSpending
from service.domain.judge import JudgeSampling
from service.domain.spending import Price
from tests.support.cells import (
    PROJECT,
    GradingProcess,
    ask,
    cells_of,
    engine,
    finish,
    judged,
    make_judge,
    make_project,
    progress,
)
from tests.support.judge import verdict
from tests.support.spending import CALL_USD, PRICE, reserved, spent
from tests.support.stack import wait_for
from workers.graders.judge.purse import Tokens, guess_tokens, most_tokens, question_bytes


@pytest.fixture
def project(database):
    make_project(database)
    return PROJECT


@pytest.fixture
def url(cluster, database_name, project):
    return cluster.url("grape_app", database_name)


@pytest.fixture
def workers(url):
    """Start grading workers as processes; they end with the test."""
    started = []

    def start(count=1, **settings):
        started.extend(GradingProcess(url, **settings) for _ in range(count))
        return started

    yield start
    for worker in started:
        worker.stop()


def texts(count):
    return [f"text {k}" for k in range(count)]


def statuses(cells):
    found = [cell["status"] for cell in cells]
    return {status: found.count(status) for status in set(found)}


def test_calls_are_never_exceeded_by_several_workers(database, judge, workers):
    """60 cells, 25 calls: 25 cells, and 35 that say which limit is reached. A higher limit asks for these alone."""

    async def slow(question):
        await asyncio.sleep(0.05)
        return verdict(question)

    judge.answer = slow
    workers(3)
    judge_id = make_judge(database, judge.base_url)
    grading = ask(database, [judged(judge_id)], texts(60), limits={"judge_calls": 25})
    cells = finish(database, grading)
    assert statuses(cells) == {"ok": 25, "budget": 35}
    assert len(judge.questions) == 25
    forbidden = [cell for cell in cells if cell["status"] == "budget"]
    assert all("limits.judge_calls is used up: 25 of 25 calls are made" in cell["reason"] for cell in forbidden)
    assert {(cell["calls"], cell["tokens_in"]) for cell in forbidden} == {(0, 0)}
    assert spent(database, Grading, grading).judge_calls == 25 == spent(database, Judge, judge_id).judge_calls
    wait_for(lambda: reserved(database) == [], 10, "everything is given back")
    again = ask(database, [judged(judge_id)], texts(60), limits={"judge_calls": 35})
    cells = finish(database, again)
    assert statuses(cells) == {"ok": 60}
    assert sum(cell["cached"] for cell in cells) == 25
    assert len(judge.questions) == 60


def test_a_cost_stays_below_its_bound_by_less_than_one_call(database, judge, url):
    """The price of each call is known only afterwards; what is set aside is the most that it may cost."""
    sampling = {"max_tokens": 16}
    judge_id = make_judge(database, judge.base_url, config={"sampling": sampling}, price=PRICE, max_cost_usd=10.0)
    with engine(url):
        cells = finish(database, ask(database, [judged(judge_id)], texts(400)))
        found = statuses(cells)
        asked = len(judge.questions)
        assert found == {"ok": asked, "budget": 400 - asked}
        total = spent(database, Judge, judge_id)
        assert total.judge_cost_usd == pytest.approx(asked * CALL_USD)
        assert (total.judge_calls, total.judge_tokens_in, total.judge_tokens_out) == (asked, 7 * asked, 3 * asked)
        messages = judge.questions[0].body["messages"]
        at_most = most_tokens(question_bytes(messages, None), len(messages), JudgeSampling.model_validate(sampling))
        one = Price.model_validate(PRICE).of(at_most.input, at_most.output)
        assert 10.0 - 1.05 * one < total.judge_cost_usd <= 10.0  # texts are a few bytes longer or shorter
        assert sum(cell["cost_usd"] for cell in cells) == pytest.approx(total.judge_cost_usd)
        reason = next(cell["reason"] for cell in cells if cell["status"] == "budget")
        assert f"PATCH /v1/judges/{judge_id}" in reason
        with database.transaction() as session:
            row = session.get_one(Judge, judge_id)
            row.limits = {**row.limits, "max_cost_usd": None}
        cells = finish(database, ask(database, [judged(judge_id)], texts(400)))
        assert statuses(cells) == {"ok": 400}
        assert len(judge.questions) == 400
        assert {cell["cost_usd"] for cell in cells if cell["cached"]} == {0.0}


def test_calls_that_failed_are_paid_for_too(database, judge, url):
    """The ledger is the sum over all attempts: a retry, a reply that cannot be read, a criterion asked with others."""
    seen = []

    def answer(question):
        seen.append(question)
        if len(seen) == 1:
            return 500, {}, {"error": "down"}  # nobody charges for that
        return "no JSON" if question.answer == "odd" else verdict(question)

    judge.answer = answer
    judge_id = make_judge(database, judge.base_url, config={"batch": 3, "votes": 2}, price=PRICE)
    criteria = [judged(judge_id, key) for key in ("a", "b", "c")]
    with engine(url):
        grading = ask(database, criteria, ["good", "odd"])
        cells = finish(database, grading)
    assert statuses(cells) == {"ok": 3, "parse_error": 3}
    assert len(judge.questions) == 5  # two texts, two votes, one of them tried again
    found = spent(database, Grading, grading)
    assert (found.judge_calls, found.judge_tokens_in, found.judge_tokens_out) == (5, 28, 12)
    assert found.judge_cost_usd == pytest.approx(4 * CALL_USD)
    assert found.estimated_calls == 0
    assert sum(cell["calls"] for cell in cells) == 5
    assert sum(cell["cost_usd"] for cell in cells) == pytest.approx(4 * CALL_USD)


def test_an_endpoint_that_tells_no_usage_is_estimated_and_marked(database, judge, url):
    def answer(question):
        return 200, {}, {"choices": [{"message": {"content": verdict(question)}, "finish_reason": "stop"}]}

    judge.answer = answer
    judge_id = make_judge(database, judge.base_url, price=PRICE)
    with engine(url):
        grading = ask(database, [judged(judge_id)], ["t"])
        (cell,) = finish(database, grading)
    (question,) = judge.questions
    # One token for every two bytes, and 16 for every message: English text has about half of that.
    size = sum(len(message["content"].encode()) for message in question.body["messages"])
    assert cell["tokens_in"] == -(-size // 2) + 16 * len(question.body["messages"])
    assert cell["tokens_out"] == -(-len(verdict(question)) // 2)
    assert cell["tokens_estimated"] is True
    found = spent(database, Grading, grading)
    assert (found.estimated_calls, found.judge_tokens_in) == (1, cell["tokens_in"])


def test_an_answer_that_nobody_waited_for_counts_at_its_limit():
    plain, reasons = JudgeSampling(max_tokens=64), JudgeSampling(max_completion_tokens=500)
    assert guess_tokens(100, 2, plain, None) == Tokens(50 + 32, 64, True)
    assert guess_tokens(101, 1, plain, "x" * 20) == Tokens(51 + 16, 10, True)
    assert guess_tokens(0, 0, plain, "x" * 2000).output == 64
    assert guess_tokens(0, 0, reasons, "short").output == 500  # what it thought is not in the text


def test_a_killed_worker_loses_no_call_that_was_stored_and_counts_none_twice(database, judge, workers):
    """Cells that stand are in the ledger exactly once; only calls that were in flight at the kill are missing."""

    async def slow(question):
        await asyncio.sleep(0.1)
        return verdict(question)

    judge.answer = slow
    judge_id = make_judge(database, judge.base_url, concurrency=8)
    grading = ask(database, [judged(judge_id)], texts(80), limits={"judge_calls": 1000})
    (first,) = workers(1)
    wait_for(lambda: progress(database, grading)[1] >= 20, 30, "20 cells stand")
    first.kill()
    stored = len(cells_of(database, grading))
    assert spent(database, Grading, grading).judge_calls >= stored
    held = sum(calls for calls, _ in reserved(database))
    assert held > 0
    workers(1)
    cells = finish(database, grading)
    assert statuses(cells) == {"ok": 80}
    counted, asked = spent(database, Grading, grading).judge_calls, len(judge.questions)
    assert 80 <= counted <= asked
    assert asked - counted <= 8
    wait_for(lambda: reserved(database) == [], 10, "what the dead worker held has come back")


def test_a_worker_that_was_stopped_takes_nothing_that_has_come_back(database, judge, workers):
    """SIGSTOP beyond lease and timeout: its calls are another's by then, and the limit still holds."""

    async def slow(question):
        await asyncio.sleep(0.1)
        return verdict(question)

    judge.answer = slow
    judge_id = make_judge(database, judge.base_url, concurrency=4, timeout_s=1)
    grading = ask(database, [judged(judge_id)], texts(60), limits={"judge_calls": 40})
    first, *_ = workers(1)
    wait_for(lambda: progress(database, grading)[1] >= 4, 30, "some cells stand")
    first.signal(signal.SIGSTOP)
    workers(1)
    time.sleep(4)
    first.signal(signal.SIGCONT)
    cells = finish(database, grading)
    assert statuses(cells)["ok"] <= 40
    assert len(judge.questions) <= 40 + 4  # at most what was in flight when it was stopped


def test_tries_leave_the_judges_totals(database, judge, url):
    """The rows of a try are dropped once it is gone; the judge's own total keeps what they took."""
    judge_id = make_judge(database, judge.base_url)
    with engine(url):
        grading = ask(database, [judged(judge_id)], ["t"])
        finish(database, grading)
    kept = ask(database, [judged(judge_id)], ["u"])
    with database.transaction() as session:
        session.delete(session.get_one(Grading, grading))
        session.execute(of_tries_that_are_gone(3600))
        assert session.scalar(select(func.count()).where(JudgeSpending.owner_id == grading)) == 1
        session.execute(of_tries_that_are_gone(0))
        assert session.scalar(select(func.count()).where(JudgeSpending.owner_id == grading)) == 0
    assert kept
    assert spent(database, Judge, judge_id).judge_calls == 1
