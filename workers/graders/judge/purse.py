"""Who pays for a call: asked before each attempt, told afterwards what it took."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from service.domain.base import canonical_json
from service.domain.judge import JudgeSampling

BYTES_PER_TOKEN = 2
"""Of a text whose tokens nobody has counted. English takes about four bytes a token, code three, Chinese two or three."""

PER_MESSAGE = 16
"""The tokens that a chat template may put around a message."""

UNBOUNDED_OUTPUT = 4096
"""Tokens that are set aside for the answer of a judge without `max_tokens`."""


class Tokens(NamedTuple):
    """Tokens of a call. `estimated`: the endpoint has not said."""

    input: int
    output: int
    estimated: bool = False


FREE = Tokens(0, 0)


class Permit(Protocol):
    """One call that was set aside."""

    @property
    def valid(self) -> bool:
        """Whether it may still be made: what was set aside lapses if nobody renews it."""

    def spend(self, tokens: Tokens) -> None:
        """The call was made, and took so many tokens."""

    def put_back(self) -> None:
        """The call was not made."""


class Purse(Protocol):
    """The budget of one owner at one judge."""

    async def take(self, most: Callable[[], Tokens]) -> Permit | str:
        """Set one call aside that takes at most so many tokens; else why there is no budget for it. May wait for others' calls."""


@dataclass(frozen=True, slots=True)
class Uncounted:
    """A purse for calls that nobody counts: a probe, a test. It is its own permit."""

    valid: bool = True

    async def take(self, most: Callable[[], Tokens]) -> Permit:
        """Always."""
        del most
        return self

    def spend(self, tokens: Tokens) -> None:
        """Nothing to do."""

    def put_back(self) -> None:
        """Nothing to do."""


UNCOUNTED = Uncounted()


def output_limit(sampling: JudgeSampling) -> int:
    """The most tokens that an answer may have."""
    return sampling.max_tokens or sampling.max_completion_tokens or UNBOUNDED_OUTPUT


def question_bytes(messages: Sequence[Mapping[str, str]], options: Mapping[str, Any] | None) -> int:
    """The bytes of a question, with those of the schema that goes with it. No tokenizer makes more tokens than bytes."""
    schema = (options or {}).get("response_format")
    texts = sum(len(message["content"].encode()) for message in messages)
    return texts + (len(canonical_json(schema)) if schema is not None else 0)


def most_tokens(question: int, messages: int, sampling: JudgeSampling) -> Tokens:
    """The most that a question of so many bytes and messages may take."""
    return Tokens(question + PER_MESSAGE * messages, output_limit(sampling))


def guess_tokens(question: int, messages: int, sampling: JudgeSampling, reply: str | None) -> Tokens:
    """What a call took that was paid for without the endpoint saying how much, rather too high than too low.

    Without a reply (nobody waited for it to the end), and where a model reasons before it answers, the answer counts at its limit.
    """
    asked = math.ceil(question / BYTES_PER_TOKEN) + PER_MESSAGE * messages
    longest = output_limit(sampling)
    reasons = sampling.max_completion_tokens is not None or sampling.reasoning_effort is not None
    told = longest if reply is None or reasons else min(longest, math.ceil(len(reply.encode()) / BYTES_PER_TOKEN))
    return Tokens(asked, told, estimated=True)
