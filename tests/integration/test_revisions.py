"""Revisions of stored completions over HTTP: critiques in, better answers out, and only what grades better becomes data."""

import asyncio
import json
import re

import pytest
from typer.testing import CliRunner

from service.cli.main import app
from service.client import ApiError, GrapeClient
from tests.support.gradings import ENDS, HAS, cell, grade
from tests.support.judge import FakeJudge, completion, verdict
from tests.support.stack import wait_for

SHORT = {"key": "short", "title": "Short", "weight": 1, "grader": {"type": "regex", "pattern": "^.{0,20}$"}}


def goodness(text):
    return min(1.0, text.count("!") / 4)


def judging(question):
    return verdict(question, goodness(question.answer), 0.9, f"only {question.answer.count('!')} signs")


def done(api, place, request_id, expected="succeeded"):
    def look():
        found = api.get(f"/v1/{place}/{request_id}")
        return found["status"] in ENDS and found

    found = wait_for(look, 60, f"the end of {request_id}")
    assert found["status"] == expected, found
    return found


def rows(api, dataset):
    return [row["content"] for row in api.pages(f"/v1/datasets/{dataset}/rows")]


@pytest.fixture
def graded(bench, judge, api):
    """Two prompts' answers, graded with critiques, and a reviser that does what the text says."""
    judge.answer = judging
    judged = bench.judged(bench.judge(judge), scale={"type": "unit"}, weight=2)
    rubric = bench.rubric(HAS, SHORT, judged)
    texts = [
        {"prompt": {"prompt": "p", "reference": "r"}, "text": "r !!!!"},
        {"prompt": {"prompt": "p", "reference": "r"}, "text": "r better"},
        {"prompt": {"prompt": "p", "reference": "r"}, "text": "r same"},
        {"prompt": {"messages": [{"role": "user", "content": "q"}], "reference": "s"}, "text": "s long"},
        {"prompt": {"messages": [{"role": "user", "content": "q"}], "reference": "s"}, "text": "s !!"},
    ]
    return grade(api, {"rubric": {"id": rubric}, "texts": texts})


REPLIES = {
    "r better": "<think>more</think> r !!!",
    "r same": "r same",
    "s long": "s !!!! but longer than twenty signs",
    "r !!!!": "r !!!",
}


def revising(question):
    return completion(REPLIES[question.answer]) if question.answer in REPLIES else completion("", finish="length")


def test_what_grades_better_becomes_pairs_and_demonstrations(bench, judge, api, graded):
    _, completions = graded
    with FakeJudge(revising) as other:
        reviser = bench.judge(other)
        asked = len(judge.questions)
        ids = [row["id"] for row in completions]
        request = api.post("/v1/revisions", {"completions": ids, "reviser": reviser})
        assert request["status"] == "queued"
        found = done(api, "revisions", request["id"])
    assert found["progress"] == {"pairs": 5, "decided": 5, "rejected": 4}
    assert found["summary"] == {
        "pairs": 5, "accepted": 1, "accepted_share": 0.2, "published": {"preferences": 1, "demonstrations": 1},
        "rejected": {"below_margin": 1, "equal_texts": 1, "no_revision": 1, "verifier_regressed": 1},
    }  # fmt: skip
    results = list(api.pages(f"/v1/revisions/{request['id']}/results", limit=2))
    assert [r["original"]["completion"] for r in results] == ids
    by = {row["text"]: result for row, result in zip(completions, results, strict=True)}
    # 2·1 (has) + 1 (short) + 2·goodness, over 5: .6 without a sign, .6 + .4·3/4 = .9 with three of four.
    better = by["r better"]
    assert (better["accepted"], better["reason"]) == (True, None)
    assert better["original"]["plain_reward"] == pytest.approx(0.6)
    assert better["difference"] == pytest.approx(0.3)
    assert (better["standard_error"], better["threshold"]) == (0.0, 0.1)
    assert by["r !!!!"]["difference"] == pytest.approx(-0.1)
    assert "judge_truncated" in by["s !!"]["message"]
    assert "'short'" in by["s long"]["message"]

    # The reviser saw prompt, answer and critiques; the judge saw either text alone, twice, and nothing of the critiques.
    told = next(q for q in other.questions if q.answer == "r better")
    assert "only 0 signs" in told.text
    assert "nice (score 0.00 of 1)" in told.text
    fresh = judge.questions[asked:]
    assert sorted(q.answer for q in fresh) == sorted(
        2 * ["r !!!!", "r !!!", "r better", "r !!!", "s long", REPLIES["s long"]]
    )
    assert not any("signs" in q.text.replace(REPLIES["s long"], "") or "So far" in q.text for q in fresh)

    # The fresh cells stand with completions of their own.
    listed = list(api.pages(f"/v1/revisions/{request['id']}/completions"))
    assert [row["purpose"] for row in listed] == ["regraded", "revision"] * 3
    mine = api.get(f"/v1/completions/{better['better']['completion']}")
    assert (mine["text"], mine["purpose"], mine["revision_of"]) == (
        "r !!!",
        "revision",
        better["original"]["completion"],
    )
    assert mine["plain_reward"] == better["better"]["plain_reward"]
    again = api.get(f"/v1/completions/{better['original']['regraded']}")
    assert (again["source"], again["purpose"], cell(again, "nice")["votes"]) == (ids[1], "regraded", 2)
    assert cell(again, "nice")["cached"] is False

    # Rows with their lineage, and a job takes them at once.
    (pair,) = rows(api, found["preferences"])
    (shown,) = rows(api, found["demonstrations"])
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == ("p", "r !!!", "r better")
    assert (shown["prompt"], shown["completion"]) == ("p", "r !!!")
    lineage = pair["lineage"]
    assert lineage == shown["lineage"]
    assert pair["margin"] == lineage["difference"] == better["difference"]
    critique = cell(completions[1], "nice")["critique"]
    judge_id, number = cell(again, "nice")["judge"], cell(again, "nice")["revision"]
    assert lineage["critiques"] == [critique]
    assert (lineage["request"], lineage["result"], lineage["kind"]) == (request["id"], better["id"], "revision")
    assert (lineage["judges"], lineage["votes"]) == ({judge_id: number}, 2)
    assert lineage["rubric"] == completions[1]["rubric"]
    assert lineage["reviser"] == {"judge": reviser, "revision": 1, "prompt_version": 1}
    assert lineage["chosen"] == {"completion": mine["id"], "plain_reward": mine["plain_reward"]}
    assert found["spent"]["judge_calls"] == len(other.questions) + len(fresh)
    assert all(result["published"] is result["accepted"] for result in results)


