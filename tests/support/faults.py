"""What tests break a stack with: more workers, a line to the database that can be cut, a clock that is wrong."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading

from service import lifeline

WRONG_CLOCK = """
import os, time, datetime as module
shift = float(os.environ["WRONG_CLOCK_S"])
right = time.time
time.time = lambda: right() + shift
class datetime(module.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) + module.timedelta(seconds=shift)
    @classmethod
    def utcnow(cls):
        return super().utcnow() + module.timedelta(seconds=shift)
module.datetime = datetime
"""

FAILING_BACKWARD = """
import importlib.machinery, os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            break_backward(module)
        spec.loader.exec_module = exec_module
        return spec
def break_backward(torch):
    right, calls, done = torch.Tensor.backward, [], os.environ["FAULT_DONE"]
    def backward(loss, *args, **options):
        calls.append(1)
        if len(calls) > int(os.environ["FAULT_AFTER"]) and not os.path.exists(done):
            open(done, "w").close()
            if os.environ["FAULT"] == "cuda":
                raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
            loss = loss * float("nan")
        return right(loss, *args, **options)
    torch.Tensor.backward = backward
sys.meta_path.insert(0, Finder())
"""


@contextlib.contextmanager
def another_worker(stack, queues="training", **settings):
    """One more worker of a stack, as a process of the test's, with settings of its own; killed at the end."""
    env = {**stack.environment("training"), **settings}
    argv = [
        *lifeline.wrapper(9), sys.executable, "-m", "celery", "--quiet", "--app", "workers.app", "worker", "--queues", queues,
        "--pool", "threads", "--concurrency", "1", "--hostname", f"another-{os.getpid()}@%h",
        "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO",
    ]  # fmt: skip
    with (stack.folder.parent / f"{stack.folder.name}-another.log").open("ab") as log:
        process = subprocess.Popen(argv, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wrong_clock(folder, seconds):
    """Settings by which a process, and what it starts, has a clock that is wrong by so many seconds."""
    return {**_customized(folder, WRONG_CLOCK), "WRONG_CLOCK_S": str(seconds)}


def failing_backward(folder, fault, after):
    """Settings by which one backward pass goes wrong, after so many good ones: `nan` (its loss) or `cuda` (what a GPU's fault raises)."""
    told = {"FAULT": fault, "FAULT_AFTER": str(after), "FAULT_DONE": str(folder / "done")}
    return {**_customized(folder, FAILING_BACKWARD), **told}


def _customized(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.getcwd()])}


class Line:
    """A TCP line to a server that can be cut and mended: while it is cut nothing passes, and nobody is told."""

    def __init__(self, port):
        self._there = port
        self._whole = threading.Event()
        self._whole.set()
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self):
        """From here on bytes wait."""
        self._whole.clear()

    def mend(self):
        """They pass again."""
        self._whole.set()

    def close(self):
        """Nobody gets in any more."""
        self._whole.set()
        self._door.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._door.accept()
                self._whole.wait()
                there = socket.create_connection(("127.0.0.1", self._there))
                for a, b in ((here, there), (there, here)):
                    threading.Thread(target=self._pass, args=(a, b), daemon=True).start()

    def _pass(self, a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                self._whole.wait()
                b.sendall(data)
        for end in (a, b):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
