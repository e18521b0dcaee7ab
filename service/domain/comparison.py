"""Two sets of graded completions on the same prompts: paired differences, and what makes them hard to compare.

Another judge, or another revision of it, moves scores by more than most policies do (reference/rubrics.md §5.4 #28): where the two
sides were scored by different ones, a warning stands beside the numbers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from pydantic import BaseModel

from service.domain.scoring import has_spread, mean, paired_interval


class Scored(NamedTuple):
    """One completion's cell: null without a score; who scored it (null: no judge)."""

    criterion: str
    score: float | None
    fingerprint: str | None
    audit: bool


@dataclass(slots=True)
class Side:
    """What stands on one side, by prompt: plain rewards, and scores by criterion; and who has scored."""

    rewards: dict[str, list[float]] = field(default_factory=dict)
    scores: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    fingerprints: dict[str, Counter[str]] = field(default_factory=dict)
    audits: set[str] = field(default_factory=set)
    rubrics: set[tuple[str, int]] = field(default_factory=set)
    completions: int = 0

    def add(self, prompt: str, plain_reward: float | None, rubric: tuple[str, int], cells: Iterable[Scored]) -> None:
        """One completion."""
        self.completions += 1
        self.rubrics.add(rubric)
        rewards = self.rewards.setdefault(prompt, [])
        if plain_reward is not None:
            rewards.append(plain_reward)
        for cell in cells:
            if cell.audit:
                self.audits.add(cell.criterion)
            if cell.fingerprint is not None:
                self.fingerprints.setdefault(cell.criterion, Counter())[cell.fingerprint] += 1
            if cell.score is not None:
                self.scores.setdefault(cell.criterion, {}).setdefault(prompt, []).append(cell.score)


class Difference(BaseModel):
    """Means over the prompts that both sides have values for, and their paired difference (left − right) with its 95 % interval."""

    left: float | None
    right: float | None
    difference: float | None
    low: float | None
    high: float | None
    prompts: int
    audit: bool = False


class WinRate(BaseModel):
    """How often a completion on the left earns more than one on the right for the same prompt; a tie counts as half."""

    rate: float | None
    wins: int
    ties: int
    losses: int
    prompts: int


class Warning(BaseModel):
    """What makes the two hard to compare."""

    code: Literal["judges_differ", "rubrics_differ", "few_prompts", "nulls"]
    message: str
    criterion: str | None = None


class Compared(BaseModel):
    """Left against right, on the prompts that both have. Only plain rewards are compared: rewards mean something in their group."""

    prompts: int
    only_left: int
    only_right: int
    plain_reward: Difference
    win_rate: WinRate
    criteria: dict[str, Difference]
    warnings: list[Warning]


FEW = 20
"""Below this many prompts an interval says little."""


def compare(left: Side, right: Side, seed: int = 0) -> Compared:
    """The same sides give the same numbers."""
    both = [prompt for prompt in left.rewards if prompt in right.rewards]
    shared = sorted(left.scores.keys() & right.scores.keys())
    audits = left.audits | right.audits
    return Compared(
        prompts=len(both),
        only_left=len(left.rewards) - len(both),
        only_right=len(right.rewards) - len(both),
        plain_reward=_difference(left.rewards, right.rewards, seed),
        win_rate=_win_rate(left.rewards, right.rewards),
        criteria={
            key: _difference(left.scores[key], right.scores[key], seed).model_copy(update={"audit": key in audits})
            for key in shared
        },
        warnings=list(_warnings(left, right, both)),
    )


def _difference(left: Mapping[str, Sequence[float]], right: Mapping[str, Sequence[float]], seed: int) -> Difference:
    both = sorted(prompt for prompt, values in left.items() if values and right.get(prompt))
    ours, theirs = ([mean(side[prompt]) for prompt in both] for side in (left, right))
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    low, high = paired_interval(apart, seed) if len(apart) > 1 else (None, None)
    return Difference(
        left=mean(ours) if both else None,
        right=mean(theirs) if both else None,
        difference=mean(apart) if both else None,
        low=low,
        high=high,
        prompts=len(both),
    )


def _win_rate(left: Mapping[str, Sequence[float]], right: Mapping[str, Sequence[float]]) -> WinRate:
    tally: Counter[str] = Counter()
    rates = []
    for prompt, mine in left.items():
        met = Counter(
            "ties" if not has_spread([a, b]) else "wins" if a > b else "losses"
            for a in mine
            for b in right.get(prompt, ())
        )
        if met:
            rates.append((met["wins"] + met["ties"] / 2) / met.total())
            tally.update(met)
    rate = math.fsum(rates) / len(rates) if rates else None
    return WinRate(rate=rate, wins=tally["wins"], ties=tally["ties"], losses=tally["losses"], prompts=len(rates))


def _warnings(left: Side, right: Side, both: Sequence[str]) -> Iterable[Warning]:
    for key in sorted(left.fingerprints.keys() & right.fingerprints.keys()):
        ours, theirs = left.fingerprints[key], right.fingerprints[key]
        if ours.keys() != theirs.keys() or len(ours) > 1:
            message = (
                f"'{key}' was not scored by one and the same judge: fingerprints {_listed(ours)} on the left, {_listed(theirs)} on "
                "the right; grade one side again with the other's judge revision before you rely on the difference"
            )
            yield Warning(code="judges_differ", criterion=key, message=message)
    if left.rubrics != right.rubrics:
        message = (
            "the sides were graded by different rubric versions, so their plain rewards are sums of different things"
        )
        yield Warning(code="rubrics_differ", message=message)
    if len(both) < FEW:
        yield Warning(code="few_prompts", message=f"{len(both)} prompts in common: an interval says little below {FEW}")
    counted = sum(len(side.rewards[prompt]) for side in (left, right) for prompt in side.rewards)
    missing = left.completions + right.completions - counted
    if missing:
        yield Warning(code="nulls", message=f"{missing} completions have no plain reward, and are left out")


def _listed(found: Counter[str]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in sorted(found.items()))
