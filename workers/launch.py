"""A job of several processes: the child starts them through torchrun's own agent, and is no rank itself.

It passes wishes on to rank 0 and what rank 0 says to the supervisor, over a Unix socket in a folder of its own. The ranks get
sessions of their own from the agent, so the kernel ends them when this process ends. Nothing is started again here: a rank that
is lost ends the attempt, and the next attempt begins at the last checkpoint.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import queue
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from workers.channel import ChildEnd, ParentGone

PATIENCE_S = 60
"""For the processes to find each other once they run."""


class Relay:
    """The socket that ranks connect to. `ended` has what ranks have said of their ends, in order."""

    def __init__(self, channel: ChildEnd, folder: Path) -> None:
        self.channel, self.path = channel, folder / "channel"
        self.ended: queue.Queue[dict[str, Any]] = queue.Queue()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._lock = threading.Lock()
        self._pids: list[int] = []
        self._leader: socket.socket | None = None
        self._wish: bytes | None = None

    def start(self) -> None:
        """Relay from now on, in threads."""
        threading.Thread(target=self._accept, name="relay", daemon=True).start()
        threading.Thread(target=self._wishes, name="wishes", daemon=True).start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._hear, args=(connection,), name="rank", daemon=True).start()

    def _hear(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if message["type"] == "rank":
                    self._pids.append(message["pid"])
                    if message["rank"] == 0:
                        with self._lock:
                            self._leader = connection
                            self._pass_on()
                elif message["type"] == "ended":
                    self.ended.put(message)
                    if message["outcome"] != "failed":
                        self.channel.send(message)
                else:
                    self.channel.send(message)

    def dump_stacks(self) -> None:
        """Have every rank write where it stands to the job's log, as a single child does when it is thought to hang."""
        for pid in self._pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)

    def _wishes(self) -> None:
        while True:
            try:
                wish = self.channel.receive()
            except (ParentGone, ValueError, OSError):
                os._exit(1)
            with self._lock:
                self._wish = json.dumps(wish).encode() + b"\n"
                self._pass_on()

    def _pass_on(self) -> None:
        if self._leader is not None and self._wish is not None:
            try:
                self._leader.sendall(self._wish)
            except OSError:
                return  # it has ended; the agent will say how
            self._wish = None


def launch(channel: ChildEnd, job_id: str, fence: int, processes: int) -> None:
    """Run the job's processes to their end, and tell the supervisor how they ended."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory(prefix="grape-ranks-") as name:
        relay = Relay(channel, Path(name))
        relay.start()
        faulthandler.unregister(signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, lambda *_: relay.dump_stacks())
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=job_id,
            rdzv_backend="static",
            rdzv_endpoint=f"127.0.0.1:{free_port()}",
            rdzv_configs={"rank": 0, "timeout": PATIENCE_S},
            max_restarts=0,
            local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=name),
            shutdown_timeout=5,
        )
        # The threads of several processes share this machine's processors, and what they say stays on it.
        shared = str(max(1, (os.cpu_count() or 1) // processes))
        inherited = {"OMP_NUM_THREADS": shared, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        for variable, value in inherited.items():
            os.environ.setdefault(variable, value)
        codes: dict[int, int] = {}
        try:
            elastic_launch(config, sys.executable)("-m", "workers.rank", relay.path, os.getpid(), job_id, fence)
        except ChildFailedError as error:
            codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
        except SignalException:
            return  # whoever sent the signal knows
        said = []
        while not relay.ended.empty():
            said.append(relay.ended.get_nowait())
        if not said or all(message["outcome"] == "failed" for message in said):
            channel.send(verdict(said, codes))


def verdict(said: list[dict[str, Any]], codes: dict[int, int]) -> dict[str, Any]:
    """How an attempt failed: a rank that was killed says nothing, and what the others say then only follows from it."""
    ended = {"type": "ended", "outcome": "failed"}
    # Once one has ended, the agent itself ends the others by SIGTERM: that is never the cause.
    killed = sorted(rank for rank, code in codes.items() if code < 0 and code != -signal.SIGTERM)
    if killed:
        rank, code = killed[0], codes[killed[0]]
        if code == -9:
            message = f"process {rank} of the training was killed (SIGKILL): out of memory, or by hand"
            return {**ended, "code": "oom_host", "message": message}
        return {**ended, "code": "internal", "message": f"process {rank} of the training ended by signal {-code}"}
    if said:
        return said[0]
    lost = ", ".join(f"process {rank} with exit code {code}" for rank, code in sorted(codes.items()))
    message = f"the training ended without a word ({lost or 'no process was started'}); see the job's log"
    return {**ended, "code": "internal", "message": message}


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
