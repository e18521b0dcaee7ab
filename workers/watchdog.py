"""Whether a training child still gets on. A lease that is renewed says that its supervisor lives, not that the child does."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

STEPS = 20
"""A step may take so many times the median of the steps before it."""

STARTING = 3
"""Loading a large model shows no sign of life: until the first one the patience is so many times as long."""

LOOK_S = 2.0
"""Between two looks at most so much silence counts: while the supervisor stood still itself, it heard nothing."""


@dataclass(slots=True)
class Watchdog:
    """Counts how long a child has shown no sign of life: no check for wishes, no finished step, no message."""

    limit_s: float
    silent_s: float = 0.0
    _looked_at: float = field(default_factory=time.monotonic)
    _step: int | None = None
    _stepped_at: float = 0.0
    _durations: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    _heard: bool = False

    def hear(self, message: Mapping[str, Any]) -> None:
        """The child said something."""
        self.silent_s = 0.0
        self._heard = True
        step = message.get("step")
        if step is not None and step != self._step:
            now = time.monotonic()
            if self._step is not None and step > self._step:
                self._durations.append((now - self._stepped_at) / (step - self._step))
            self._step, self._stepped_at = step, now

    def look(self) -> bool:
        """Whether patience is over. Called several times a second."""
        now = time.monotonic()
        self.silent_s += min(now - self._looked_at, LOOK_S)
        self._looked_at = now
        return self.silent_s > self.patience_s

    @property
    def patience_s(self) -> float:
        """How long a silence may last now."""
        if not self._heard:
            return STARTING * self.limit_s
        return max(self.limit_s, STEPS * statistics.median(self._durations) if self._durations else 0.0)