def test_the_best_and_the_worst_of_a_group_are_a_pair_under_the_same_rules(judge, api, graded):
    grading, completions = graded
    request = api.post("/v1/revisions", {"grading": grading["id"], "uses": ["pairs_from_group"]})
    found = done(api, "revisions", request["id"])
    results = list(api.pages(f"/v1/revisions/{request['id']}/results"))
    # 'r same' is the worst of the first group (of equals the last); 's long' is worse than 's !!' by .4·2/4 = .2.
    texts = {row["id"]: row["text"] for row in completions}
    assert [(texts[r["original"]["completion"]], texts[r["better"]["completion"]], r["kind"]) for r in results] == [
        ("r same", "r !!!!", "group_pair"), ("s long", "s !!", "group_pair"),
    ]  # fmt: skip
    assert [r["difference"] for r in results] == pytest.approx([0.4, 0.2])
    assert (found["demonstrations"], found["summary"]["published"]) == (None, {"preferences": 2})
    first, second = rows(api, found["preferences"])
    assert (first["chosen"], first["rejected"]) == ("r !!!!", "r same")
    assert (second["chosen"], second["prompt"][0]["content"]) == ([{"role": "assistant", "content": "s !!"}], "q")


def preferring(question):
    """Likes signs; of two texts with equally many it takes the one that stands first."""
    first, second = re.findall(
        r"^The (?:first|second) answer:\n(`+)\n(.*?)\n\1$", question.text, re.DOTALL | re.MULTILINE
    )
    better = "first" if first[1].count("!") >= second[1].count("!") else "second"
    return json.dumps({"nonce": question.nonce, "reasoning": "counted", "better": better})


def test_a_judge_labels_pairs_in_both_orders_and_disagreement_is_a_tie(bench, judge, api, graded):
    _, completions = graded
    judge.answer = preferring
    ids = {row["text"]: row["id"] for row in completions}
    named = [ids["r !!!!"], ids["r same"], ids["r better"], ids["r same"]]
    with pytest.raises(ApiError) as twice:
        api.post("/v1/pair-labels", {"completions": named, "judge": bench.judge(judge)})
    assert twice.value.errors[0]["code"] == "duplicate"
    named = [ids["r same"], ids["r !!!!"], ids["s long"], ids["s !!"]]
    with pytest.raises(ApiError) as other:
        api.post("/v1/pair-labels", {"completions": [named[0], named[2]], "judge": bench.judge(judge)})
    assert [(e["pointer"], e["code"]) for e in other.value.errors] == [("/completions/1", "other_prompt")]
    request = api.post("/v1/pair-labels", {"completions": named[:2], "judge": bench.judge(judge)})
    found = done(api, "pair-labels", request["id"])
    (result,) = api.pages(f"/v1/pair-labels/{request['id']}/results")
    assert (result["accepted"], result["better"]["completion"]) == (True, ids["r !!!!"])
    assert [v["prefers"] for v in result["verdicts"]] == [ids["r !!!!"]] * 2
    assert {v["first"] for v in result["verdicts"]} == set(named[:2])
    (pair,) = rows(api, found["preferences"])
    assert (pair["chosen"], pair["rejected"], pair.get("margin")) == ("r !!!!", "r same", None)
    assert pair["lineage"]["verdicts"] == result["verdicts"]

    tie = api.post("/v1/pair-labels", {"completions": [ids["r better"], ids["r same"]], "judge": bench.judge(judge)})
    found = done(api, "pair-labels", tie["id"])
    (result,) = api.pages(f"/v1/pair-labels/{tie['id']}/results", reason="tie")
    assert (result["accepted"], len(result["verdicts"])) == (False, 2)
    assert len({v["prefers"] for v in result["verdicts"]}) == 2
    assert rows(api, found["preferences"]) == []


