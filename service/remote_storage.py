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
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fsspec.core import get_filesystem_class, url_to_fs

from service.config import StorageSettings
from service.storage import ArtifactStore, blocks

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


@contextlib.contextmanager
def _as_os_error(said: str) -> Iterator[None]:
    """The protocol's libraries have exceptions of their own for a host that does not answer."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{said}: {type(error).__name__}: {error}") from error
