"""A checkpoint as one tar stream, file by file: never the whole of it in memory."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from service.domain.checkpoint import CheckpointFile

BLOCK = 1 << 20


def archive_size(files: list[CheckpointFile], prefix: str) -> int:
    """Bytes of the archive, which is known before it is made."""
    return sum(len(_header(file, prefix)) + _padded(file.bytes) for file in files) + 2 * tarfile.BLOCKSIZE


def stream_archive(root: Path, files: list[CheckpointFile], prefix: str) -> Iterator[bytes]:
    """A tar (PAX) of the files under `prefix/`."""
    for file in files:
        yield _header(file, prefix)
        with (root / file.path).open("rb") as stream:
            while block := stream.read(BLOCK):
                yield block
        yield b"\0" * (_padded(file.bytes) - file.bytes)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _header(file: CheckpointFile, prefix: str) -> bytes:
    info = tarfile.TarInfo(f"{prefix}/{file.path}")
    info.size = file.bytes
    info.mode = 0o644
    return io.BytesIO(info.tobuf(tarfile.PAX_FORMAT)).getvalue()


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
