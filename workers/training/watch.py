"""The watch over a run (grape.md §9): numbers that need the steps before, and flags when something drifts the wrong way.

Every flag looks at the last `WINDOW` rollouts. *Rises* and *falls* mean that the means of the two halves of the window differ
by more than two standard errors of their difference. A flag is raised when its condition becomes true, not while it lasts, and
at most once per window.

- `alarm.audit_falls`: audit falls while reward rises. The policy earns what nobody asked for.
- `criterion.saturated`: in 95 % of the groups all scores of a criterion are equal. It teaches nothing any more.
- `criterion.disagrees`: a judge's averaged vote varies at least half as much as the scores of a group's completions do.
- `criterion.confidence_drift`: a criterion's mean confidence rises, by .02 at least, while audit falls.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from service.domain.scoring import mean, unbiased_std

WINDOW = 20
SATURATED = 0.95
DISAGREES = 0.5
DRIFT = 0.02
KEPT = ("reward", "audit", "confidence", "score", "no_spread", "noise_share")
"""The series (or their first word) that flags are made of."""

Flag = tuple[str, dict[str, Any]]


@dataclass(slots=True)
class Watch:
    """The last rollouts' numbers, what was flagged when, and the last shares; saved in checkpoints."""

    window: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=WINDOW))
    shares: dict[str, float] = field(default_factory=dict)
    seen: int = 0
    raised: dict[str, int] = field(default_factory=dict)
    lasting: set[str] = field(default_factory=set)

    def observe(self, metrics: Mapping[str, float]) -> tuple[dict[str, float], list[Flag]]:
        """Take in one rollout's metrics: `share_change`, and the flags that it raises."""
        shares = {name: value for name, value in metrics.items() if name.startswith("share.")}
        extra: dict[str, float] = {}
        if self.shares and shares:
            keys = sorted(self.shares | shares)
            extra["share_change"] = math.fsum(abs(shares.get(k, 0.0) - self.shares.get(k, 0.0)) for k in keys) / 2
        self.shares = shares or self.shares
        self.window.append({name: value for name, value in metrics.items() if name.split(".")[0] in KEPT})
        self.seen += 1
        found = dict(self._conditions()) if len(self.window) == WINDOW else {}
        fresh = [name for name in found if name not in self.lasting and self._quiet(name)]
        self.lasting = set(found)
        self.raised.update(dict.fromkeys(fresh, self.seen))
        return extra, [(name.split("/")[0], {"window": WINDOW, **found[name]}) for name in fresh]

    def _quiet(self, name: str) -> bool:
        return self.seen - self.raised.get(name, -WINDOW) >= WINDOW

    def _conditions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """What holds now, by name; `flag/criterion` where it is a criterion's."""
        audit = self._change("audit")
        audit_falls = audit is not None and audit.direction < 0
        reward = self._change("reward")
        if audit is not None and reward is not None and audit_falls and reward.direction > 0:
            yield "alarm.audit_falls", {"reward": reward.to_json(), "audit": audit.to_json()}
        for name in sorted({name for row in self.window for name in row}):
            word, _, key = name.partition(".")
            if word == "no_spread" and (values := self._all(name)) and mean(values) >= SATURATED:
                scores = self._some(f"score.{key}")
                data = {"criterion": key, "no_spread": mean(values), "score": mean(scores) if scores else None}
                yield f"criterion.saturated/{key}", data
            if word == "noise_share" and (values := self._all(name)) and mean(values) >= DISAGREES:
                yield f"criterion.disagrees/{key}", {"criterion": key, "noise_share": mean(values)}
            if word == "confidence" and audit is not None and audit_falls:
                change = self._change(name)
                if change is not None and change.direction > 0 and change.after - change.before >= DRIFT:
                    data = {"criterion": key, "confidence": change.to_json(), "audit": audit.to_json()}
                    yield f"criterion.confidence_drift/{key}", data

    def _some(self, name: str) -> list[float]:
        return [row[name] for row in self.window if name in row]

    def _all(self, name: str) -> list[float]:
        """The series over the window, empty if half of it or more is missing."""
        values = self._some(name)
        return values if 2 * len(values) > WINDOW else []

    def _change(self, name: str) -> Change | None:
        rows = list(self.window)
        halves = [[row[name] for row in part if name in row] for part in (rows[: WINDOW // 2], rows[WINDOW // 2 :])]
        if min(len(half) for half in halves) < WINDOW // 4:
            return None
        before, after = (mean(half) for half in halves)
        error = math.sqrt(math.fsum(unbiased_std(half) ** 2 / len(half) for half in halves))
        return Change(before, after, error)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "window": list(self.window),
            "shares": self.shares,
            "seen": self.seen,
            "raised": self.raised,
            "lasting": sorted(self.lasting),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Watch:
        """The same again."""
        window = deque((dict(row) for row in data["window"]), maxlen=WINDOW)
        return cls(window, dict(data["shares"]), data["seen"], dict(data["raised"]), set(data["lasting"]))


@dataclass(frozen=True, slots=True)
class Change:
    """The means of the two halves of the window, and the standard error of their difference."""

    before: float
    after: float
    error: float

    @property
    def direction(self) -> int:
        """1 rises, −1 falls, 0 neither."""
        difference = self.after - self.before
        return 0 if abs(difference) <= 2 * self.error or difference == 0 else int(math.copysign(1, difference))

    def to_json(self) -> dict[str, float]:
        """For the event."""
        return {"before": self.before, "after": self.after, "standard_error": self.error}
