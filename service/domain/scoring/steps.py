"""Step criteria (grape.md §3): cutting a completion into steps, and making one cell of what its steps got."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from service.domain.grade import CellStatus, StepCell
from service.domain.scoring.stats import mean

MAX_STEPS = 64
Span = tuple[int, int]


class Match(Protocol):
    """Where a separator was found; a match of `re` or `regex`."""

    def start(self) -> int:
        """Its first character."""

    def end(self) -> int:
        """The character after its last one."""


Finder = Callable[[str, str], Iterable[Match]]


def split_steps(text: str, separator: str, find: Finder = re.finditer) -> list[Span]:
    """Cut `text` into 1 to 64 steps: (first character, character after the last) of each.

    The steps tile the text: a separator belongs to the step that it ends, so every character lies in exactly one step. A
    separator of width zero (`(?=Step \\d)`) cuts where it stands. A step without anything but white space joins the next one
    (the last joins the one before it, an empty text is one empty step), and what follows the 63rd step is one step.
    `find(separator, text)` yields the separators; pass a finder with a time limit for patterns and texts that nobody vouches
    for. Raises what `find` raises, `re.error` for a pattern that does not compile.
    """
    spans: list[Span] = []
    start = 0
    for match in find(separator, text):
        if len(spans) == MAX_STEPS - 1:
            break
        if text[start : match.start()].strip():
            spans.append((start, match.end()))
            start = match.end()
    if spans and not text[start:].strip():
        spans[-1] = (spans[-1][0], len(text))
    else:
        spans.append((start, len(text)))
    return spans


class PooledSteps(NamedTuple):
    """The cell that the steps make: a score exactly if `status` is ok, else the first failure's status and reason."""

    score: float | None
    confidence: float | None
    status: CellStatus
    reason: str | None


def pool_steps(steps: Sequence[StepCell], pooling: Literal["mean", "min"] = "mean") -> PooledSteps:
    """Mean (or minimum) of the ok steps' scores, and the mean of their confidences, null if none has one.

    Ok if at least half of the steps are; else null, with the status and the reason of the first that is not. ValueError for
    no steps.
    """
    if not steps:
        raise ValueError("a completion has at least one step")
    scores = [step.score for step in steps if step.score is not None]
    if 2 * len(scores) < len(steps):
        first = next(step for step in steps if step.score is None)
        return PooledSteps(None, None, first.status, first.reason or first.status)
    stated = [step.confidence for step in steps if step.score is not None and step.confidence is not None]
    score = mean(scores) if pooling == "mean" else min(scores)
    return PooledSteps(score, mean(stated) if stated else None, "ok", None)
