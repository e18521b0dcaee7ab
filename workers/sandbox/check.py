"""Which backend this machine offers: each is made to prove its walls, and one that cannot is not used.

`python -m workers.sandbox.check` prints the line; its exit code is 0 if code can be graded.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from workers.sandbox.run import ROOT, Limits, Sandbox, SandboxFault, find_bubblewrap

_LIMITS = Limits(memory_mb=128, timeout_s=5)

_PROBE = """
import os, socket, sys
def read(path):
    try:
        return open(path).read(20)
    except OSError:
        return None
def listed(path):
    try:
        return os.listdir(path)
    except OSError:
        return []
def connected(port):
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False
def wrote(folder):
    try:
        open(folder + "/dropped", "w").close()
        return True
    except OSError:
        return False
def filled(megabytes):
    try:
        for number in range(megabytes):
            with open(f"/tmp/{number}", "wb") as file:
                file.write(bytes(1 << 20))
        return True
    except OSError:
        return False
def forked(count):
    made = 0
    try:
        for _ in range(count):
            if os.fork() == 0:
                while True:
                    pass
            made += 1
    except OSError:
        pass
    return made
def signalled(pid):
    try:
        os.kill(pid, 0)
        return True
    except OSError:
        return False
def allocated(megabytes):
    try:
        return len(bytearray(megabytes << 20)) > 0
    except MemoryError:
        return False
def privileged():
    return os.getuid() == 0 or os.geteuid() == 0
def variables():
    return sorted(os.environ)
def lies():
    class Equal:
        def __eq__(self, other):
            return True
    return Equal()
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a backend has proved: `faults` are the walls that did not stand, empty if it may be used."""

    sandbox: Sandbox
    walls: str = ""
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Check:
    """`sandbox` is null where nothing has been proved; `line` says what there is, or why there is nothing."""

    sandbox: Sandbox | None
    line: str


def check() -> Check:
    """Try every backend that the machine may have, the built-in one first. Takes a fraction of a second."""
    backends = [Sandbox()]
    if (bubblewrap := find_bubblewrap()) is not None:
        backends.append(Sandbox("bubblewrap", bubblewrap))
    refused = []
    for sandbox in backends:
        found = prove(sandbox)
        if not found.faults:
            return Check(sandbox, f"sandbox: {sandbox.backend}, proved ({found.walls})")
        refused.append(f"{sandbox.backend}: {found.faults[0]}")
    hint = "allow user namespaces, or give the grading worker CAP_SYS_ADMIN"
    return Check(None, f"sandbox: none; {'; '.join(refused)} — {hint}")


def prove(sandbox: Sandbox) -> Finding:
    """Have code try what it must not be able to do: here, against a file, a port and a process that are really there."""
    with _bait() as (path, port):
        tests = f"""
def test_reads_a_file(): assert read({path!r}) is None
def test_reads_passwords(): assert read("/etc/passwd") is None
def test_sees_processes(): assert listed("/proc") == []
def test_sees_the_service(): assert listed({str(ROOT)!r}) == []
def test_writes_outside(): assert not wrote({os.path.dirname(path)!r}) and not wrote("/") and not wrote("/usr/lib")
def test_fills_the_disk(): assert not filled(80)
def test_connects(): assert not connected({port})
def test_signals_the_worker(): assert not signalled({os.getpid()})
def test_makes_processes(): assert forked(50) < 50
def test_takes_memory(): assert not allocated(512)
def test_has_privileges(): assert not privileged()
def test_reads_the_environment(): assert set(variables()) <= {{"HOME", "LANG", "TMPDIR", "PWD"}}
"""
        try:
            ran = sandbox.run_tests(_PROBE, tests, _LIMITS)
            lied = sandbox.run_tests(_PROBE, "assert lies() == 1\nassert lies() == 2", _LIMITS)
        except (SandboxFault, OSError) as fault:
            return Finding(sandbox, faults=[str(fault)])
    if ran.share < 1:
        return Finding(sandbox, faults=[f"isolation was not proved: {ran.reason}"])
    if lied.share > 0:
        return Finding(sandbox, faults=["an object that equals everything passed a test"])
    return Finding(sandbox, walls=sandbox.walls())


@contextmanager
def _bait() -> Iterator[tuple[str, int]]:
    """A file that everybody may read, and a port of this machine that somebody listens on."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        os.chmod(folder, 0o777)  # noqa: S103 (the walls must hold without the file system's help)
        path = os.path.join(folder, "secret")
        with open(path, "w") as file:
            file.write("a secret of the host")
        yield path, server.getsockname()[1]


if __name__ == "__main__":
    found = check()
    sys.stdout.write(found.line + "\n")
    sys.exit(found.sandbox is None)
