"""How an endpoint that says 429 is asked again: how fast slots come back, how calls are spread, at which pace they start."""

from __future__ import annotations

from dataclasses import dataclass

TWICE_AS_FAST_S = 2.0
PACED_S = 20.0
LEAST_PER_S = 2.0
"""After a hold the pace doubles every two seconds, and is forgotten after twenty."""


def recovery_per_s(limit: int) -> float:
    """Slots that come back in a second after a 429: a quarter of the limit, so that a half is back after two seconds."""
    return max(1.0, limit / 4)


def most_late(wait_s: float) -> float:
    """Within how many seconds after the time that the endpoint named calls come back, each at a moment of its own."""
    return 0.05 + min(1.0, 0.1 * wait_s)


@dataclass(slots=True)
class Pace:
    """How many answers a second the endpoint gave between two holds; calls start no faster than that after the second."""

    rate: float | None = None
    since: float | None = None
    answers: int = 0
    next_start: float = 0.0

    def answered(self) -> None:
        """An answer that is no 429."""
        self.answers += 1

    def held(self, now: float, until: float) -> None:
        """A hold begins now."""
        if self.since is not None and now > self.since:
            measured = self.answers / (now - self.since)
            self.rate = max(LEAST_PER_S, measured, (self.rate or 0.0) / 2)
        self.since, self.answers, self.next_start = until, 0, until

    def wait_until(self, now: float) -> float:
        """When the next call may start; calling it again takes nothing."""
        if self.since is None:
            self.since = now
        if self.rate is None or now > self.since + PACED_S:
            return now
        return self.next_start

    def started(self, now: float) -> None:
        """A call starts now."""
        if self.rate is not None and self.since is not None:
            pause_s = 2.0 ** (-max(0.0, now - self.since) / TWICE_AS_FAST_S) / self.rate
            self.next_start = max(self.next_start, now - pause_s) + pause_s
