"""The table of what was measured, and the same as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.trainers.measure import Measured
from benchmarks.trainers.rows import Measure

MEMORY_FLOOR = 0.7


def spread(values: Sequence[float]) -> str:
    """Median and the range of all repeats."""
    return f"{statistics.median(values):,.1f} ({min(values):,.1f}–{max(values):,.1f})"


def verdict(ratio: float, floor: float) -> str:
    """Whether the floor is reached."""
    return "reached" if ratio >= floor else "below TRL" if ratio < 1 else "floor missed"


def markdown(found: Sequence[Measured]) -> str:
    """A line per measure: ours (what a job does by default), ours in fp32, TRL's defaults, TRL tuned at its best."""
    lines = [
        "| row | measure | ours | ours fp32 | TRL defaults | TRL tuned (best of) | × tuned | floor | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        for measure in one.row.measures:
            ours, best = one.rates("ours-auto", measure), one.best_tuned(measure)
            tuned = one.rates(best.name, measure)
            ratio = statistics.median(ours) / statistics.median(tuned)
            lines.append(
                f"| {one.row.name} | {measure.name}, {measure.unit} | {spread(ours)} | "
                f"{spread(one.rates('ours-fp32', measure))} | {spread(one.rates('trl-defaults', measure))} | "
                f"{spread(tuned)} {best.name} | **{ratio:.2f}** | {measure.floor} | {verdict(ratio, measure.floor)} |"
            )
        lines.append(_memory(one))
    return "\n".join(lines)


def _memory(one: Measured) -> str:
    """Against the tuned peer that is fastest over the whole step."""
    best = one.best_tuned(one.row.measures[-1])
    ours, tuned = one.memory("ours-auto"), one.memory(best.name)
    ratio = ours / tuned
    word = "reached" if ratio <= MEMORY_FLOOR else "above TRL" if ratio > 1 else "floor missed"
    return (
        f"| {one.row.name} | peak memory above the model, MB | {ours:,.0f} | {one.memory('ours-fp32'):,.0f} | "
        f"{one.memory('trl-defaults'):,.0f} | {tuned:,.0f} {best.name} | **{ratio:.2f}** | {MEMORY_FLOOR} | {word} |"
    )


def as_json(found: Sequence[Measured], about: dict[str, Any]) -> dict[str, Any]:
    """Every timed step of every contender."""
    rows = [
        {
            "row": one.row.name,
            "apart": one.apart,
            "measures": [_measure(one, measure) for measure in one.row.measures],
            "contenders": {c.name: {"column": c.column, "options": c.options} for c in one.row.contenders},
            "steps": one.steps,
        }
        for one in found
    ]
    return {**about, "rows": rows}


def _measure(one: Measured, measure: Measure) -> dict[str, Any]:
    medians = {c.name: statistics.median(one.rates(c.name, measure)) for c in one.row.contenders}
    best = one.best_tuned(measure).name
    return {
        "measure": measure.name, "unit": measure.unit, "floor": measure.floor, "medians": medians, "best_tuned": best,
        "times_tuned": medians["ours-auto"] / medians[best],
    }  # fmt: skip
