"""What people say of completions, over HTTP on the whole stack: labels, blind views, critiques, corrections."""

import pytest

from service.client import ApiError
from tests.support.gradings import SHORT, cell, grade
from tests.support.judge import FakeJudge, completion, verdict
from tests.support.stack import wait_for

LEVELS = [{"label": "poor", "value": 0, "anchor": "bad"}, {"label": "fine", "value": 0.5, "anchor": "so so"},
          {"label": "good", "value": 1, "anchor": "good"}]  # fmt: skip


def refused(call, *arguments):
    with pytest.raises(ApiError) as caught:
        call(*arguments)
    return caught.value.status, [fault["pointer"] for fault in caught.value.errors]


@pytest.fixture
def graded(bench, judge, api):
    """Three texts, graded by a judge on a criterion that is bad to meet and one with levels, and by a verifier."""

    def answer(question):
        value = "fine" if "tone" in question.criteria else "lies" in question.answer
        return verdict(question, value, 0.9, f'it says "{question.answer[:7]}" there')

    judge.answer = answer
    judged = bench.judge(judge)
    tone = bench.judged(judged, "tone", scale={"type": "ordinal", "levels": LEVELS})
    rubric = bench.rubric(bench.judged(judged, "invents", polarity="met_is_bad", weight=2), tone, SHORT)
    texts = [{"prompt": {"prompt": "p", "reference": "secret"}, "text": text} for text in ("it lies", "it is so", "x")]
    return grade(api, {"rubric": {"id": rubric}, "texts": texts})[1]


def test_labels_and_their_history(graded, api):
    row = graded[0]
    path = f"/v1/completions/{row['id']}"
    blind = api.get(path, view="blind")
    assert (blind["text"], blind["prompt"]["messages"][-1]["content"]) == ("it lies", "p")
    assert [c["criterion"] for c in blind["criteria"]] == ["invents", "tone"]
    assert not {"cells", "reward", "plain_reward", "weighting", "coverage", "advantage"} & blind.keys()
    assert "reference" not in blind["prompt"]
    given = [
        {"criterion": "invents", "verdict": True, "comment": "it does", "evidence": [{"start": 3, "end": 7}]},
        {"criterion": "tone", "score": 0.5},
        {"criterion": "short", "verdict": None},
    ]
    made = api.post(f"{path}/labels", {"person": "anna", "blind": True, "labels": given})["data"]
    assert [(label["criterion"], label["score"], label["blind"]) for label in made] == [
        ("invents", 0.0, True), ("tone", 0.5, True), ("short", None, True),
    ]  # met, and bad to meet; the third cannot be assessed # fmt: skip
    assert made[0]["evidence"] == [{"start": 3, "end": 7, "text": "lies"}]
    api.post(f"{path}/labels", {"person": "ben", "labels": [{"criterion": "invents", "verdict": False}]})
    api.post(f"{path}/labels", {"person": "anna", "labels": [{"criterion": "invents", "score": 1}]})
    current = list(api.pages(f"{path}/labels"))
    assert {(c["person"], c["criterion"], c["score"]) for c in current} == {
        ("anna", "tone", 0.5), ("anna", "short", None), ("ben", "invents", 1.0), ("anna", "invents", 1.0),
    }  # fmt: skip
    assert len(list(api.pages(f"{path}/labels", history=True))) == 5
    api.delete(f"/v1/labels/{current[-1]['id']}")
    assert [c["person"] for c in api.pages("/v1/labels", completion=row["id"], criterion="invents")] == ["ben"]
    anonymous = api.post(f"{path}/labels", {"labels": [{"criterion": "tone", "verdict": "good"}]})["data"][0]
    assert (anonymous["score"], anonymous["person"][:4]) == (1.0, "key_")


def test_a_label_counts_where_the_stored_text_is_graded_again(graded, api):
    row = graded[1]
    _, (again,) = grade(api, {"completions": [row["id"]], "rubric": row["rubric"]})
    assert again["source"] == row["id"]
    api.post(f"/v1/completions/{again['id']}/labels", {"person": "a", "labels": [{"criterion": "tone", "score": 1}]})
    (label,) = api.pages(f"/v1/completions/{row['id']}/labels")
    assert (label["completion"], label["subject"]) == (again["id"], row["id"])


def test_labels_that_are_refused(graded, api):
    path = f"/v1/completions/{graded[0]['id']}/labels"
    for label, place in (
        ({"criterion": "tones", "score": 1}, "/labels/0/criterion"),
        ({"criterion": "invents", "score": 0.5}, "/labels/0/score"),
        ({"criterion": "invents", "verdict": "good"}, "/labels/0/verdict"),
        ({"criterion": "tone", "verdict": True}, "/labels/0/verdict"),
        ({"criterion": "tone", "score": 0.7}, "/labels/0/score"),
        ({"criterion": "tone"}, "/labels/0"),
        ({"criterion": "tone", "score": 1, "verdict": "good"}, "/labels/0"),
        ({"criterion": "tone", "score": 1, "evidence": [{"start": 2, "end": 99}]}, "/labels/0/evidence/0/end"),
    ):
        assert refused(api.post, path, {"labels": [label]}) == (422, [place])
    twice = [{"criterion": "tone", "score": 1}, {"criterion": "tone", "score": 0}]
    assert refused(api.post, path, {"labels": twice}) == (422, ["/labels/1/criterion"])
    assert list(api.pages(path)) == []
    assert refused(api.post, "/v1/completions/cmp_none/labels", {"labels": twice})[0] == 404


