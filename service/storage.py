"""Artifacts: folders of files that are published whole, in a folder of this machine or a mounted one.

A location is a path relative to the store's root, so that a store can move. `service.remote_storage` keeps them in S3 and the like;
what it has fetched lies below a root of the same form.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

from service.config import StorageSettings

BLOCK = 1 << 20
DRAFT = ".tmp"
FOLDERS = ("projects/*/jobs/*/*/*", "projects/*/models/*")
"""The forms of a location: a job's checkpoints, by fence, and models."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A folder that a store keeps: what is published at a location, or a draft (its location ends with `.tmp`)."""

    location: str
    bytes: int
    changed: float
    """When it was last written, or fetched from the cache; seconds since 1970."""


class ArtifactStore:
    """A local folder as the store."""

    remote = False
    """Whether other hosts see what is published here without sharing a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def path(self, location: str) -> Path:
        """Where a location lies; never outside the root."""
        path = (self.root / location).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise ValueError(f"the location '{location}' leaves the artifact store")
        return path

    def fetch(self, location: str) -> Path:
        """The folder of a published location, here."""
        return self.path(location)

    def draft(self, location: str) -> Path:
        """An empty folder in which to prepare what `publish` will show at `location`."""
        folder = self.path(location + DRAFT)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder

    def publish(self, location: str) -> Path:
        """Sync the draft's files and folders, then rename: `location` is whole or absent."""
        draft, target = self.path(location + DRAFT), self.path(location)
        for folder, _, names in os.walk(draft, topdown=False):
            for name in names:
                _sync(Path(folder) / name)
            _sync(Path(folder))
        shutil.rmtree(target, ignore_errors=True)
        os.rename(draft, target)
        _sync(target.parent)
        return target

    def local_file(self, location: str, name: str) -> Path | None:
        """A published file as a file of this machine; null if it has to be read from afar, or is not there."""
        place = self.path(location) / name
        return place if place.is_file() else None

    def read(self, location: str, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """A published file's bytes from `start` up to `end` (excluded), in blocks. Raises `FileNotFoundError` before the first."""
        return blocks((self.path(location) / name).open("rb"), start, end)

    def remove(self, location: str) -> None:
        """Take a published folder away."""
        self.forget(location)

    def forget(self, location: str) -> None:
        """Take away what lies on this host: a published folder, a draft."""
        shutil.rmtree(self.path(location), ignore_errors=True)

    def kept_here(self) -> Iterator[Kept]:
        """Every folder below the root that has the form of a location, drafts too."""
        for form in FOLDERS:
            for folder in self.root.glob(form):
                if folder.is_dir() and not folder.is_symlink():
                    yield _kept(folder, folder.relative_to(self.root).as_posix())

    def kept(self) -> Iterator[Kept]:
        """Every folder of the store itself; what a host keeps beside it is in `kept_here`."""
        return self.kept_here()

    def problem(self) -> str | None:
        """Why nothing can be stored, in a sentence; null if all is well."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            return f"{self.root} cannot be made: {error.strerror}"
        return None if os.access(self.root, os.W_OK | os.X_OK) else f"{self.root} cannot be written"


def blocks(stream: IO[bytes], start: int, end: int | None) -> Iterator[bytes]:
    """The rest of an opened file in blocks; it is closed at the end."""
    with stream:
        stream.seek(start)
        left = None if end is None else end - start
        while left is None or left > 0:
            block = stream.read(BLOCK if left is None else min(BLOCK, left))
            if not block:
                return
            left = None if left is None else left - len(block)
            yield block


def open_store(settings: StorageSettings) -> ArtifactStore:
    """The store that the settings name: `file:///folder`, or another scheme of fsspec (`s3://bucket/prefix`)."""
    parts = urlsplit(settings.url)
    if parts.scheme in ("file", ""):
        return ArtifactStore(Path(unquote(parts.path)))
    try:
        from service.remote_storage import RemoteStore
    except ImportError as error:
        raise RuntimeError(f"GRAPE_STORAGE__URL is '{settings.url}', which needs `grape-align[s3]`: {error}") from error

    return RemoteStore(settings)


def _kept(folder: Path, location: str) -> Kept:
    size, changed = 0, 0.0
    for place in (folder, *folder.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # it is being moved or removed
            found = place.lstat()
            size += found.st_size if stat.S_ISREG(found.st_mode) else 0
            changed = max(changed, found.st_mtime)  # files may be old; a folder's time is that of its last new entry
    return Kept(location, size, changed)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
