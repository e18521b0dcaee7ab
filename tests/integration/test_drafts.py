"""Criteria drafted by a model, over HTTP on the whole stack: checked, kept, and accepted by a person."""

import json

import pytest

from service.client import ApiError
from tests.support.gradings import SHORT
from tests.support.judge import verdict
from tests.support.stack import wait_for

PAIRS = [{"prompt": f"question {k}", "chosen": f"{k} because of x", "rejected": f"{k} it is so"} for k in range(10)]

DRAFTED = [
    {
        "key": "reason",
        "title": "Gives a reason",
        "text": "Gives a reason with because.",
        "good_when_met": True,
        "why": "w",
    },
    {"key": "generous", "text": "Says anything at all.", "good_when_met": True},
    {"key": "assertive", "text": "Only asserts.", "good_when_met": False},
    {"key": "copied", "text": "Says because.", "good_when_met": True},
    {"key": "broken", "text": ""},
]


def drafted(question):
    return json.dumps({"nonce": question.nonce, "criteria": DRAFTED})


def answer(question):
    """Drafts, or a verdict: `copied` takes its own text for an answer, `generous` takes everything."""
    if "Write at most" in question.text:
        return drafted(question)
    (key,) = question.criteria
    said = question.answer
    met = {
        "prompt.reason": " because of " in said,
        "prompt.generous": True,
        "prompt.assertive": "it is so" in said,
        "prompt.copied": "because" in said,
    }[key]
    return verdict(question, met)


def ended(api, path, expected="succeeded"):
    found = wait_for(lambda: (d := api.get(path))["status"] in ("succeeded", "failed", "cancelled") and d, 60, path)
    assert found["status"] == expected, found
    return found


def test_drafts_are_checked_and_accepted(bench, judge, api):
    judge.answer = answer
    judge_id = bench.judge(judge)
    rubric = bench.rubric({**SHORT, "key": "reason"})
    path = f"/v1/rubrics/{rubric}/drafts"
    made = api.post(path, {"judge": judge_id, "pairs": PAIRS, "most": 5})
    assert (made["status"], made["drafts"], made["progress"]["questions"]) == ("queued", None, 2)
    found = ended(api, f"{path}/{made['id']}")
    assert found["source"] == {"pairs": 10}
    assert found["progress"] == {"questions": 2, "checked": 2, "failed": 0}
    # Two questions, eight pairs and two, whose drafts say the same: the second ones are held against them.
    drafts = {d["key"]: d for d in found["drafts"]}
    assert len(drafts) == 10
    reason = drafts["reason_2"]  # the rubric has a 'reason'
    assert (reason["question"], reason["recommended"], reason["problems"]) == (0, True, [])
    checks = reason["checks"]
    assert (checks["agree"], checks["ties"], checks["disagree"], checks["unjudged"]) == (8, 0, 0, 0)
    assert [(p["kind"], p["score"], p["passed"]) for p in checks["probes"]] == [
        ("empty", 0.0, False), ("prompt_echo", 0.0, False), ("rubric_echo", 0.0, False),
    ]  # fmt: skip
    assert drafts["reason_3"]["problems"] == ["it says the same as 'reason_2'"]
    generous = drafts["generous"]
    assert (generous["checks"]["ties"], generous["checks"]["agreement"], len(generous["problems"])) == (8, 0.5, 4)
    assertive = drafts["assertive"]
    assert (assertive["recommended"], assertive["checks"]["agreement"]) == (True, 1.0)
    assert assertive["criterion"]["polarity"] == "met_is_bad"
    assert drafts["copied"]["problems"] == ["its own text, repeated, passes it"]
    assert (drafts["broken"]["criterion"], drafts["broken"]["recommended"]) == (None, False)
    assert found["summary"]["recommended"] == 2
    # 2 questions; 4 drafts on 20 answers; and, for each question, two answers and one of its own for each draft.
    assert found["spent"]["judge_calls"] == 2 + 4 * 20 + 2 * (4 * 2 + 4)
    assert [d["id"] for d in api.pages(path)] == [made["id"]]

    head = api.get(f"/v1/rubrics/{rubric}")
    accept = f"{path}/{made['id']}/accept"

    def refused(body, etag=head["etag"]):
        with pytest.raises(ApiError) as caught:
            api.post(accept, body, if_match=etag)
        return caught.value.status, [fault["pointer"] for fault in caught.value.errors]

    assert refused({"criteria": [{"key": "reason_2"}]}, '"old"') == (412, [])
    assert refused({"criteria": [{"key": "copied"}]}) == (422, ["/criteria/0/key"])
    assert refused({"criteria": [{"key": "broken"}], "override": "x"}) == (422, ["/criteria/0/key"])
    assert refused({"criteria": [{"key": "reason_2", "as": "reason"}]}) == (422, ["/criteria/0/as"])
    assert api.get(f"/v1/rubrics/{rubric}")["latest_version"] == 1
    body = {"criteria": [{"key": "reason_2", "as": "because", "weight": 3}, {"key": "copied"}], "override": "we know"}
    version = api.post(accept, body, if_match=head["etag"])
    assert version["version"] == 2
    assert "override: we know" in version["message"]
    added = {c["key"]: c for c in version["content"]["criteria"]}
    assert list(added) == ["reason", "because", "copied"]
    assert (added["because"]["weight"], added["because"]["text"]) == (3.0, "Gives a reason with because.")
    assert added["because"]["grader"]["judge"] == judge_id
    kept = api.get(f"{path}/{made['id']}")["accepted"]
    assert sorted((a["key"], a["criterion"], a["version"]) for a in kept) == [
        ("copied", "copied", 2),
        ("reason_2", "because", 2),
    ]


