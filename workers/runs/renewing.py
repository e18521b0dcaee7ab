"""The loop that keeps leased things leased: what is due is renewed, whoever wants something is heard at once."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol, TypeVar

log = logging.getLogger(__name__)

SOON_S = 0.25
"""After this time a renewal is tried again that failed, or that left somebody waiting."""


class Due(Protocol):
    """Something leased, to be renewed at this time of the monotonic clock."""

    due: float


T = TypeVar("T", bound=Due)


async def keep_renewed(
    leased: Callable[[], Collection[T]], renew: Callable[[list[T]], Awaitable[None]], changed: asyncio.Event, doing: str
) -> None:
    """Renew what is due, until cancelled; `changed` says that something is due earlier than before.

    A database that is away is complained about once for each kind of error, as what `doing` says; what was granted holds
    until its lease ends.
    """
    complained = ""
    while True:
        due = [one for one in leased() if one.due <= time.monotonic()]
        if due:
            try:
                await renew(due)
                complained = ""
            except Exception as error:
                for one in due:
                    one.due = time.monotonic() + SOON_S
                if type(error).__name__ != complained:
                    complained = type(error).__name__
                    log.warning("%s: %s", doing, error)
        changed.clear()
        wait_s = min((one.due for one in leased()), default=math.inf) - time.monotonic()
        if wait_s > 0:
            try:
                await asyncio.wait_for(changed.wait(), None if wait_s == math.inf else wait_s)
            except TimeoutError:
                continue
