"""Finished runs, one JSON line each, so that an interrupted measurement goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.claim.protocol import Cell, RunKey


class RunStore:
    """The curves of one protocol in `runs.jsonl`. Lines of other protocols, and a line that was cut off, are ignored."""

    def __init__(self, folder: Path, digest: str) -> None:
        self.path, self.digest = folder / "runs.jsonl", digest
        self.curves: dict[RunKey, list[float]] = {}
        self.code: set[str] = set()
        """Digests of the arithmetic (`code_digest`) that the runs were made with."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            run = json.loads(line)
        except ValueError:
            return
        if run["protocol"] == self.digest:
            key = RunKey(run["policy"], Cell(**run["cell"]), run["arm"], run["seed"])
            self.curves[key] = run["curve"]
            self.code.add(run["code"])

    def add(self, runs: Iterable[tuple[RunKey, list[float]]], code: str) -> None:
        """Append finished runs and make sure that they are on the disk."""
        lines = []
        for key, curve in runs:
            self.curves[key] = [round(x, 5) for x in curve]
            row: dict[str, Any] = {"protocol": self.digest, "code": code, **asdict(key), "curve": self.curves[key]}
            lines.append(json.dumps(row) + "\n")
        self.code.add(code)
        with self.path.open("a+b") as file:
            if file.tell() and not _ends_with_newline(file):
                file.write(b"\n")
            file.write("".join(lines).encode())
            file.flush()
            os.fsync(file.fileno())


def _ends_with_newline(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