def test_drafts_from_examples_and_from_a_dataset(bench, judge, api):
    judge.answer = answer
    judge_id = bench.judge(judge)
    rubric = bench.rubric(SHORT)
    path = f"/v1/rubrics/{rubric}/drafts"
    examples = [
        {"prompt": f"p{k}", "text": p["chosen"] if k % 2 else p["rejected"], "good": k % 2 == 1}
        for k, p in enumerate(PAIRS[:4])
    ]
    by_examples = api.post(path, {"judge": judge_id, "examples": examples, "most": 1})
    dataset = api.post("/v1/datasets", {"name": "pairs", "kind": "preferences"})["id"]
    api.upload_rows(dataset, PAIRS)
    by_dataset = api.post(path, {"judge": judge_id, "preferences": dataset, "most_pairs": 5, "most": 1})
    (draft,) = ended(api, f"{path}/{by_examples['id']}")["drafts"]
    assert (draft["checks"]["agree"], draft["recommended"]) == (4, True)  # two good with two bad, whatever the prompt
    found = ended(api, f"{path}/{by_dataset['id']}")
    assert (found["source"]["pairs"], found["source"]["preferences"]["rows"]) == (5, 10)
    assert found["drafts"][0]["checks"]["agree"] == 5


def test_a_drafter_that_writes_nothing_fails_the_request(bench, judge, api):
    judge.answer = lambda q: "I would rather not."
    rubric = bench.rubric(SHORT)
    path = f"/v1/rubrics/{rubric}/drafts"
    made = api.post(path, {"judge": bench.judge(judge), "pairs": PAIRS[:2]})
    error = ended(api, f"{path}/{made['id']}", "failed")["error"]
    assert error["code"] == "no_drafts"
    assert "not one object with the nonce" in error["message"]
    with pytest.raises(ApiError) as caught:
        api.post(
            f"{path}/{made['id']}/accept",
            {"criteria": [{"key": "a"}]},
            if_match=api.get(f"/v1/rubrics/{rubric}")["etag"],
        )
    assert (caught.value.status, caught.value.code) == (409, "not_checked")
    assert api.post(f"{path}/{made['id']}/cancel")["status"] == "failed"
    with pytest.raises(ApiError, match="does not exist"):
        api.post(path, {"judge": "jdg_none", "pairs": PAIRS[:2]})
