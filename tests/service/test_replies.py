"""`…/cells/{criterion}/replies`: what a judge replied, over HTTP and on the command line, for those who may read it."""

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


def test_on_the_command_line(api, judge, stack):
    judge.answer = lambda question: "not a verdict [1]"
    _, _, (first, _) = graded(api, judge)
    env = {
        **os.environ,
        "GRAPE_DATA_DIR": str(stack.folder),
        "COLUMNS": "200",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    command = [sys.executable, "-m", "service.cli.main", "completion", "replies", first["id"], "nice"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("vote 1: status parse_error, reason no JSON object carries the nonce")
    assert lines[1:3] == ["  attempt 1: ok (HTTP 200)", "    not a verdict [1]"]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, env=env, timeout=60)
    assert json.loads(done.stdout) == api.replies(first["id"], "nice")
