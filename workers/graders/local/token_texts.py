"""What each token of a reply adds to its text, for tokenizers whose tokens are no texts of their own.

As streaming servers do it: a token is decoded together with the few before it, and what comes out beyond their text is its own.
A token that ends in the middle of a character adds nothing; the one that completes the character adds it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class _Window:
    """The ids that a token is decoded with, and their text."""

    ids: list[int]
    text: str


class TokenEntry(Mapping[str, Any]):
    """One entry of `logprobs.content` in the OpenAI protocol; the alternatives are decoded only if somebody looks at them."""

    def __init__(
        self, tokenizer: Any, window: _Window, token: str, logprob: float, top: Sequence[tuple[int, float]]
    ) -> None:
        self._tokenizer, self._window, self._top = tokenizer, window, top
        self._fields: dict[str, Any] = {"token": token, "logprob": logprob}

    def __getitem__(self, name: str) -> Any:
        if name == "top_logprobs" and name not in self._fields:
            self._fields[name] = [
                {"token": piece(self._tokenizer, self._window, token), "logprob": logprob}
                for token, logprob in self._top
            ]
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(("token", "logprob", "top_logprobs"))

    def __len__(self) -> int:
        return 3


def piece(tokenizer: Any, window: _Window, token: int) -> str:
    """What a token adds to the text of the ids in the window."""
    text = _decoded(tokenizer, [*window.ids, token])
    whole = len(text) > len(window.text) and not text.endswith("\ufffd")
    return text[len(window.text) :] if whole else ""


def entries(tokenizer: Any, tokens: Sequence[int], top: Sequence[Sequence[tuple[int, float]]]) -> list[TokenEntry]:
    """An entry for each token of a reply. `top` has, for each, the likeliest ids with their log-probabilities."""
    found = []
    first, behind = 0, 0  # the window starts at `first`; what ends before `behind` has been told
    for position, token in enumerate(tokens):
        told = _decoded(tokenizer, tokens[first:behind])
        window = _Window(list(tokens[first:position]), told)
        said = piece(tokenizer, window, token)
        logprob = next((value for other, value in top[position] if other == token), float("-inf"))
        found.append(TokenEntry(tokenizer, window, said, logprob, top[position]))
        if said:
            first, behind = behind, position + 1
    return found


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True)
    return text
