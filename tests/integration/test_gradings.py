"""Gradings over HTTP on the whole stack: texts, rows and stored completions in, completions with every number out."""

import math

import pytest

from service.client import ApiError
from service.domain.scoring import CriterionWeight
from tests.support.gradings import AUDIT, HAS, SHORT, cell, check_numbers, ended, grade, results
from tests.support.judge import verdict


def test_texts_are_graded_by_verifiers_and_judges(bench, judge, api):
    judge.answer = lambda q: verdict(q, "nice" in q.answer, 0.3 if "?" in q.answer else 0.9, f"about {q.answer}")
    rubric = bench.rubric(HAS, bench.judged(bench.judge(judge)), AUDIT)
    texts = [
        {"prompt": {"prompt": "p0", "reference": "r"}, "text": "r nice"},
        {"prompt": {"prompt": "p1", "reference": "s"}, "text": "alone"},
        {"prompt": {"prompt": "p0", "reference": "r"}, "text": "r?"},
        {"prompt": {"messages": [{"role": "user", "content": "p0"}], "reference": "r"}, "text": "r"},
    ]
    grading, rows = grade(api, {"rubric": {"id": rubric}, "texts": texts})
    assert grading["progress"] == {"cells": 12, "done": 12, "failed": 0}
    assert (grading["rubric"]["version"], grading["source"]) == (1, {"texts": 4})
    assert [row["text"] for row in rows] == [item["text"] for item in texts]
    weights = [
        CriterionWeight("has", 2.0, judged=False),
        CriterionWeight("nice", 1.0),
        CriterionWeight("one", 1.0, judged=False, audit=True),
    ]
    groups = check_numbers(rows, weights)
    assert sorted(map(len, groups.values())) == [1, 3]  # an equal prompt is one group, however it is written
    alone = rows[1]
    assert (alone["signal"], alone["reward"], alone["plain_reward"]) == ("too_few_members", None, 0.0)
    assert rows[0]["prompt"]["id"] == rows[2]["prompt"]["id"] != alone["prompt"]["id"]
    for row in rows:
        assert (row["job_id"], row["grading"], row["purpose"]) == (None, grading["id"], "grading")
        assert (row["step"], row["attempt"], row["token_count"], row["finish_reason"]) == (None, None, None, None)
        assert row["rubric"] == {"id": rubric, "version": 1}
        assert cell(row, "nice")["reasoning"] == f"about {row['text']}"
        assert api.get(f"/v1/completions/{row['id']}") == row
    assert len(judge.questions) == 4
    critiques = list(api.pages("/v1/critiques", grading=grading["id"]))
    assert {c["completion"] for c in critiques} == {row["id"] for row in rows}
    assert {(c["job"], c["grading"]) for c in critiques} == {(None, grading["id"])}
    summary = grading["summary"]
    assert (summary["completions"], summary["groups"]) == (4, 2)
    assert summary["signals"] == {"ok": 1, "too_few_members": 1}
    assert summary["plain_reward"] == math.fsum(row["plain_reward"] for row in rows) / 4
    nice = {"score": 0.25, "confidence": math.fsum([0.9, 0.9, 0.3, 0.9]) / 4, "ok": 4, "nulls": {}, "audit": False}
    assert summary["criteria"]["nice"] == nice
    assert summary["criteria"]["one"]["audit"]


def test_a_named_group_is_a_group(bench, api):
    rubric = bench.rubric(SHORT)
    texts = [
        {"prompt": "p", "text": "a", "group": "x"},
        {"prompt": "p", "text": "b", "group": "y"},
        {"prompt": "q", "text": "longer than that", "group": "x"},
    ]
    _, rows = grade(api, {"rubric": {"id": rubric, "version": 1}, "texts": texts})
    assert rows[0]["group"] == rows[2]["group"] != rows[1]["group"]
    assert [row["advantage"] is None for row in rows] == [False, True, False]


def test_prompts_bring_their_own_criteria_and_decide_what_applies(bench, judge, api):
    judge.answer = lambda q: verdict(q, True, 0.5)
    other = bench.judge(judge)
    code = {**SHORT, "key": "code", "applies_to": {"categories": ["code"]}}
    rubric = bench.rubric(SHORT, code)
    own = [{"points": -4, "text": "is rude", "tags": ["tone"], "grader": {"type": "judge", "judge": other}}]
    texts = [
        {"prompt": {"prompt": "p", "category": "code"}, "text": "a"},
        {"prompt": {"prompt": "q", "criteria": own}, "text": "b"},
    ]
    grading, rows = grade(api, {"rubric": {"id": rubric}, "texts": texts})
    assert [[c["criterion"] for c in row["cells"]] for row in rows] == [["code", "short"], ["prompt.0", "short"]]
    assert cell(rows[1], "prompt.0")["score"] == 0.0  # met, and bad to meet
    assert rows[1]["plain_reward"] == 1 / 5
    assert grading["judges"] == {other: 1}
    assert grading["progress"] == {"cells": 4, "done": 4, "failed": 0}
    assert {"prompt.tone", "short", "code"} <= set(grading["summary"]["criteria"])


