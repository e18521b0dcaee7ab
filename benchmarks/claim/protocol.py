"""What is measured, as values: settings, judges, arms, sizes. Fixed before the first run; `digest` names it in every result.

The prose, with the reasons, is `benchmarks/protocol.md`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

Confidence = Literal["honest", "saturated", "anti"]
Missing = Literal["none", "random", "bad"]
PolicyKind = Literal["categorical", "transformers"]

CRITERIA = ("a", "b", "c", "d")
"""Criterion `d` is the noisiest in every setting."""
CONFIDENCES: tuple[Confidence, ...] = ("honest", "saturated", "anti")
LEVELS = (0.5, 0.8, 0.95)


@dataclass(frozen=True, slots=True)
class Setting:
    """How the true qualities of the four criteria hang together over completions, and what the author weighs them."""

    name: str
    weights: tuple[float, ...]
    correlation: tuple[tuple[float, ...], ...]


def _equicorrelated(rho: float, last: float = 1.0) -> tuple[tuple[float, ...], ...]:
    sign = (1.0, 1.0, 1.0, last)
    return tuple(tuple(1.0 if i == j else rho * sign[i] * sign[j] for j in range(4)) for i in range(4))


SETTINGS = {
    s.name: s
    for s in (
        Setting("shared", (1.0, 1.0, 1.0, 1.0), _equicorrelated(1.0)),
        Setting("correlated", (1.0, 1.0, 1.0, 1.0), _equicorrelated(0.5)),
        Setting("independent", (1.0, 1.0, 1.0, 1.0), _equicorrelated(0.0)),
        Setting("conflicting", (1.0, 1.0, 1.0, 4.0), _equicorrelated(0.5, last=-1.0)),
    )
}

NOISES: dict[str, tuple[float, ...]] = {
    "none": (0.0, 0.0, 0.0, 0.0),
    "small": (0.25, 0.5, 1.0, 2.0),
    "large": (0.5, 1.0, 2.0, 4.0),
}
"""Standard deviation of a judge's error per criterion, in units of the spread of true quality under the first policy."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to turn the same judge's cells into advantages.

    `exponents` are α at the first and at the last step. `zero_fill` turns missing cells into zeros, as most trainers do.
    """

    name: str
    weighting: Literal["uniform", "confidence", "inverse_variance"]
    exponents: tuple[float, float] = (1.0, 1.0)
    pooling: Literal["group", "shrunk"] = "group"
    votes: int = 1
    calibrated: bool = False
    zero_fill: bool = False

    @property
    def uses_confidence(self) -> bool:
        """Whether what judges say of their confidence can have any influence."""
        return self.weighting == "confidence" and not self.calibrated


ARMS = {
    a.name: a
    for a in (
        Arm("uniform", "uniform"),
        Arm("confidence", "confidence"),
        Arm("schedule", "confidence", exponents=(1.0, 0.0)),
        Arm("shrunk", "confidence", pooling="shrunk"),
        Arm("calibrated", "confidence", calibrated=True),
        Arm("uniform_2", "uniform", votes=2),
        Arm("inverse_variance_2", "inverse_variance", votes=2),
        Arm("uniform_zero", "uniform", zero_fill=True),
        Arm("confidence_zero", "confidence", zero_fill=True),
    )
}


@dataclass(frozen=True, slots=True)
class ExploredArm(Arm):
    """An arm that was thought of after the first results: no part of the protocol and its digest, reported apart.

    `votes_on_d` are cast on criterion d alone. With `lowest_observed` a missing cell is the judge's refusal, not a broken line.
    """

    votes_on_d: int = 1
    on_subject_null: Literal["impute", "lowest_observed"] = "impute"
    min_coverage: float = 0.5


EXPLORED = {
    a.name: a
    for a in (
        ExploredArm("half", "confidence", exponents=(0.5, 0.5)),
        ExploredArm("half_schedule", "confidence", exponents=(0.5, 0.0)),
        ExploredArm("votes_on_d_4", "uniform", votes_on_d=4),
        ExploredArm("lowest", "uniform", on_subject_null="lowest_observed"),
        ExploredArm("lowest_all", "uniform", on_subject_null="lowest_observed", min_coverage=0.0),
    )
}

ALL_ARMS: dict[str, Arm] = {**ARMS, **EXPLORED}


@dataclass(frozen=True, slots=True)
class JudgeProtocol:
    """The simulated judge; see `benchmarks.claim.judge` for what the numbers do."""

    cell_spread: float = 0.4
    jitter: float = 0.1
    saturated_at: float = 0.9
    saturated_range: float = 0.05
    saturated_jitter: float = 0.03
    lowest: float = 0.05
    rounding: float = 0.05
    missing: float = 0.2
    labels: int = 64


@dataclass(frozen=True, slots=True)
class Sizes:
    """One policy's problem and budget. `spread` is the deviation of true quality within a group under the first policy."""

    seeds: int
    steps: int
    contexts: int
    actions: int
    prompts_per_step: int
    group_size: int
    spread: float
    learning_rate: float
    inner_epochs: int
    completion_tokens: int = 1
    hidden: int = 0
    layers: int = 0
    smoothing: int = 1
    final: int = 1
    """So many last values of a curve make the final reward."""

    @property
    def samples_per_step(self) -> int:
        """Completions that are graded per step: what "samples" counts."""
        return self.prompts_per_step * self.group_size


