"""The client's calls for rows and rubrics in other formats; a part of `GrapeClient`."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import httpx

from service.client_base import Connection

LONG = httpx.Timeout(600, connect=5)


class FormatCalls(Connection):
    """Imports and exports."""

    def import_rows(
        self, dataset_id: str, file: Path, format: str = "auto", *, skip_faulty: bool = False, **options: str
    ) -> dict[str, Any]:
        """Publish an NDJSON file (plain, or `.gz`) of another format as one batch.

        `options`: `judge`, `polarity` and `weights`, for rows that bring criteria.
        """
        packed = file.suffix == ".gz"
        headers = {"Content-Type": "application/x-ndjson", **({"Content-Encoding": "gzip"} if packed else {})}
        params = {"format": format, "on_error": "skip" if skip_faulty else "abort", **options}
        content = file.read_bytes()
        path = f"/v1/datasets/{dataset_id}/import"
        answer = self.request("POST", path, params=params, content=content, headers=headers, timeout=LONG)
        batch: dict[str, Any] = answer.json()
        return batch

    def export_rows(self, dataset_id: str, file: Path, format: str = "as_imported") -> int:
        """Write a dataset to an NDJSON file (packed if it is named `.gz`), which appears once it is whole; the number of rows."""
        part = file.with_name(file.name + ".part")
        count = 0
        path = f"/v1/datasets/{dataset_id}/export"
        with self._http.stream("GET", path, params={"format": format}, timeout=LONG) as response:
            if not response.is_success:
                response.read()
                raise self._error(response)
            with gzip.open(part, "wb") if file.suffix == ".gz" else part.open("wb") as stream:
                for block in response.iter_bytes(1 << 20):
                    count += block.count(b"\n")
                    stream.write(block)
        os.replace(part, file)
        return count

    def import_rubric(self, text: bytes, format: str, **options: str) -> dict[str, Any]:
        """Create a rubric from a file's text; `options`: `name`, `category`, `judge`, `polarity`, `weights`."""
        headers = {"Content-Type": "application/yaml" if format == "yaml" else "application/json"}
        params = {"format": format, **options}
        answer = self.request("POST", "/v1/rubrics/import", params=params, content=text, headers=headers)
        rubric: dict[str, Any] = answer.json()
        return rubric

    def export_rubric(self, rubric_id: str, format: str = "yaml", version: int | str = "latest") -> bytes:
        """A version as a file of this format."""
        path = f"/v1/rubrics/{rubric_id}/versions/{version}/export"
        return self.request("GET", path, params={"format": format}).content
