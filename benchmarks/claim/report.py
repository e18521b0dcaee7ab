"""The tables as Markdown, and everything as JSON."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from benchmarks.claim.analysis import Analysis, ArmNumbers, Comparison, Verdict
from benchmarks.claim.judge import SimulatedJudge
from benchmarks.claim.problem import make_problem
from benchmarks.claim.protocol import ALL_ARMS, ARMS, CONFIDENCES, CRITERIA, LEVELS, NOISES, Cell, Protocol
from benchmarks.claim.statistics import Estimate
from benchmarks.claim.store import RunStore


def markdown(analyses: Sequence[Analysis]) -> str:
    """Claims first, then every table of every policy."""
    protocol = analyses[0].protocol
    parts = ["## Claims\n", verdict_table([v for a in analyses for v in a.verdicts()])]
    parts += ["\n## What the judges said\n", said_table(protocol)]
    for analysis in analyses:
        sizes = analysis.sizes
        parts.append(
            f"\n## {analysis.policy}: {sizes.seeds} seeds, {sizes.steps} steps × {sizes.samples_per_step} samples\n\n"
            "Samples: median over seeds, with the share of seeds that got there in brackets where it is not all. Ratio and difference: "
            "median of the seeds' own, with 95 % interval; a ratio of ∞: only the baseline gets there, of 0: only the arm. Rewards: 0 "
            "a random policy, 1 the best.\n"
        )
        for title, rows, baseline in (
            ("Confidence against uniform weights", analysis.main(), "uniform"),
            ("Repair search", analysis.repairs(), "baseline"),
            ("Missing cells: imputed against filled with zeros", analysis.missing(), "zeros"),
            ("Explored after the first results, no part of the protocol", analysis.explored(), "baseline"),
        ):
            if rows:
                parts += [f"\n### {title}\n", comparison_table(rows, baseline)]
        parts += [reference_table(analysis)]
    return "\n".join(parts)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """One line per claim."""
    lines = [
        [v.policy, v.claim, interval(v.measured), ("holds" if v.holds else "FAILS") if v.claimed else outcome(v)]
        for v in verdicts
    ]
    return table(["policy", "claim", "measured", "verdict"], lines)


def outcome(verdict: Verdict) -> str:
    """For a line beside a claim."""
    return "not claimed; would hold" if verdict.holds else "not claimed; fails, as expected"


def comparison_table(rows: Sequence[Comparison], baseline: str) -> str:
    """One line per cell and arm."""
    head = ["setting", "noise", "said", "arm"]
    for level in LEVELS:
        head += [f"to {level:.0%}: {baseline}", "arm", "ratio"]
    head += [f"final: {baseline}", "arm", "difference"]
    lines = []
    for row in rows:
        arm = row.arm if row.cell.missing == "none" else f"{row.arm}, missing {row.cell.missing}"
        said = row.cell.confidence if ALL_ARMS[row.arm].uses_confidence else "–"
        line = [row.cell.setting, row.cell.noise, said, arm]
        for level in LEVELS:
            line += [samples(row.theirs.samples[level]), samples(row.ours.samples[level]), interval(row.ratios[level])]
        line += [
            f"{row.theirs.median_final:.3f}",
            f"{row.ours.median_final:.3f}",
            interval(row.difference, 3, sign=True),
        ]
        lines.append(line)
    return table(head, lines)


def reference_table(analysis: Analysis) -> str:
    """Uniform weights where the judge makes no error, and with two votes: what could be reached."""
    lines = []
    for name, arm, noise in (
        ("no noise", "uniform", "none"),
        ("two votes", "uniform_2", "small"),
        ("two votes", "uniform_2", "large"),
    ):
        for setting in ("shared", "correlated", "independent", "conflicting"):
            found = analysis.numbers(Cell(setting, noise, "any"), arm)
            if found:
                lines.append(
                    [
                        setting,
                        noise,
                        name,
                        *(samples(found.samples[level]) for level in LEVELS),
                        f"{found.median_final:.3f}",
                    ]
                )
    if not lines:
        return ""
    head = ["setting", "noise", "uniform weights with", *(f"to {level:.0%}" for level in LEVELS), "final"]
    return f"\n### For reference\n\n{table(head, lines)}"


def said_table(protocol: Protocol) -> str:
    """The judge's errors and what it says of them, measured on random completions: 2,000 groups of the categorical problem."""
    problem = make_problem("independent", protocol.categorical, 0)
    quality = problem.quality(
        problem.latent[0][np.random.default_rng(0).integers(0, len(problem.latent[0]), (2000, 8))]
    )
    lines = []
    for noise in ("small", "large"):
        columns = []
        for said in CONFIDENCES:
            judge = SimulatedJudge(protocol.judge, problem, Cell("independent", noise, said), ARMS["confidence"], 0)
            verdicts = judge.grade(quality, 0)
            columns.append(verdicts.confidence.mean(axis=(0, 1)))
        error = (verdicts.scores - quality).std(axis=(0, 1)) / protocol.categorical.spread
        for j, key in enumerate(CRITERIA):
            lines.append([noise, key, f"{NOISES[noise][j]:g}", f"{error[j]:.2f}", *(f"{c[j]:.2f}" for c in columns)])
    return table(["noise", "criterion", "σ/τ", "measured", *(f"mean {said}" for said in CONFIDENCES)], lines)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *lines))


