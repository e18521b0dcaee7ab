"""The sandbox of this machine. Where user namespaces exist and no backend works, that is a failure and no reason to skip."""

import os
from pathlib import Path

import pytest

from workers.sandbox.check import check
from workers.sandbox.run import Limits

LIMITS = Limits(memory_mb=128, timeout_s=5)


def namespaces_exist():
    most = Path("/proc/sys/user/max_user_namespaces")
    return os.geteuid() == 0 or (most.exists() and int(most.read_text()) > 0)


@pytest.fixture(scope="session")
def sandbox():
    found = check()
    if found.sandbox is None:
        if namespaces_exist():
            pytest.fail(f"this machine has namespaces, and no backend works: {found.line}")
        pytest.skip(found.line)
    return found.sandbox


@pytest.fixture
def run(sandbox):
    """Run tests on code: its share and the reason."""

    def go(code, tests, **limits):
        given = {"memory_mb": 128, "timeout_s": 5.0, **limits}
        # The processes of a run have its limits in their command line: by the nanoseconds a test finds its own again.
        return sandbox.run_tests(code, tests, Limits(given["memory_mb"], given["timeout_s"] + os.getpid() * 1e-9))

    return go
