"""What an endpoint's model can do beyond plain text, as its first questions have shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ReplyFormat = Literal["text", "json_schema"]

ENOUGH = 8
"""So many replies to a schema are looked at before an endpoint that leaves most of them empty is asked in plain text."""


@dataclass(slots=True)
class Abilities:
    """Of one model at one address; kept by the worker process. Null: not known yet."""

    json_schema: bool | None = None
    logprobs: bool | None = None
    repeatable: bool = False
    """The same question gets the same answer, so that its nonce is made of the question and not drawn."""
    with_schema: int = 0
    empty: int = 0

    def saw_schema(self, *, empty: bool) -> None:
        """Count a reply to a question with a schema in."""
        self.with_schema += 1
        self.empty += empty
        self.json_schema = self.with_schema < ENOUGH or 2 * self.empty <= self.with_schema
