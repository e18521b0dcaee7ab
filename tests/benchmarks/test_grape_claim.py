"""The command, from runs to tables, with sizes that take seconds."""

import json

import pytest

from benchmarks.claim.protocol import QUICK, run_keys
from benchmarks.claim.store import RunStore
from benchmarks.grape_claim import main


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("claim")
    assert main(["--quick", "--out", str(folder)]) == 0
    return folder


def test_every_run_is_made_and_the_tables_have_every_cell(measured, capsys):
    store = RunStore(measured, QUICK.digest)
    assert set(store.curves) == {key for policy in ("categorical", "transformers") for key in run_keys(QUICK, policy)}
    assert len(store.code) == 1
    assert main(["--quick", "--out", str(measured), "--report-only"]) == 0
    tables = capsys.readouterr().out
    assert tables.strip() == (measured / "tables.md").read_text().strip()
    for setting in ("shared", "correlated", "independent", "conflicting"):
        for noise in ("small", "large"):
            for said in ("honest", "saturated", "anti"):
                assert tables.count(f"| {setting} | {noise} | {said} | confidence |") == 2  # one per policy
    result = json.loads((measured / "result.json").read_text())
    assert result["protocol_digest"] == QUICK.digest
    assert {"python", "numpy", "torch", "transformers"} <= set(result["versions"])
    claimed = [c for c in result["claims"] if c["claimed"]]
    assert len(claimed) == 6
    for policy in ("categorical", "transformers"):
        assert len(result["results"][policy]["confidence"]) == 24
        picture = (measured / f"claim_{policy}.png").read_bytes()
        assert picture.startswith(b"\x89PNG")


def test_a_failing_claim_is_printed_and_fails_only_a_check(measured, capsys):
    """Four steps reach no level, so the claim on samples cannot hold."""
    assert main(["--quick", "--out", str(measured), "--report-only"]) == 0
    assert "| FAILS |" in capsys.readouterr().out
    assert main(["--quick", "--out", str(measured), "--report-only", "--check"]) == 1


def test_an_interrupted_measurement_goes_on(measured, tmp_path, capsys):
    lines = (measured / "runs.jsonl").read_text().splitlines()
    kept = [line for line in lines if '"categorical"' in line]
    (tmp_path / "runs.jsonl").write_text(
        "\n".join(kept[:-20]) + "\n" + kept[-20][:40]
    )  # killed in the middle of a line
    assert main(["--quick", "--out", str(tmp_path), "--policy", "categorical"]) == 0
    assert "/20 runs" in capsys.readouterr().err
    again = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines() if line.endswith("}")]
    assert sorted(json.dumps(run) for run in again) == sorted(kept)


def test_time_that_is_up_stops_between_runs(tmp_path, capsys):
    assert main(["--quick", "--out", str(tmp_path), "--policy", "categorical", "--minutes", "0"]) == 0
    assert "runs are still to do" in capsys.readouterr().err


def test_results_of_another_protocol_are_not_mixed_in(measured, tmp_path):
    (tmp_path / "runs.jsonl").write_text((measured / "runs.jsonl").read_text())
    assert RunStore(tmp_path, "another").curves == {}
