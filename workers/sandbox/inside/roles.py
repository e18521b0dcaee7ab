"""The last step of a process before its work: its file descriptors, its limits, then the code. The same behind every backend."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from workers.sandbox.inside import program, solution, units
from workers.sandbox.inside.confine import confine

GIVE, TAKE, INCOMING, OUTGOING, STATUS = 3, 4, 5, 6, 7
"""Where every process finds its pipes: what it is given, its record, what the other process says, what it says, its state."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one process."""

    memory_mb: int
    seconds: float


def play(role: str, limits: Limits) -> None:
    """Confine this process, say so, and do the work of `role`: `solution`, `tests` or `program`. Does not return."""
    code = 1
    try:
        os.closerange(STATUS + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        offered = confine(limits.memory_mb, limits.seconds)
        os.write(STATUS, f"ready landlock={offered['landlock']} seccomp={offered['seccomp']}\n".encode())
        os.close(STATUS)
        if role == "solution":
            os.close(TAKE)
            solution.main(GIVE, INCOMING, OUTGOING)
        elif role == "tests":
            units.main(GIVE, TAKE, INCOMING, OUTGOING)
        else:
            program.main(GIVE, TAKE)
        code = 0
    finally:
        os._exit(code)
