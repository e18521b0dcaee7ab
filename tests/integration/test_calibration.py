"""From labels to weights, over HTTP on the whole stack: labels in, changed confidence and weights out (grape.md §4)."""

import xml.etree.ElementTree as ET

import pytest

from service.client import ApiError
from tests.support.gradings import cell, grade
from tests.support.judge import verdict

N = 64
NUMBERS = ("text", "coverage", "reward", "plain_reward", "advantage", "scale_factor", "parts", "weighting", "signal")


def bit(k, place):
    return k >> place & 1 == 1


def numbers(rows):
    return [{name: row[name] for name in NUMBERS} for row in rows]


def label_all(api, rows):
    """On `a` people say what the judge said; on `b` they say the same half of the time, wherever the judge says what it says."""
    for row in rows:
        k = int(row["text"])
        labels = [{"criterion": "a", "verdict": bit(k, 0)}, {"criterion": "b", "verdict": bit(k, 2)}]
        api.post(f"/v1/completions/{row['id']}/labels", {"person": "anna", "blind": True, "labels": labels})


@pytest.fixture
def judged(bench, judge, api):
    """The judge is sure, .9, of everything; 32 prompts with two texts each, the judge, the rubric, and the results."""
    judge.answer = lambda q: verdict(q, bit(int(q.answer), 0 if "a" in q.criteria else 1), 0.9)
    judge_id = bench.judge(judge)
    rubric = bench.rubric(bench.judged(judge_id, "a"), bench.judged(judge_id, "b", text="is b"))
    texts = [{"prompt": {"prompt": f"p{k // 2}"}, "text": str(k)} for k in range(N)]
    grading, rows = grade(api, {"rubric": {"id": rubric}, "texts": texts})
    return judge_id, rubric, grading, rows


def test_labels_change_confidence_and_weights(judged, judge, api):
    judge_id, rubric, grading, rows = judged
    path = f"/v1/judges/{judge_id}/calibrations"
    with pytest.raises(ApiError, match=r"needs 50 labelled cells .* there are 0"):
        api.post(path, {"method": "isotonic"})
    label_all(api, rows)
    made = api.post(path, {"method": "isotonic"})
    assert (made["version"], made["revision"], made["labels"], made["in_use"]) == (1, 1, 2 * N, True)
    reports = {c["criterion"]: c["report"] for c in made["criteria"]}
    assert reports["a"]["reliability"] == pytest.approx(1.0)  # cov(s, y)/var(s): the same, and independent
    assert reports["b"]["reliability"] == pytest.approx(0.0, abs=1e-12)
    # (n·fitted + 16·prior)/(n + 16): the judge's curve, 1/2 over both, from what it states; each criterion's from the judge's.
    pooled = (2 * N * 0.5 + 16 * 0.9) / (2 * N + 16)
    worth = {"a": (N * 1.0 + 16 * pooled) / (N + 16), "b": 16 * pooled / (N + 16)}
    asked = len(judge.questions)
    again, after = grade(api, {"completions": [row["id"] for row in rows], "rubric": {"id": rubric}})
    assert again["calibrations"] == {judge_id: 1}
    assert grading["calibrations"] == {}
    assert len(judge.questions) == asked  # the cache has what was stated, not what it was worth
    for old, new in zip(rows, after, strict=True):
        for key in ("a", "b"):
            before, now = cell(old, key), cell(new, key)
            assert (before["confidence"], before["stated_confidence"], before["calibration"]) == (0.9, None, None)
            assert now["confidence"] == pytest.approx(worth[key], abs=1e-12)
            assert (now["stated_confidence"], now["confidence_source"]) == (0.9, "verbal")
            assert now["calibration"] == {"id": made["id"], "version": 1}
            assert now["score"] == before["score"]
        assert old["weighting"]["a"]["share"] == pytest.approx(0.5)
        assert new["weighting"]["a"]["share"] == pytest.approx(worth["a"] / (worth["a"] + worth["b"]))
        assert new["plain_reward"] == old["plain_reward"]
    assert numbers(after) != numbers(rows)
    # What is stored says the same as ever, aggregated anew, whatever has been fitted since.
    for source, expected in ((grading, rows), (again, after)):
        _, same = grade(api, {"grading": source["id"], "reuse_cells": True})
        assert numbers(same) == numbers(expected)
    second = api.post(path, {"method": "none"})
    assert (second["version"], second["in_use"], second["curves"]) == (2, False, {"judge": {}, "questions": {}})
    assert [c["in_use"] for c in api.pages(path)] == [False, False]
    _, stated = grade(api, {"completions": [rows[0]["id"], rows[1]["id"]], "rubric": {"id": rubric}})
    assert [cell(row, "a")["confidence"] for row in stated] == [0.9, 0.9]
    drawn = api.request("GET", f"{path}/1/diagram", params={"criterion": "a"})
    assert drawn.headers["content-type"].startswith("image/svg+xml")
    assert "64 cells stated 0.90 and were worth 1.00" in "".join(ET.fromstring(drawn.content).itertext())
    with pytest.raises(ApiError, match="there are: a, b"):
        api.request("GET", f"{path}/1/diagram", params={"criterion": "c"})


