"""What is worth a person's label, and why: disagreement, low confidence, drift, and a random share that nobody chooses."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from service.domain.base import Value
from service.domain.scoring import mean, unbiased_std

Reason = Literal["disagreement", "low_confidence", "drift", "audit"]

LOW_CONFIDENCE = 0.5
APART = 0.5
"""Scores of one text that are this far apart disagree."""
VOTES_APART = 0.25
"""A standard deviation of votes from which they disagree."""
RATED_DOWN = 0.75
AUDIT = 0.5
"""What a bad rating, and being drawn, are worth beside the measured reasons."""
DRIFT_CELLS = 60
DRIFT_Z, DRIFT_LEAST = 3.0, 0.05
DRIFT_SHARE = 0.2
"""Of the last third of a criterion that drifts, this share is asked about."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A judged cell as the queue sees it; candidates come oldest first. `rated`: thumbs up minus thumbs down of its critique."""

    completion: str
    subject: str
    criterion: str
    question: str
    judge: str
    revision: int
    score: float
    confidence: float | None
    vote_variance: float | None
    rated: int = 0


class Why(Value):
    """One reason: how much it is worth in [0,1], and in words."""

    type: Reason
    value: float
    message: str


class Drift(Value):
    """Means of the first and the last third of a series, and how many standard errors lie between them."""

    before: float
    after: float
    z: float


def drift_of(series: Sequence[float]) -> Drift | None:
    """Whether a series has moved: by three standard errors and by .05 at least; null for fewer than 60 values, or no move."""
    if len(series) < DRIFT_CELLS:
        return None
    third = len(series) // 3
    first, last = series[:third], series[-third:]
    before, after = mean(first), mean(last)
    error = math.sqrt((unbiased_std(first) ** 2 + unbiased_std(last) ** 2) / third)
    if abs(after - before) < DRIFT_LEAST or abs(after - before) < DRIFT_Z * error:
        return None
    return Drift(
        before=before, after=after, z=(after - before) / error if error > 0 else math.copysign(1e3, after - before)
    )


def reasons(
    cells: Sequence[Candidate],
    people: Mapping[tuple[str, str], Sequence[float]],
    audit_share: float,
    seed: int,
) -> list[list[Why]]:
    """For each cell why a person should look at it; empty for most. `people`: scores by (subject, question)."""
    others: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    series: dict[tuple[str, str, int], list[int]] = defaultdict(list)
    for place, cell in enumerate(cells):
        others[cell.subject, cell.question][cell.judge] = cell.score
        if cell.confidence is not None:
            series[cell.question, cell.judge, cell.revision].append(place)
    found = [_own(cell, others, people, audit_share, seed) for cell in cells]
    for places in series.values():
        confidences = [confidence for p in places if (confidence := cells[p].confidence) is not None]
        drift = drift_of(confidences)
        if drift is None:
            continue
        message = f"the judge's mean confidence on this criterion went from {drift.before:.2f} to {drift.after:.2f}"
        for place in places[-(len(places) // 3) :]:
            if _drawn(cells[place], f"drift/{seed}") < DRIFT_SHARE:
                value = min(1.0, 2 * abs(drift.after - drift.before))
                found[place].append(Why(type="drift", value=value, message=message))
    return found


def _own(
    cell: Candidate,
    others: Mapping[tuple[str, str], Mapping[str, float]],
    people: Mapping[tuple[str, str], Sequence[float]],
    audit_share: float,
    seed: int,
) -> list[Why]:
    found: list[Why] = []
    if cell.vote_variance is not None and math.sqrt(cell.vote_variance) >= VOTES_APART:
        value = min(1.0, 2 * math.sqrt(cell.vote_variance))
        found.append(Why(type="disagreement", value=value, message="the judge's votes on it disagree"))
    for judge, score in others[cell.subject, cell.question].items():
        if judge != cell.judge and abs(score - cell.score) >= APART:
            message = f"{judge} gives {score:.2f} where {cell.judge} gives {cell.score:.2f}"
            found.append(Why(type="disagreement", value=abs(score - cell.score), message=message))
    said = people.get((cell.subject, cell.question), ())
    if said and max(said) - min(said) >= APART:
        message = f"people's scores of it go from {min(said):.2f} to {max(said):.2f}"
        found.append(Why(type="disagreement", value=max(said) - min(said), message=message))
    if cell.rated < 0:
        found.append(Why(type="disagreement", value=RATED_DOWN, message="the judge's critique was rated down"))
    if cell.confidence is not None and cell.confidence < LOW_CONFIDENCE:
        message = f"confidence {cell.confidence:.2f}"
        found.append(Why(type="low_confidence", value=1 - cell.confidence, message=message))
    if _drawn(cell, f"audit/{seed}") < audit_share:
        message = f"drawn at random, as {audit_share:g} of all cells are"
        found.append(Why(type="audit", value=AUDIT, message=message))
    return found


def _drawn(cell: Candidate, what: str) -> float:
    """A number in [0,1) that belongs to the cell: the same draw whenever it is looked at."""
    digest = hashlib.sha256(f"{what}/{cell.subject}/{cell.question}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def priority(why: Sequence[Why]) -> float:
    """1 − Π(1 − value): several reasons are worth more than the best of them."""
    return 1 - math.prod(1 - one.value for one in why)