def test_datasets_of_demonstrations_and_preferences(bench, api):
    rubric = bench.rubric(SHORT)
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    demonstrations = api.post("/v1/datasets", {"name": "d", "kind": "demonstrations"})["id"]
    rows = [{"messages": [*turns, {"role": "assistant", "content": "answer"}]}, {"prompt": "p", "completion": "abc"}]
    api.upload_rows(demonstrations, rows)
    grading, graded = grade(api, {"rubric": {"id": rubric}, "dataset": demonstrations})
    assert [(row["text"], row["plain_reward"]) for row in graded] == [("answer", 0.0), ("abc", 1.0)]
    assert graded[0]["prompt"]["messages"] == turns
    assert graded[1]["prompt"]["id"] == f"{demonstrations}:2"
    assert grading["source"]["dataset"]["rows"] == 2
    assert grading["progress"] == {"cells": 2, "done": 2, "failed": 0}
    preferences = api.post("/v1/datasets", {"name": "d", "kind": "preferences"})["id"]
    pairs = [{"prompt": f"p{k}", "chosen": "good", "rejected": f"too long {k}"} for k in range(600)]
    api.upload_rows(preferences, pairs)
    grading = api.post("/v1/gradings", {"rubric": {"id": rubric}, "dataset": preferences})
    assert grading["progress"]["cells"] is None  # nobody has counted yet
    ended(api, grading["id"])
    graded = results(api, grading["id"], limit=500)
    assert [row["text"] for row in graded] == [pair[name] for pair in pairs for name in ("chosen", "rejected")]
    assert all(a["advantage"] > 0 > b["advantage"] for a, b in zip(graded[::2], graded[1::2], strict=True))


def test_stored_completions_keep_their_groups(bench, judge, api):
    judge.answer = lambda q: verdict(q, len(q.answer) % 2 == 0, 0.5)
    job = bench.run(training={"steps": 2})
    stored = list(api.pages(f"/v1/jobs/{job['id']}/completions", limit=100))
    rubric = bench.rubric(bench.judged(bench.judge(judge)), {**SHORT, "weight": 3})
    whole, rows = grade(api, {"rubric": {"id": rubric}, "job": job["id"]})
    assert [row["source"] for row in rows] == [row["id"] for row in stored]
    assert [(row["text"], row["group"], row["prompt"]) for row in rows] == [
        (row["text"], row["group"], row["prompt"]) for row in stored
    ]
    assert whole["progress"] == {"cells": 48, "done": 48, "failed": 0}
    assert whole["source"] == {"job": job["id"], "purpose": "train"}
    groups = check_numbers(rows, [CriterionWeight("nice", 1.0), CriterionWeight("short", 3.0, judged=False)])
    assert sorted(map(len, groups.values())) == [4] * 6
    named = [stored[5]["id"], stored[0]["id"], stored[1]["id"]]
    _, rows = grade(api, {"rubric": {"id": rubric}, "completions": named})
    assert [row["source"] for row in rows] == named
    assert [row["reward"] is None for row in rows] == [True, False, False]  # only the named ones are members
    assert len({q.answer + q.text for q in judge.questions}) == len(judge.questions)  # what is known is not asked again
    assert {cell["cached"] for row in rows for cell in row["cells"] if cell["grader"] == "judge"} == {True}
    _, rows = grade(api, {"rubric": {"id": rubric}, "grading": whole["id"]})
    assert len(rows) == 24
    with pytest.raises(ApiError, match="no completions of purpose 'evaluation'"):
        api.post("/v1/gradings", {"rubric": {"id": rubric}, "job": job["id"], "purpose": "evaluation"})


