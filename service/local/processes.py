"""The supervisor: starts programs, prefixes what they print, restarts who dies, stops all in order."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from service import lifeline
from service.local.account import Account

BACKOFF_S = (0.2, 5.0)
STEADY_S = 10.0
"""A program that has run this long starts again at the shortest backoff."""

LOG_LIMIT = 16 << 20


@dataclass(frozen=True, slots=True)
class Program:
    """What to run under which role."""

    role: str
    argv: list[str]
    env: dict[str, str] | None = None
    account: Account | None = None
    death_signal: signal.Signals = signal.SIGKILL
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout_s: float = 30.0
    echo: bool = True
    """Whether its output is shown as well as logged."""


@dataclass(slots=True)
class _Running:
    program: Program
    process: subprocess.Popen[bytes]
    started: float
    started_at: str
    backoff: float = BACKOFF_S[0]
    restart_at: float | None = None
    restarts: int = 0
    reader: threading.Thread | None = None


@dataclass(slots=True)
class LogFile:
    """What a program prints, kept as one file of about `limit` bytes and the one before it (`.1`)."""

    path: Path
    limit: int = LOG_LIMIT
    _file: IO[bytes] | None = None
    _bytes: int = 0

    def write(self, line: bytes) -> None:
        """Append; what cannot be written (a full disk) is lost, and the next line is tried again."""
        try:
            if self._file is None or self._bytes > self.limit:
                self._open()
            assert self._file is not None
            self._file.write(line)
            self._bytes += len(line)
        except OSError:
            self.close()

    def _open(self) -> None:
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size > self.limit:
            os.replace(self.path, self.path.with_name(self.path.name + ".1"))
        self._file = self.path.open("ab", buffering=0)
        self._bytes = self.path.stat().st_size

    def close(self) -> None:
        """Close the file; the next `write` opens it again."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None


@dataclass(slots=True)
class Supervisor:
    """Holds the programs of one data folder.

    `children` is a folder in which workers name the training children that they run; they are listed in `processes.json`
    beside the programs, under the role `child`.
    """

    listing: Path
    children: Path
    logs: Path
    write: Callable[[str], None]
    _running: dict[str, _Running] = field(default_factory=dict)
    _stopping: bool = False
    _listed: str = ""
    _list_at: float = 0.0
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def start(self, program: Program) -> None:
        """Start a program; it is kept running until `stop`."""
        with self._lock:
            self._running[program.role] = self._spawn(program)
            self._list()

    def _spawn(self, program: Program) -> _Running:
        account = program.account
        switch = account is not None and account.switch
        uid, gid = (account.uid, account.gid) if account and switch else (-1, -1)
        process = subprocess.Popen(
            [*lifeline.wrapper(program.death_signal, uid, gid), *program.argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=program.env,
            cwd="/" if switch else None,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops them in order
        )
        running = _Running(program, process, time.monotonic(), _now())
        running.reader = threading.Thread(target=self._relay, args=(program, process), daemon=True)
        running.reader.start()
        return running

    def _relay(self, program: Program, process: subprocess.Popen[bytes]) -> None:
        stream: IO[bytes] | None = process.stdout
        assert stream is not None
        log = LogFile(self.logs / f"{program.role}.log")
        with stream, contextlib.closing(log):
            # Whatever happens to the log or the terminal, the pipe is read: a program that cannot print would hang.
            for line in stream:
                log.write(line)
                if program.echo:
                    self.write(f"{program.role:>8} | {line.decode(errors='replace').rstrip()}")

    def tick(self) -> None:
        """Restart who has died, and keep `processes.json` true. Call it several times a second."""
        with self._lock:
            for role, running in self._running.items():
                if self._stopping:
                    break
                if running.restart_at is None and running.process.poll() is not None:
                    lived = time.monotonic() - running.started
                    running.backoff = BACKOFF_S[0] if lived > STEADY_S else min(running.backoff * 2, BACKOFF_S[1])
                    running.restart_at = time.monotonic() + running.backoff
                    code = running.process.returncode
                    self.write(f"{role:>8} | ended with {_ending(code)}; it starts again in {running.backoff:.1f} s")
                elif running.restart_at is not None and time.monotonic() >= running.restart_at:
                    fresh = self._spawn(running.program)
                    fresh.backoff, fresh.restarts = running.backoff, running.restarts + 1
                    self._running[role] = fresh
            self._list()

    def alive(self, role: str) -> bool:
        """Whether the program of this role runs now."""
        return role in self._running and self._running[role].process.poll() is None

    def known(self, role: str) -> bool:
        """Whether this supervisor has a program of this role."""
        return role in self._running

    def _list(self) -> None:
        entries = [
            {"role": role, "pid": running.process.pid, "started_at": running.started_at}
            for role, running in self._running.items()
            if running.process.poll() is None
        ]
        entries.extend(_children(self.children))
        text = json.dumps(entries, indent=1)
        if text == self._listed or time.monotonic() < self._list_at:
            return
        try:
            write_atomically(self.listing, text)
            self._listed = text
        except OSError as error:  # a full disk, say: the programs go on, and the list follows
            self._list_at = time.monotonic() + BACKOFF_S[1]
            self.write(f"   stack | {self.listing} cannot be written: {error.strerror}")

    def stop(self) -> None:
        """Stop every program, last started first, each with its own signal and time-out."""
        self._stopping = True
        with self._lock:
            order = list(reversed(self._running.values()))
        # Workers first and together: they drain; the servers that they need for it stop after them.
        servers = [r for r in order if r.program.role in ("postgres", "valkey")]
        for wave in ([r for r in order if r not in servers], servers):
            for running in wave:
                if running.process.poll() is None:
                    running.process.send_signal(running.program.stop_signal)
            for running in wave:
                try:
                    running.process.wait(running.program.stop_timeout_s)
                except subprocess.TimeoutExpired:
                    self.write(f"{running.program.role:>8} | did not stop in time and is killed")
                    running.process.kill()
                    running.process.wait()
        for running in order:
            if running.reader is not None:
                running.reader.join(timeout=5)
        with self._lock:
            self._list()


def _children(folder: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for path in sorted(folder.glob("*.json")):
        try:
            entry = json.loads(path.read_text())
            os.kill(entry["pid"], 0)
        except (OSError, ValueError, KeyError):
            continue
        found.append({"role": "child", "pid": entry["pid"], "started_at": entry["started_at"]})
    return found


def write_atomically(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file that readers see whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _ending(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
