"""What a training child says of errors that are not its own."""

import subprocess

import pytest
import torch
from safetensors.torch import save_file

from workers.child import classify


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 100 kB."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path)], capture_output=True)
    if done.returncode:
        pytest.skip("only root may mount a small disk")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_is_storage_full_whoever_says_so(small_disk):
    weights = {"weight": torch.zeros(100_000)}
    with pytest.raises(Exception, match="space") as rust:
        save_file(weights, small_disk / "model.safetensors")
    with pytest.raises(OSError, match="space") as python:
        (small_disk / "trainer.json").write_bytes(b" " * 400_000)
    assert [classify(caught.value)[0] for caught in (rust, python)] == ["storage_full"] * 2
    assert classify(RuntimeError("something else"))[0] == "internal"
