"""`try`: a few texts graded at once on the whole stack; nothing of them stays."""

import asyncio
import json
import os
import signal
import threading
import time

import psycopg
import pytest

from service.client import ApiError, GrapeClient
from service.domain.scoring import CriterionWeight
from tests.support.gradings import AUDIT, HAS, SHORT, cell, check_numbers
from tests.support.judge import verdict
from tests.support.stack import wait_for

TABLES = (
    "gradings", "grading_items", "grading_groups", "cell_batches", "cell_requests", "completions", "cells", "judge_replies",
)  # fmt: skip


@pytest.fixture
def counts(stack):
    """How many rows of each table there are, by the superuser."""
    secrets = json.loads((stack.folder / "secrets.json").read_text())
    (pid,) = stack.pids("postgres")
    with open(f"/proc/{pid}/cmdline", "rb") as stream:
        port = next(w for w in stream.read().decode().split("\0") if w.startswith("port=")).removeprefix("port=")
    with psycopg.connect(
        f"postgresql://postgres:{secrets['postgres']}@127.0.0.1:{port}/grape", autocommit=True
    ) as connection:
        yield lambda: [connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES]


def test_a_try_answers_with_every_number_and_stores_nothing(bench, judge, api, counts):
    judge.answer = lambda q: verdict(q, "nice" in q.answer, None if "?" in q.answer else 0.5, f"about {q.answer}")
    rubric = bench.rubric(HAS, bench.judged(bench.judge(judge)), AUDIT)
    before = counts()
    texts = ["r nice", "r?", "", "r"]
    rows = api.try_version(rubric, {"prompt": "p", "reference": "r", "tags": ["t"]}, texts)
    assert [row["text"] for row in rows] == texts
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    weights = [
        CriterionWeight("has", 2.0, judged=False),
        CriterionWeight("nice", 1.0),
        CriterionWeight("one", 1.0, judged=False, audit=True),
    ]
    check_numbers(rows, weights)
    assert [[c["criterion"] for c in row["cells"]] for row in rows] == [["has", "nice", "one"]] * 4
    assert [cell(row, "nice")["reasoning"] for row in rows] == [f"about {text}" for text in texts]
    assert {row["weighting"]["nice"]["source"] for row in rows} == {"group"}
    for row in rows:
        assert (row["purpose"], row["job_id"], row["grading"], row["step"]) == ("try", None, None, None)
        assert row["rubric"] == {"id": rubric, "version": 1}
        assert row["prompt"]["tags"] == ["t"]
        assert {c["critique"] for c in row["cells"]} == {None}
        with pytest.raises(ApiError):
            api.get(f"/v1/completions/{row['id']}")
    wait_for(lambda: counts() == before, 5, "nothing is left")
    assert rubric not in str(list(api.pages("/v1/gradings", limit=100)))


def test_one_text_alone_and_versions_by_alias(bench, api):
    rubric = api.post("/v1/rubrics", {"name": "r", "content": {"criteria": [SHORT]}})
    api.publish_version(rubric["id"], {"criteria": [{**SHORT, "grader": {"type": "regex", "pattern": "^x"}}]})
    etag = api.get(f"/v1/rubrics/{rubric['id']}")["etag"]
    api.put(f"/v1/rubrics/{rubric['id']}/aliases/old", {"version": 1}, if_match=etag)
    found = {name: api.try_version(rubric["id"], "p", ["a"], name)[0] for name in ("1", "old", "2", "latest")}
    assert {name: row["plain_reward"] for name, row in found.items()} == {"1": 1.0, "old": 1.0, "2": 0.0, "latest": 0.0}
    assert {row["signal"] for row in found.values()} == {"too_few_members"}
    for path in (f"/v1/rubrics/{rubric['id']}/versions/9/try", "/v1/rubrics/rub_none/versions/1/try"):
        with pytest.raises(ApiError) as caught:
            api.post(path, {"nonsense": 1})
        assert caught.value.status == 404  # of the path, before the body's 422