def test_a_jobs_cells_name_their_calibration(judged, bench, judge, api):
    judge_id, rubric, _, rows = judged
    label_all(api, rows)
    made = api.post(f"/v1/judges/{judge_id}/calibrations", {"method": "temperature"})
    judge.answer = lambda q: verdict(q, len(q.answer) % 2 == 0, 0.9)
    job = bench.run("grape", rubric=rubric, training={"steps": 1})
    assert job["calibrations"] == {judge_id: 1}
    (first, *_) = api.pages(f"/v1/jobs/{job['id']}/completions")
    for key in ("a", "b"):
        found = cell(first, key)
        assert (found["stated_confidence"], found["calibration"]) == (0.9, {"id": made["id"], "version": 1})
        assert found["confidence"] == pytest.approx(first["weighting"][key]["mean_confidence"])
    assert cell(first, "b")["confidence"] < cell(first, "a")["confidence"]
    api.patch(f"/v1/judges/{judge_id}", {"votes": 2})
    assert not api.get(f"/v1/judges/{judge_id}/calibrations/1")["in_use"]  # of a revision that is no longer asked
    with pytest.raises(ApiError, match="there are 0"):
        api.post(f"/v1/judges/{judge_id}/calibrations", {"method": "isotonic"})
    assert api.post(f"/v1/judges/{judge_id}/calibrations", {"revision": 1})["labels"] == 2 * N


