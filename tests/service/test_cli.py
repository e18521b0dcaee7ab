"""The `grape` command as a person and a script use it: files in, tables or JSON out, exit codes."""

import json
import os
import subprocess
import sys

import pytest

from examples.tiny_model import make_tiny_model
from service.cli.common import table_lines


@pytest.fixture
def grape(stack, tmp_path):
    """Run the command in an empty folder, against the stack."""

    def run(*arguments, stdin=None, env=None, code=0):
        done = subprocess.run(
            [sys.executable, "-m", "service.cli.main", *map(str, arguments)],
            capture_output=True,
            text=True,
            input=stdin,
            cwd=tmp_path,
            timeout=120,
            env={**os.environ, "GRAPE_DATA_DIR": str(stack.folder), "COLUMNS": "200", **(env or {})},
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        return done

    return run


def test_tables_have_a_line_per_row_and_whole_ids():
    job = {
        "id": "job_" + "0" * 26, "name": "a name\nof two lines " * 5, "created_at": "2026-11-25T09:03:05.613777Z", "x": {"y": 0.123456},
    }  # fmt: skip
    columns = ("id", "name", "x.y", "created_at", "absent")
    header, line = table_lines([job], columns, None)
    assert header.split() == ["id", "name", "y", "created_at", "absent"]
    assert line.split("  ") == [job["id"], ("a name of two lines " * 5).strip(), "0.1235", "2026-11-25 09:03:05", "-"]
    narrow = table_lines([job, job], columns, 80)
    assert len(narrow) == 3
    assert all(len(row) <= 80 for row in narrow)
    assert all(row.startswith(job["id"] + "  a name") and "…" in row for row in narrow[1:])
    assert table_lines([job], columns, 20)[1].startswith(job["id"])  # too narrow for anything: lines run on
    assert table_lines([{"name": "\x1b[31mred"}], ("name",), None)[1] == "\ufffd[31mred"


def as_json(done):
    return json.loads(done.stdout)


RUBRIC = """
guidelines: be short
criteria:
  - {key: short, weight: 1, grader: {type: regex, pattern: "^.{0,9}$"}}
"""


def test_from_files_to_a_downloaded_checkpoint(grape, stack, tmp_path):
    folder = stack.folder / "cli-model"
    make_tiny_model(folder, list("abcdef"), seed=0, hidden=16)
    model = as_json(grape("model", "register", "tiny", "--path", folder, "--json"))
    (tmp_path / "rows.ndjson").write_text('{"prompt": "a b"}\n{"prompt": "c d"}\n')
    dataset = as_json(grape("dataset", "create", "p", "--kind", "prompts", "--file", "rows.ndjson", "--json"))
    assert dataset["rows"] == 2
    (tmp_path / "rubric.yaml").write_text(RUBRIC)
    assert as_json(grape("rubric", "validate", "rubric.yaml", "--json"))["valid"]
    rubric = as_json(grape("rubric", "create", "rubric.yaml", "--name", "shortness", "--json"))
    assert rubric["name"] == "shortness"
    published = as_json(
        grape("rubric", "publish", rubric["id"], "-", "-m", "shorter", "--json", stdin=RUBRIC.replace("9", "5"))
    )
    assert published["version"] == 2
    assert as_json(grape("rubric", "alias", rubric["id"], "production", 2, "--json"))["aliases"] == {"production": 2}
    job = {
        "algorithm": {"type": "grape"}, "policy": {"model": model["id"]}, "data": {"prompts": dataset["id"]},
        "rubric": {"id": rubric["id"], "version": "production"}, "training": {"steps": 2},
        "rollout": {"group_size": 2, "prompts_per_step": 2, "max_completion_tokens": 4},
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = as_json(grape("job", "submit", "job.json", "--watch", "--json"))
    assert done["status"] == "succeeded"
    assert "loss" in grape("job", "metrics", done["id"]).stdout
    assert "job.succeeded" in grape("job", "events", done["id"], "--follow").stdout
    assert "checkpoint at step 2" in grape("job", "logs", done["id"]).stdout
    completion = as_json(grape("completion", "list", done["id"], "--json"))[0]
    assert "short" in grape("completion", "show", completion["id"]).stdout
    checkpoint = as_json(grape("checkpoint", "list", done["id"], "--json"))[0]
    grape("checkpoint", "download", checkpoint["id"], "-o", "out")
    assert (tmp_path / "out" / "model.safetensors").exists()
    assert as_json(grape("checkpoint", "promote", checkpoint["id"], "mine", "--json"))["status"] == "ready"
    for group in ("rubric", "judge", "model", "dataset", "job", "key"):
        assert grape(group, "list").stdout


def test_exit_codes_and_sentences(grape, tmp_path):
    refused = grape("job", "show", "job_none", code=1)
    assert "there is no job 'job_none'" in refused.stderr
    (tmp_path / "bad.yaml").write_text("criteria: [{key: a, wieght: 1, grader: {type: regex, pattern: x}}]")
    faults = grape("rubric", "validate", "bad.yaml", code=1).stderr
    assert "/content/criteria/0/wieght" in faults
    assert "did you mean 'weight'" in faults
    (tmp_path / "broken.yaml").write_text("{")
    assert "not valid JSON or YAML" in grape("rubric", "create", "broken.yaml", code=2).stderr
    assert "cannot be read" in grape("job", "submit", "nowhere.yaml", code=2).stderr
    grape("model", "register", "m", code=2)
    grape("no-such-command", code=2)
    away = grape("job", "list", env={"GRAPE_DATA_DIR": "/nonexistent"}, code=3)
    assert "grape up" in away.stderr
    closed = {"GRAPE_DATA_DIR": "", "GRAPE_BASE_URL": "http://127.0.0.1:9", "GRAPE_API_KEY": "gk_x"}
    assert "does not answer" in grape("job", "list", env=closed, code=3).stderr


def test_a_failed_job_has_an_exit_code_of_its_own(grape, stack, tmp_path, api):
    folder = stack.folder / "cli-model-2"
    make_tiny_model(folder, list("abcdef"), seed=0, hidden=16)
    model = api.register_model("tiny", {"path": str(folder)})["id"]
    dataset = api.post("/v1/datasets", {"name": "p", "kind": "prompts"})["id"]
    api.upload_rows(dataset, [{"prompt": "a " * 100}])
    rubric = api.post("/v1/rubrics", {"name": "r", "content": {"criteria": [
        {"key": "a", "weight": 1, "grader": {"type": "regex", "pattern": "x"}}]}})["id"]  # fmt: skip
    job = {
        "algorithm": {"type": "evaluate"},
        "policy": {"model": model},
        "data": {"prompts": dataset},
        "rubric": {"id": rubric},
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = grape("job", "submit", "job.json", "--watch", code=4)
    assert "data_invalid" in done.stdout


def test_keys_and_judges(grape):
    made = as_json(grape("key", "create", "reader", "--scope", "jobs:read", "--scope", "data:read", "--json"))
    assert made["scopes"] == ["data:read", "jobs:read"]
    grape("key", "revoke", made["id"])
    judge = as_json(
        grape("judge", "create", "j", "--url", "http://127.0.0.1:9/v1", "--model", "m", "--api-key-env", "JUDGE_KEY", "--json",
              env={"JUDGE_KEY": "sk-secret"})
    )  # fmt: skip
    assert judge["has_api_key"]
    updated = as_json(grape("judge", "update", judge["id"], "-", "--json", stdin="votes: 3"))
    assert updated["revision"] == 2
    assert len(as_json(grape("judge", "revisions", judge["id"], "--json"))) == 2


def test_what_decides_a_judges_verdicts_from_options_and_files(grape, tmp_path):
    (tmp_path / "examples.yaml").write_text("- {prompt: q, answer: a, verdict: true, confidence: 0.9}\n")
    (tmp_path / "judge.yaml").write_text("sampling: {temperature: 0.5}\nmax_attempts: 2\nconfidence: none\n")
    judge = as_json(
        grape("judge", "create", "j", "--url", "http://127.0.0.1:9/v1", "--model", "m", "--votes", 2, "--confidence", "votes",
              "--batch", 4, "--structured-output", "off", "--system", "be strict", "--prompt-version", 1,
              "--examples", "examples.yaml", "--file", "judge.yaml", "--json")
    )  # fmt: skip
    assert judge["prompt"] == {"system": "be strict", "version": 1}
    assert (judge["votes"], judge["confidence"], judge["batch"], judge["structured_output"]) == (2, "votes", 4, "off")
    assert (judge["sampling"]["temperature"], judge["max_attempts"]) == (0.5, 2)
    assert judge["examples"][0]["verdict"] is True
    refused = grape(
        "judge", "create", "j", "--url", "http://127.0.0.1:9/v1", "--model", "m", "--confidence", "logprob", "--batch", 2, code=1,
    )  # fmt: skip
    assert "leave 'batch' at 1" in refused.stderr
