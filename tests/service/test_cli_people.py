"""`grape label`, `grape critique`, `grape judge calibrate` and `grape rubric draft` as a person and a script use them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.gradings import cell, grade
from tests.support.judge import verdict


@pytest.fixture
def grape(stack, tmp_path):
    """Run the command in an empty folder, against the stack."""
    here = str(Path(__file__).parents[2])

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


def answer(question):
    if "Write at most" in question.text:
        drafted = [{"key": "even", "text": "Is an even number.", "good_when_met": True}]
        return json.dumps({"nonce": question.nonce, "criteria": drafted})
    return verdict(question, question.answer.isdigit() and int(question.answer) % 2 == 0, 0.9)


@pytest.fixture
def judged(judge, api):
    judge.answer = answer
    body = {"name": "j", "endpoint": {"base_url": judge.base_url, "model": "m"}}
    judge_id = api.post("/v1/judges", body)["id"]
    criterion = {"key": "a", "weight": 1, "text": "is even", "grader": {"type": "judge", "judge": judge_id}}
    rubric = api.post("/v1/rubrics", {"name": "r", "content": {"criteria": [criterion]}})["id"]
    texts = [{"prompt": "p", "text": str(k)} for k in range(50)]
    _, rows = grade(api, {"rubric": {"id": rubric}, "texts": texts})
    return judge_id, rubric, rows


def test_from_labels_to_a_calibration(judged, grape, tmp_path):
    judge_id, rubric, rows = judged
    first = rows[0]["id"]
    made = json.loads(grape("label", "add", first, "a=true", "--person", "ben", "--blind", "--json").stdout)
    assert (made[0]["score"], made[0]["person"], made[0]["blind"]) == (1.0, "ben", True)
    assert "not of the form" in grape("label", "add", first, "a", code=2).stderr
    given = [
        {"completion": row["id"], "labels": [{"criterion": "a", "verdict": k % 2 == 0}]} for k, row in enumerate(rows)
    ]
    (tmp_path / "labels.ndjson").write_text("".join(json.dumps(item) + "\n" for item in given))
    assert "50 completions labelled" in grape("label", "import", "labels.ndjson").stdout
    assert len(json.loads(grape("label", "list", "--completion", first, "--json").stdout)) == 2
    said = grape("judge", "calibrate", judge_id, "--diagram", "d.svg").stdout
    assert "isotonic" in said
    assert (tmp_path / "d.svg").read_text().startswith("<svg")
    agreed = json.loads(grape("judge", "agreement", judge_id, "--json").stdout)
    assert agreed["criteria"][0]["people"]["kappa"]["value"] == 1.0
    critique = cell(rows[1], "a")["critique"]
    corrected = json.loads(
        grape("critique", "correct", critique, "true", "--text", "so", "--person", "ben", "--json").stdout
    )
    assert (corrected["score"], corrected["corrects"]) == (1.0, critique)
    asked = grape("label", "queue", "--rubric", rubric, "--reason", "disagreement").stdout
    assert rows[1]["id"] in asked
    assert "people's scores of it go from 0.00 to 1.00" in asked


def test_drafts_are_asked_for_and_accepted(judged, grape, api, tmp_path):
    judge_id, rubric, _ = judged
    pairs = [{"prompt": "p", "chosen": str(2 * k), "rejected": str(2 * k + 1)} for k in range(3)]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    made = json.loads(grape("rubric", "draft", rubric, "--judge", judge_id, "--pairs", "pairs.json", "--json").stdout)
    assert [(d["key"], d["recommended"]) for d in made["drafts"]] == [("even", True)]
    assert "Is an even number." in grape("rubric", "drafts", rubric, made["id"]).stdout
    accepted = grape("rubric", "accept", rubric, made["id"], "even=is_even", "--weight", "2").stdout
    assert "accepted from" in accepted
    content = api.get(f"/v1/rubrics/{rubric}/versions/2")["content"]
    assert [(c["key"], c["weight"]) for c in content["criteria"]] == [("a", 1.0), ("is_even", 2.0)]
