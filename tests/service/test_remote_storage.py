"""Artifacts in a store that speaks S3's protocol: whole or absent, seen by every host, read in ranges."""

from __future__ import annotations

import os

import pytest

from service.config import StorageSettings
from service.domain.checkpoint import CheckpointFile
from service.downloads import archive_size, stream_archive
from service.remote_storage import LIST
from service.storage import ArtifactStore, open_store
from tests.support.object_store import ObjectStore

WEIGHTS = os.urandom(3 << 20)


@pytest.fixture(scope="module")
def objects():
    with ObjectStore() as running:
        yield running


@pytest.fixture
def hosts(objects, tmp_path):
    """Two hosts: the same store, caches of their own."""
    objects.files.rm("artifacts/grape", recursive=True) if objects.files.exists("artifacts/grape") else None
    return [
        open_store(StorageSettings(url=objects.url, options=objects.options, cache_dir=tmp_path / name))
        for name in "ab"
    ]


def publish(store, location="p/step-1"):
    draft = store.draft(location)
    (draft / "state").mkdir()
    (draft / "model.safetensors").write_bytes(WEIGHTS)
    (draft / "state" / "cursor.json").write_text("{}")
    return store.publish(location)


def test_what_one_host_publishes_another_fetches(hosts):
    first, second = hosts
    publish(first)
    folder = second.fetch("p/step-1")
    assert folder.is_relative_to(second.root)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "state" / "cursor.json").read_text() == "{}"
    assert second.fetch("p/step-1") == folder


def test_a_cut_off_upload_does_not_exist(hosts, objects):
    first, second = hosts
    publish(first)
    objects.files.rm_file(f"artifacts/grape/p/step-1/{LIST}")  # written last
    with pytest.raises(FileNotFoundError, match="nothing is published"):
        second.fetch("p/step-1")
    assert not list(second.root.rglob("*.tmp"))
    publish(first)  # the next attempt writes over it
    assert (second.fetch("p/step-1") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_shortened_file_is_noticed_and_leaves_nothing(hosts, objects):
    first, second = hosts
    publish(first)
    objects.files.pipe_file("artifacts/grape/p/step-1/model.safetensors", b"short")
    with pytest.raises(OSError, match="5 of 3145728 bytes"):
        second.fetch("p/step-1")
    assert [path for path in second.root.rglob("*") if path.is_file()] == []


def test_ranges_are_read_from_afar_without_the_whole(hosts):
    first, second = hosts
    publish(first)
    assert second.local_file("p/step-1", "model.safetensors") is None
    assert b"".join(second.read("p/step-1", "model.safetensors", 1000, 1 << 20)) == WEIGHTS[1000 : 1 << 20]
    assert b"".join(second.read("p/step-1", "model.safetensors")) == WEIGHTS
    assert not second.path("p/step-1").exists()
    with pytest.raises(FileNotFoundError):
        second.read("p/step-1", "gone")
    files = [CheckpointFile(path="model.safetensors", bytes=len(WEIGHTS), sha256="0" * 64)]
    assert b"".join(stream_archive(second, "p/step-1", files, "x")) == b"".join(
        stream_archive(first, "p/step-1", files, "x")
    )
    assert len(b"".join(stream_archive(second, "p/step-1", files, "x"))) == archive_size(files, "x")


def test_what_is_removed_is_gone_for_all(hosts, objects):
    first, second = hosts
    publish(first)
    first.remove("p/step-1")
    assert objects.files.find("artifacts/grape") == []
    with pytest.raises(FileNotFoundError):
        second.fetch("p/step-1")


def test_a_store_that_cannot_be_used_says_why(tmp_path, objects):
    dead = {**objects.options, "client_kwargs": {"endpoint_url": "http://127.0.0.1:9"}}
    gone = open_store(StorageSettings(url="s3://artifacts/x", options=dead, cache_dir=tmp_path))
    assert "s3://artifacts/x cannot be written" in gone.problem()
    with pytest.raises(OSError, match=r"s3://artifacts/x: .*Could not connect"):
        publish(gone)
    missing = open_store(StorageSettings(url="s3://nowhere/x", options=objects.options, cache_dir=tmp_path))
    assert "cannot be written" in missing.problem()
    with pytest.raises(RuntimeError, match="GRAPE_STORAGE__URL is 'quux://x'"):
        open_store(StorageSettings(url="quux://x", cache_dir=tmp_path))
    assert isinstance(open_store(StorageSettings(url="file:///x")), ArtifactStore)
