"""Artifacts in object storage (S3 and what speaks its protocol, or any other scheme of fsspec), for several hosts.

Files are written under the location's prefix, and last of all a list of them: a location without its list does not exist, so an
upload that was cut off is never seen. What a host has written or fetched stays in its cache folder, whole or not at all;
`service.garbage` keeps that folder small.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from fsspec.core import get_filesystem_class, url_to_fs

from service.config import StorageSettings
from service.storage import FOLDERS, ArtifactStore, Kept, blocks

LIST = ".published.json"
"""Names and sizes of a location's files; written last, removed first."""


class RemoteStore(ArtifactStore):
    """An fsspec filesystem as the store, a local folder as its cache."""

    remote = True

    def __init__(self, settings: StorageSettings) -> None:
        super().__init__(settings.cache_dir)
        self.url = settings.url.rstrip("/")
        self._options = settings.options
        self._opened: tuple[int, Any, str] | None = None
        try:
            get_filesystem_class(urlsplit(self.url).scheme)
        except (ImportError, ValueError) as error:
            raise RuntimeError(
                f"GRAPE_STORAGE__URL is '{self.url}', which cannot be opened: {error}. For S3 install `grape-align[s3]`"
            ) from error

    def _open(self) -> tuple[Any, str]:
        """The filesystem and our prefix in it. A connection of another process (before a fork) is not used again."""
        if self._opened is None or self._opened[0] != os.getpid():
            filesystem, prefix = url_to_fs(self.url, **self._options)
            self._opened = (os.getpid(), filesystem, str(prefix).rstrip("/"))
        return self._opened[1], self._opened[2]

    def _listed(self, location: str) -> dict[str, int] | None:
        """Sizes of a published location's files by name; null if nothing is published there."""
        filesystem, prefix = self._open()
        try:
            found: dict[str, int] = json.loads(filesystem.cat_file(f"{prefix}/{location}/{LIST}"))
        except FileNotFoundError:
            return None
        return found

    def publish(self, location: str) -> Path:
        """Upload the draft, its list last, then keep it in the cache."""
        draft = self.path(location + ".tmp")
        filesystem, prefix = self._open()
        self._remove_remote(location)
        files = sorted(path for path in draft.rglob("*") if path.is_file())
        sizes = {path.relative_to(draft).as_posix(): path.stat().st_size for path in files}
        for name, size in sizes.items():
            there = f"{prefix}/{location}/{name}"
            with _as_os_error(f"'{location}/{name}' cannot be written to {self.url}"):
                filesystem.put_file(str(draft / name), there)
                written = filesystem.info(there, refresh=True)["size"]
            if written != size:
                raise OSError(f"{self.url} keeps {written} of {size} bytes of {location}/{name}")
        with _as_os_error(f"'{location}' cannot be written to {self.url}"):
            filesystem.pipe_file(f"{prefix}/{location}/{LIST}", json.dumps(sizes).encode())
        return super().publish(location)

    def fetch(self, location: str) -> Path:
        """The folder of a published location, from the cache or from afar. Raises `FileNotFoundError` and other `OSError`s."""
        target = self.path(location)
        if target.is_dir():
            with contextlib.suppress(OSError):
                os.utime(target)  # used now: the cache forgets the oldest first
            return target
        with _as_os_error(f"'{location}' cannot be read from {self.url}"):
            sizes = self._listed(location)
        if sizes is None:
            raise FileNotFoundError(f"nothing is published at {self.url}/{location}")
        draft = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
        filesystem, prefix = self._open()
        try:
            for name, size in sizes.items():
                place = draft / name
                place.parent.mkdir(parents=True, exist_ok=True)
                with _as_os_error(f"'{location}/{name}' cannot be read from {self.url}"):
                    filesystem.get_file(f"{prefix}/{location}/{name}", str(place))
                if place.stat().st_size != size:
                    raise OSError(f"{self.url} gave {place.stat().st_size} of {size} bytes of {location}/{name}")
            with contextlib.suppress(OSError):  # somebody else was faster
                os.rename(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return target

    def local_file(self, location: str, name: str) -> Path | None:
        """From the cache."""
        return super().local_file(location, name)

    def read(self, location: str, name: str, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """From the cache if it is there, else straight from the remote store."""
        if (place := self.local_file(location, name)) is not None:
            return blocks(place.open("rb"), start, end)
        filesystem, prefix = self._open()
        return blocks(filesystem.open(f"{prefix}/{location}/{name}", "rb", cache_type="readahead"), start, end)

    def remove(self, location: str) -> None:
        """Take it away, here and there."""
        with contextlib.suppress(OSError):
            self._remove_remote(location)
        super().remove(location)

    def kept(self) -> Iterator[Kept]:
        """Every location that has files afar, uploads that were cut off too. Raises `OSError`."""
        filesystem, prefix = self._open()
        found: dict[str, tuple[int, float]] = {}
        with _as_os_error(f"{self.url} cannot be listed"):
            files = filesystem.find(f"{prefix}/projects", detail=True, refresh=True)
        for name, entry in files.items():
            location = _location(name.removeprefix(f"{prefix}/"))
            if location is not None:
                size, changed = found.get(location, (0, 0.0))
                found[location] = size + (entry["size"] or 0), max(changed, _moment(entry))
        return (Kept(location, *told) for location, told in sorted(found.items()))

    def _remove_remote(self, location: str) -> None:
        filesystem, prefix = self._open()
        with _as_os_error(f"'{location}' cannot be removed from {self.url}"):
            with contextlib.suppress(FileNotFoundError):
                filesystem.rm_file(f"{prefix}/{location}/{LIST}")
            with contextlib.suppress(FileNotFoundError):
                filesystem.rm(f"{prefix}/{location}", recursive=True)

    def problem(self) -> str | None:
        """Whether cache and remote store can be written; a few bytes are."""
        here = super().problem()
        if here is not None:
            return here
        try:
            filesystem, prefix = self._open()
            probe = f"{prefix}/.probe-{uuid.uuid4().hex}"
            filesystem.pipe_file(probe, b"ok")
            filesystem.rm_file(probe)
        except Exception as error:  # the protocol's libraries have exceptions of their own
            return f"{self.url} cannot be written: {type(error).__name__}: {error}"[:300]
        return None


def _location(name: str) -> str | None:
    """The location that a file below the prefix belongs to; null if it has none of the forms."""
    parts = PurePosixPath(name).parts
    for form in FOLDERS:
        folder = PurePosixPath(*parts[: form.count("/") + 1])
        if len(parts) > len(folder.parts) and folder.match(form):
            return folder.as_posix()
    return None


def _moment(entry: dict[str, Any]) -> float:
    """When an object was written, in seconds since 1970; protocols name it differently, and one that does not say is new."""
    said = next((entry[name] for name in ("LastModified", "mtime", "created", "updated") if entry.get(name)), None)
    if isinstance(said, datetime):
        return said.timestamp()
    if isinstance(said, str):
        return datetime.fromisoformat(said).timestamp()
    return float(said) if said is not None else time.time()


@contextlib.contextmanager
def _as_os_error(said: str) -> Iterator[None]:
    """The protocol's libraries have exceptions of their own for a host that does not answer."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{said}: {type(error).__name__}: {error}") from error
