"""What the demo shows: tables, sparklines, and curves as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 60) -> str:
    """Values in [0, 1] as blocks, averaged down to `width`."""
    if not values:
        return ""
    size = max(1, -(-len(values) // width))
    parts = [values[k : k + size] for k in range(0, len(values), size)]
    means = [sum(part) / len(part) for part in parts]
    return "".join(BLOCKS[min(len(BLOCKS) - 1, max(0, int(m * len(BLOCKS))))] for m in means)


def show_scores(
    console: Console, before: Mapping[str, float], after: Mapping[str, float], titles: Mapping[str, str]
) -> None:
    """Each criterion before and after."""
    table = Table(title="Held-out prompts, sampled", title_justify="left", box=None)
    for column in ("", "before", "after", "change"):
        table.add_column(column, justify="left" if not column else "right")
    for key, title in titles.items():
        if key in before and key in after:
            change = after[key] - before[key]
            style = "green" if change > 0.005 else "red" if change < -0.005 else ""
            table.add_row(
                title,
                f"{before[key]:.3f}",
                f"{after[key]:.3f}",
                f"[{style}]{change:+.3f}[/]" if style else f"{change:+.3f}",
            )
    console.print(table)


def show_completion(console: Console, label: str, completion: dict[str, Any]) -> None:
    """One answer with what was said about it."""
    reward = completion["plain_reward"]
    shown = "null" if reward is None else f"{reward:.2f}"
    console.print(f"  [bold]{label}[/] (plain reward {shown}): ", end="")
    console.print(completion["text"] or "(nothing)", markup=False, highlight=False)
    for cell in completion["cells"]:
        if cell["reasoning"] or cell["status"] != "ok":
            score = cell["status"] if cell["score"] is None else f"{cell['score']:.2f}"
            said = cell["reasoning"] or cell["reason"] or ""
            console.print(
                f"      {cell['criterion']}: {score}  {said[:110]}", markup=False, highlight=False, style="dim"
            )


def draw_curves(series: Mapping[str, Sequence[tuple[int, float]]], path: Path, *, note: str) -> None:
    """Reward and audit, each criterion's score, and each criterion's share of the weight, over the steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.2), constrained_layout=True)
    panels = (
        ("Reward per step", ("plain_reward", "reward", "audit")),
        ("Score per criterion", tuple(name for name in series if name.startswith("score."))),
        ("Share of the weight (weight × mean confidence)", tuple(name for name in series if name.startswith("share."))),
    )
    for axis, (title, names) in zip(axes, panels, strict=True):
        for name in names:
            points = series.get(name) or []
            label = name.split(".", 1)[-1] if "." in name else name.replace("_", " ")
            axis.plot([step for step, _ in points], [value for _, value in points], label=label, linewidth=1.6)
        axis.set_title(title, loc="left", fontsize=11)
        axis.set_xlabel("optimizer step")
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=9, loc="best")
    figure.suptitle(note, fontsize=10, x=0.01, ha="left")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
