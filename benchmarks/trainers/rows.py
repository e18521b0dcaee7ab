"""The rows of the table: what is measured, who competes, and the floors of the project's targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Options = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """Somebody who takes steps. `column`: ours, defaults or tuned; the best tuned one is what ours is compared with."""

    name: str
    who: str
    column: str
    options: Options


@dataclass(frozen=True)
class Measure:
    """A number read from steps: `units` per `per` seconds; `floor` is times TRL tuned."""

    name: str
    unit: str
    units: str
    per: str
    floor: float


@dataclass(frozen=True)
class Row:
    """One kind of step on one kind of data."""

    name: str
    kind: str
    measures: list[Measure]
    contenders: list[Contender]
    fixed: bool = False
    options: Options = field(default_factory=dict)
    given: bool = True
    """Whether the mathematics can be compared on given data before anything is timed."""


def peers(tuned: dict[str, Options]) -> list[Contender]:
    """TRL as it comes, and TRL tuned: no gradient checkpointing, whole batches, both precisions, and what is named."""
    found = [Contender("trl-defaults", "trl", "defaults", {})]
    for name, options in tuned.items():
        for precision in ("bf16", "fp32"):
            given = {"gradient_checkpointing": False, "bf16": precision == "bf16", **options}
            found.append(Contender(f"trl-{name}-{precision}", "trl", "tuned", given))
    return found


OURS = [
    Contender("ours-auto", "ours", "ours", {"precision": "auto"}),
    Contender("ours-fp32", "ours", "other", {"precision": "fp32"}),
]

ROLLOUTS = Measure("rollouts", "tokens/s", "tokens", "rollout", 1.8)


def on_policy(name: str, update_floor: float, *, half: bool = False, fixed: bool = False) -> Row:
    """A GRPO step in its parts."""
    return Row(
        name,
        "grpo",
        [
            ROLLOUTS,
            Measure("update", "completions/s", "units", "update", update_floor),
            Measure("whole step", "completions/s", "units", "seconds", 1.8),
        ],
        [*OURS, *peers({"whole": {"parts": 1}, "quarters": {"parts": 4}})],
        fixed,
        {"half": half} if half else {},
    )


ROWS = {
    row.name: row
    for row in (
        on_policy("grpo", 2.0),
        on_policy("grpo-half", 3.0, half=True),
        on_policy("grpo-fixed", 2.0, fixed=True),
        Row(
            "sft",
            "sft",
            [Measure("step", "tokens/s", "units", "seconds", 1.2)],
            [*OURS, *peers({"whole": {"parts": 1}, "quarters": {"parts": 4}, "packed": {"packs": 1024}})],
        ),
        Row(
            "dpo",
            "dpo",
            [Measure("step with reference", "pairs/s", "units", "seconds", 1.3)],
            [*OURS, *peers({"whole": {"parts": 1}, "quarters": {"parts": 4}})],
            fixed=True,
        ),
        Row(
            "dpo-known",
            "dpo",
            [Measure("step, reference known", "pairs/s", "units", "seconds", 1.3)],
            [*OURS, *peers({"whole": {"parts": 1}, "quarters": {"parts": 4}})],
            fixed=True,
            options={"known": True},
        ),
        Row(
            "reward",
            "reward_model",
            [Measure("step", "pairs/s", "units", "seconds", 1.3)],
            [*OURS, *peers({"whole": {"parts": 1}, "quarters": {"parts": 4}})],
            fixed=True,
            given=False,  # heads with random values: each side makes its own
        ),
    )
}
