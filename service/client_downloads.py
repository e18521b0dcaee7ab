"""The client's downloads, resumed where they broke and verified; a part of `GrapeClient`."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from service.client_base import RETRIES, Connection, Corrupt, Unreachable


class DownloadCalls(Connection):
    """Files of checkpoints and models."""

    def download_checkpoint(
        self, checkpoint_id: str, folder: Path, on_bytes: Callable[[int], None] = lambda count: None
    ) -> dict[str, Any]:
        """Download every file, resuming half-finished ones, and verify size and sha256; the checkpoint.

        A file appears under its name only once it has verified.
        """
        return self._download_all(f"/v1/checkpoints/{checkpoint_id}", folder, on_bytes)

    def download_model(
        self, model_id: str, folder: Path, on_bytes: Callable[[int], None] = lambda count: None
    ) -> dict[str, Any]:
        """The same of a model that was trained here; the model."""
        return self._download_all(f"/v1/models/{model_id}", folder, on_bytes)

    def _download_all(self, path: str, folder: Path, on_bytes: Callable[[int], None]) -> dict[str, Any]:
        found: dict[str, Any] = self.get(path)
        for file in found["files"]:
            target = (folder / file["path"]).resolve()
            if not target.is_relative_to(folder.resolve()):
                raise Corrupt(f"{path} names a file outside its folder: {file['path']}")
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists() and _sha256(target) == file["sha256"]:
                on_bytes(file["bytes"])
                continue
            self._download(f"{path}/files/{file['path']}", target, file, on_bytes)
        return found

    def _download(self, path: str, target: Path, file: dict[str, Any], on_bytes: Callable[[int], None]) -> None:
        part = target.with_name(target.name + ".part")
        for attempt in range(RETRIES + 1):
            have = part.stat().st_size if part.exists() else 0
            if have > file["bytes"]:
                part.unlink()
                have = 0
            try:
                if have < file["bytes"] or not have:
                    self._fetch(path, part, have, file["sha256"], on_bytes)
                break
            except httpx.TransportError as error:
                if attempt == RETRIES:
                    raise Unreachable(f"{self.base_url} does not answer: {error}") from None
                time.sleep(0.5 * 2**attempt)
        if _sha256(part) != file["sha256"]:
            part.unlink()
            raise Corrupt(
                f"{file['path']}: the downloaded bytes do not have the sha256 of the manifest; download it again"
            )
        os.replace(part, target)

    def _fetch(self, path: str, part: Path, have: int, sha256: str, on_bytes: Callable[[int], None]) -> None:
        headers = {"Range": f"bytes={have}-", "If-Range": f'"{sha256}"'} if have else {}
        with self._http.stream("GET", path, headers=headers) as response:
            if not response.is_success:
                response.read()
                raise self._error(response)
            resumed = response.status_code == 206
            with part.open("ab" if resumed else "wb") as stream:
                if resumed:
                    on_bytes(have)
                for block in response.iter_bytes(1 << 20):
                    stream.write(block)
                    on_bytes(len(block))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
