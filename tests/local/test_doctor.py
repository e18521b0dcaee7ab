"""`grape doctor` beside a running stack, a stopped one, and in a container's way: what is broken is named, with what to do."""

import json
import os
import subprocess
import sys

import psycopg
import pytest

from service.local.postgres import SUPERUSER
from tests.support.stack import wait_for


def doctor(*arguments, **settings):
    """Its exit code and its findings by check."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRAPE_")}
    said = subprocess.run(
        [sys.executable, "-m", "service.cli.main", "doctor", "--json", *map(str, arguments)],
        env={**env, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in said.stderr, said.stderr
    return said.returncode, {found["check"]: found for found in json.loads(said.stdout)}


def test_a_healthy_stack(stack):
    wait_for(lambda: "grading" in (stack.folder / "processes.json").read_text(), 20, "all processes are listed")
    code, found = doctor("--data-dir", stack.folder)
    assert code == 0, found
    assert {
        found[name]["state"] for name in ("python", "server packages", "training packages", "processes", "api")
    } == {"ok"}
    assert {found[name]["found"] for name in ("database", "storage", "broker")} == {"ok"}
    assert "torch 2." in found["training packages"]["found"]
    assert "training" in found["processes"]["found"]
    assert found["gpu"]["state"] in ("ok", "warning")


def test_a_folder_without_a_stack(tmp_path):
    code, found = doctor("--data-dir", tmp_path / "nowhere")
    assert code == 1
    assert found["data folder"]["state"] == "failed"
    assert "grape up" in found["data folder"]["advice"]
    (tmp_path / "processes.json").write_text(json.dumps([{"role": "api", "pid": 2**22 + 1, "started_at": "…"}]))
    code, found = doctor("--data-dir", tmp_path)
    assert code == 1
    assert found["processes"]["found"] == "not alive: api"
    assert "credentials" in found["api"]["found"]


@pytest.mark.parametrize("fault", ["none", "migrations", "server", "store", "secret"])
def test_a_deployment_of_the_environment(fault, cluster, database_name, tmp_path):
    settings = {
        "GRAPE_DATABASE__URL": cluster.url("grape_app", database_name),
        "GRAPE_BROKER__URL": "redis://127.0.0.1:1/0",
        "GRAPE_STORAGE__URL": (tmp_path / "artifacts").as_uri(),
        "GRAPE_SECRET_KEY": "k" * 64,
    }
    (tmp_path / "artifacts").mkdir()
    if fault == "migrations":
        with psycopg.connect(cluster.url(SUPERUSER, database_name), autocommit=True) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '0001'")
    elif fault == "server":
        settings["GRAPE_DATABASE__URL"] = "postgresql://grape_app:x@127.0.0.1:1/grape"
    elif fault == "store":
        (tmp_path / "artifacts").rmdir()
        (tmp_path / "artifacts").write_text("a file, no folder")
    elif fault == "secret":
        settings["GRAPE_SECRET_KEY"] = "short"
    code, found = doctor(**settings)
    broken = {"migrations": "database", "server": "database", "store": "storage", "secret": "secret key"}.get(fault)
    assert code == (broken is not None), found
    assert found["broker"]["state"] == "warning"  # nobody is there: work starts by polling
    for check in ("database", "storage", "secret key"):
        assert found[check]["state"] == ("failed" if check == broken else "ok"), found[check]
        assert bool(found[check]["advice"]) == (check == broken)
    if fault == "migrations":
        assert "run the migrations" in found["database"]["advice"]
