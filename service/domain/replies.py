"""What judges replied, word for word, as it is stored: everything that came to one question, packed, and bounded in size.

A verdict can be looked into afterwards, and a judge's votes compared (reference/rubrics.md §5.2 #16). An endpoint's key is taken out
before anything gets here.
"""

from __future__ import annotations

import json
import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from pydantic import BaseModel

from service.domain.grade import Said

LEVEL = 5
"""Of zlib: a reply of a few hundred bytes takes some 20 µs."""


class Attempt(BaseModel):
    """What one attempt got back. `text` is the reply, or what the endpoint said in place of one; `cut`: only its beginning."""

    status: str
    http_status: int | None = None
    finish_reason: str | None = None
    reason: Said | None = None
    text: Said | None = None
    cut: bool = False


class Reading(BaseModel):
    """What was read out of a reply on one criterion; the score is after polarity."""

    status: str
    score: float | None = None
    confidence: float | None = None
    reason: Said | None = None


class Vote(BaseModel):
    """One question: what came back, attempt by attempt, and how it was read. `step` is the number of a completion's step."""

    vote: int
    step: int | None = None
    reply_format: str
    attempts: list[Attempt]
    readings: dict[str, Reading]


def pack(votes: Sequence[Mapping[str, Any]], most: int) -> bytes:
    """Votes in the form of `Vote`, with at most `most` bytes of text; where they are more, the longest texts lose their ends."""
    attempts = [attempt for vote in votes for attempt in vote["attempts"] if attempt.get("text")]
    sizes = [len(attempt["text"].encode(errors="replace")) for attempt in attempts]
    longest = fair_share(sizes, most)
    for attempt, size in zip(attempts, sizes, strict=True):
        if size > longest:
            attempt["text"] = attempt["text"].encode(errors="replace")[:longest].decode(errors="ignore")
            attempt["cut"] = True
    text = json.dumps(votes, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return zlib.compress(text.encode(), LEVEL)


def unpack(body: bytes) -> list[Vote]:
    """The votes again."""
    return [Vote.model_validate(vote) for vote in json.loads(zlib.decompress(body))]


def fair_share(sizes: Sequence[int], most: int) -> int:
    """The largest size s with Σ min(size, s) ≤ `most`: short texts stay whole, long ones share what is left."""
    ordered = sorted(sizes)
    if sum(ordered) <= most:
        return max(ordered, default=0)
    below = [0, *accumulate(ordered)]
    # The k shortest stay whole as long as all the others could be as long as the k-th.
    whole = bisect_right(range(len(ordered)), most, key=lambda k: below[k] + ordered[k] * (len(ordered) - k))
    return (most - below[whole]) // (len(ordered) - whole)
