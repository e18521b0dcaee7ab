"""What is recorded of a run: every request with its answer, what readers saw, what was done to the stack, and what was left."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Call:
    """One request: sent at `began`, answered (or given up) at `ended`, in seconds of one clock."""

    what: str
    """`create`, `cancel`, `pause`, `resume` or `get`."""
    began: float
    ended: float
    job: str | None = None
    key: str | None = None
    """Its Idempotency-Key."""
    status: int | None = None
    """The HTTP status; null if there was no answer."""
    replayed: bool = False
    """Whether it is the stored answer to an earlier request with this key: it tells of that time."""
    answer: dict[str, Any] | None = None
    error: str | None = None


@dataclass
class Reader:
    """One reader of a job's events: what it saw over all its connections."""

    job: str
    seen: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    ended: bool = False
    """Whether `event: end` came."""


@dataclass
class Glance:
    """Which training children ran at a moment."""

    at: float
    children: list[int]


@dataclass
class Fault:
    """What was done to the stack."""

    at: float
    role: str
    signal: str
    seconds: float
    pid: int | None


@dataclass
class CheckpointFound:
    """A listed checkpoint and what its folder holds."""

    id: str
    job: str
    step: int
    fence: int
    listed: dict[str, str]
    """sha256 by path, as the API lists it."""
    found: dict[str, str]
    """sha256 by path, of the files that lie there."""
    problem: str | None = None
    """Why it does not load; null if it does."""


@dataclass
class History:
    """One seed's run. `rows` are the database's rows when everything has come to rest, as JSON values."""

    seed: int
    calls: list[Call] = field(default_factory=list)
    readers: list[Reader] = field(default_factory=list)
    glances: list[Glance] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    checkpoints: list[CheckpointFound] = field(default_factory=list)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """`jobs` rows by id; `finished` beside `finished_at` is the same time in seconds."""
    events: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """`job_events` rows by job, by seq."""
    attempts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """`attempts` rows by job, by fence; times in seconds."""
    writes: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """What attempts wrote, in the order of its time: {at, fence, what} of metrics and checkpoints, by job."""

    def save(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, default=str))
