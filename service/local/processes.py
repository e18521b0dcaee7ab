"""The supervisor: starts programs, prefixes what they print, restarts who dies, stops all in order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
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
        wrapper = [str(lifeline.__file__), str(int(program.death_signal)), str(uid), str(gid), str(os.getpid()), "--"]
        process = subprocess.Popen(
            [sys.executable, "-I", *wrapper, *program.argv],
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
        self.logs.mkdir(parents=True, exist_ok=True)
        path = self.logs / f"{program.role}.log"
        if path.exists() and path.stat().st_size > 16 << 20:
            os.replace(path, path.with_suffix(".log.1"))
        with stream, path.open("ab", buffering=0) as log:
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
        if text != self._listed:
            write_atomically(self.listing, text)
            self._listed = text

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
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(draft, path)


def _ending(code: int) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
