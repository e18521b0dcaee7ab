"""What attempts, uploads and caches leave behind goes once it is old; what a row names, what is young and what is not ours stays."""

import os
import subprocess
import sys
import time

import pytest
from sqlalchemy import text

from service.config import StorageSettings
from service.garbage import find, housekeeping, sweep
from service.storage import ArtifactStore, open_store
from tests.support.object_store import ObjectStore

ROWS = """
    INSERT INTO projects (id, name) VALUES ('prj_1', 'p');
    INSERT INTO jobs (id, project_id, name, algorithm, status, spec, resolved) VALUES
        ('job_1', 'prj_1', 'j', 'sft', 'running', '{}', '{}');
    INSERT INTO checkpoints (id, project_id, job_id, fence, step, kind, location, files) VALUES
        ('ckpt_1', 'prj_1', 'job_1', 1, 1, 'full', 'projects/prj_1/jobs/job_1/000001/step-00000001', '[]');
    INSERT INTO models (id, project_id, name, kind, source, status, location) VALUES
        ('mdl_1', 'prj_1', 'm', 'policy', '{}', 'ready', 'projects/prj_1/models/mdl_1'),
        ('mdl_2', 'prj_1', 'm', 'policy', '{}', 'registering', NULL),
        ('mdl_3', 'prj_1', 'm', 'policy', '{}', 'ready', '/somewhere/else')
"""
JOB, MODELS = "projects/prj_1/jobs/job_1", "projects/prj_1/models"
NAMED = [f"{JOB}/000001/step-00000001", f"{MODELS}/mdl_1", f"{MODELS}/mdl_2"]
ORPHANS = [f"{JOB}/000001/step-00000002", f"{JOB}/000002/step-00000001", f"{MODELS}/mdl_4"]
DAY = 86_400


@pytest.fixture(autouse=True)
def rows(database):
    with database.transaction() as session:
        for statement in ROWS.split(";"):
            session.execute(text(statement))


@pytest.fixture(scope="module")
def objects():
    with ObjectStore() as running:
        yield running


def publish(store, *locations, size=1000):
    for location in locations:
        (store.draft(location) / "model.safetensors").write_bytes(b"x" * size)
        store.publish(location)


def make_old(root, age_s=DAY):
    for place in (root, *root.rglob("*")):
        os.utime(place, (time.time() - age_s,) * 2)


def locations(garbage):
    return sorted(one.kept.location for one in garbage)


def test_old_orphans_and_drafts_go_and_nothing_else(tmp_path, database):
    store, settings = ArtifactStore(tmp_path), StorageSettings(url=tmp_path.as_uri())
    publish(store, *NAMED, *ORPHANS)
    for location in (f"{JOB}/000003/step-00000009", f"{MODELS}/mdl_5", f"{MODELS}/mdl_2"):
        (store.draft(location) / "part").write_bytes(b"y" * 10)
    (tmp_path / "projects/prj_1/notes").mkdir()
    (tmp_path / "projects/prj_1/notes/mine.txt").write_text("not of this store's form")
    (tmp_path / "other").mkdir()
    assert find(store, database, settings) == []  # all of it is young: the row may be about to be written
    make_old(tmp_path)
    publish(store, f"{JOB}/000004/step-00000003")
    store.draft(f"{JOB}/000004/step-00000004")
    garbage = find(store, database, settings)
    drafts = [f"{JOB}/000003/step-00000009.tmp", f"{MODELS}/mdl_5.tmp"]
    assert locations(garbage) == sorted([*ORPHANS, *drafts])
    assert sweep(store, garbage) == 3 * 1000 + 2 * 10
    assert find(store, database, settings) == []
    left = {place.relative_to(tmp_path).as_posix() for place in tmp_path.rglob("*") if place.is_file()}
    assert left == {
        *(f"{location}/model.safetensors" for location in (*NAMED, f"{JOB}/000004/step-00000003")),
        f"{MODELS}/mdl_2.tmp/part",
        "projects/prj_1/notes/mine.txt",
    }


