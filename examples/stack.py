"""A running service for an example: the one of a data folder if it answers, else one of our own for as long as we need it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

from service import lifeline
from service.client import GrapeClient, Unreachable, find_credentials

START_S = 120.0


class ExampleFailed(Exception):
    """The example cannot go on; the message says why."""


def answers(data_dir: Path) -> bool:
    """Whether the service of this folder is up."""
    try:
        base_url, _ = find_credentials(data_dir)
        return httpx.get(f"{base_url}/readyz", timeout=3, trust_env=False).status_code == 200
    except (Unreachable, httpx.HTTPError):
        return False


@contextlib.contextmanager
def service_for(data_dir: Path, extra_roots: list[Path]) -> Iterator[tuple[GrapeClient, bool]]:
    """A client, and whether the stack was started here (then it is stopped at the end)."""
    if answers(data_dir):
        with GrapeClient.from_credentials(data_dir) as client:
            yield client, False
        return
    env = dict(os.environ)
    if extra_roots:
        env["GRAPE_MODELS__ROOTS"] = ",".join(str(root) for root in (data_dir, Path.cwd(), *extra_roots))
    process = subprocess.Popen(
        [
            *lifeline.wrapper(signal.SIGTERM),
            sys.executable,
            "-m",
            "service.local",
            "--data-dir",
            str(data_dir),
            "--port",
            "0",
            "--quiet",
        ],
        env=env,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + START_S
        while not answers(data_dir):
            if process.poll() is not None:
                said = (process.stderr.read() if process.stderr else "").strip()
                raise ExampleFailed(said or f"`grape up` ended with exit code {process.returncode}")
            if time.monotonic() > deadline:
                raise ExampleFailed(f"`grape up` was not ready within {START_S:.0f} s; see {data_dir}/logs")
            time.sleep(0.2)
        with GrapeClient.from_credentials(data_dir) as client:
            yield client, True
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(90)
        except subprocess.TimeoutExpired:
            process.kill()


@contextlib.contextmanager
def scripted(module: str, seed: int, *more: str) -> Iterator[dict[str, str]]:
    """A scripted endpoint as a process of its own: its `base_url` and `model`."""
    process = subprocess.Popen(
        [*lifeline.wrapper(signal.SIGKILL), sys.executable, "-m", module, "--port", "0", "--seed", str(seed), *more],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ExampleFailed(f"{module} did not start")
        yield json.loads(line)
    finally:
        process.terminate()
        process.wait(10)


def scripted_judge(seed: int, *more: str) -> contextlib.AbstractContextManager[dict[str, str]]:
    """The scripted judge."""
    return scripted("examples.scripted_judge", seed, *more)


def scripted_reviser(seed: int) -> contextlib.AbstractContextManager[dict[str, str]]:
    """The scripted reviser."""
    return scripted("examples.scripted_reviser", seed)
