"""Training children: one or more wait, preloaded, for the next job.

Importing transformers takes seconds, so a child is started beforehand and told its job over a pipe: forked from a preloaded
process where that can be done (`workers.forking`), spawned elsewhere. The kernel kills it when the thread that started it, or
the fork server, ends; therefore only the poll thread, which lives as long as the process, starts either.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from workers.forking import Forked, can_fork, start_server

log = logging.getLogger(__name__)

LOG_LINE = 16 << 10
OUTPUT_LIMIT = 4 << 20
"""Characters of a child's output that wait in this process."""


@dataclass(slots=True)
class Output:
    """What a child has printed and nobody has fetched yet: at most `limit` characters, beyond that lines are counted and dropped.

    A child that floods its log while the database is away must not fill this process's memory.
    """

    limit: int = OUTPUT_LIMIT
    _lines: deque[str] = field(default_factory=deque)
    _size: int = 0
    _dropped: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def put(self, line: str) -> None:
        """A line, or a piece of a long one."""
        with self._lock:
            if self._size + len(line) > self.limit:
                self._dropped += 1
                return
            self._lines.append(line)
            self._size += len(line)

    def take(self) -> str:
        """Everything, and how much was dropped after it."""
        with self._lock:
            text = "".join(self._lines)
            if self._dropped:
                text += f"\n({self._dropped} lines were printed faster than they could be kept)\n"
            self._lines.clear()
            self._size = self._dropped = 0
            return text


@dataclass(slots=True)
class Child:
    """A child process; `messages` are what it says, `output` what it prints."""

    process: subprocess.Popen[bytes] | Forked
    messages: queue.Queue[dict[str, Any]] = field(default_factory=queue.Queue)
    output: Output = field(default_factory=Output)
    ready: threading.Event = field(default_factory=threading.Event)
    started_at: str = ""
    _readers: list[threading.Thread] = field(default_factory=list)

    @classmethod
    def spawn(cls, program: Sequence[str] = ("-m", "workers.child")) -> Child:
        """Start one; call this from a thread that outlives it."""
        read_end, write_end = os.pipe()
        process = subprocess.Popen(
            [sys.executable, *program, str(write_end), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(write_end,),
            start_new_session=True,
        )
        os.close(write_end)
        return cls._read(process, read_end)

    @classmethod
    def fork(cls) -> Child:
        """Fork one; it is ready at once, but the first waits until the server has been preloaded."""
        process = Forked()
        return cls._read(process, process.progress)

    @classmethod
    def _read(cls, process: subprocess.Popen[bytes] | Forked, read_end: int) -> Child:
        child = cls(process, started_at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"))
        for target, argument in ((child._read_messages, read_end), (child._read_output, None)):
            thread = threading.Thread(target=target, args=(argument,), daemon=True)
            thread.start()
            child._readers.append(thread)
        return child

    @property
    def pid(self) -> int:
        """Its process id, which is its session's too."""
        return self.process.pid

    def alive(self) -> bool:
        """Whether it still runs."""
        return self.process.poll() is None

    def _read_messages(self, read_end: int) -> None:
        with os.fdopen(read_end, "rb") as stream:
            for line in stream:
                message = json.loads(line)
                if message["type"] == "ready":
                    self.ready.set()
                else:
                    self.messages.put(message)

    def _read_output(self, _: None) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            while line := stream.readline(LOG_LINE):
                self.output.put(line.decode("utf-8", "replace").replace("\x00", "\ufffd"))

    def send(self, message: dict[str, Any]) -> None:
        """Tell it something; a child that is gone hears nothing."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except (BrokenPipeError, OSError, ValueError):
            log.info("child %d is gone", self.pid)

    def dump_stacks(self) -> None:
        """Have it write the stacks of all its threads to its output; its handler needs no Python to run."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, signal.SIGUSR1)

    def kill(self) -> None:
        """End it and everything that it has started, at once."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            self.process.kill()  # it has no session of its own yet, or is gone

    def wait(self, timeout_s: float = 10) -> int:
        """Its exit code, once everything that it said has been read."""
        code = self.process.wait(timeout_s)
        with contextlib.suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]
        for reader in self._readers:
            reader.join(timeout=2)
        return code


@dataclass(slots=True)
class Nursery:
    """Keeps `size` children ready. `start_method`: `auto`, `fork` or `spawn`, see `workers.forking.can_fork`."""

    run_dir: Path | None
    size: int = 1
    start_method: str = "spawn"
    _waiting: list[Child] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _retry_at: float = 0.0
    _forking: threading.Thread | None = None
    _closed: bool = False

    def tend(self) -> None:
        """Have children waiting. Called by the poll thread alone."""
        with self._lock:
            for child in [child for child in self._waiting if not child.alive()]:
                log.error("a waiting child ended with code %s:\n%s", child.wait(), _said(child))
                self._waiting.remove(child)
                self._retry_at = time.monotonic() + 5
            if len(self._waiting) >= self.size or time.monotonic() < self._retry_at:
                return
        if not can_fork(self.start_method):
            with self._lock:
                while len(self._waiting) < self.size:
                    self._waiting.append(Child.spawn())
        elif self._forking is None or not self._forking.is_alive():
            start_server()
            # The first fork waits for the server's imports; leases have to be looked after meanwhile.
            self._forking = threading.Thread(target=self._fork, name="fork", daemon=True)
            self._forking.start()

    def _fork(self) -> None:
        try:
            while len(self._waiting) < self.size:
                child = Child.fork()
                with self._lock:
                    if self._closed:
                        child.kill()
                        return
                    self._waiting.append(child)
        except (OSError, EOFError) as error:
            log.error("no child could be forked: %s: %s", type(error).__name__, error)
            self._retry_at = time.monotonic() + 5

    def take(self) -> Child | None:
        """A waiting child that is ready; it belongs to the caller from now on."""
        with self._lock:
            child = next((child for child in self._waiting if child.ready.is_set() and child.alive()), None)
            if child is not None:
                self._waiting.remove(child)
            return child

    def has_one(self) -> bool:
        """Whether `take` would give one."""
        return any(child.ready.is_set() and child.alive() for child in list(self._waiting))

    def announce(self, child: Child) -> None:
        """Say that this child runs a job."""
        if self.run_dir is not None:
            entry = json.dumps({"pid": child.pid, "started_at": child.started_at})
            draft = self.run_dir / f".{child.pid}"
            draft.write_text(entry)
            os.replace(draft, self.run_dir / f"{child.pid}.json")

    def bury(self, child: Child) -> None:
        """The child is gone."""
        if self.run_dir is not None:
            (self.run_dir / f"{child.pid}.json").unlink(missing_ok=True)

    def close(self) -> None:
        """End the waiting children."""
        with self._lock:
            self._closed = True
            for child in self._waiting:
                child.kill()
                child.wait()
            self._waiting.clear()


def _said(child: Child) -> str:
    return "".join(child.output.take().splitlines(keepends=True)[-40:])