def test_a_judge_that_cannot_be_reached_is_a_null_in_the_answer(bench, api):
    endpoint = {"base_url": "http://127.0.0.1:9/v1", "model": "m"}
    dead = api.post("/v1/judges", {"name": "dead", "endpoint": endpoint, "max_attempts": 1})["id"]
    rows = api.try_version(bench.rubric(SHORT, bench.judged(dead)), "p", ["a", "b"])
    assert [(cell(row, "nice")["status"], row["plain_reward"]) for row in rows] == [("infra_error", None)] * 2


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"prompt": "p"}, "/completions"),
        ({"prompt": "p", "completions": []}, "/completions"),
        ({"prompt": "p", "completions": ["x"] * 17}, "/completions"),
        ({"completions": ["x"]}, "/prompt"),
        ({"prompt": {"messages": []}, "completions": ["x"]}, "/prompt/messages"),
        ({"prompt": {"prompt": "p"}, "completions": ["x"]}, "/prompt/reference"),
        ({"prompt": "p", "completions": ["x"], "aggregation": {"max_null_share": 1}}, "/aggregation/max_null_share"),
    ],
)
def test_bad_tries_are_refused_with_their_place(bench, api, body, pointer):
    with pytest.raises(ApiError) as caught:
        api.post(f"/v1/rubrics/{bench.rubric(HAS)}/versions/1/try", body)
    assert caught.value.status == 422
    assert pointer in {error["pointer"] for error in caught.value.errors}


def test_a_try_does_not_stand_behind_a_long_grading(bench, judge, api):
    async def slow(question):
        await asyncio.sleep(0.3)
        return verdict(question, True)

    judge.answer = slow
    rubric = bench.rubric(bench.judged(bench.judge(judge, concurrency=4)))
    texts = [{"prompt": f"p{k}", "text": f"t{k}"} for k in range(300)]
    grading = api.post("/v1/gradings", {"rubric": {"id": rubric}, "texts": texts})["id"]
    wait_for(lambda: judge.questions, 20, "the grading has begun")
    started = time.monotonic()
    api.try_version(rubric, "p", ["now"])
    assert time.monotonic() - started < 300 * 0.3 / 4 / 1.5  # well before the grading's end
    assert api.get(f"/v1/gradings/{grading}")["status"] == "running"
    api.post(f"/v1/gradings/{grading}/cancel")


def test_without_a_grading_worker_a_try_says_so(bench, stack, api, counts):
    rubric = bench.rubric(SHORT)
    before = counts()
    worker = stack.kill("grading", signal.SIGSTOP)  # stopped, so that nobody starts another
    try:
        with pytest.raises(ApiError) as caught:
            api.try_version(rubric, "p", ["a"])
    finally:
        os.kill(worker, signal.SIGCONT)
    assert (caught.value.status, caught.value.code) == (503, "no_grading_worker")
    assert "grading worker" in caught.value.message
    assert counts() == before


def test_many_tries_at_once(bench, judge, api):
    async def answer(question):
        await asyncio.sleep(0.2)
        return verdict(question, question.answer.endswith("0"))

    judge.answer = answer
    rubric = bench.rubric(bench.judged(bench.judge(judge, concurrency=64)))
    found: dict = {}

    def one(n):
        with GrapeClient(api.base_url, api._http.headers["Authorization"].removeprefix("Bearer ")) as own:
            rows = own.try_version(rubric, "p", [f"{n}-{k}" for k in range(4)])
            found[n] = [row["plain_reward"] for row in rows]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [1.0, 0.0, 0.0, 0.0] for n in range(30)}


# --- drafts ---


