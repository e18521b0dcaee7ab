"""Running one piece of code that nobody vouches for, from the worker: a launcher for each run, and what came of it."""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]
GRACE_S = 15.0
"""What a launcher may take beside the run itself, before it counts as broken."""
END_S = 5.0
ENVIRONMENT = {"HOME": "/tmp", "LANG": "C.UTF-8", "TMPDIR": "/tmp"}  # noqa: S108 (the sandbox's own)
"""All that a launcher has, and what it starts."""
_START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from workers.sandbox.inside.launcher import main; main(sys.argv[1:])"

Backend = Literal["built-in", "bubblewrap"]


class SandboxFault(Exception):
    """Not the completion's doing: the sandbox broke, or the author's tests or source did."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of each process of a run: address space, and seconds of the whole run."""

    memory_mb: int = 512
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Ran:
    """How a completion's code did: `share` of the tests in [0, 1], and what went wrong. `timed_out` may not be so the next time."""

    share: float
    reason: str | None = None
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A backend; `bubblewrap` is the path of its program."""

    backend: Backend = "built-in"
    bubblewrap: str | None = None
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, compare=False, repr=False)

    def kill(self) -> None:
        """End every run that is under way, each with a `SandboxFault`."""
        for launcher in list(self._running):
            launcher.terminate()

    def run_tests(self, code: str, tests: str, limits: Limits = Limits()) -> Ran:
        """Run an author's tests on a completion's code, each in a process of its own. Raises `SandboxFault`."""
        request = {"solution": {"code": code}, "tests": {"tests": tests}}
        said = self._launch("tests", "tests", request, limits)
        if "stopped" in said:
            return Ran(0.0, said["stopped"], bool(said.get("timeout")))
        record = said["record"]
        if record.get("ended"):
            return Ran(0.0, f"the code's process {said['code_ended']}")
        if "failed" in record:
            return Ran(0.0, f"the code failed: {record['failed']}")
        passed, total = int(record["passed"]), int(record["total"])
        if passed == total:
            return Ran(1.0)
        return Ran(passed / total, f"{passed} of {total} passed; " + "; ".join(record["failures"]))

    def run_grader(self, source: str, sample: Mapping[str, Any], item: Any, limits: Limits = Limits()) -> float | str:
        """What an author's `grade(sample, item)` gives: a number in [0, 1], or why it is none. Raises `SandboxFault`."""
        request = {"program": {"source": source, "sample": sample, "item": item}}
        said = self._launch("program", "program", request, limits)
        if "stopped" in said:
            raise SandboxFault(f"the grader's source failed: {said['stopped']}")
        record = said["record"]
        return record["wrong"] if "wrong" in record else float(record["value"])

    def walls(self) -> str:
        """What the kernel lends beside namespaces and limits, e.g. `landlock=7 seccomp=True`."""
        request = {"solution": {"code": ""}, "tests": {"tests": "assert True"}}
        return str(self._launch("tests", "tests", request, Limits(memory_mb=128)).get("walls"))

    def _launch(self, kind: str, judge: str, request: dict[str, Any], limits: Limits) -> dict[str, Any]:
        """One run. A record counts only with the nonce, which the completion's process never had."""
        nonce = secrets.token_hex(16)
        request[judge]["nonce"] = nonce
        data = json.dumps(request).encode()
        said = self._converse(kind, limits, b"%012d" % len(data) + data)
        if "fault" in said:
            raise SandboxFault(str(said["fault"]))
        if "stopped" in said:
            return said
        record = said.get("record")
        if not isinstance(record, dict) or not hmac.compare_digest(str(record.get("nonce")), nonce):
            raise SandboxFault("the sandbox's launcher ended without a record")
        if "fault" in record:
            raise SandboxFault(str(record["fault"]))
        return said

    def _converse(self, kind: str, limits: Limits, data: bytes) -> dict[str, Any]:
        words = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            _START,
            str(ROOT),
            kind,
            str(limits.memory_mb),
            str(limits.timeout_s),
        ]
        launcher = subprocess.Popen(
            [*words, *(self._bubblewrap_command() if self.bubblewrap else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            close_fds=True,
        )
        with launcher:
            assert launcher.stdin is not None
            assert launcher.stdout is not None
            self._running.add(launcher)
            try:
                with contextlib.suppress(BrokenPipeError):
                    launcher.stdin.write(data)
                    launcher.stdin.flush()
                line = _read_line(launcher.stdout.fileno(), limits.timeout_s + GRACE_S)
            finally:
                self._running.discard(launcher)
                _end(launcher)
        try:
            said = json.loads(line)
        except ValueError:
            said = {}
        return said if isinstance(said, dict) else {}

    def _bubblewrap_command(self) -> list[str]:
        from workers.sandbox.inside.confine import DISK_MB
        from workers.sandbox.inside.kernel import DEVICES, hidden, libraries

        assert self.bubblewrap is not None
        words = [
            self.bubblewrap,
            "--unshare-all",
            "--die-with-parent",
            "--new-session",
            "--cap-drop",
            "ALL",
            "--clearenv",
        ]
        for name, value in ENVIRONMENT.items():
            words += ["--setenv", name, value]
        for path in libraries():
            words += ["--symlink", os.readlink(path), path] if os.path.islink(path) else ["--ro-bind", path, path]
        for folder in [folder for path in libraries() for folder in hidden(path)]:
            words += ["--tmpfs", folder]
        for device in DEVICES:
            words += ["--dev-bind", device, device]
        python = os.path.realpath(sys.executable)
        words += ["--ro-bind", python, python]
        for library in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
            words += ["--ro-bind", str(library), str(library)]
        words += ["--ro-bind", str(ROOT / "workers" / "sandbox"), "/grape/workers/sandbox"]
        words += ["--size", str(DISK_MB << 20), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]  # noqa: S108
        return words


def _end(launcher: subprocess.Popen[bytes]) -> None:
    """After its line it is about to end; else it is told to, and kills what it has started first."""
    launcher.terminate()
    try:
        launcher.wait(END_S)
    except subprocess.TimeoutExpired:
        launcher.kill()
    with contextlib.suppress(BrokenPipeError):
        launcher.stdin.close()  # type: ignore[union-attr]


def _read_line(fd: int, seconds: float) -> bytes:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    found = b""
    deadline = time.monotonic() + seconds
    while not found.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            break
        part = os.read(fd, 1 << 16)
        if not part:
            break
        found += part
    return found


def find_bubblewrap() -> str | None:
    """Its program, if the machine has it."""
    return shutil.which("bwrap")