def test_agreement_with_people_and_with_another_judge(judged, bench, judge, api):
    judge_id, _, _, rows = judged
    label_all(api, rows)
    found = api.get(f"/v1/judges/{judge_id}/agreement")
    by_key = {c["criterion"]: c for c in found["criteria"]}
    a, b = by_key["a"]["people"], by_key["b"]["people"]
    assert (a["texts"], a["kappa"]["value"], a["f1"]["value"], a["alpha"]["value"]) == (N, 1.0, 1.0, 1.0)
    # Independent and balanced: p_o = p_e = 1/2. Alpha: D_o = 1/2; D_e = 2·64·64/(128·127).
    assert b["kappa"]["value"] == pytest.approx(0.0)
    assert b["alpha"]["value"] == pytest.approx(1 - 0.5 / (2 * 64 * 64 / (128 * 127)))
    assert b["kappa"]["low"] < -0.1 < 0.1 < b["kappa"]["high"]
    assert b["weighted_kappa"] == {"value": None, "low": None, "high": None}  # met or not has no order
    # It says .9 and is right always, and half of the time: (.1)², and (.01 + .81)/2.
    assert by_key["a"]["confidence"]["brier"]["value"] == pytest.approx(0.01)
    assert by_key["b"]["confidence"]["brier"]["value"] == pytest.approx(0.41)
    assert by_key["b"]["confidence"]["ece"]["value"] == pytest.approx(0.4)
    assert len(by_key["b"]["advice"]) == 2
    assert by_key["a"]["advice"] == []
    assert by_key["a"]["among_people"]["value"] is None
    assert api.get(f"/v1/judges/{judge_id}/agreement", blind=False)["criteria"] == []
    proposed = api.get(f"/v1/rubrics/{rows[0]['rubric']['id']}/versions/1/diagnostics")
    assert {(p["action"], p["criterion"]) for p in proposed["proposals"]} == {("reword", "b")}
    diagnosed = {c["criterion"]: c for c in proposed["criteria"]}
    assert (diagnosed["a"]["common_share"], diagnosed["a"]["groups_with_spread"]) == (0.5, 1.0)
    assert (proposed["completions"], proposed["groups"]) == (N, N // 2)
    other = bench.judge(judge, confidence="none")
    judge.answer = lambda q: verdict(q, bit(int(q.answer), 0), None)
    rubric = bench.rubric(bench.judged(other, "a"), bench.judged(other, "x", text="is b"))
    grade(api, {"completions": [row["id"] for row in rows], "rubric": {"id": rubric}})
    found = api.get(f"/v1/judges/{judge_id}/agreement", **{"with": other})
    assert found["against"] == {"type": "judge", "judge": other, "revision": 1}
    # The same words under another key, by another judge, are the same question.
    kappas = {c["criterion"]: c["people"]["kappa"]["value"] for c in found["criteria"]}
    assert kappas == {"a": 1.0, "b": pytest.approx(0.0)}


def test_the_queue_says_what_to_label_and_why(bench, judge, api):
    judge.answer = lambda q: verdict(q, True, 0.2 if q.answer == "unsure" else 0.9)
    rubric = bench.rubric(bench.judged(bench.judge(judge), "a"))
    texts = [{"prompt": "p", "text": text} for text in ("sure", "unsure", "disputed", "down")]
    grading, rows = grade(api, {"rubric": {"id": rubric}, "texts": texts})
    ids = {row["text"]: row["id"] for row in rows}
    for person, said in (("anna", True), ("ben", False)):
        body = {"person": person, "labels": [{"criterion": "a", "verdict": said}]}
        api.post(f"/v1/completions/{ids['disputed']}/labels", body)
    api.put(f"/v1/critiques/{cell(rows[3], 'a')['critique']}/rating", {"rating": -1})
    place = {"grading": grading["id"], "audit_share": 0}

    def asked(**query):
        return {
            e["completion"]: [w["type"] for w in e["reasons"]]
            for e in api.pages("/v1/labelling-queue", **place, **query)
        }

    expected = {ids["disputed"]: ["disagreement"], ids["unsure"]: ["low_confidence"], ids["down"]: ["disagreement"]}
    assert asked() == asked(limit=1) == expected
    assert list(asked()) == [ids["disputed"], ids["unsure"], ids["down"]]  # 1, .8, .75
    assert ids["disputed"] not in asked(person="ben")
    assert asked(reason="low_confidence") == {ids["unsure"]: ["low_confidence"]}
    entry = api.get("/v1/labelling-queue", **place)["data"][1]
    assert (entry["confidence"], entry["reasons"][0]["message"]) == (0.2, "confidence 0.20")
    blind = api.get("/v1/labelling-queue", **place, blind=True)["data"][1]
    assert (blind["score"], blind["confidence"], blind["reasons"][0]["message"]) == (None, None, None)
    everything = api.get("/v1/labelling-queue", **{**place, "audit_share": 1})
    assert [(len(everything["data"]), everything["cells"], everything["labelled"])] == [(4, 4, 0)]
    api.post(f"/v1/completions/{ids['unsure']}/labels", {"labels": [{"criterion": "a", "verdict": True}]})
    assert ids["unsure"] not in asked()
    with pytest.raises(ApiError, match="page_token"):
        api.get("/v1/labelling-queue", page_token="WzFd")
