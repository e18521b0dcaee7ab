"""The launcher: one process per run, started by the worker with an empty environment, and gone with it.

It starts the processes before it reads a word of the request, so that none of them holds the other's part in its memory; watches
time and output; kills what is left; and writes one line of JSON to the worker. How a run ended is decided here, from records and
from what the kernel says, never from exit codes that the code chooses or from what it prints.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import Any

from workers.sandbox.inside.process import Process, start
from workers.sandbox.inside.roles import Limits
from workers.sandbox.inside.wire import Ended, read_exactly, write_all

MOST_OUTPUT = 1 << 20
"""Bytes that the code may print; nobody reads them."""
MOST_RECORD = 1 << 16
SETTLE_S = 5.0
"""How long the walls may take to stand."""

Outcome = dict[str, Any]


class WorkerGone(Exception):
    """The worker is gone."""


def main(arguments: list[str]) -> None:
    """`kind memory_mb seconds`, then the words of a bubblewrap command."""
    kind, limits = arguments[0], Limits(int(arguments[1]), float(arguments[2]))
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _told_to_end)
    processes = _start(kind, limits, arguments[3:] or None)
    try:
        outcome = _run(kind, processes, limits)
    except (WorkerGone, Ended):
        outcome = {}
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for process in processes:
            process.kill()
    write_all(1, json.dumps(outcome).encode() + b"\n")


def _told_to_end(*_: Any) -> None:
    raise WorkerGone


def _start(kind: str, limits: Limits, bubblewrap: list[str] | None) -> list[Process]:
    if kind == "program":
        return [start("program", limits, None, bubblewrap)]
    question, asked = os.pipe()
    answer, answered = os.pipe()
    code = start("solution", limits, (question, answered), bubblewrap)
    return [code, start("tests", limits, (answer, asked), bubblewrap)]


def _run(kind: str, processes: list[Process], limits: Limits) -> Outcome:
    watch = _Watch(processes)
    deadline = time.monotonic() + SETTLE_S
    while not all(process.ready for process in processes):
        watch.turn(deadline)
        for process in processes:
            if process.failed or process.ended is not None:
                return {"fault": f"the sandbox did not stand: {process.failed or process.ended}"}
        if time.monotonic() > deadline:
            return {"fault": f"the sandbox did not stand within {SETTLE_S:.0f} s"}
    request = json.loads(read_exactly(0, int(read_exactly(0, 12))))
    for process in processes:
        with contextlib.suppress(Ended):  # it is dead already
            write_all(process.give, json.dumps(request[process.role]).encode())
        os.close(process.give)
    begun = time.monotonic()
    outcome = _verdict(kind, processes, watch, begun + limits.seconds, limits)
    return {**outcome, "seconds": time.monotonic() - begun, "walls": processes[0].ready}


def _verdict(kind: str, processes: list[Process], watch: _Watch, deadline: float, limits: Limits) -> Outcome:
    judge, code = processes[-1], processes[0]
    while True:
        if judge.record_done and judge.record:
            record = json.loads(judge.record)
            settled = time.monotonic() + 2.0  # its end is told after its silence, later on a busy machine
            while record.get("ended") and code.ended is None and time.monotonic() < settled:
                watch.turn(settled)
            return {"record": record, "code_ended": _how(code) if kind == "tests" else None}
        if judge.record_done and judge.ended is not None:
            return {"fault": f"the process of the {'tests' if kind == 'tests' else 'grader'} {_how(judge)}"}
        if kind == "tests" and code.written > MOST_OUTPUT:
            return {"stopped": f"the code printed more than {MOST_OUTPUT >> 20} MiB"}
        if time.monotonic() > deadline:
            return {"stopped": f"it did not end within {limits.seconds:g} s", "timeout": True}
        # The record of tests that came to their end is written before the code's process hears of it.
        if kind == "tests" and code.ended is not None and not judge.record and not judge.record_done:
            return {"stopped": f"the code's process {_how(code)}"}
        watch.turn(deadline)


def _how(process: Process) -> str:
    if process.ended is None:
        return "went silent"
    if process.ended < 0:
        try:
            name = signal.Signals(-process.ended).name
        except ValueError:
            name = f"signal {-process.ended}"
        return f"was ended by {name}"
    return f"ended itself with exit code {process.ended}"


class _Watch:
    """Waits for whatever comes first: words of keepers, records, output, the worker's end."""

    def __init__(self, processes: list[Process]) -> None:
        self.poll = select.poll()
        self.readers: dict[int, tuple[Process, str]] = {}
        for process in processes:
            for what in ("status", "take", "output"):
                fd = getattr(process, what)
                self.readers[fd] = (process, what)
                self.poll.register(fd, select.POLLIN)
        self.poll.register(0, 0)  # a hang-up is always told

    def turn(self, deadline: float) -> None:
        """One wait, until `deadline` at most."""
        for fd, event in self.poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            if fd == 0:
                if event & (select.POLLHUP | select.POLLERR):
                    raise WorkerGone
                continue
            process, what = self.readers[fd]
            if not self._read(process, what, fd):
                self.poll.unregister(fd)

    @staticmethod
    def _read(process: Process, what: str, fd: int) -> bool:
        if what == "status":
            return process.hear()
        part = os.read(fd, 1 << 16)
        if what == "output":
            process.written += len(part)
        elif len(process.record) < MOST_RECORD:
            process.record += part
            process.record_done = not part
        return bool(part)


if __name__ == "__main__":
    main(sys.argv[1:])