def test_critiques_are_searched_rated_hidden_and_corrected(graded, api):
    row = graded[0]
    found = list(api.pages("/v1/critiques", completion=row["id"], source="judge", q='"it lies"'))
    assert {c["criterion"] for c in found} == {"invents", "tone"}
    said = next(c for c in found if c["criterion"] == "invents")
    assert said["id"] == cell(row, "invents")["critique"]
    assert said["evidence"] == [{"start": 0, "end": 7, "text": "it lies"}]  # what the judge has quoted
    path = f"/v1/critiques/{said['id']}"
    api.put(f"{path}/rating", {"rating": 1, "person": "anna"})
    api.put(f"{path}/rating", {"rating": -1, "person": "ben", "comment": "no"})
    assert api.put(f"{path}/rating", {"rating": -1, "person": "anna"})["ratings"] == {"up": 0, "down": 2}
    body = {"verdict": False, "text": "It quotes a source.", "evidence": [{"start": 0, "end": 2}], "person": "anna"}
    corrected = api.post(f"{path}/corrections", body)
    assert (corrected["label"]["score"], corrected["label"]["corrects"]) == (1.0, said["id"])
    mine = corrected["critique"]
    assert (mine["source"], mine["corrects"], mine["score"]) == ({"type": "person", "person": "anna"}, said["id"], 1.0)
    assert mine["evidence"] == [{"start": 0, "end": 2, "text": "it"}]
    assert [label["person"] for label in api.pages(f"/v1/completions/{row['id']}/labels")] == ["anna"]
    assert api.patch(path, {"hidden": True, "reason": "wrong"})["hidden_reason"] == "wrong"
    listed = [c["id"] for c in api.pages("/v1/critiques", completion=row["id"], criterion="invents", limit=1)]
    assert listed == [mine["id"]]
    assert [c["id"] for c in api.pages("/v1/critiques", completion=row["id"], hidden="only")] == [said["id"]]
    assert not api.patch(path, {"hidden": False})["hidden"]
    own = {"completion": row["id"], "criterion": "tone", "text": "Too blunt.", "person": "ben"}
    plain = api.post("/v1/critiques", own)
    assert (plain["score"], api.get(f"/v1/critiques/{plain['id']}")) == (None, plain)
    assert api.post("/v1/critiques", {**own, "verdict": "poor"})["score"] == 0.0
    assert [label["person"] for label in api.pages(f"/v1/completions/{row['id']}/labels")] == ["anna", "ben"]
    assert refused(api.post, "/v1/critiques", {**own, "criterion": "x"}) == (422, ["/criterion"])
    assert refused(api.post, "/v1/critiques", {**own, "completion": "cmp_x"}) == (422, ["/completion"])
    assert refused(api.post, f"{path}/corrections", {"text": "why"}) == (422, [""])
    assert refused(api.get, "/v1/critiques/crt_none")[0] == 404


def test_revisers_are_told_what_people_say(bench, graded, api):
    """A person's words beside the judge's, a correction in place of what it corrects, and nothing that is hidden."""
    row = graded[0]
    said = {c["criterion"]: c["id"] for c in api.pages("/v1/critiques", completion=row["id"], source="judge")}
    wrong = api.post(f"/v1/critiques/{said['invents']}/corrections", {"verdict": False, "text": "It is a quotation."})
    own = {"completion": row["id"], "criterion": "tone", "person": "anna"}
    kept = api.post("/v1/critiques", {**own, "text": "Too blunt for a letter."})
    gone = api.post("/v1/critiques", {**own, "text": "Never mind this."})
    api.patch(f"/v1/critiques/{gone['id']}", {"hidden": True})
    with FakeJudge(lambda question: completion("it does")) as reviser:
        body = {"completions": [row["id"]], "reviser": bench.judge(reviser)}
        path = f"/v1/revisions/{api.post('/v1/revisions', body)['id']}"
        wait_for(lambda: api.get(path)["status"] == "succeeded", 60, path)
        (question,) = reviser.questions
    lines = [line for line in question.text.splitlines() if line.startswith(("- invents", "- tone", "Too", "Never"))]
    assert lines == [
        "- invents (score 1.00 of 1): It is a quotation.",  # not met is good; the judge's own words were wrong
        '- tone (score 0.50 of 1): it says "it lies" there',
        "Too blunt for a letter.",
    ]
    (result,) = api.pages(f"{path}/results")
    assert set(result["critiques"]) == {said["tone"], wrong["critique"]["id"], kept["id"]}
