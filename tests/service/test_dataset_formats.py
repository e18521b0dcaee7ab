"""Importing and exporting rows over HTTP, and with the command line's files."""

import gzip
import json
import os
import subprocess
import sys

import pytest

from service.client import ApiError
from service.domain.formats.source import same
from tests.support import formats as f


def ndjson(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def dataset(api):
    def make(kind):
        return api.post("/v1/datasets", {"name": kind, "kind": kind})["id"]

    return make


def exported(api, dataset_id, path, wanted="as_imported"):
    count = api.export_rows(dataset_id, path, wanted)
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == count
    return rows


def test_a_file_comes_back_row_by_row(api, dataset, tmp_path):
    rows = [{**f.HH, "n": n, "x": {"y": [1.5, None, 2e3, "ü"]}} for n in range(1200)]  # more than two pages
    packed = tmp_path / "hh.jsonl.gz"
    packed.write_bytes(gzip.compress(ndjson(tmp_path / "rows", rows).read_bytes()))
    made = dataset("preferences")
    batch = api.import_rows(made, packed)
    assert (batch["format"], batch["rows"], batch["duplicates"], batch["error_count"]) == ("hh", 1200, 0, 0)
    assert same(exported(api, made, tmp_path / "out.jsonl.gz"), rows)
    as_trl = exported(api, made, tmp_path / "trl.jsonl", "trl")
    assert as_trl[7]["chosen"] == [{"role": "assistant", "content": "It is 4."}]
    assert as_trl[7]["n"] == 7
    again = dataset("preferences")
    exported(api, made, tmp_path / "ours.jsonl", "grape")
    assert api.upload_rows(again, tmp_path / "ours.jsonl")["rows"] == 1200
    assert same(exported(api, again, tmp_path / "again.jsonl"), rows)


def test_a_faulty_row_is_named_and_nothing_is_stored(api, dataset, tmp_path):
    rows = [f.TRL["unpaired"], {**f.TRL["unpaired"], "completion": "=5", "label": False}]
    file = ndjson(tmp_path / "rows", rows)
    made = dataset("demonstrations")
    with pytest.raises(ApiError, match="nothing was stored") as caught:
        api.import_rows(made, file)
    (error,) = caught.value.errors
    assert (error["line"], error["pointer"], error["code"]) == (2, "/label", "bad_completion")
    assert api.get(f"/v1/datasets/{made}")["rows"] == 0
    batch = api.import_rows(made, file, skip_faulty=True)
    assert (batch["rows"], batch["error_count"]) == (1, 1)
    # What is wrong with a row of ours is said in the file's own names.
    file = ndjson(tmp_path / "rows", [{**f.OPENAI_PREFERENCE, "non_preferred_output": [f.A]}])
    with pytest.raises(ApiError) as caught:
        api.import_rows(dataset("preferences"), file)
    assert (caught.value.errors[0]["pointer"], caught.value.errors[0]["code"]) == (
        "/non_preferred_output",
        "equal_completions",
    )


def test_a_format_that_cannot_say_the_rows_is_refused_before_a_byte_is_sent(api, dataset, tmp_path):
    made = dataset("prompts")
    api.upload_rows(made, [{"prompt": "2+2"}])
    with pytest.raises(ApiError, match=r"row 1: .*HealthBench") as caught:
        api.export_rows(made, tmp_path / "out", "healthbench")
    assert caught.value.code == "not_writable"
    assert not (tmp_path / "out").exists()


def test_prompts_with_criteria_need_a_judge_of_the_project(api, dataset, tmp_path):
    file = ndjson(tmp_path / "rows", [f.HEALTHBENCH])
    made = dataset("prompts")
    with pytest.raises(ApiError, match="name a judge"):
        api.import_rows(made, file)
    with pytest.raises(ApiError, match="there is no judge"):
        api.import_rows(made, file, judge="jdg_0nowhere")
    judge = api.post("/v1/judges", {"name": "j", "endpoint": {"base_url": "http://127.0.0.1:1/v1", "model": "m"}})["id"]
    assert api.import_rows(made, file, judge=judge)["format"] == "healthbench"
    assert same(exported(api, made, tmp_path / "out"), [f.HEALTHBENCH])
    rar = dataset("prompts")
    file = ndjson(tmp_path / "rows", [f.RAR])
    with pytest.raises(ApiError, match="polarity=from_prefix"):
        api.import_rows(rar, file, judge=judge)
    batch = api.import_rows(rar, file, judge=judge, polarity="from_prefix")
    assert batch["pitfalls"] == {"met_is_bad": 1, "met_is_good": 1}
    assert same(exported(api, rar, tmp_path / "out"), [f.RAR])


def test_the_command_line_imports_and_exports(stack, dataset, tmp_path):
    file, out = ndjson(tmp_path / "rows.jsonl", [f.CAI]), tmp_path / "out.jsonl"
    made = dataset("preferences")

    def grape(*arguments, code=0):
        command = [sys.executable, "-m", "service.cli.main", "dataset", *map(str, arguments)]
        env = {**os.environ, "GRAPE_DATA_DIR": str(stack.folder), "COLUMNS": "200"}
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
        assert done.returncode == code, done.stderr
        return done

    assert json.loads(grape("import", made, file, "--json").stdout)["format"] == "cai"
    assert "0 " in grape("import", made, file).stdout  # all duplicates
    assert json.loads(grape("export", made, "-o", out, "--json").stdout)["rows"] == 1
    assert same(json.loads(out.read_text()), f.CAI)
    assert "format" in grape("import", made, file, "--format", "xml", code=1).stderr
