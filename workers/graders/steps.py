"""Step criteria: the completion is cut into steps, every step is graded, and the steps make one cell (grape.md §3)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import regex

from service.domain.grade import Cell, CellStatus, StepCell
from service.domain.rubric import BLANK_LINES, Criterion
from service.domain.scoring import Span, pool_steps, split_steps
from service.domain.scoring.stats import mean

CUT_LIMIT_S = 0.5


class CannotCut(Exception):
    """The author's separator failed on this text: a null cell with this status."""

    def __init__(self, status: CellStatus, reason: str) -> None:
        super().__init__(reason)
        self.status: CellStatus = status
        self.reason = reason


class StepText(NamedTuple):
    """One step: where it stands, its text without the white space that ends it, and the text before it."""

    span: Span
    text: str
    before: str
    so_far: str
    """The text up to the step's end."""


def cut(criterion: Criterion, text: str) -> list[StepText]:
    """The steps of a completion. Raises `CannotCut` for a separator that does not compile or takes too long."""
    try:
        spans = split_steps(text, criterion.step_separator or BLANK_LINES, _find)
    except regex.error as error:
        raise CannotCut("infra_error", f"step_separator does not compile: {error}") from None
    except TimeoutError:
        reason = f"step_separator took more than {CUT_LIMIT_S} s on this text; make it simpler"
        raise CannotCut("timeout", reason) from None
    return [
        StepText((start, end), text[start:end].rstrip(), text[:start].rstrip(), text[:end].rstrip())
        for start, end in spans
    ]


@lru_cache(maxsize=256)
def _compiled(separator: str) -> Any:
    return regex.compile(separator)


def _find(separator: str, text: str) -> Iterable[Any]:
    found: Iterable[Any] = _compiled(separator).finditer(text, timeout=CUT_LIMIT_S, concurrent=True)
    return found


def grade_steps(criterion: Criterion, text: str, grade: Callable[[StepText], Cell]) -> Cell:
    """The cell of a step criterion whose grader answers at once."""
    try:
        steps = cut(criterion, text)
    except CannotCut as fault:
        return cut_failed(criterion, fault)
    return pooled(criterion, steps, [grade(step) for step in steps])


def cut_failed(criterion: Criterion, fault: CannotCut, **graded: Any) -> Cell:
    """The cell of a completion that could not be cut."""
    common = {"criterion": criterion.key, "grader": criterion.grader.type, "audit": criterion.audit}
    return Cell(status=fault.status, reason=fault.reason, **common, **graded)


def pooled(criterion: Criterion, steps: Sequence[StepText], cells: Sequence[Cell]) -> Cell:
    """One cell of the cells of a completion's steps, in their order; costs are sums, `attempts` is the votes and all retries."""
    parts = [
        StepCell(
            start=step.span[0],
            end=step.span[1],
            **cell.model_dump(include={"status", "score", "confidence", "reasoning", "reason"}),
        )
        for step, cell in zip(steps, cells, strict=True)
    ]
    score, confidence, status, reason = pool_steps(parts, criterion.step_pooling)
    said = [f"Step {number}: {part.reasoning}" for number, part in enumerate(parts, 1) if part.reasoning]
    ok = [cell for cell in cells if cell.score is not None]
    plain = next((cell for cell in cells if cell.reply_format == "text"), cells[0])
    return cells[0].model_copy(
        update={
            "status": status,
            "score": score,
            "confidence": confidence,
            "confidence_source": next((c.confidence_source for c in ok if c.confidence_source), None)
            if confidence is not None
            else None,
            "reason": reason or next((cell.reason for cell in ok if cell.reason), None),
            "reasoning": "\n\n".join(said) or None,
            "vote_variance": _vote_variance(criterion, ok),
            "fingerprint": plain.fingerprint,
            "reply_format": plain.reply_format,
            "attempts": max(0, cells[0].votes + sum(cell.attempts - cell.votes for cell in cells)),
            "latency_ms": max(cell.latency_ms for cell in cells),
            "tokens_in": sum(cell.tokens_in for cell in cells),
            "tokens_out": sum(cell.tokens_out for cell in cells),
            "calls": sum(cell.calls for cell in cells),
            "tokens_estimated": any(cell.tokens_estimated for cell in cells),
            "unasked": sum(cell.unasked for cell in cells),
            "steps": parts,
        }
    )


def _vote_variance(criterion: Criterion, ok: Sequence[Cell]) -> float | None:
    """Variance of a single vote on the pooled score: of a mean of K independent steps Σ var/K², of a minimum its step's own."""
    spreads = [cell.vote_variance for cell in ok if cell.vote_variance is not None]
    if not ok or len(spreads) < len(ok):
        return None
    if criterion.step_pooling == "min":
        return min(ok, key=lambda cell: cell.score or 0.0).vote_variance
    return mean(spreads) / len(spreads)
