"""What calls to an endpoint keep to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from service.domain.judge import JudgeLimits

if TYPE_CHECKING:
    from workers.graders.judge.gate import Gate


class Terms(NamedTuple):
    """What a judge asks its calls to keep to; where judges share an endpoint, the strictest counts."""

    concurrency: int
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout_s: float = 60.0

    @classmethod
    def of(cls, limits: JudgeLimits) -> Terms:
        """From a judge's limits."""
        rate = limits.rate_limit
        return cls(
            limits.concurrency,
            rate.requests_per_minute if rate else None,
            rate.tokens_per_minute if rate else None,
            limits.timeout_s,
        )

    def __and__(self, other: Terms) -> Terms:
        """The stricter of both, field by field (of the timeouts the longer: a slot may be in use for so long)."""
        return Terms(
            min(self.concurrency, other.concurrency),
            min((x for x in (self.requests_per_minute, other.requests_per_minute) if x is not None), default=None),
            min((x for x in (self.tokens_per_minute, other.tokens_per_minute) if x is not None), default=None),
            max(self.timeout_s, other.timeout_s),
        )

    @property
    def paced(self) -> bool:
        """Whether a rate is limited."""
        return self.requests_per_minute is not None or self.tokens_per_minute is not None


@dataclass(slots=True, eq=False)
class Room:
    """The calls that this process may have open at all endpoints together."""

    capacity: float
    used: int = 0
    gates: list[Gate] = field(default_factory=list)

    @property
    def free(self) -> int:
        """How many more may be opened; a large number if there is no bound."""
        return int(min(self.capacity - self.used, 1 << 30))

    def left(self, gate: Gate) -> None:
        """A call has ended there: the others' turn first, so that no endpoint keeps the room to itself."""
        self.used -= 1
        for other in self.gates:
            if other is not gate and other.waiting:
                other.pump()
