"""What a seed means: which jobs are made when, what is wished of them, and what is done to the stack. Nothing but the seed decides."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

KINDS = ("grape", "grape", "grpo", "reinforce", "ppo", "rejection_sampling", "sft", "dpo")
"""Those with a rubric have a judged criterion, those of the last two learn from rows."""

FAULTS = (
    # role, signal, shortest and longest stop in seconds, weight
    ("child", "KILL", 0, 0, 4),
    ("training", "KILL", 0, 0, 2),
    ("grading", "KILL", 0, 0, 2),
    ("api", "KILL", 0, 0, 3),
    ("valkey", "KILL", 0, 0, 2),
    ("postgres", "KILL", 0, 0, 1),
    ("child", "STOP", 0.5, 3, 2),
    ("training", "STOP", 1, 9, 2),  # the lease is 3 s
    ("grading", "STOP", 1, 6, 2),
    ("api", "STOP", 0.5, 3, 2),
    ("valkey", "STOP", 1, 4, 1),
    ("postgres", "STOP", 1, 4, 1),
    ("training", "TERM", 0, 0, 1),
    ("grading", "TERM", 0, 0, 1),
    ("api", "TERM", 0, 0, 1),
)


@dataclass
class Act:
    """At `at` seconds: `create` the next job, or a wish for the `job`-th one."""

    at: float
    what: str
    job: int = 0
    kind: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    twice: bool = False
    """Sent by two clients at once, with one key."""


@dataclass
class Blow:
    """At `at` seconds: a signal to a role; a stop ends after `seconds`."""

    at: float
    role: str
    signal: str
    seconds: float


@dataclass
class Plan:
    """One seed's run of `seconds`."""

    seed: int
    acts: list[Act]
    blows: list[Blow]
    judge_errors: float
    """The share of judge calls that fail with a 500 or a 429."""


def plan(seed: int, seconds: float) -> Plan:
    """Jobs for about two thirds of the time, wishes and faults until its end."""
    chance = random.Random(f"nemesis {seed}")
    jobs = max(3, round(seconds / 6))
    creates = sorted(chance.uniform(0, seconds * 0.6) for _ in range(jobs))
    creates[0] = 0.0
    acts = [
        Act(
            at,
            "create",
            number,
            chance.choice(KINDS),
            {
                "training": {"steps": chance.choice((4, 20, 60)), "seed": chance.randint(0, 99)},
                "checkpoints": {"every_steps": chance.randint(2, 9), "keep": chance.randint(1, 3)},
                "priority": chance.randint(-1, 1),
            },
            chance.random() < 0.3,
        )
        for number, at in enumerate(creates)
    ]
    for number, at in enumerate(creates):
        for _ in range(chance.choice((0, 0, 1, 1, 2, 3))):
            what = chance.choice(("cancel", "pause", "pause", "resume", "resume"))
            acts.append(Act(min(seconds, at + chance.uniform(0.5, 12)), what, number, twice=chance.random() < 0.3))
    blows = []
    now = chance.uniform(2, 5)
    while now < seconds:
        role, signal, shortest, longest, _ = chance.choices(FAULTS, [row[4] for row in FAULTS])[0]
        lasts = round(chance.uniform(shortest, longest), 2)
        blows.append(Blow(round(now, 2), role, signal, lasts))
        now += lasts + chance.choice((0.2, 1.0, 3.0, 6.0)) * chance.uniform(0.5, 1.5)
    return Plan(seed, sorted(acts, key=lambda act: act.at), blows, chance.choice((0.0, 0.05, 0.15)))
