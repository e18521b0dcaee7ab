"""What verdicts are worth, over HTTP and on the command line: raw replies, self-agreement, comparisons; for those who may see them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.client import ApiError, GrapeClient
from tests.support.judge import verdict

TEXTS = [{"prompt": "p", "text": text} for text in ("a text", "another")]


def graded(api, judge, **options):
    """A grading by a judge with two votes, and by a verifier; its id and its rows."""
    body = {"name": "j", "endpoint": {"base_url": judge.base_url, "model": "m"}, "votes": 2, **options}
    grader = {"type": "judge", "judge": api.post("/v1/judges", body)["id"]}
    criteria = [
        {"key": "nice", "weight": 1, "text": "is nice", "grader": grader},
        {"key": "short", "weight": 1, "grader": {"type": "regex", "pattern": "^.{0,9}$"}},
    ]
    rubric = api.post("/v1/rubrics", {"name": "r", "content": {"criteria": criteria}})["id"]
    return rubric, *grade(api, {"rubric": {"id": rubric}, "texts": TEXTS})


def grade(api, body):
    made = api.post("/v1/gradings", body)["id"]
    assert api.wait_grading(made, timeout_s=60, every_s=0.1)["status"] == "succeeded"
    return made, api.get(f"/v1/gradings/{made}/completions")["data"]


def status_of(call):
    with pytest.raises(ApiError) as caught:
        call()
    return caught.value.status


def test_from_a_verdict_to_the_words_that_it_was_read_from(api, judge):
    judge.answer = lambda question: (
        "sorry, no" if question.answer == "another" else verdict(question, reasoning="it is")
    )
    rubric, grading, (first, second) = graded(api, judge)
    found = api.replies(first["id"], "nice")
    assert (found["completion"], found["criterion"], found["cached"], found["note"]) == (
        first["id"],
        "nice",
        False,
        None,
    )
    assert [(vote["vote"], vote["step"], vote["reading"]["score"]) for vote in found["data"]] == [
        (1, None, 1.0),
        (2, None, 1.0),
    ]
    for vote in found["data"]:
        (attempt,) = vote["attempts"]
        assert json.loads(attempt["text"])["verdicts"][0]["reasoning"] == "it is"
        assert (attempt["status"], attempt["http_status"], attempt["cut"]) == ("ok", 200, False)
    failed = api.replies(second["id"], "nice", grading=grading)
    assert {vote["attempts"][0]["text"] for vote in failed["data"]} == {"sorry, no"}
    assert {vote["reading"]["status"] for vote in failed["data"]} == {"parse_error"}

    # Stored cells that are aggregated anew show what they came of; nothing is asked, and nothing is copied.
    asked = len(judge.questions)
    _, again = grade(api, {"rubric": {"id": rubric}, "grading": grading, "reuse_cells": True})
    reused = api.replies(again[0]["id"], "nice")
    assert reused == {**found, "completion": again[0]["id"]}
    assert len(judge.questions) == asked

    # A cell of the cache names the replies that it once came of.
    _, known = grade(api, {"rubric": {"id": rubric}, "texts": TEXTS[:1]})
    assert api.replies(known[0]["id"], "nice") == {**found, "completion": known[0]["id"], "cached": True}


def test_who_may_read_them_and_what_there_is_not(api, judge):
    _, grading, (first, _) = graded(api, judge)
    below = f"completions/{first['id']}/cells"
    for path in (f"/v1/{below}/none/replies", f"/v1/{below}/short/replies", "/v1/completions/cmp_0/cells/nice/replies",
                 f"/v1/gradings/grd_0/{below}/nice/replies"):  # fmt: skip
        assert status_of(lambda path=path: api.get(path)) == 404
    for scope, right, wrong in (
        ("grade", f"/v1/gradings/{grading}/{below}/nice/replies", f"/v1/{below}/nice/replies"),
        ("jobs:read", f"/v1/{below}/nice/replies", f"/v1/gradings/{grading}/{below}/nice/replies"),
    ):
        key = api.post("/v1/api-keys", {"name": "k", "scopes": [scope]})["key"]
        with GrapeClient(api.base_url, key) as reader:
            assert len(reader.get(right)["data"]) == 2
            assert status_of(lambda reader=reader, wrong=wrong: reader.get(wrong)) == 403
    project = api.post("/v1/projects", {"name": "other"})["id"]
    key = api.post("/v1/api-keys", {"name": "k", "scopes": ["admin"], "project": project})["key"]
    with GrapeClient(api.base_url, key) as stranger:
        assert status_of(lambda: stranger.replies(first["id"], "nice")) == 404
        assert status_of(lambda: stranger.replies(first["id"], "nice", grading=grading)) == 404


def command(stack, *arguments):
    """What a command prints."""
    here = str(Path(__file__).parents[2])
    env = {**os.environ, "GRAPE_DATA_DIR": str(stack.folder), "COLUMNS": "200", "PYTHONPATH": here}
    whole = [sys.executable, "-m", "service.cli.main", *arguments]
    done = subprocess.run(whole, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_on_the_command_line(api, judge, stack):
    judge.answer = lambda question: "not a verdict [1]"
    _, _, (first, _) = graded(api, judge)
    lines = command(stack, "completion", "replies", first["id"], "nice").splitlines()
    assert lines[0].startswith("vote 1: status parse_error, reason no JSON object carries the nonce")
    assert lines[1:3] == ["  attempt 1: ok (HTTP 200)", "    not a verdict [1]"]
    shown = command(stack, "completion", "replies", first["id"], "nice", "--json")
    assert json.loads(shown) == api.replies(first["id"], "nice")


# --- self-agreement ---


def unsteady(question):
    """On "a text" every other vote is another one; on "another" all agree."""
    turn = unsteady.turns[question.answer] = unsteady.turns.get(question.answer, -1) + 1
    return verdict(question, value=question.answer == "a text" and turn % 2 == 0)


def test_a_judge_that_is_asked_again_about_the_same_cells(api, judge, stack):
    """A first grading by single votes; then five votes each on what is stored, whatever is known already."""
    unsteady.turns = {}
    judge.answer = unsteady
    rubric, first, rows = graded(api, judge, votes=1)
    judge_id = next(cell["judge"] for cell in rows[0]["cells"] if cell["criterion"] == "nice")
    path = f"/v1/judges/{judge_id}/self-agreement"
    nothing = api.get(path)
    assert (nothing["overall"]["cells"], nothing["criteria"]) == (0, {})
    assert "votes: 5, fresh: true" in nothing["note"]
    unsteady.turns = {}
    made, again = grade(api, {"rubric": {"id": rubric}, "grading": first, "votes": 5, "fresh": True})
    shown = api.get(f"/v1/gradings/{made}")
    assert (shown["votes"], shown["fresh"]) == (5, True)
    (cell,) = (cell for cell in again[0]["cells"] if cell["criterion"] == "nice")
    assert (cell["votes"], cell["cached"], cell["score"]) == (5, False, pytest.approx(0.6))
    found = api.get(path, grading=made)
    assert (found["judge"], found["revision"], found["more"], found["gone"], found["note"]) == (
        judge_id,
        1,
        False,
        0,
        None,
    )
    nice = found["criteria"]["nice"]
    # "a text": 3 of 5 votes, so 3 + 1 of 10 pairs agree; "another": all ten.
    assert (nice["cells"], nice["votes"], nice["unread"], nice["failed_share"]) == (2, 10, 0, 0.0)
    assert nice["agreement"] == pytest.approx(0.7)
    assert (nice["unanimous"], nice["flipping"], nice["level"]) == (0.5, 0.5, "nominal")
    # D_o = (2·6/4)/10, D_e = 2·3·7/(10·9): alpha = 1 − (.3)/(.46667)
    assert nice["alpha"] == pytest.approx(1 - 0.3 / (42 / 90))
    assert [advice["code"] for advice in nice["advice"]] == ["unsteady", "unreliable"]
    assert found["overall"]["agreement"] == pytest.approx(0.7)
    assert api.get(path, grading=made, cells=1)["more"] is True
    assert api.get(path, criterion="none")["overall"]["cells"] == 0
    assert status_of(lambda: api.get("/v1/judges/jdg_0/self-agreement")) == 404
    shown = command(stack, "judge", "self-agreement", judge_id).splitlines()
    assert shown[-2] == "nice: two votes agree on 70% of the cells; give it 'votes' of 3 or more"
    assert any(line.split()[:4] == ["nice", "2", "10", "0.7"] for line in shown)
    assert json.loads(command(stack, "judge", "self-agreement", judge_id, "--grading", made, "--json")) == found
    api.patch(f"/v1/judges/{judge_id}", {"prompt": {"system": "be strict"}})
    assert api.get(path)["overall"]["cells"] == 0  # another revision is another judge
    assert api.get(path, revision=1)["overall"]["cells"] == 2


def test_what_prompts_bring_along_is_asked_as_often(api, judge):
    body = {"name": "j", "endpoint": {"base_url": judge.base_url, "model": "m"}}
    grader = {"type": "judge", "judge": api.post("/v1/judges", body)["id"]}
    own = [{"key": "kind", "weight": 1, "text": "is kind", "grader": grader}]
    plain = {"criteria": [{"key": "x", "weight": 1, "grader": {"type": "regex", "pattern": "x"}}]}
    rubric = api.post("/v1/rubrics", {"name": "r", "content": plain})["id"]
    options = {"aggregation": {"weighting": "inverse_variance"}, "votes": 3}  # which needs votes
    texts = [{"prompt": {"prompt": "p", "criteria": own}, "text": text} for text in ("a", "b")]
    _, rows = grade(api, {"rubric": {"id": rubric}, "texts": texts, **options})
    assert {cell["criterion"]: cell["votes"] for cell in rows[0]["cells"]} == {"prompt.kind": 3, "x": 1}
    found = api.get(f"/v1/judges/{grader['judge']}/self-agreement")
    assert list(found["criteria"]) == ["prompt"]
    assert (found["criteria"]["prompt"]["votes"], found["criteria"]["prompt"]["alpha"]) == (6, None)
    for name, value in (("votes", 2), ("fresh", True)):
        body = {"rubric": {"id": rubric}, "completions": [rows[0]["id"]], "reuse_cells": True, name: value}
        with pytest.raises(ApiError) as caught:
            api.post("/v1/gradings", body)
        assert [error["pointer"] for error in caught.value.errors] == [f"/{name}"]


# --- comparisons ---


def test_two_gradings_by_different_revisions_of_a_judge(api, judge, stack):
    """The same texts, the same rubric; the judge has become stricter in between, and the comparison says so."""
    rubric, first, rows = graded(api, judge)
    judge_id = next(cell["judge"] for cell in rows[0]["cells"] if cell["criterion"] == "nice")
    api.patch(f"/v1/judges/{judge_id}", {"prompt": {"system": "be strict"}})
    judge.answer = lambda question: verdict(question, value=question.answer == "a text")
    second, _ = grade(api, {"rubric": {"id": rubric}, "grading": first})
    found = api.post("/v1/comparisons", {"left": first, "right": second})
    assert (found["left"], found["right"], found["prompts"]) == (first, second, 1)
    assert found["plain_reward"]["difference"] == pytest.approx((1.0 - 0.5) / 2 / 1)  # one of two texts lost a half
    assert found["criteria"]["short"]["difference"] == 0.0
    assert [warning["code"] for warning in found["warnings"]] == ["judges_differ", "few_prompts"]
    assert found["warnings"][0]["criterion"] == "nice"
    shown = command(stack, "compare", first, second)
    assert "warning: 'nice' was not scored by one and the same judge" in shown
    assert "plain reward" in shown
    same = api.post("/v1/comparisons", {"left": first, "right": first})
    assert [warning["code"] for warning in same["warnings"]] == ["few_prompts"]
    for body, pointer in (({"left": "job_0", "right": first}, "/left"), ({"left": first, "right": "mdl_0"}, "/right")):
        with pytest.raises(ApiError) as caught:
            api.post("/v1/comparisons", body)
        assert [error["pointer"] for error in caught.value.errors] == [pointer]
    assert "compare_to" in caught.value.message
