"""Children forked from a preloaded process: they start in an instant, end alone, and nothing outlives the worker."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support.stack import wait_for
from workers.forking import GPU_DEVICES, can_fork

WORKER = """
import json, sys, threading, time
from workers.nursery import Nursery
nursery = Nursery(None, 2, "fork")
def poll():
    while True:
        nursery.tend(); time.sleep(0.02)
threading.Thread(target=poll, daemon=True).start()
def taken():
    begun = time.monotonic()
    while not (child := nursery.take()): time.sleep(0.005)
    return child, time.monotonic() - begun
def told(**said): print(json.dumps(said), flush=True)
first, cold = taken()
first.send({"wish": "run"})  # no job: it ends with a traceback and an exit code of its own
first.wait(20)
told(code=first.wait(), output=first.output.take(), imports=cold)
second, _ = taken()
time.sleep(1)
third, warm = taken()
second.kill()
told(code=second.wait(), warm=warm, alive=third.alive(), session=third.pid, server=nursery_server())
sys.stdin.readline()
"""
SERVER = "def nursery_server():\n    from multiprocessing import forkserver\n    return forkserver._forkserver._forkserver_pid\n"


def alive(pid):
    """Whether this process runs; one that nobody has waited for yet does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def worker():
    program = [sys.executable, "-c", SERVER + WORKER]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_children_are_forked_and_nothing_outlives_the_worker(worker):
    first = json.loads(worker.stdout.readline())
    assert first["code"] == 1
    assert "KeyError: 'job_id'" in first["output"]
    second = json.loads(worker.stdout.readline())
    assert second["code"] == -signal.SIGKILL
    assert second["alive"]
    assert os.getsid(second["session"]) == second["session"]
    # Imports take seconds; a child that is forked meanwhile is there when it is wanted.
    assert second["warm"] < 0.2 < first["imports"]
    worker.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    wait_for(lambda: not alive(second["session"]) and not alive(second["server"]), 5, "all are gone")
    assert time.monotonic() - begun < 5


def test_children_are_spawned_beside_a_gpu():
    gpu = any(os.path.exists(device) for device in GPU_DEVICES)
    assert can_fork("auto") is not gpu
    assert can_fork("fork")
    assert not can_fork("spawn")