def test_a_folder_into_which_something_is_written_is_young(tmp_path, database):
    store = ArtifactStore(tmp_path)
    draft = store.draft(f"{JOB}/000003/step-00000009")
    (draft / "state").mkdir()
    make_old(tmp_path)
    (draft / "state" / "optimizer.safetensors").write_bytes(b"z")
    assert find(store, database, StorageSettings(url=tmp_path.as_uri())) == []


def test_a_remote_store_loses_its_orphans_and_a_host_its_longest_unused(tmp_path, database, objects):
    settings = StorageSettings(
        url=objects.url, options=objects.options, cache_dir=tmp_path, cache_gb=2.5e-6
    )  # 2,500 bytes
    store = open_store(settings)
    publish(store, *NAMED, *ORPHANS)
    objects.files.pipe_file(f"artifacts/grape/{JOB}/000005/step-00000001/half.safetensors", b"cut off")
    objects.files.pipe_file("artifacts/grape/elsewhere/file", b"not ours")
    assert find(store, database, settings) == []
    later = time.time() + 2 * 3600
    make_old(tmp_path)
    make_old(store.path(NAMED[1]), 2 * DAY)
    store.fetch(NAMED[0])  # used now, though written first
    garbage = find(store, database, settings, now=later)
    cut_off = f"{JOB}/000005/step-00000001"
    assert sorted(one.kept.location for one in garbage if not one.here) == sorted([*ORPHANS, cut_off])
    beyond = [one for one in garbage if one.here and "cache_gb" in one.why]
    assert locations(beyond) == [NAMED[1]]  # 3,000 bytes are named; without the longest unused it is 2,000
    sweep(store, garbage)
    assert not store.path(NAMED[1]).exists()
    assert store.path(NAMED[0]).exists()
    assert {name.split("/grape/")[1].rsplit("/", 1)[0] for name in objects.files.find("artifacts/grape")} == {
        *NAMED,
        "elsewhere",
    }
    assert (store.fetch(NAMED[1]) / "model.safetensors").read_bytes() == b"x" * 1000  # from afar, again
    objects.files.rm("artifacts/grape", recursive=True)


def test_a_store_that_does_not_answer_is_left_for_the_next_time(tmp_path, database, objects, caplog):
    dead = {**objects.options, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    settings = StorageSettings(url="s3://artifacts/x", options=dead, cache_dir=tmp_path)
    housekeeping(open_store(settings), database, settings)
    assert "s3://artifacts/x cannot be listed" in caplog.text


def test_the_command_says_what_would_go_and_then_does_it(tmp_path, cluster, database_name):
    store = ArtifactStore(tmp_path)
    publish(store, *NAMED, *ORPHANS)
    make_old(tmp_path)
    env = {
        **os.environ,
        "GRAPE_DATABASE__URL": cluster.url("grape_app", database_name),
        "GRAPE_STORAGE__URL": tmp_path.as_uri(),
    }

    def run(*arguments, **changes):
        command = [sys.executable, "-m", "service.garbage", *arguments]
        return subprocess.run(command, env={**env, **changes}, capture_output=True, text=True)

    dry = run("--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert f"{ORPHANS[0]}: 0.0 MB, 24 h old; no checkpoint or model names it" in dry.stdout
    assert dry.stdout.splitlines()[-1] == "3 folders, 0.0 MB would go"
    assert all(store.path(location).exists() for location in ORPHANS)
    assert run().stdout.splitlines()[-1] == "3 folders, 0.0 MB are gone"
    assert [store.path(location).exists() for location in (*NAMED, *ORPHANS)] == [True] * 3 + [False] * 3
    gone = run(GRAPE_DATABASE__URL="postgresql://nobody@127.0.0.1:9/none")
    assert (gone.returncode, gone.stderr.split(":")[0]) == (1, "nothing was taken away")
