"""Messages and prompts as people write them."""

from __future__ import annotations

from collections.abc import Sequence
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


def as_messages(prompt: str | Sequence[Message]) -> list[dict[str, str]]:
    """The message list that a prompt is shown as; a bare string is one user message."""
    if isinstance(prompt, str):
        return [{"role": "user", "content": prompt}]
    return [{"role": message.role, "content": message.content} for message in prompt]


def with_system_prompt(prompt: str | Sequence[Message], system_prompt: str) -> str | list[Message]:
    """A prompt as the policy gets it under a rubric's system prompt.

    Messages get a system message in front. If they begin with one of their own, both texts stand in it, the rubric's first:
    chat templates take one system message, and what the prompt asks for in particular comes last. A text that says nothing
    else is not repeated. Plain text has no roles: the system prompt is put before it, a blank line between.
    """
    if not system_prompt.strip():
        return prompt if isinstance(prompt, str) else list(prompt)
    if isinstance(prompt, str):
        return f"{system_prompt}\n\n{prompt}"
    if prompt and prompt[0].role == "system":
        own = prompt[0].content
        if own.strip() == system_prompt.strip():
            return list(prompt)
        text = f"{system_prompt}\n\n{own}" if own.strip() else system_prompt
        return [Message(role="system", content=text), *prompt[1:]]
    return [Message(role="system", content=system_prompt), *prompt]


def shown_messages(prompt: str | Sequence[Message], system_prompt: str = "") -> list[dict[str, str]]:
    """The messages that a prompt is stored and judged as: what the policy saw, plain text as a user's message."""
    if isinstance(prompt, str):
        system = [{"role": "system", "content": system_prompt}] if system_prompt.strip() else []
        return [*system, *as_messages(prompt)]
    return as_messages(with_system_prompt(prompt, system_prompt))
