"""`grape up` as a process of the tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

from service import lifeline
from service.client import GrapeClient

SETTINGS = {
    "GRAPE_JOBS__LEASE_S": "3",
    "GRAPE_JOBS__HEARTBEAT_S": "1",
    "GRAPE_JOBS__RETRY_BACKOFF_S": "0.2",
    "GRAPE_GRADING__LEASE_S": "3",
}


@dataclass
class RunningStack:
    """One stack on one data folder."""

    folder: Path
    settings: dict | None = None
    process: subprocess.Popen | None = None

    def start(self, *arguments, wait=True, stdout=None):
        """Start it, and wait until it is ready. It is stopped if the test process dies."""
        env = {**os.environ, **SETTINGS, **(self.settings or {})}
        with (self.folder.parent / f"{self.folder.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *lifeline.wrapper(signal.SIGTERM),
                    sys.executable,
                    "-m",
                    "service.local",
                    "--data-dir",
                    str(self.folder),
                    "--port",
                    "0",
                    *arguments,
                ],
                env=env,
                stdout=stdout or log,
                stderr=subprocess.STDOUT,
            )
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, timeout_s=90):
        """Until the API answers and every role is listed."""

        def ready():
            if self.process.poll() is not None:
                raise AssertionError(f"grape up ended with {self.process.returncode}:\n{self.log()[-3000:]}")
            try:
                base_url = json.loads((self.folder / "credentials.json").read_text())["base_url"]
                return httpx.get(f"{base_url}/readyz", timeout=2).status_code == 200
            except (OSError, ValueError, httpx.HTTPError):
                return False

        wait_for(ready, timeout_s, "the stack is ready")

    def log(self):
        """What it printed."""
        return (self.folder.parent / f"{self.folder.name}.log").read_text()

    def client(self):
        """An admin's client."""
        return GrapeClient.from_credentials(self.folder)

    def pids(self, role):
        """Process ids of a role, as processes.json lists them."""
        listed = json.loads((self.folder / "processes.json").read_text())
        return [entry["pid"] for entry in listed if entry["role"] == role]

    def environment(self, role):
        """What the one process of a role was started with."""
        (pid,) = wait_for(lambda: self.pids(role), 20, f"a process of role {role}")
        words = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        return dict(word.split("=", 1) for word in words if "=" in word)

    def port(self, role):
        """Where a server of the stack listens."""
        (pid,) = self.pids(role)
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        return int(next(word for word in words if word.startswith("port=")).removeprefix("port="))

    def kill(self, role, sig=signal.SIGKILL):
        """Kill the one process of a role; its pid."""
        (pid,) = wait_for(lambda: self.pids(role), 20, f"a process of role {role}")
        os.kill(pid, sig)
        return pid

    def stop(self, sig=signal.SIGTERM, timeout_s=60):
        """Signal it, and wait for its end; the exit code."""
        self.process.send_signal(sig)
        return self.process.wait(timeout_s)


def wait_for(condition, timeout_s, what, every_s=0.05):
    """Until `condition()` is true; its value."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        time.sleep(every_s)


def alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
