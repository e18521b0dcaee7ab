"""Hearing of a stop signal before the server does: it waits for open streams, which have to be told to end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any


@contextlib.contextmanager
def on_stop_signals(act: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """While the block runs, SIGTERM and SIGINT start `act` on the running loop, then do what they did before.

    The server's own handler only notes the signal and then waits for streams to end; it has no hook between the two. Outside
    the main thread (in-process servers of tests) signals cannot be heard, and nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    running: set[asyncio.Task[None]] = set()
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)}

    def begin() -> None:
        running.add(asyncio.create_task(act()))

    def hear(signum: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin)
        previous = before[signal.Signals(signum)]
        if callable(previous):
            previous(signum, frame)

    for signum in before:
        signal.signal(signum, hear)
    try:
        yield
    finally:
        for signum, previous in before.items():
            if previous is not None:
                signal.signal(signum, previous)
