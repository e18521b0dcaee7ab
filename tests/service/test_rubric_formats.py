"""Importing and exporting rubrics over HTTP and with the command line."""

import json
import os
import subprocess
import sys

import pytest

from service.client import ApiError
from service.domain.formats.source import same
from tests.support import formats as f


@pytest.fixture(scope="module")
def judge(stack):
    with stack.client() as api:
        endpoint = {"base_url": "http://127.0.0.1:1/v1", "model": "m"}
        yield api.post("/v1/judges", {"name": "j", "endpoint": endpoint})["id"]


def exported(api, rubric, wanted):
    return json.loads(api.export_rubric(rubric["id"], wanted))


def test_rubrics_of_others_come_in_and_go_out(api, judge):
    for format_name, document in (("healthbench", f.HEALTHBENCH), ("rar", f.RAR)):
        options = {"judge": judge, "polarity": "from_prefix", "name": format_name, "category": "medicine"}
        made = api.import_rubric(json.dumps(document).encode(), format_name, **options)
        assert (made["name"], made["category"], made["latest_version"]) == (format_name, "medicine", 1)
        assert [note["pointer"] for note in made["notes"]] == (
            ["/rubric/3", "/rubric/4"] if format_name == "rar" else []
        )
        assert same(exported(api, made, format_name), document)
    # The next version, edited as JSON, keeps what came along with the criteria that were not touched.
    content = exported(api, made, "json")["content"]
    content["criteria"][0]["weight"] = 4
    api.publish_version(made["id"], content)
    now = exported(api, made, "rar")
    assert now["rubric"][0]["weight"] == 4
    assert same({**now, "rubric": now["rubric"][1:]}, {**f.RAR, "rubric": f.RAR["rubric"][1:]})


def test_our_own_files_in_json_and_yaml(api):
    text = """
name: shortness
category: maths
content:
  guidelines: |
    be short,
    and say when: 2026-11-25
  criteria:
    - {key: short, weight: 1, grader: {type: regex, pattern: "^.{0,9}$"}}
"""
    made = api.import_rubric(text.encode(), "yaml")
    assert (made["name"], made["category"]) == ("shortness", "maths")
    again = api.import_rubric(api.export_rubric(made["id"], "yaml"), "yaml", name="a copy")
    assert again["version"]["hash"] == made["version"]["hash"]
    assert again["version"]["content"] == made["version"]["content"]
    assert (
        api.import_rubric(api.export_rubric(made["id"], "json"), "json")["version"]["hash"] == made["version"]["hash"]
    )


@pytest.mark.parametrize(
    ("text", "format_name", "pointer", "code"),
    [
        (b'{"criteria": [{"key": "a", "weight": 0, "grader": {"type": "regex", "pattern": "a"}}]}', "json",
         "/content/criteria/0/weight", "greater_than"),
        (b'{"criteria": [{"key": "a", "weight": 1, "grader": {"type": "regex", "pattern": "("}}]}', "json",
         "/content/criteria/0/grader/pattern", "invalid_regex"),
        (b"{", "json", "", "json_invalid"),
        (b"", "yaml", "", "object_type"),
        (json.dumps(f.RAR).encode(), "rar", "", "judge_needed"),
        (json.dumps(f.HEALTHBENCH["rubrics"]).encode() + b"\x00", "healthbench", "", "json_invalid"),
    ],
)  # fmt: skip
def test_faults_have_a_place(api, text, format_name, pointer, code):
    with pytest.raises(ApiError) as caught:
        api.import_rubric(text, format_name)
    assert caught.value.status == 422
    assert (caught.value.errors[0]["pointer"], caught.value.errors[0]["code"]) == (pointer, code)


def test_a_judge_must_be_the_projects(api):
    with pytest.raises(ApiError, match="there is no judge") as caught:
        api.import_rubric(json.dumps(f.HEALTHBENCH).encode(), "healthbench", judge="jdg_0nowhere")
    assert caught.value.errors[0]["pointer"] == "/judge"


def test_an_export_that_would_lose_something_is_refused(api):
    criterion = {"key": "a", "weight": 1, "grader": {"type": "regex", "pattern": "a"}}
    made = api.post("/v1/rubrics", {"name": "r", "content": {"criteria": [criterion]}})
    for wanted in ("healthbench", "rar", "openai_grader"):
        with pytest.raises(ApiError) as caught:
            api.export_rubric(made["id"], wanted)
        assert (caught.value.status, caught.value.errors[0]["code"]) == (422, "not_writable")


def test_the_command_line(stack, judge, tmp_path):
    def grape(*arguments, code=0):
        command = [sys.executable, "-m", "service.cli.main", "rubric", *map(str, arguments)]
        env = {**os.environ, "GRAPE_DATA_DIR": str(stack.folder), "COLUMNS": "200"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
        assert done.returncode == code, done.stderr
        return done

    file, out = tmp_path / "rar.json", tmp_path / "out.json"
    file.write_text(json.dumps(f.RAR))
    refused = grape("import", file, "--format", "rar", "--judge", judge, "--polarity", "ask", code=1).stderr
    assert "/rubric/4/polarity" in refused
    done = grape("import", file, "--format", "rar", "--judge", judge, "--polarity", "from_prefix")
    assert "read as met_is_bad" in done.stdout
    rubric = next(word for word in done.stdout.split() if word.startswith("rub_"))
    grape("export", rubric, "--format", "rar", "-o", out)
    assert same(json.loads(out.read_text()), f.RAR)
    assert "weight: 5.0" in grape("export", rubric).stdout