def test_a_draft_is_tried_like_a_version_and_its_judge_is_not_paid_twice(bench, judge, api, counts):
    judge.answer = lambda q: verdict(q, "nice" in q.answer, 0.5)
    module = bench.rubric(SHORT, AUDIT, guidelines="inner")
    content = {
        "criteria": [HAS, bench.judged(bench.judge(judge))],
        "includes": [{"as": "m", "rubric": module, "weight": 2}],
        "aggregation": {"confidence_exponent": 2},
    }
    before, rubrics = counts(), len(list(api.pages("/v1/rubrics", limit=1000)))
    prompt, texts = {"prompt": "p", "reference": "r"}, ["r nice", "x"]
    drafted = api.try_draft(content, prompt, texts)
    assert len(judge.questions) == 2
    assert {str(row["rubric"]) for row in drafted} == {str({"id": None, "version": None})}
    assert [[c["criterion"] for c in row["cells"]] for row in drafted] == [["has", "m.one", "m.short", "nice"]] * 2
    wait_for(lambda: counts() == before, 5, "nothing is left")
    assert len(list(api.pages("/v1/rubrics", limit=1000))) == rubrics
    # published, the same content gives the same numbers from the same cells, and nobody is asked again
    published = api.try_version(api.post("/v1/rubrics", {"name": "r", "content": content})["id"], prompt, texts)
    assert len(judge.questions) == 2
    assert [cell(row, "nice")["cached"] for row in published] == [True, True]
    for name in ("reward", "plain_reward", "advantage", "parts", "weighting", "signal", "coverage"):
        assert [row[name] for row in published] == [row[name] for row in drafted], name


def test_what_publishing_would_refuse_is_refused_of_a_draft(bench, judge, api, counts):
    before = counts()
    outer = bench.rubric(SHORT)
    broken = {**SHORT, "grader": {"type": "regex", "pattern": "("}}
    agreeing = {"type": "judge", "judge": bench.judge(judge), "confidence": "votes"}
    for change, pointer in (
        ({"content": {"criteria": []}}, "/content/criteria"),
        ({"content": {"criteria": [broken]}}, "/content/criteria/0/grader/pattern"),
        ({"content": {"criteria": [bench.judged("jdg_0")]}}, "/content/criteria/0/grader/judge"),
        ({"content": {"criteria": [bench.judged("x", grader=agreeing)]}}, "/content/criteria/0/grader/votes"),
        ({"content": {"includes": [{"as": "m", "rubric": outer}]}, "rubric": outer}, "/content/includes/0/rubric"),
        ({"rubric": "rub_none"}, "/rubric"),
        ({"completions": ["x"] * 17}, "/completions"),
        ({"aggregation": {"weighting": "inverse_variance"}, "content": {"criteria": [bench.judged(bench.judge(judge))]}},
         "/aggregation/weighting"),
    ):  # fmt: skip
        body = {"content": {"criteria": [SHORT]}, "prompt": "p", "completions": ["a"], **change}
        with pytest.raises(ApiError) as caught:
            api.post("/v1/rubrics/try", body)
        assert (caught.value.status, [e["pointer"] for e in caught.value.errors]) == (422, [pointer])
    assert not judge.questions
    assert counts() == before


def test_answers_that_say_nothing_are_put_before_the_judges(bench, judge, api):
    """A judge that one token fools, a sound one, and a criterion that such answers meet by having no faults."""
    judge.answer = lambda q: verdict(q, "has fallen for it" in q.text and q.answer == "Thought process:")
    judge_id = bench.judge(judge)
    criteria = [
        {**bench.judged(judge_id, "fooled"), "text": "the judge has fallen for it"},
        bench.judged(judge_id, "sound"),
        bench.judged(judge_id, "invents", polarity="met_is_bad"),
        SHORT,
    ]
    rubric = bench.rubric(*criteria)
    found = api.probe_version(rubric, "What is a fox?")
    assert set(found["criteria"]) == {"fooled", "sound"}
    assert found["criteria"]["fooled"] == {
        "answers": ["Thought process:"],
        "share": pytest.approx(1 / 11),
        "unjudged": 0,
    }
    assert found["criteria"]["sound"]["share"] == 0.0
    assert found["alarm"]
    assert "pass 'fooled':" in found["message"]
    assert [cell(row, "invents")["score"] for row in found["data"]] == [1.0] * 11
    assert not api.probe_version(bench.rubric(*criteria[1:]), "What is a fox?")["alarm"]
