"""Which process this is, so that another process of the same machine can tell whether it is gone."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")


def process_identity() -> str | None:
    """Boot, process namespace, process id and start time; null where the system does not say."""
    place = _place()
    started = _started(os.getpid())
    return f"{place}:{os.getpid()}:{started}" if place and started else None


def is_gone(identity: str | None) -> bool:
    """Whether that process certainly runs no more: it was one of this machine, and is not there now."""
    if identity is None:
        return False
    place, pid, started = identity.rsplit(":", 2)
    return place == _place() and _started(int(pid)) != started


def _place() -> str | None:
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip() + ":" + os.readlink(PROC / "self/ns/pid")
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """The start time of a process that runs (a zombie does not), in clock ticks since the boot."""
    try:
        fields = (PROC / str(pid) / "stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else fields[19]