def test_a_judge_that_cannot_be_reached_gives_null_cells(bench, api):
    dead = api.post(
        "/v1/judges",
        {"name": "dead", "endpoint": {"base_url": "http://127.0.0.1:9/v1", "model": "m"}, "max_attempts": 1},
    )["id"]
    rubric = bench.rubric({**SHORT, "weight": 3}, bench.judged(dead))
    texts = [{"prompt": "p", "text": text} for text in ("a", "b", "longer than that")]
    grading, rows = grade(api, {"rubric": {"id": rubric}, "texts": texts})
    assert grading["progress"] == {"cells": 6, "done": 6, "failed": 3}
    for row in rows:
        null = cell(row, "nice")
        assert (null["score"], null["status"], null["family"]) == (None, "infra_error", "infra")
        assert null["reason"]
        assert (row["plain_reward"], row["coverage"]) == (None, 0.75)
        assert row["reward"] is not None
    assert grading["summary"]["nulls"] == {"infra_error": 3}
    assert grading["summary"]["plain_reward"] is None
    assert grading["summary"]["criteria"]["nice"]["nulls"] == {"infra_error": 3}
    assert len(results(api, grading["id"], criterion="nice", status="infra_error")) == 3
    assert results(api, grading["id"], criterion="short", status="infra_error") == []


def test_garbage_for_one_cell_of_eight_blames_nobody(bench, judge, api):
    """reference/rubrics.md §5.1 #1: elsewhere it is a 0, which inverted a ranking. Here the text is judged by its other criterion,
    and everybody's advantage has the sign that it has with the group's mean in the missing cell."""
    values = {
        "a": (True, True),
        "b": (True, None),
        "c": (False, True),
        "d": (False, False),
    }  # verdicts on `one` and `two`

    def answer(question):
        said = values[question.answer][question.criteria == ["two"]]
        return "garbage" if said is None else verdict(question, said, 0.5)

    judge.answer = answer
    judge_id = bench.judge(judge)
    rubric = bench.rubric(bench.judged(judge_id, "one"), bench.judged(judge_id, "two"))
    texts = [{"prompt": "p", "text": text} for text in values]
    grading, rows = grade(api, {"rubric": {"id": rubric}, "texts": texts})
    assert grading["progress"] == {"cells": 8, "done": 8, "failed": 1}
    assert grading["summary"]["nulls"] == {"parse_error": 1}
    null = cell(rows[1], "two")
    assert (null["status"], null["score"], null["confidence"], null["family"]) == ("parse_error", None, None, "subject")
    # The oracle: R = (s_one + s_two)/2 with s_two[b] = (1 + 1 + 0)/3, so R = 1, 5/6, 1/2, 0 and their mean is 7/12.
    oracle = [r - 7 / 12 for r in (1, 5 / 6, 1 / 2, 0)]
    assert [row["unscaled_advantage"] for row in rows] == pytest.approx(oracle)
    assert (rows[1]["plain_reward"], rows[1]["coverage"]) == (None, 0.5)
    assert "two" not in rows[1]["parts"]


def test_stored_cells_under_other_weights_and_what_cannot_be(bench, judge, api):
    judge.answer = lambda q: verdict(q, "nice" in q.answer, 0.3 if "?" in q.answer else 0.9)
    nice = bench.judged(bench.judge(judge))
    rubric = bench.rubric(HAS, nice, {**SHORT, "gate": {"mode": "cap", "threshold": 0.5, "cap": 0.5}})
    version = {"criteria": [{**HAS, "weight": 1}, {**nice, "weight": 7}, {**AUDIT}]}
    api.publish_version(rubric, version)
    prompt = {"prompt": "p", "reference": "r"}
    texts = [{"prompt": prompt, "text": text} for text in ("r nice", "r", "nice?")]
    first, rows = grade(api, {"rubric": {"id": rubric, "version": 1}, "texts": texts})
    asked = len(judge.questions)
    again, anew = grade(api, {"grading": first["id"], "reuse_cells": True, "rubric": {"id": rubric, "version": 2}})
    assert len(judge.questions) == asked
    assert [row["source"] for row in anew] == [row["id"] for row in rows]
    check_numbers(anew, [CriterionWeight("has", 1.0, judged=False), CriterionWeight("nice", 7.0)])
    assert [{c["criterion"] for c in row["cells"]} for row in anew] == [{"has", "nice"}] * 3
    assert again["summary"]["nulls"] == {"missing": 3}  # the audit criterion is new
    assert again["progress"] == {"cells": 9, "done": 9, "failed": 3}
    assert api.get(f"/v1/completions/{anew[0]['id']}") == anew[0]
    assert len(results(api, again["id"], criterion="nice", status="ok")) == 3
    assert results(api, again["id"], criterion="short") == []  # graded once, and no part of this version
    made = api.post(
        "/v1/gradings", {"grading": first["id"], "reuse_cells": True, "aggregation": {"weighting": "healthbench"}}
    )
    failed = ended(api, made["id"], expected="failed")
    assert failed["error"]["code"] == "rubric_invalid"
    assert "gate" in failed["error"]["message"]
