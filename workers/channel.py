"""The pipes between a supervisor and its child: one JSON object a line, control one way and progress the other."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from typing import IO, Any

from workers.training.ports import Interrupted

PULSE_S = 1.0


class ParentGone(Exception):
    """The control pipe is closed: the supervisor has died."""


class ChildEnd:
    """The child's end. Its `check` is the run's `Control`."""

    def __init__(self, control: IO[bytes], progress_fd: int) -> None:
        self._control = control
        self._progress = os.fdopen(progress_fd, "wb", buffering=0)
        self._sending = threading.Lock()
        self._wish = "run"
        self._news = threading.Condition()
        self._step: int | None = None
        self._signs = 0

    def send(self, message: dict[str, Any]) -> None:
        """Tell the supervisor."""
        with self._sending:
            self._progress.write(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """The next line of the supervisor; `ParentGone` at the end."""
        line = self._control.readline()
        if not line:
            raise ParentGone
        message: dict[str, Any] = json.loads(line)
        return message

    def follow(self, on_gone: Callable[[], None]) -> None:
        """From now on wishes are read in a thread; `on_gone` is called if the supervisor dies."""

        def read() -> None:
            while True:
                try:
                    message = self.receive()
                except (ParentGone, ValueError, OSError):
                    on_gone()
                    return
                with self._news:
                    self._wish = message["wish"]
                    self._news.notify_all()

        threading.Thread(target=read, name="control", daemon=True).start()
        threading.Thread(target=self._tell_signs_of_life, name="pulse", daemon=True).start()

    def stepped(self, step: int) -> None:
        """So many optimizer steps are finished."""
        self._step = step
        self._signs += 1

    def _tell_signs_of_life(self) -> None:
        """Once a second, if the training thread has come by a check or finished a step since: a hang is silence."""
        told = 0
        with contextlib.suppress(OSError, ValueError):  # the supervisor is gone, and so are we soon
            while True:
                time.sleep(PULSE_S)
                if self._signs != told:
                    told = self._signs
                    self.send({"type": "alive", "step": self._step})

    def check(self) -> None:
        """Raise `Interrupted` if a pause or a drain is wished. Being called is a sign of life."""
        self._signs += 1
        if self._wish not in ("run", "finalize"):
            raise Interrupted(self._wish)

    def ask_to_finalize(self) -> None:
        """Say that training is over, and wait for leave to finalize; a pause that came first is obeyed."""
        self.send({"type": "finalizing"})
        with self._news:
            self._news.wait_for(lambda: self._wish != "run")
        self.check()
