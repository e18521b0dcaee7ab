"""Plain questions: an endpoint's or a model's answer as a text that can be stored."""

from __future__ import annotations

from service.domain.asked import Told
from service.domain.spending import Price
from workers.graders.judge.client import Reply


def told(reply: Reply, price: Price | None) -> Told:
    """The reply with what it cost."""
    return Told(
        status=reply.status,
        reason=reply.reason,
        text=reply.text,
        calls=reply.attempts,
        latency_ms=reply.latency_ms,
        tokens_in=reply.tokens_in,
        tokens_out=reply.tokens_out,
        tokens_estimated=reply.tokens_estimated,
        cost_usd=price.of(reply.tokens_in, reply.tokens_out) if price is not None else None,
    )
