"""Confidence `logprob`: what a judge's answer tokens say about the answers that it did not give.

The distribution over the K answers that a criterion allows is read off the tokens of the verdict in the reply. The score is its
expectation, the confidence (K·p_max − 1)/(K − 1): 0 where all answers are equally likely, 1 for certainty (api.md; the
expectation as in G-Eval, arXiv 2303.16634). It is conditional on the reasoning that was already written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.domain.rubric import Criterion, LevelScale, UnitScale
from workers.graders.judge.reply import score_of

TOP_LOGPROBS = 20
"""What is asked for: the most that the OpenAI protocol allows."""

MAX_UNCLEAR = 0.01
"""If more of the probability than this may belong to any of several answers, nothing is made of it."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """A score and a confidence from token probabilities; or neither, and why."""

    score: float | None = None
    confidence: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    score: float
    spellings: tuple[bytes, ...]


def expectation(
    criterion: Criterion, text: str, place: tuple[int, int], entries: Sequence[Mapping[str, Any]] | None
) -> Expectation:
    """What the log-probabilities say of the verdict that stands at `place` in the reply `text`.

    `entries` are the reply's `logprobs.content`: token, bytes, logprob and top_logprobs of each token. An answer of several
    tokens is followed token by token: at each one, an alternative that begins only one answer counts for that answer.
    """
    if isinstance(criterion.scale, UnitScale):
        return Expectation(reason="a number between 0 and 1 has no few answers to compare")
    if not entries:
        return Expectation(reason="the endpoint gave no log-probabilities")
    try:
        tokens = [(_bytes(entry), entry) for entry in entries]
        start, end = _region(text, place, b"".join(token for token, _ in tokens))
        return _expectation(_answers(criterion), tokens, start, end)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        return Expectation(reason=f"the log-probabilities cannot be read: {error}")


def _answers(criterion: Criterion) -> list[_Answer]:
    scale = criterion.scale
    values: list[Any] = [level.label for level in scale.levels] if isinstance(scale, LevelScale) else [True, False]
    found = []
    for value in values:
        score = score_of(criterion, value)
        assert score is not None
        spellings = {json.dumps(value).encode(), json.dumps(value, ensure_ascii=False).encode()}
        found.append(_Answer(score, tuple(sorted(spellings))))
    return found


def _bytes(entry: Mapping[str, Any]) -> bytes:
    raw = entry.get("bytes")
    return bytes(raw) if raw is not None else str(entry["token"]).encode()


def _region(text: str, place: tuple[int, int], joined: bytes) -> tuple[int, int]:
    """The bytes of the tokens from behind the verdict's key to the verdict's end: the first tokens may hold the colon."""
    offset = joined.find(text.encode())
    if offset < 0:
        raise ValueError("their tokens are not the reply's text")
    key_end = text.rfind('"', 0, place[0]) + 1
    return offset + len(text[:key_end].encode()), offset + len(text[: place[1]].encode())


def _expectation(
    answers: Sequence[_Answer], tokens: Sequence[tuple[bytes, Mapping[str, Any]]], start: int, end: int
) -> Expectation:
    joined = b"".join(token for token, _ in tokens)
    mass = [0.0] * len(answers)
    unclear, path, at = 0.0, 1.0, 0
    for token, entry in tokens:
        begin, at = at, at + len(token)
        if at <= start:
            continue
        if begin >= end:
            break
        before, lead = joined[start:begin], joined[begin:start]
        going_on = False
        for found, probability in _alternatives(token, entry).items():
            fits = _fits(answers, before + found[len(lead) :]) if found.startswith(lead) else []
            if len(fits) == 1:
                mass[fits[0]] += path * probability
            elif found == token and fits:
                going_on = True
            elif 1 < len(fits) < len(answers):
                unclear += path * probability
        if not going_on:
            break
        path *= math.exp(min(0.0, float(entry["logprob"])))
    total = math.fsum(mass)
    if total <= 0 or unclear > MAX_UNCLEAR * (total + unclear):
        return Expectation(reason="its tokens do not tell the answers apart; labels that begin differently would")
    shares = [x / total for x in mass]
    score = math.fsum(share * answer.score for share, answer in zip(shares, answers, strict=True))
    confidence = (len(answers) * max(shares) - 1) / (len(answers) - 1)
    return Expectation(min(1.0, max(0.0, score)), min(1.0, max(0.0, confidence)))


def _alternatives(token: bytes, entry: Mapping[str, Any]) -> dict[bytes, float]:
    """Probabilities of the tokens that could have stood here, the one that does among them."""
    found = {token: math.exp(min(0.0, float(entry["logprob"])))}
    for other in entry.get("top_logprobs") or []:
        found.setdefault(_bytes(other), math.exp(min(0.0, float(other["logprob"]))))
    return found


def _fits(answers: Sequence[_Answer], said: bytes) -> list[int]:
    """The answers that a text may become, which begins behind the verdict's key."""
    rest = re.sub(rb"^\s*(?::\s*)?", b"", said)
    return [
        position
        for position, answer in enumerate(answers)
        if any(full.startswith(rest) or _begins(rest, full) for full in answer.spellings)
    ]


def _begins(rest: bytes, full: bytes) -> bool:
    """Whether `rest` is this answer and what follows it: `true,` is true, `trueish` is not."""
    return rest.startswith(full) and (full.endswith(b'"') or not rest[len(full) : len(full) + 1].isalnum())
