"""Plain questions to a judge's endpoint or model: what a reviser is asked for, and which of two answers is better.

They travel beside the judged cells: in batches, under leases, within budgets, at the pace that the endpoint takes.
"""

from __future__ import annotations

from typing import Final, Literal

from service.domain.base import Value
from service.domain.grade import CellStatus, Said

Messages = list[dict[str, str]]
"""A question: messages of role and content."""

PLAIN: Final = "text"
"""What stands in a request's place for a criterion."""


class Told(Value):
    """The text of an answer, or why there is none (as in cells); with what it took."""

    criterion: Literal["text"] = PLAIN
    status: CellStatus
    reason: Said | None = None
    text: Said | None = None
    calls: int = 0
    latency_ms: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_estimated: bool = False
    cost_usd: float | None = None
