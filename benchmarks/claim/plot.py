"""Learning curves and ratios as one picture per policy, and the repair search as another. matplotlib's own renderer, no display."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.claim.analysis import Analysis, Comparison
from benchmarks.claim.protocol import ALL_ARMS, CONFIDENCES, NOISES, SETTINGS, Cell
from benchmarks.claim.statistics import Estimate

COLOURS = {
    "uniform": "#444444", "honest": "#0072B2", "saturated": "#E69F00", "anti": "#D55E00",
    "confidence": "#0072B2", "schedule": "#009E73", "shrunk": "#56B4E9", "calibrated": "#CC79A7",
    "inverse_variance_2": "#D55E00",
}  # fmt: skip
"""The colours of Okabe and Ito: told apart also by people who do not see all colours."""
TITLES = {
    "shared": "one shared quality",
    "correlated": "correlated (.5)",
    "independent": "independent",
    "conflicting": "conflicting, noisiest\nweighted most",
}
RATIO_LIMITS = (0.4, 3.0)


def draw(analysis: Analysis, folder: Path) -> list[Path]:
    """Write `claim_<policy>.png` and `repairs_<policy>.png`; what has not been measured is left out."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    written = []
    if main := analysis.main():
        written.append(_claim(analysis, main, folder / f"claim_{analysis.policy}.png"))
    if repairs := [row for row in analysis.repairs() if row.cell.confidence in ("honest", "any")]:
        written.append(_repairs(analysis, repairs, folder / f"repairs_{analysis.policy}.png"))
    return written


