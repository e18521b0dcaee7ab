"""What authors are told: the linter's findings, shares, and what has changed between versions. HTTP and command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.client import ApiError

VAGUE = "The answer is good."


@pytest.fixture
def judge_id(api):
    body = {"name": "j", "endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}}
    return api.post("/v1/judges", body)["id"]


def content(judge_id, text=VAGUE, weight=1, **rest):
    judged = {"key": "a", "weight": weight, "text": text, "grader": {"type": "judge", "judge": judge_id}}
    return {"criteria": [judged, {"key": "b", "weight": 1, "grader": {"type": "regex", "pattern": "x"}}], **rest}


def codes(findings):
    return [(f["code"], f["pointer"]) for f in findings]


def test_findings_come_with_every_answer_and_block_nothing(api, judge_id):
    expected = [("unfalsifiable", "/content/criteria/0/text")]
    checked = api.validate_rubric(content(judge_id, weight=3))
    assert codes(checked["findings"]) == expected
    assert checked["shares"] == {"criteria": {"a": 0.75, "b": 0.25}, "modules": {"": 1.0}}
    assert checked["findings"][0]["severity"] == "warning"
    made = api.post("/v1/rubrics", {"name": "r", "content": content(judge_id)})
    assert codes(made["version"]["findings"]) == expected
    assert codes(api.publish_version(made["id"], content(judge_id, weight=2))["findings"]) == expected
    again = api.publish_version(made["id"], content(judge_id, weight=2))  # the same version, said again
    assert (again["version"], codes(again["findings"])) == (2, expected)
    assert "findings" not in api.get(f"/v1/rubrics/{made['id']}/versions/2")


def test_the_linter_knows_the_judge(api, judge_id):
    gated = content(judge_id, "names the capital of France")
    gated["criteria"][0]["gate"] = {"mode": "required"}
    assert codes(api.validate_rubric(gated)["findings"]) == [("gate_with_few_votes", "/content/criteria/0/gate")]
    api.patch(f"/v1/judges/{judge_id}", {"votes": 3, "confidence": "none"})
    assert codes(api.validate_rubric(gated)["findings"]) == [("judge_without_confidence", "/content/criteria/0/grader")]


def test_the_linter_knows_the_projects_prompts_and_the_heads_category(api, judge_id):
    from service.client import GrapeClient

    project = api.post("/v1/projects", {"name": "own"})["id"]
    key = api.post("/v1/api-keys", {"name": "t", "scopes": ["admin"], "project": project})["key"]
    regex = {"type": "regex", "pattern": "x"}
    only = {"key": "a", "weight": 1, "grader": regex, "applies_to": {"categories": ["code", "maths"], "tags": ["hrad"]}}
    body = {"criteria": [only, {"key": "b", "weight": 1, "grader": {**regex, "pattern": "y"}}]}
    with GrapeClient(api.base_url, key) as own:
        assert own.validate_rubric(body)["findings"] == []  # no prompts yet: nothing is known
        dataset = own.post("/v1/datasets", {"name": "d", "kind": "prompts"})["id"]
        own.upload_rows(dataset, [{"prompt": "p", "category": "maths", "tags": ["hard", "long"]}, {"prompt": "q"}])
        found = own.validate_rubric(body)["findings"]
        assert codes(found) == [
            ("unused_condition", "/content/criteria/0/applies_to/categories/0"),
            ("unused_condition", "/content/criteria/0/applies_to/tags/0"),
        ]
        assert "did you mean 'hard'" in found[1]["message"]
        rubric = own.post("/v1/rubrics", {"name": "r", "category": "tone", "content": body})
        assert ("never_applies", "/content/criteria/0/applies_to/categories") in codes(rubric["version"]["findings"])
        assert codes(own.validate_rubric(body, rubric["id"])["findings"])[0][0] == "never_applies"
        with pytest.raises(ApiError) as caught:
            own.validate_rubric(body, "rub_none")
        assert caught.value.errors[0]["pointer"] == "/rubric"


def test_modules_are_weighed_and_their_findings_stand_at_the_include(api, judge_id):
    module = api.post("/v1/rubrics", {"name": "m", "content": content(judge_id, "cites a source", weight=9)})["id"]
    body = {
        **content(judge_id, "names the capital of France"),
        "includes": [{"as": "m", "rubric": module, "weight": 4}],
    }
    checked = api.validate_rubric(body)
    assert set(codes(checked["findings"])) == {
        ("dominant_module", "/content/includes/0/weight"), ("duplicate_criteria", "/content/includes/0"),
        ("dominant_criterion", "/content/includes/0/weight"),
    }  # fmt: skip
    assert checked["shares"]["modules"] == {"": pytest.approx(2 / 42), "m": pytest.approx(40 / 42)}


# --- what has changed ---


def test_two_versions_are_compared_by_number_or_alias(api, judge_id):
    path = f"/v1/rubrics/{api.post('/v1/rubrics', {'name': 'r', 'content': content(judge_id, guidelines='one')})['id']}"
    rubric = path.rsplit("/", 1)[1]
    changed = content(judge_id, "names the capital", weight=3, guidelines="one\ntwo")
    changed["criteria"][1]["key"] = "c"
    api.publish_version(rubric, changed)
    api.put(f"{path}/aliases/production", {"version": 1}, if_match=api.get(path)["etag"])
    found = api.diff_rubric(rubric, "production", "latest")
    assert found == api.diff_rubric(rubric, 1, 2)
    assert (found["rubric"], found["before"]["version"], found["after"]["version"]) == (rubric, 1, 2)
    assert found["before"]["hash"] == api.get(f"{path}/versions/1")["hash"]
    assert found["criteria"]["renamed"] == [{"before": "b", "after": "c"}]
    assert [(f["pointer"], f["before"], f["after"]) for f in found["criteria"]["changed"][0]["fields"]] == [
        ("/text", VAGUE, "names the capital"), ("/weight", 1.0, 3.0),
    ]  # fmt: skip
    assert found["guidelines"] == ["@@ -1 +1,2 @@", " one", "+two"]
    assert {s["key"]: (s["share_before"], s["share_after"]) for s in found["shares"]} == {
        "a": (0.5, 0.75),
        "c": (0.5, 0.25),
    }
    assert "weight: 1.0 → 3.0" in found["text"]
    back = api.diff_rubric(rubric, 2, 1)
    assert back["criteria"]["renamed"] == [{"before": "c", "after": "b"}]
    same = api.diff_rubric(rubric, 1, "production")
    assert (same["equal"], same["text"]) == (True, "no difference")
    for a, b in ((1, 9), ("staging", 1)):
        with pytest.raises(ApiError) as caught:
            api.diff_rubric(rubric, a, b)
        assert caught.value.status == 404


def test_versions_with_includes_are_compared_by_what_they_resolve_to(api, judge_id):
    module = api.post("/v1/rubrics", {"name": "m", "content": content(judge_id, "cites a source")})["id"]
    outer = api.post("/v1/rubrics", {"name": "o", "content": {"includes": [{"as": "m", "rubric": module}]}})["id"]
    api.publish_version(module, content(judge_id, "cites a primary source"))
    api.publish_version(outer, {"includes": [{"as": "m", "rubric": module}]})
    found = api.diff_rubric(outer, 1, 2)
    assert [(c["key"], [f["pointer"] for f in c["fields"]]) for c in found["criteria"]["changed"]] == [
        ("m.a", ["/text"])
    ]
    assert [(f["pointer"], f["before"], f["after"]) for f in found["includes"]] == [("/m/version", 1, 2)]


# --- the command line ---


@pytest.fixture
def grape(stack, tmp_path):
    def run(*arguments, code=0):
        here = str(Path(__file__).parents[2])  # this checkout, wherever the package is installed from
        env = {**os.environ, "GRAPE_DATA_DIR": str(stack.folder), "COLUMNS": "200", "PYTHONPATH": here}
        command = [sys.executable, "-m", "service.cli.main", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, env=env)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return done.stdout

    return run


def test_the_command_line_shows_findings_and_differences(grape, api, judge_id, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps(content(judge_id, 'is "[/good]" and good')))
    shown = grape("rubric", "validate", "r.json")
    assert "50.0%" in shown
    (tmp_path / "r.json").write_text(json.dumps(content(judge_id)))
    shown = grape("rubric", "validate", "r.json")
    assert "1 finding" in shown
    assert "unfalsifiable" in shown
    assert "/content/criteria/0/text" in shown
    grape("rubric", "validate", "r.json", "--strict", code=1)
    assert json.loads(grape("rubric", "validate", "r.json", "--json"))["findings"]
    rubric = json.loads(grape("rubric", "create", "r.json", "--json"))["id"]
    (tmp_path / "r.json").write_text(json.dumps(content(judge_id, "names the capital", weight=2)))
    assert "finding" not in grape("rubric", "publish", rubric, "r.json")
    grape("rubric", "validate", "r.json", "--rubric", rubric, "--strict")
    shown = grape("rubric", "diff", rubric, 1, "latest")
    assert "~ criterion 'a'" in shown
    assert "weight: 1.0 → 2.0" in shown
    assert "share of Σw" in shown
    assert json.loads(grape("rubric", "diff", rubric, 1, 2, "--json"))["equal"] is False
    grape("rubric", "diff", rubric, 1, 7, code=1)
