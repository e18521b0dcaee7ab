"""Plain questions: an endpoint's or a model's answer as a text that can be stored."""

from __future__ import annotations

from service.domain.asked import Messages, Told
from service.domain.spending import Price
from workers.graders.judge.client import Reply


def with_system_prompt(messages: Messages, system: str) -> Messages:
    """A plain question under the judge's own system prompt, which stands behind the question's."""
    if not system.strip():
        return messages
    first, *rest = messages
    return [{**first, "content": f"{first['content']}\n\n{system.strip()}"}, *rest]


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
