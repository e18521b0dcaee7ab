"""Which step every completion token belongs to: steps are spans of the text, the policy is trained by tokens.

A token belongs to the step that its last character lies in: many tokens begin with the white space that ends the step before.
Where it ends is found by decoding everything up to it: no tokenizer needs offsets for that, and it holds for the ids that were
sampled, not for those that the text would be encoded to. Where several tokens spell one character byte by byte, all of them
belong to it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from service.domain.grade import Cell
from workers.policy.tokenization import decode


def steps_of_tokens(
    tokenizer: Any, tokens: Sequence[int], eos_ids: Sequence[int], text: str, starts: Sequence[int]
) -> list[int]:
    """The step of each token, never falling; every token has exactly one.

    `text` is what `decode` makes of `tokens`; `starts` has the first character of each step, rising from 0. Tokens without
    characters of their own, such as the one that ends the completion, belong to where the text has got to, at its end to the
    last step. Each boundary takes about 2·log2(len(tokens)) decodings.
    """
    known: dict[int, int] = {}

    def spelled(count: int) -> int:
        """Characters of `text` that the first `count` tokens spell out."""
        if count not in known:
            known[count] = shared(decode(tokenizer, tokens[:count], eos_ids), text)
        return known[count]

    def place(t: int) -> int:
        """Token t's last character, or the one that it only begins."""
        return max(spelled(t), spelled(t + 1) - 1)

    places = range(len(tokens))
    found: list[int] = []
    for step, start in enumerate(starts[1:]):
        first = bisect_left(places, start, lo=len(found), key=place)
        found.extend([step] * (first - len(found)))
    return found + [len(starts) - 1] * (len(tokens) - len(found))


def shared(prefix: str, text: str) -> int:
    """How many characters both begin with. A cut through a character leaves U+FFFD at the end of `prefix`: not shared."""
    length = len(prefix)
    for _ in range(4):  # at most three bytes of a character can be missing
        if text.startswith(prefix[:length]):
            return length
        length -= 1
    pairs = zip(prefix, text, strict=False)
    return next((k for k, (a, b) in enumerate(pairs) if a != b), min(len(prefix), len(text)))


def steps_by_criterion(
    tokenizer: Any, tokens: Sequence[int], eos_ids: Sequence[int], text: str, cells: Mapping[str, Cell]
) -> dict[str, list[int]]:
    """The step of each token on each step criterion that has a score; criteria that cut alike are looked up once."""
    by_cut: dict[tuple[int, ...], list[int]] = {}
    found: dict[str, list[int]] = {}
    for key, cell in cells.items():
        if cell.steps and cell.score is not None and not cell.audit:
            cut = tuple(step.start for step in cell.steps)
            if cut not in by_cut:
                by_cut[cut] = steps_of_tokens(tokenizer, tokens, eos_ids, text, cut)
            found[key] = by_cut[cut]
    return found
