"""One sandboxed process as the launcher sees it: started behind namespaces of its own, or by bubblewrap; watched; killed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
from dataclasses import dataclass

from workers.sandbox.inside import kernel
from workers.sandbox.inside.confine import DISK_MB, INODES
from workers.sandbox.inside.roles import GIVE, INCOMING, OUTGOING, STATUS, TAKE, Limits, play

NAMESPACES = kernel.NEW_NS | kernel.NEW_PID | kernel.NEW_NET | kernel.NEW_IPC | kernel.NEW_UTS
SETTLE_MB = 64
"""What Python takes of its address space before the code's first line; the limit is on top of it."""


@dataclass(slots=True)
class Process:
    """`keeper` is our child; `inner` its child, the process itself, once `pid` has come."""

    role: str
    keeper: int
    give: int
    take: int
    status: int
    output: int
    inner: int | None = None
    ready: str | None = None
    failed: str | None = None
    ended: int | None = None
    written: int = 0
    record: bytes = b""
    record_done: bool = False
    _said: bytes = b""

    def hear(self) -> bool:
        """Read what the keeper says; False at its end."""
        part = os.read(self.status, 4096)
        self._said += part
        *lines, self._said = self._said.split(b"\n")
        for line in lines:
            word, _, rest = line.decode("utf-8", "replace").partition(" ")
            if word == "pid":
                self.inner = int(rest)
            elif word == "ready":
                self.ready = rest
            elif word == "failed":
                self.failed = rest
            elif word == "ended":
                self.ended = int(rest)
        return bool(part)

    def kill(self) -> None:
        """Kill the process and all that it has started, and wait until they are gone."""
        os.set_blocking(self.status, True)
        while self.inner is None and self.hear():
            pass  # the keeper is about to say whom it has started, or that it could not
        if self.inner is not None and self.ended is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.inner, signal.SIGKILL)
            while self.hear():
                pass  # until it has reaped it
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.keeper, 0)


Talk = tuple[int, int]
"""The ends of the conversation that a process has: what comes in, what goes out."""


def start(role: str, limits: Limits, talk: Talk | None, bubblewrap: list[str] | None) -> Process:
    """Start a process of this role. Nothing of the request has been read yet: what this process knows, its children may see."""
    given, give = os.pipe()
    take, taken = os.pipe()
    status, told = os.pipe()
    output, written = os.pipe()
    null = os.open("/dev/null", os.O_RDWR)
    said = written if role == "solution" else null
    heard, answered = talk or (null, null)
    launcher = os.getpid()
    keeper = os.fork()
    if keeper == 0:
        code = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            kernel.die_with_parent()
            if os.getppid() != launcher:
                os._exit(1)
            places = {
                0: null,
                1: said,
                2: said,
                GIVE: given,
                TAKE: taken,
                INCOMING: heard,
                OUTGOING: answered,
                STATUS: told,
            }
            _arrange(places)
            code = _keep(role, limits, bubblewrap)
        except BaseException as error:
            with contextlib.suppress(OSError):
                os.write(STATUS, _failed(error))
        finally:
            os._exit(code)
    for fd in (given, taken, told, written, null, *(talk or ())):
        os.close(fd)
    for fd in (take, status, output):
        os.set_blocking(fd, False)
    return Process(role, keeper, give, take, status, output)


def _arrange(places: dict[int, int]) -> None:
    """Put descriptors where the process looks for them, through numbers that are in nobody's way; close all others."""
    held = {place: fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for place, fd in places.items()}
    for place, fd in held.items():
        os.dup2(fd, place)
    os.closerange(STATUS + 1, 200 + 2 * len(held) + 64)


def _keep(role: str, limits: Limits, bubblewrap: list[str] | None) -> int:
    """Start the process itself, say who it is and how it ended."""
    limits = Limits(limits.memory_mb + SETTLE_MB, limits.seconds)
    root = os.geteuid() == 0
    uid = kernel.free_uid(os.getpid()) if root else None
    if bubblewrap is None:
        if root:
            kernel.unshare(NAMESPACES)
        else:
            kernel.own_user_namespace(NAMESPACES)
    inner = os.fork()
    if inner == 0:
        try:
            if bubblewrap is not None:
                _exec_bubblewrap(bubblewrap, role, limits, uid)
            os.setsid()
            kernel.empty_root(DISK_MB, INODES)
            if uid is not None:
                kernel.become(uid)
            kernel.drop_capabilities()
            kernel.die_with_parent()
            play(role, limits)
        except BaseException as error:
            os.write(STATUS, _failed(error))
        finally:
            os._exit(1)
    os.write(STATUS, f"pid {inner}\n".encode())
    for fd in (GIVE, TAKE, INCOMING, OUTGOING, 1, 2):
        os.close(fd)
    _, state = os.waitpid(inner, 0)
    os.write(STATUS, f"ended {os.waitstatus_to_exitcode(state)}\n".encode())
    return 0


def _failed(error: BaseException) -> bytes:
    return f"failed {' '.join(str(error).split()) or type(error).__name__}\n".encode()


def _exec_bubblewrap(command: list[str], role: str, limits: Limits, uid: int | None) -> None:
    """Become bubblewrap, which becomes Python in an empty root. Bubblewrap passes descriptors on."""
    kernel.die_with_parent()
    if uid is not None:
        # Bubblewrap of an ordinary user needs user namespaces; ours is one that nobody else has.
        kernel.become(uid)
        kernel.die_with_parent()
    for fd in range(STATUS + 1):
        os.set_inheritable(fd, True)
    words = [*command, sys.executable, "-I", "-S", "-B", "-c", _IN_BUBBLEWRAP, role]
    os.execv(words[0], [*words, str(limits.memory_mb), str(limits.seconds)])  # noqa: S606


_IN_BUBBLEWRAP = """
import sys
sys.path.insert(0, '/grape')
from workers.sandbox.inside.roles import Limits, play
play(sys.argv[1], Limits(int(sys.argv[2]), float(sys.argv[3])))
"""