def test_a_lost_worker_pays_for_nothing_twice_and_a_cancelled_request_publishes_nothing(
    bench, stack, judge, api, graded
):
    grading, _ = graded

    async def slowly(question):
        await asyncio.sleep(0.4)
        return judging(question)

    judge.answer = slowly
    with FakeJudge(lambda q: completion(f"{q.answer[0]} !!!!{len(q.answer) * '.'}")) as other:
        body = {"grading": grading["id"], "reviser": bench.judge(other), "per_group": None, "votes": 4}
        asked = len(judge.questions)
        request = api.post("/v1/revisions", body)
        wait_for(lambda: len(judge.questions) > asked + 4, 30, "fresh cells")
        stack.kill("grading")
        found = done(api, "revisions", request["id"])
        assert found["summary"]["accepted"] == 3
        assert len(other.questions) == 3  # each revision was asked for once
        # 3 pairs of 2 texts with 4 votes; what was in flight when the worker died is asked again.
        assert 24 <= len(judge.questions) - asked <= 24 + 16
        judge.answer = slowly
        second = api.post("/v1/revisions", body)
        wait_for(lambda: len(other.questions) > 3, 30, "the reviser")
        cancelled = api.post(f"/v1/revisions/{second['id']}/cancel")
        assert cancelled["status"] == "cancelled"
        assert rows(api, cancelled["preferences"]) == []
        assert api.post(f"/v1/revisions/{second['id']}/cancel")["status"] == "cancelled"
        limited = api.post("/v1/revisions", {**body, "limits": {"judge_calls": 2}})
        found = done(api, "revisions", limited["id"])
        assert found["summary"]["rejected"] == {"no_revision": 1, "null_cell": 2}
        assert found["spent"]["judge_calls"] == 2
        (refused,) = api.pages(f"/v1/revisions/{limited['id']}/results", reason="no_revision")
        assert "budget" in refused["message"]


def test_what_cannot_be_had_is_refused(bench, api, graded):
    grading, completions = graded
    ids = [completions[0]["id"]]
    pairs = bench.preferences()

    def refused(body):
        with pytest.raises(ApiError) as error:
            api.post("/v1/revisions", body)
        return {(e["pointer"], e["code"]) for e in error.value.errors}

    assert refused({"completions": ids, "reviser": "jdg_0"}) == {("/reviser", "not_found")}
    assert refused({"completions": ["cmp_0"], "reviser": "jdg_0"}) == {("/completions/0", "not_found")}
    assert refused({"grading": "grd_0", "uses": ["pairs_from_group"]}) == {("/grading", "not_found")}
    wrong = {"grading": grading["id"], "uses": ["pairs_from_group"], "preferences": bench.demonstrations()}
    assert refused(wrong) == {("/preferences", "wrong_kind")}
    right = api.post("/v1/revisions", {**wrong, "preferences": pairs})
    assert done(api, "revisions", right["id"])["preferences"] == pairs
    assert next(api.pages("/v1/revisions", limit=1))["id"] == right["id"]
    with pytest.raises(ApiError) as missing:
        api.get("/v1/revisions/rev_0")
    assert missing.value.status == 404
    key = api.post("/v1/api-keys", {"name": "k", "scopes": ["grade"]})["key"]
    with GrapeClient(api.base_url, key) as other, pytest.raises(ApiError) as forbidden:
        other.post("/v1/revisions", {"grading": grading["id"], "uses": ["pairs_from_group"]})
    assert (forbidden.value.status, "data:write" in forbidden.value.message) == (403, True)


def test_the_command_line(stack, graded):
    grading, _ = graded
    runner, env = CliRunner(), {"GRAPE_DATA_DIR": str(stack.folder), "COLUMNS": "200"}

    def grape(*arguments):
        ran = runner.invoke(app, arguments, env=env)
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    asked = ("create", "--grading", grading["id"], "--use", "pairs_from_group", "--margin", "0.25", "--watch", "--json")
    made = json.loads(grape("revision", *asked))
    assert (made["status"], made["margin"], made["summary"]["rejected"]) == ("succeeded", 0.25, {"below_margin": 1})
    (rejected,) = json.loads(grape("revision", "results", made["id"], "--json", "--rejected"))
    assert rejected["reason"] == "below_margin"
    assert made["id"] in grape("revision", "list")
    assert "below_margin" in grape("revision", "get", made["id"])
