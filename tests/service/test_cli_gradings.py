"""`grape grading` and `grape rubric try` as a person and a script use them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def grape(stack, tmp_path):
    """Run the command in an empty folder, against the stack."""

    here = str(Path(__file__).parents[2])  # this checkout, wherever the package is installed from

    def run(*arguments, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "service.cli.main", *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            timeout=120,
            env={**os.environ, "GRAPE_DATA_DIR": str(stack.folder), "COLUMNS": "200", "PYTHONPATH": here},
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture
def rubric(api):
    criteria = [{"key": "short", "weight": 1, "grader": {"type": "regex", "pattern": "^.{0,5}$"}}]
    rubric = api.post("/v1/rubrics", {"name": "r", "content": {"criteria": criteria}})["id"]
    api.publish_version(rubric, {"criteria": [{**criteria[0], "weight": 3}]})
    return rubric


def test_from_a_file_of_texts_to_results_and_another_version(grape, rubric, tmp_path):
    texts = [{"prompt": "p", "text": "a"}, {"prompt": "p", "text": "long text"}]
    (tmp_path / "texts.ndjson").write_text("".join(json.dumps(item) + "\n" for item in texts))
    made = json.loads(
        grape(
            "grading", "create", "--rubric", rubric, "--version", 1, "--texts", "texts.ndjson", "--watch", "--json"
        ).stdout
    )
    assert (made["status"], made["progress"]) == ("succeeded", {"cells": 2, "done": 2, "failed": 0})
    rows = json.loads(grape("grading", "results", made["id"], "--json").stdout)
    assert [(row["text"], row["plain_reward"]) for row in rows] == [("a", 1.0), ("long text", 0.0)]
    table = grape("grading", "results", made["id"]).stdout
    assert "short" in table
    assert "long text" in table
    again = json.loads(
        grape(
            "grading", "create", "--grading", made["id"], "--rubric", rubric, "--reuse-cells", "--watch", "--json"
        ).stdout
    )
    assert (again["rubric"]["version"], again["summary"]["criteria"]["short"]["ok"]) == (2, 2)
    assert made["id"] in grape("grading", "list").stdout
    assert "succeeded" in grape("grading", "get", made["id"]).stdout
    assert "succeeded" in grape("grading", "watch", made["id"]).stdout
    assert json.loads(grape("grading", "cancel", made["id"], "--json").stdout)["status"] == "succeeded"
    assert "nothing yet" in grape("grading", "results", made["id"], "--status", "timeout").stdout


def test_a_request_as_a_file(grape, rubric, tmp_path):
    (tmp_path / "request.yaml").write_text(f"rubric: {{id: {rubric}}}\ntexts:\n- {{prompt: p, text: abc}}\n")
    assert json.loads(grape("grading", "create", "request.yaml", "--json").stdout)["source"] == {"texts": 1}


def test_a_rubric_for_each_category(grape, rubric, tmp_path):
    texts = [{"prompt": {"prompt": "p", "category": "x=y"}, "text": "a"}, {"prompt": "p", "text": "b"}]
    (tmp_path / "texts.ndjson").write_text("".join(json.dumps(item) + "\n" for item in texts))
    both = ("--rubric", f"x=y={rubric}@1", "--rubric", f"*={rubric}")
    made = json.loads(grape("grading", "create", *both, "--texts", "texts.ndjson", "--watch", "--json").stdout)
    assert {category: found["version"] for category, found in made["rubric"].items()} == {"x=y": 1, "*": 2}
    for wrong in (("--rubric", rubric, "--rubric", rubric), (*both, "--version", "1"), ("--rubric", f"={rubric}")):
        assert "category=id@version" in grape("grading", "create", *wrong, "--texts", "texts.ndjson", code=2).stderr
    assert made["id"] in grape("grading", "list").stdout


def test_try(grape, rubric, tmp_path):
    table = grape("rubric", "try", rubric, "a", "longer text", "--prompt", "p").stdout
    assert "0.7071" in table  # ±½·√2: two rewards 1 and 0 over their deviation
    assert "longer text" in table
    (tmp_path / "try.json").write_text(json.dumps({"prompt": {"prompt": "p"}, "completions": ["a"]}))
    (row,) = json.loads(grape("rubric", "try", rubric, "--file", "try.json", "--version", "1", "--json").stdout)
    assert row["rubric"]["version"] == 1
    (tmp_path / "draft.yaml").write_text('criteria:\n- {key: a, weight: 1, grader: {type: regex, pattern: "^a"}}\n')
    rows = json.loads(grape("rubric", "try", "draft.yaml", "a", "b", "--prompt", "p", "--json").stdout)
    assert [(row["plain_reward"], row["rubric"]["id"]) for row in rows] == [(1.0, None), (0.0, None)]
    grape("rubric", "try", "draft.yaml", "a", "--prompt", "p", "--version", "1", code=2)
    grape("rubric", "try", "missing.yaml", "a", "--prompt", "p", code=2)


def test_exit_codes(grape, rubric, tmp_path):
    grape("grading", "create", code=2)
    grape("rubric", "try", rubric, code=2)
    grape("grading", "create", "--rubric", rubric, "--texts", "none.ndjson", code=2)
    (tmp_path / "bad.ndjson").write_text("{oops\n")
    assert "NDJSON" in grape("grading", "create", "--rubric", rubric, "--texts", "bad.ndjson", code=2).stderr
    refused = grape("grading", "create", "--rubric", "rub_none", "--job", "job_none", code=1)
    assert "/rubric/id" in refused.stderr
    grape("grading", "get", "grd_none", code=1)
