"""Files of checkpoints and models on their way out: one by one with ranges, or as one tar, never the whole of it in memory."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import tarfile
from collections.abc import Iterator

from fastapi import Request, Response
from fastapi.responses import FileResponse, StreamingResponse

from service.domain.checkpoint import CheckpointFile
from service.errors import NotFound, RangeNotSatisfiable
from service.storage import ArtifactStore


def archive_size(files: list[CheckpointFile], prefix: str) -> int:
    """Bytes of the archive, which is known before it is made."""
    return sum(len(_header(file, prefix)) + _padded(file.bytes) for file in files) + 2 * tarfile.BLOCKSIZE


def stream_archive(store: ArtifactStore, location: str, files: list[CheckpointFile], prefix: str) -> Iterator[bytes]:
    """A tar (PAX) of the files under `prefix/`."""
    for file in files:
        yield _header(file, prefix)
        yield from store.read(location, file.path)
        yield b"\0" * (_padded(file.bytes) - file.bytes)
    yield b"\0" * (2 * tarfile.BLOCKSIZE)


def _header(file: CheckpointFile, prefix: str) -> bytes:
    info = tarfile.TarInfo(f"{prefix}/{file.path}")
    info.size = file.bytes
    info.mode = 0o644
    return io.BytesIO(info.tobuf(tarfile.PAX_FORMAT)).getvalue()


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


async def serve_file(
    store: ArtifactStore, location: str, file: CheckpointFile, request: Request, gone: str
) -> Response:
    """One file of a published folder, with ranges; its ETag is its sha256. 404 with the sentence `gone` if it is not there any more."""
    digest = base64.b64encode(bytes.fromhex(file.sha256)).decode()
    headers = {
        "ETag": f'"{file.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Cache-Control": "private, max-age=31536000, immutable",
    }
    if file.sha256 in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    media = "application/json" if file.path.endswith(".json") else "application/octet-stream"
    wanted = _range(request, file)
    if (place := store.local_file(location, file.path)) is not None:
        return FileResponse(place, media_type=media, headers=headers)
    try:
        start, end = wanted or (0, file.bytes)
        body = await asyncio.to_thread(store.read, location, file.path, start, end)
    except FileNotFoundError:
        raise NotFound(gone) from None
    headers |= {"Accept-Ranges": "bytes", "Content-Length": str(end - start)}
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.bytes}"
    if request.method == "HEAD":
        return Response(None, 206 if wanted else 200, headers, media)
    return StreamingResponse(body, 206 if wanted else 200, headers, media)


def _range(request: Request, file: CheckpointFile) -> tuple[int, int] | None:
    """The one range that is asked for, as first byte and end (excluded); null for the whole file.

    416 for one outside of the file; anything but one well-formed range is ignored (RFC 9110 §14.2) and taken from the request.
    """
    wanted = request.headers.get("range")
    if wanted is None or request.headers.get("if-range", f'"{file.sha256}"') != f'"{file.sha256}"':
        return None
    found = re.fullmatch(r"bytes=(?:([0-9]{1,18})-([0-9]{0,18})|-([0-9]{1,18}))", wanted.strip())
    if found is None or (found[2] and int(found[2]) < int(found[1])):
        request.scope["headers"] = [(name, value) for name, value in request.scope["headers"] if name != b"range"]
        return None
    if (found[1] and int(found[1]) >= file.bytes) or (found[3] and int(found[3]) == 0):
        raise RangeNotSatisfiable(
            f"the range '{wanted}' lies outside of {file.path}, which has {file.bytes} bytes",
            headers={"Content-Range": f"bytes */{file.bytes}"},
        )
    if found[3]:
        return max(0, file.bytes - int(found[3])), file.bytes
    return int(found[1]), min(int(found[2]) + 1, file.bytes) if found[2] else file.bytes


def serve_archive(store: ArtifactStore, location: str, files: list[CheckpointFile], name: str) -> Response:
    """All files as `name.tar`, streamed."""
    return StreamingResponse(
        stream_archive(store, location, files, name),
        media_type="application/x-tar",
        headers={
            "Content-Disposition": f'attachment; filename="{name}.tar"',
            "Content-Length": str(archive_size(files, name)),
        },
    )