def samples(values: Sequence[float]) -> str:
    """The median, or ∞; with the share of seeds that got there."""
    ordered, count = sorted(values), len(values)
    median = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    reached = sum(math.isfinite(x) for x in values)
    share = "" if reached == count else f" ({reached / count:.0%})"
    return (f"{median:,.0f}" if math.isfinite(median) else "∞") + share


def interval(estimate: Estimate | None, digits: int = 2, *, sign: bool = False) -> str:
    """value [low, high]."""
    if estimate is None:
        return "–"
    form = f"{'+' if sign else ''}.{digits}f"
    value, low, high = (
        "∞" if math.isinf(x) else format(x, form) for x in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"


def as_json(analyses: Sequence[Analysis], store: RunStore) -> dict[str, Any]:
    """Protocol, versions, claims, and per cell the medians, ratios and per-seed numbers."""
    packages = ("numpy", "torch", "transformers", "pydantic")
    return {
        "protocol_digest": store.digest,
        "code_digests": sorted(store.code),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "protocol": analyses[0].protocol.to_json(),
        "claims": [
            {
                "policy": v.policy, "claim": v.claim, "claimed": v.claimed, "holds": v.holds,
                "measured": v.measured.to_json() if v.measured else None,
            }
            for a in analyses for v in a.verdicts()
        ],
        "results": {
            a.policy: {
                "seeds": list(range(a.sizes.seeds)),
                "confidence": [_row(c) for c in a.main()],
                "repairs": [_row(c) for c in a.repairs()],
                "missing": [_row(c) for c in a.missing()],
                "explored": [_row(c) for c in a.explored()],
            }
            for a in analyses
        },
    }  # fmt: skip


def _row(row: Comparison) -> dict[str, Any]:
    """Medians and estimates; what each seed did stays in `runs.jsonl`."""

    def numbers(arm: ArmNumbers, level: float) -> dict[str, float | None]:
        median = arm.median_samples(level)
        reached = sum(math.isfinite(x) for x in arm.samples[level]) / len(arm.samples[level])
        return {"median": round(median, 1) if math.isfinite(median) else None, "reached": round(reached, 3)}

    return {
        "setting": row.cell.setting, "noise": row.cell.noise, "said": row.cell.confidence, "missing": row.cell.missing,
        "arm": row.arm, "baseline": row.baseline,
        "samples": {
            f"{level:g}": {
                "arm": numbers(row.ours, level), "baseline": numbers(row.theirs, level),
                "ratio": e.to_json() if (e := row.ratios[level]) else None,
            }
            for level in LEVELS
        },
        "final": {
            "arm": round(row.ours.median_final, 4), "baseline": round(row.theirs.median_final, 4),
            "difference": row.difference.to_json(),
        },
    }  # fmt: skip