@dataclass(frozen=True, slots=True)
class Protocol:
    """Everything that decides a number."""

    categorical: Sizes
    transformers: Sizes
    judge: JudgeProtocol = JudgeProtocol()
    bootstrap: int = 10_000
    claimed_ratio: float = 0.8

    def sizes(self, policy: PolicyKind) -> Sizes:
        """The sizes of one policy."""
        return self.categorical if policy == "categorical" else self.transformers

    def to_json(self) -> dict[str, Any]:
        """All of it, settings and arms included."""
        return {
            **asdict(self),
            "settings": {k: asdict(v) for k, v in SETTINGS.items()},
            "noises": NOISES,
            "arms": {k: asdict(v) for k, v in ARMS.items()},
            "criteria": CRITERIA,
            "levels": LEVELS,
        }

    @property
    def digest(self) -> str:
        """The first 16 hexadecimal digits of its sha256; results of another protocol are never mixed in."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]


FULL = Protocol(
    categorical=Sizes(
        seeds=50, steps=200, contexts=3, actions=32, prompts_per_step=3, group_size=8,
        spread=0.08, learning_rate=1.0, inner_epochs=2,
    ),
    transformers=Sizes(
        seeds=8, steps=150, contexts=4, actions=32, prompts_per_step=8, group_size=8,
        spread=0.05, learning_rate=0.002, inner_epochs=2, completion_tokens=6, hidden=32, layers=2, smoothing=5, final=10,
    ),
)  # fmt: skip

QUICK = replace(
    FULL,
    categorical=replace(FULL.categorical, seeds=3, steps=4),
    transformers=replace(FULL.transformers, seeds=1, steps=2, hidden=16, layers=1, smoothing=1, final=1),
    bootstrap=200,
)
"""The same path in seconds, for a test. Its numbers mean nothing."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the table. `confidence` is what judges say; arms that don't read it ran once, as `any`."""

    setting: str
    noise: str
    confidence: Confidence | Literal["any"]
    missing: Missing = "none"


@dataclass(frozen=True, slots=True)
class RunKey:
    """One training run."""

    policy: PolicyKind
    cell: Cell
    arm: str
    seed: int


def cells_and_arms(policy: PolicyKind) -> Iterator[tuple[Cell, str]]:
    """The whole table in the order in which it is measured: the claim first, then missing cells, then the repair search.

    On the transformers policy, repairs and missing cells are measured at the larger noise and honest confidence only.
    """
    both = [(s, n) for s in SETTINGS for n in ("small", "large")]
    large = [(s, "large") for s in SETTINGS]
    rest = both if policy == "categorical" else large
    said = CONFIDENCES if policy == "categorical" else ("honest",)
    for setting in SETTINGS:
        yield Cell(setting, "none", "any"), "uniform"
    for setting, noise in both:
        yield Cell(setting, noise, "any"), "uniform"
        for confidence in CONFIDENCES:
            yield Cell(setting, noise, confidence), "confidence"
    for setting, noise in rest:
        for pattern in ("random", "bad"):
            for arm in ("uniform", "uniform_zero"):
                yield Cell(setting, noise, "any", pattern), arm
            if setting == "shared":
                for arm in ("confidence", "confidence_zero"):
                    yield Cell(setting, noise, "honest", pattern), arm
    for setting, noise in rest:
        yield Cell(setting, noise, "any"), "calibrated"
        yield Cell(setting, noise, "any"), "uniform_2"
        yield Cell(setting, noise, "any"), "inverse_variance_2"
        for confidence in said:
            yield Cell(setting, noise, confidence), "schedule"
            yield Cell(setting, noise, confidence), "shrunk"


def explored(policy: PolicyKind) -> Iterator[tuple[Cell, str]]:
    """Where the explored arms are measured: honest confidence, and cells that are missing from bad completions."""
    for setting in SETTINGS:
        for noise in ("small", "large") if policy == "categorical" else ("large",):
            yield Cell(setting, noise, "honest"), "half"
            yield Cell(setting, noise, "honest"), "half_schedule"
            yield Cell(setting, noise, "any"), "votes_on_d_4"
            yield Cell(setting, noise, "any", "bad"), "lowest"
            yield Cell(setting, noise, "any", "bad"), "lowest_all"


def run_keys(protocol: Protocol, policy: PolicyKind) -> list[RunKey]:
    """Every run of the table, those of the protocol first."""
    seeds = range(protocol.sizes(policy).seeds)
    planned = [*cells_and_arms(policy), *explored(policy)]
    return [RunKey(policy, cell, arm, seed) for cell, arm in planned for seed in seeds]
