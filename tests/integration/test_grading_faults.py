"""Gradings that are cancelled, that lose their worker, that run side by side: each text is graded once, and the end is the same."""

import asyncio
import os
import signal
import threading
import time
from collections import Counter

from service.client import ApiError, GrapeClient, Unreachable
from tests.support.gradings import SHORT, ended, grade, results
from tests.support.judge import verdict
from tests.support.stack import wait_for


async def slow(question):
    await asyncio.sleep(0.25)
    return verdict(question, len(question.answer) % 3 == 0, 0.2 + 0.1 * (len(question.answer) % 7))


def many(count):
    return [{"prompt": f"p{k % (count // 4)}", "text": "x" * k} for k in range(count)]


def test_cancel_is_final_and_keeps_what_is_finished(bench, judge, api):
    judge.answer = slow
    rubric = bench.rubric(bench.judged(bench.judge(judge, concurrency=2)))
    grading = api.post("/v1/gradings", {"rubric": {"id": rubric}, "texts": many(80)})
    wait_for(lambda: api.get(f"/v1/gradings/{grading['id']}")["progress"]["done"] >= 8, 30, "the first cells")
    cancelled = api.post(f"/v1/gradings/{grading['id']}/cancel")
    assert (cancelled["status"], cancelled["summary"]) == ("cancelled", None)
    rows = results(api, grading["id"], limit=100)
    assert len(rows) < 80
    time.sleep(2)
    asked = len(judge.questions)
    time.sleep(3)
    assert len(judge.questions) <= asked + 2  # what was in flight
    assert results(api, grading["id"], limit=100) == rows
    again = api.post(f"/v1/gradings/{grading['id']}/cancel")
    # What was in flight is paid, and counted.
    assert cancelled["spent"]["judge_calls"] <= again["spent"]["judge_calls"] <= len(judge.questions)
    assert {**again, "spent": None} == {**cancelled, "spent": None}
    done, _ = grade(api, {"rubric": {"id": bench.rubric(SHORT)}, "texts": many(4)})
    assert api.post(f"/v1/gradings/{done['id']}/cancel")["status"] == "succeeded"


def test_the_grading_worker_is_killed_in_mid_grading(bench, stack, judge, api):
    """Another goes on: the same results as undisturbed, every text once, and no finished group is asked again."""
    judge.answer = slow
    rubric = bench.rubric(SHORT, bench.judged(bench.judge(judge, concurrency=8, cache=False)))
    texts = many(160)
    quiet, expected = grade(api, {"rubric": {"id": rubric}, "texts": texts})
    asked = len(judge.questions)
    assert asked == 160
    grading = api.post("/v1/gradings", {"rubric": {"id": rubric}, "texts": texts})["id"]
    for share in (0.2, 0.6):
        wait_for(lambda s=share: len(results(api, grading, limit=200)) >= s * 160, 60, "results")
        before = {row["id"] for row in results(api, grading, limit=200)}
        stack.kill("grading")
    done = ended(api, grading)
    rows = results(api, grading, limit=200)
    assert before <= {row["id"] for row in rows}
    assert [row["text"] for row in rows] == [item["text"] for item in texts]
    drop = ("id", "grading", "group", "created_at", "prompt")
    for row, same in zip(rows, expected, strict=True):
        for one in (row, same):
            for found in one["cells"]:
                for name in ("critique", "latency_ms"):
                    found.pop(name, None)
        assert {k: v for k, v in row.items() if k not in drop} == {k: v for k, v in same.items() if k not in drop}
    assert done["summary"] == quiet["summary"]
    assert done["progress"] == quiet["progress"]
    again = Counter(question.answer for question in judge.questions[asked:])
    assert sum(again.values()) <= 160 + 2 * 16  # what was in flight, twice


def test_postgres_is_killed_in_mid_grading(bench, stack, judge, api):
    judge.answer = slow
    rubric = bench.rubric(SHORT, bench.judged(bench.judge(judge, concurrency=8)))
    grading = api.post("/v1/gradings", {"rubric": {"id": rubric}, "texts": many(80)})["id"]
    wait_for(lambda: results(api, grading, limit=100), 30, "results")
    stack.kill("postgres")
    wait_for(lambda: answers(api), 30, "the database is back")
    assert ended(api, grading)["progress"] == {"cells": 160, "done": 160, "failed": 0}
    assert [row["text"] for row in results(api, grading, limit=100)] == [item["text"] for item in many(80)]


def answers(api):
    try:
        return api.get("/v1/gradings", limit=1)
    except (ApiError, Unreachable):
        return False


def test_a_worker_that_is_asked_to_stop_gives_the_grading_back(bench, stack, judge, api):
    judge.answer = slow
    rubric = bench.rubric(bench.judged(bench.judge(judge, concurrency=8)))
    grading = api.post("/v1/gradings", {"rubric": {"id": rubric}, "texts": many(80)})["id"]
    wait_for(lambda: results(api, grading, limit=100), 30, "results")
    os.kill(stack.pids("grading")[0], signal.SIGTERM)
    ended(api, grading)
    assert len(results(api, grading, limit=100)) == 80
    assert len(judge.questions) <= 80 + 16


def test_gradings_run_side_by_side_and_lists_have_them(bench, judge, api):
    judge.answer = slow
    rubric = bench.rubric(bench.judged(bench.judge(judge)))
    plain = bench.rubric(SHORT)
    long = api.post("/v1/gradings", {"rubric": {"id": rubric}, "texts": many(40)})["id"]
    quick, _ = grade(api, {"rubric": {"id": plain}, "texts": many(4)})
    assert api.get(f"/v1/gradings/{long}")["status"] in ("queued", "running")
    ended(api, long)
    listed = [row["id"] for row in api.pages("/v1/gradings", limit=2)]
    assert listed[:2] == [quick["id"], long]
    assert long in [row["id"] for row in api.pages("/v1/gradings", status="succeeded", limit=100)]
    assert quick["id"] not in [row["id"] for row in api.pages("/v1/gradings", status="running", limit=100)]


def test_many_gradings_at_once_are_each_done_once(bench, judge, api):
    judge.answer = slow
    rubric = bench.rubric(bench.judged(bench.judge(judge, concurrency=32)))
    ids: list = []

    def post(n):
        with GrapeClient(api.base_url, api._http.headers["Authorization"].removeprefix("Bearer ")) as own:
            ids.append(
                own.post(
                    "/v1/gradings",
                    {"rubric": {"id": rubric}, "texts": [{"prompt": "p", "text": f"{n} {k}"} for k in range(4)]},
                )["id"]
            )

    threads = [threading.Thread(target=post, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for grading_id in ids:
        ended(api, grading_id)
    assert Counter(q.answer for q in judge.questions) == Counter(f"{n} {k}" for n in range(12) for k in range(4))
