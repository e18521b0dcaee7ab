"""Children that are forked from one preloaded process, the fork server of the standard library.

Importing torch and transformers costs three seconds of processor time; forking a process that has imported them, and has done
nothing else with them, takes twenty milliseconds and shares its memory. A process that has *used* torch cannot be forked (its
threads are gone in the child), and CUDA does not survive a fork once an import has looked for devices: `can_fork` says where
children are started afresh instead.

The server dies with the thread that started it and its children die with the server, so nothing outlives the worker.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO

from service.lifeline import die_with_parent

PRELOADED = "workers.preloaded"
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What the drivers of NVIDIA, AMD and WSL put there."""


def can_fork(method: str) -> bool:
    """Whether children are forked under this setting (`auto`, `fork` or `spawn`)."""
    return method == "fork" or (method == "auto" and not any(Path(device).exists() for device in GPU_DEVICES))


def start_server() -> None:
    """Start the fork server if none runs. Call this from a thread that outlives every child."""
    multiprocessing.set_forkserver_preload([PRELOADED])
    from multiprocessing import forkserver

    forkserver.ensure_running()


class Forked:
    """A forked child, with what the nursery uses of `subprocess.Popen`: `pid`, `stdin`, `stdout`, `poll`, `wait`, `kill`."""

    def __init__(self) -> None:
        """Waits until the server has been preloaded."""
        context = multiprocessing.get_context("forkserver")
        control, control_in = context.Pipe(duplex=False)
        output_out, output = context.Pipe(duplex=False)
        progress_out, progress = context.Pipe(duplex=False)
        # A daemon, so that a worker that ends does not wait for it.
        self._process: ForkServerProcess = context.Process(target=begin, args=(control, output, progress), daemon=True)
        self._process.start()
        for end in (control, output, progress):
            end.close()
        assert self._process.pid is not None
        self.pid: int = self._process.pid
        self.stdin: IO[bytes] = _file(control_in, "wb")
        self.stdout: IO[bytes] = _file(output_out, "rb")
        self.progress: int = os.dup(progress_out.fileno())
        progress_out.close()

    def poll(self) -> int | None:
        """Its exit code (negative: the signal that ended it), null while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises `TimeoutError`."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise TimeoutError(f"process {self.pid} still runs")
        return code

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()


def _file(connection: Connection, mode: str) -> IO[bytes]:
    stream: IO[bytes] = os.fdopen(os.dup(connection.fileno()), mode)
    connection.close()
    return stream


def begin(control: Connection, output: Connection, progress: Connection) -> None:
    """In the child: a session of its own, output where the supervisor reads it, and death with the server."""
    from workers.preloaded import SERVER

    os.setsid()
    die_with_parent(signal.SIGKILL, SERVER)
    for descriptor in (1, 2):
        os.dup2(output.fileno(), descriptor)
    output.close()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    from workers.child import serve

    serve(_file(control, "rb"), os.dup(progress.fileno()))
