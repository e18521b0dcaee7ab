"""Messages and prompts as people write them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, StringConstraints

from service.domain.base import Value


def _no_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("the text contains a NUL character (U+0000), which cannot be stored; remove it")
    return text


Text = Annotated[str, AfterValidator(_no_nul)]
"""Text that Postgres can hold."""

NonEmptyText = Annotated[Text, StringConstraints(min_length=1)]
# Constraints stand before the validator: after it, pydantic would count the characters before it strips them.
Name = Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True), AfterValidator(_no_nul)]


class Message(Value):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Text


def as_messages(prompt: str | list[Message]) -> list[dict[str, str]]:
    """The message list that a prompt is shown as; a bare string is one user message."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": message.role, "content": message.content} for message in prompt]
