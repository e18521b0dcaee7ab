"""Exec a program that dies with its parent, as another user if asked: `lifeline.py SIGNAL UID GID PARENT -- PROGRAM ARG…`.

It runs as a file, with no import of ours: the parent-death signal (Linux) has to be set after the change of user, which
clears it, and before the exec, which keeps it. Where prctl does not exist the program still runs; the supervisor then
stops its children only when it ends in order.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int, parent: int) -> None:
    """Have the kernel send `signum` when the parent thread ends; end at once if it has gone already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signum, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def wrapper(signum: int, uid: int = -1, gid: int = -1) -> list[str]:
    """What to put before a program's arguments so that it gets `signum` when the calling thread's process ends."""
    return [sys.executable, "-I", __file__, str(int(signum)), str(uid), str(gid), str(os.getpid()), "--"]


def main(argv: list[str]) -> None:
    """Change user, set the signal, exec."""
    signum, uid, gid, parent = (int(value) for value in argv[:4])
    program = argv[5:]
    if uid >= 0:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    die_with_parent(signum, parent)
    os.execvp(program[0], program)  # noqa: S606 (the supervisor's own argument list)


if __name__ == "__main__":
    main(sys.argv[1:])