def _claim(analysis: Analysis, main: Sequence[Comparison], path: Path) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 4, figsize=(13, 9), layout="constrained")
    for column, setting in enumerate(SETTINGS):
        for row, noise in enumerate(("small", "large")):
            _curves(axes[row][column], analysis, setting, noise, labels=row == column == 0)
            if column == 0:
                axes[row][0].set_ylabel(f"{noise} noise\nattained share of the attainable reward")
        axes[0][column].set_title(TITLES[setting])
        _ratios(axes[2][column], [c for c in main if c.cell.setting == setting], labels=column == 0)
    axes[2][0].set_ylabel("samples, confidence ÷ uniform\n(below 1: confidence is quicker)")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    sizes = analysis.sizes
    figure.suptitle(
        f"Confidence weighting against uniform weights, {analysis.policy} policy, {sizes.seeds} seeds: medians; bands are quartiles, bars "
        "95 % intervals"
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path


def _curves(axis: Any, analysis: Analysis, setting: str, noise: str, *, labels: bool) -> None:
    for said in ("uniform", *CONFIDENCES):
        arm = "uniform" if said == "uniform" else "confidence"
        cell = Cell(setting, noise, "honest" if said == "uniform" else said)
        band = analysis.band(cell, arm)
        if band is None:
            continue
        low, middle, high = band
        x = [t * analysis.sizes.samples_per_step for t in range(len(middle))]
        name = "uniform weights (GRPO)" if said == "uniform" else f"confidence, {said}"
        axis.plot(x, middle, color=COLOURS[said], lw=1.8, label=name if labels else None)
        axis.fill_between(x, low, high, color=COLOURS[said], alpha=0.12, lw=0)
    for level in (0.5, 0.8, 0.95):
        axis.axhline(level, color="#bbbbbb", lw=0.6, zorder=0)
    axis.set_ylim(min(-0.05, axis.get_ylim()[0]), 1.03)
    axis.set_xlabel("samples")


def _ratios(axis: Any, rows: Sequence[Comparison], *, labels: bool) -> None:
    """Small noise to the left, large to the right; circles to 50 %, squares to 80 %."""
    axis.axhline(1, color="#444444", lw=0.8)
    place, ticks = 0.0, []
    for noise in [n for n in NOISES if n != "none"]:
        start = place
        for said in CONFIDENCES:
            for row in rows:
                if (row.cell.noise, row.cell.confidence) == (noise, said):
                    for level, marker in ((0.5, "o"), (0.8, "s")):
                        _point(axis, place, row.ratios[level], COLOURS[said], marker)
                        place += 0.7
            place += 0.5
        ticks.append(((start + place - 1.2) / 2, f"{noise} noise"))
        place += 1.0
    axis.set_yscale("log")
    axis.set_ylim(*RATIO_LIMITS)
    axis.set_yticks([0.5, 0.8, 1, 1.5, 2, 3], ["0.5", "0.8", "1", "1.5", "2", "3"])
    axis.minorticks_off()
    axis.set_xticks([x for x, _ in ticks], [text for _, text in ticks])
    axis.axhline(0.8, color="#bbbbbb", lw=0.6, ls="--", zorder=0)
    if labels:
        axis.text(
            0.02,
            0.98,
            "● to 50 %   ■ to 80 %   ▲ off the scale, or never",
            transform=axis.transAxes,
            va="top",
            fontsize=8,
        )


def _point(axis: Any, x: float, estimate: Estimate | None, colour: str, marker: str) -> None:
    low, high = RATIO_LIMITS
    if estimate is None or estimate.value > high:
        axis.plot([x], [high * 0.93], marker="^", color=colour, ms=6, mfc="none" if estimate is None else colour)
        return
    top = min(estimate.high, high) if math.isfinite(estimate.high) else high
    axis.plot([x, x], [max(estimate.low, low), top], color=colour, lw=1.6)
    axis.plot([x], [max(estimate.value, low)], marker=marker, color=colour, ms=5)


def _repairs(analysis: Analysis, rows: Sequence[Comparison], path: Path) -> Path:
    """Final reward against uniform weights at the larger noise: what costs what, setting by setting."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, 4, figsize=(13, 6), layout="constrained", sharey="row")
    arms = ["confidence", "schedule", "shrunk", "calibrated", "inverse_variance_2"]
    large = [
        row
        for row in [*analysis.main(), *rows]
        if row.cell.noise == "large" and row.cell.confidence in ("honest", "any")
    ]
    for column, setting in enumerate(SETTINGS):
        speed, end = axes[0][column], axes[1][column]
        speed.set_title(TITLES[setting])
        for place, arm in enumerate(arms):
            for row in large:
                if (row.cell.setting, row.arm) == (setting, arm):
                    _point(speed, place, row.ratios[0.5], COLOURS[arm], "o")
                    error = row.difference
                    end.plot([place, place], [error.low, error.high], color=COLOURS[arm], lw=1.6)
                    end.plot([place], [error.value], marker="o", color=COLOURS[arm], ms=5)
        speed.axhline(1, color="#444444", lw=0.8)
        speed.set_yscale("log")
        speed.set_ylim(*RATIO_LIMITS)
        speed.set_yticks([0.5, 0.8, 1, 1.5, 2, 3], ["0.5", "0.8", "1", "1.5", "2", "3"])
        speed.minorticks_off()
        end.axhline(0, color="#444444", lw=0.8)
        names = [arm.replace("inverse_variance_2", "inverse\nvariance") for arm in arms if arm in ALL_ARMS]
        speed.set_xticks(range(len(arms)), [""] * len(arms))
        end.set_xticks(range(len(arms)), names, rotation=35, ha="right")
        speed.set_xlim(-0.6, len(arms) - 0.4)
        end.set_xlim(-0.6, len(arms) - 0.4)
    axes[0][0].set_ylabel("samples to 50 %,\narm ÷ uniform")
    axes[1][0].set_ylabel("final reward,\narm − uniform")
    figure.suptitle(
        f"Repair search, {analysis.policy} policy, larger noise, honest confidence: medians over {analysis.sizes.seeds} seeds "
        "with 95 % intervals\n(inverse variance against uniform at two votes each; ▲ off the scale, or never)"
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return path
