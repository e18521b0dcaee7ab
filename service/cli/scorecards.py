"""What an `evaluate` job has found, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from service.cli.common import out, show_list

SCORES = ("category", "series", "mean", "interval", "count", "nulls")
AGAINST = ("category", "series", "policy", "compare_to", "difference", "interval", "prompts")


def show_scorecard(result: dict[str, Any]) -> None:
    """The policy's scores with their 95 % intervals, and how it compares with another model."""
    _title("scores, with 95 % intervals over prompts")
    show_list(list(_scores(result["scorecard"])), False, SCORES)
    found = result.get("comparison")
    if found is None:
        return
    _title(f"against {found['compare_to']['model']}, on the same prompts")
    show_list(list(_differences(found)), False, AGAINST)
    met = found["overall"]["win_rate"]
    if met["rate"] is not None:
        said = (
            f"win rate {met['rate']:.3f} {_interval(met)}: {met['wins']} won, {met['ties']} tied, {met['losses']} lost"
        )
        _title(said)


def _title(text: str) -> None:
    out.print(f"\n{text}", highlight=False, markup=False, soft_wrap=True)


def _parts(card: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All prompts first, then each category, where there is more than one."""
    yield "all", card["overall"]
    if len(card["categories"]) > 1:
        yield from ((part["category"] or "(none)", part) for part in card["categories"])


def _scores(card: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for category, part in _parts(card):
        series = {"plain_reward": part["plain_reward"]}
        series |= {f"audit {key}" if row["audit"] else key: row for key, row in part["criteria"].items()}
        for name, row in series.items():
            nulls = row["nulls"] if isinstance(row["nulls"], int) else sum(row["nulls"].values())
            yield {
                "category": category,
                "series": name,
                "mean": row["mean"],
                "interval": _interval(row),
                "count": row["count"],
                "nulls": nulls,
            }


def _differences(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for category, part in _parts(found):
        rows = {"plain_reward": part["plain_reward"]}
        rows |= {f"audit {key}" if row["audit"] else key: row for key, row in part["criteria"].items()}
        for name, row in rows.items():
            yield {**row, "category": category, "series": name, "interval": _interval(row)}


def _interval(row: dict[str, Any]) -> str | None:
    return None if row["low"] is None else f"[{row['low']:.3f}, {row['high']:.3f}]"
