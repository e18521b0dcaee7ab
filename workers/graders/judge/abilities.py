"""What an endpoint's model can do beyond plain text, as its first questions have shown."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

ReplyFormat = Literal["text", "json_schema"]

ENOUGH = 8
"""So many replies are looked at before an endpoint is asked no more for what it leaves out: replies to a schema, log-probabilities."""


@dataclass(slots=True)
class Abilities:
    """Of one model at one address; kept by the worker process. Null: not known yet."""

    json_schema: bool | None = None
    logprobs: bool | None = None
    repeatable: bool = False
    """The same question gets the same answer, so that its nonce is made of the question and not drawn."""
    with_schema: int = 0
    empty: int = 0
    without_logprobs: int = 0
    sampling: dict[str, bool] = field(default_factory=dict)
    """Sampling parameters that were taken or refused."""

    def saw_schema(self, *, empty: bool) -> None:
        """Count a reply to a question with a schema in."""
        self.with_schema += 1
        self.empty += empty
        self.json_schema = self.with_schema < ENOUGH or 2 * self.empty <= self.with_schema

    def saw_logprobs(self, *, given: bool) -> None:
        """Count an answer to a question that asked for log-probabilities; some endpoints pass over the wish without a word."""
        if given:
            self.logprobs, self.without_logprobs = True, 0
        elif self.logprobs is None:
            self.without_logprobs += 1
            if self.without_logprobs >= ENOUGH:
                self.logprobs = False

    def took(self, names: Iterable[str]) -> None:
        """An answer came to a question with these sampling parameters in."""
        for name in names:
            self.sampling[name] = True

    @property
    def known(self) -> dict[str, bool]:
        """What there is to tell others, by the names of `service.domain.judge.Capabilities`."""
        pairs = {"json_schema": self.json_schema, "logprobs": self.logprobs, **self.sampling}
        return {name: there for name, there in pairs.items() if there is not None}
