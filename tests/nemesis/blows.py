"""What is done to a stack's processes, and who looks at its children meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.nemesis.history import Fault, Glance
from tests.support.stack import alive


def family(pid):
    """A process and all below it, as far as they run now."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            parents[int(stat.parent.name)] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return sorted(found)


@dataclass
class Nemesis(threading.Thread):
    """Deals the blows of a plan, in order. A stopped process goes on after its time, whatever happens to the run."""

    stack: object
    recorder: object
    blows: list

    def __post_init__(self):
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self):
        """Wait for each one's time; a role of which nothing runs then is passed over."""
        for blow in self.blows:
            time.sleep(max(0.0, blow.at - self.recorder.now()))
            pids = self.stack.pids(blow.role)
            fault = Fault(self.recorder.now(), blow.role, blow.signal, blow.seconds, pids[0] if pids else None)
            self.recorder.history.faults.append(fault)
            if fault.pid is None:
                continue
            # A stopped Postgres is all its processes: the first one alone only takes no new connections.
            struck = family(fault.pid) if (blow.role, blow.signal) == ("postgres", "STOP") else [fault.pid]
            try:
                for pid in struck:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.Signals[f"SIG{blow.signal}"])
                if blow.signal == "STOP":
                    time.sleep(blow.seconds)
            finally:
                if blow.signal == "STOP":
                    for pid in struck:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGCONT)


@dataclass
class Watcher(threading.Thread):
    """Writes down, ten times a second, which training children run."""

    stack: object
    recorder: object
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self):
        super().__init__(daemon=True)

    __hash__ = threading.Thread.__hash__

    def run(self):
        """Until it is stopped."""
        last = None
        while not self.stop.wait(0.1):
            children = [pid for pid in self.stack.pids("child") if alive(pid)]
            if children != last:
                self.recorder.history.glances.append(Glance(self.recorder.now(), children))
                last = children
