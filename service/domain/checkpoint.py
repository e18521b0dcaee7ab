"""Checkpoints: the files of a model or an adapter, with the state that resumes its job."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

from service.domain.base import Value, canonical_json

MANIFEST = "manifest.json"


class CheckpointFile(Value):
    """One file, by its path inside the checkpoint."""

    path: str
    bytes: int
    sha256: str


class Manifest(Value):
    """`manifest.json`: every other file of the checkpoint, written last."""

    job: str
    step: int
    kind: Literal["full", "adapter"]
    base_model_sha256: str | None = None
    files: list[CheckpointFile]

    def to_bytes(self) -> bytes:
        """Its one spelling on disk."""
        return (canonical_json(self.model_dump(mode="json")) + "\n").encode()


def file_entry(root: Path, path: Path) -> CheckpointFile:
    """Size and sha256 of `path`, named relative to `root`."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return CheckpointFile(path=path.relative_to(root).as_posix(), bytes=path.stat().st_size, sha256=digest.hexdigest())


def model_hash(files: list[CheckpointFile]) -> str:
    """The identity of a model: sha256 over the sorted names and hashes of its files."""
    lines = "".join(f"{f.sha256}  {f.path}\n" for f in sorted(files, key=lambda f: f.path))
    return hashlib.sha256(lines.encode()).hexdigest()
