"""Scorecards: what a model earns on each criterion and category, and how two models compare on the same prompts.

Intervals are 95 % percentiles of a bootstrap over prompts: the completions of a prompt are no independent draws, so they stay
together. The same seed gives the same intervals. A mean is one over completions, as the metrics `evaluation.*` are; a difference is
one over prompts, each with the mean of its completions, so that it is paired. What has no plain reward is left out and counted.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from service.domain.scoring import has_spread, mean
from workers.seeds import derive_seed
from workers.types import CompletionGroup

RESAMPLES = 2000
BLOCK = 4_000_000
"""Draws that are made at once."""
METHOD = {"level": 0.95, "resamples": RESAMPLES, "unit": "prompt"}

Numbers = dict[str, list[float]]
"""By prompt: the values of its completions."""


def ratio_interval(
    sums: Sequence[float], counts: Sequence[float], seed: int, block: int = BLOCK
) -> tuple[float | None, float | None]:
    """The interval of Σ sums / Σ counts over resampled prompts; nulls for fewer than two of them.

    `sums[p]` is over the `counts[p]` values of prompt p. With counts of 1 it is that of a mean.
    """
    n = len(sums)
    if n < 2:
        return None, None
    generator = torch.Generator().manual_seed(seed)
    over, under = torch.tensor(sums, dtype=torch.float64), torch.tensor(counts, dtype=torch.float64)
    found = []
    rows = max(1, min(RESAMPLES, block // n))
    for start in range(0, RESAMPLES, rows):
        drawn = torch.randint(n, (min(rows, RESAMPLES - start), n), generator=generator)
        found.append(over[drawn].sum(1) / under[drawn].sum(1))
    low, high = torch.quantile(torch.cat(found), torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def statistic(values: Numbers, seed: int) -> dict[str, Any]:
    """The mean over completions with its interval, and over how many values it is."""
    kept = [(math.fsum(row), float(len(row))) for row in values.values() if row]
    count = int(sum(n for _, n in kept))
    low, high = ratio_interval([s for s, _ in kept], [n for _, n in kept], seed)
    return {"mean": math.fsum(s for s, _ in kept) / count if count else None, "low": low, "high": high, "count": count}


def scorecard(groups: Sequence[CompletionGroup], seed: int) -> dict[str, Any]:
    """Of all prompts, and of each category."""
    return {"interval": METHOD, **_by_category(groups, lambda part, name: _card(part, derive_seed(seed, name)))}


def comparison(own: Sequence[CompletionGroup], other: Sequence[CompletionGroup], seed: int) -> dict[str, Any]:
    """`own` against `other` on the same prompts, of all of them and of each category."""
    theirs = {group.prompt.id: group for group in other}

    def compare(part: Sequence[CompletionGroup], name: str) -> dict[str, Any]:
        return _against(part, [theirs[group.prompt.id] for group in part], derive_seed(seed, "against", name))

    return {"interval": METHOD, **_by_category(own, compare)}


def _by_category(
    groups: Sequence[CompletionGroup], make: Callable[[Sequence[CompletionGroup], str], dict[str, Any]]
) -> dict[str, Any]:
    parts: dict[str | None, list[CompletionGroup]] = defaultdict(list)
    for group in groups:
        parts[group.prompt.view.get("category")].append(group)
    ordered = sorted(parts, key=lambda name: (name is None, name or ""))
    return {
        "overall": make(groups, "overall"),
        "categories": [{"category": name, **make(parts[name], f"category/{name}")} for name in ordered],
    }


def rewards_of(groups: Iterable[CompletionGroup]) -> Numbers:
    """Plain rewards by prompt; completions without one are not in it."""
    return _numbers(groups, "plain_reward")


def _numbers(groups: Iterable[CompletionGroup], name: str) -> Numbers:
    found: Numbers = {}
    for group in groups:
        assert group.scored is not None
        numbers = [getattr(completion, name) for completion in group.scored.completions]
        found[group.prompt.id] = [number for number in numbers if number is not None]
    return found


def _scores(groups: Iterable[CompletionGroup]) -> tuple[dict[str, Numbers], dict[str, Counter[str]], set[str]]:
    """By criterion (a prompt's own count by tag): its scores, its nulls by status; and which are audit criteria."""
    scores: dict[str, Numbers] = defaultdict(lambda: defaultdict(list))
    nulls: dict[str, Counter[str]] = defaultdict(Counter)
    audits: set[str] = set()
    for group in groups:
        names = {c.key: c.series for c in group.criteria}
        for row in group.cells:
            for cell in row.values():
                for name in names.get(cell.criterion, (cell.criterion,)):
                    audits |= {name} if cell.audit else set()
                    by_prompt = scores[name]
                    if cell.score is None:
                        nulls[name][cell.status] += 1
                    else:
                        by_prompt[group.prompt.id].append(cell.score)
    return scores, nulls, audits


def _card(groups: Sequence[CompletionGroup], seed: int) -> dict[str, Any]:
    scores, nulls, audits = _scores(groups)
    completions = sum(len(group.completions) for group in groups)
    plain = statistic(rewards_of(groups), derive_seed(seed, "plain_reward"))
    return {
        "prompts": len(groups),
        "completions": completions,
        "plain_reward": {**plain, "nulls": completions - plain["count"]},
        "audit": statistic(_numbers(groups, "audit"), derive_seed(seed, "audit")) if audits else None,
        "criteria": {
            name: {
                **statistic(scores[name], derive_seed(seed, "criterion", name)),
                "nulls": dict(sorted(nulls[name].items())),
                "audit": name in audits,
            }
            for name in sorted(scores)
        },
    }


def difference(own: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    """Means over the prompts that both have values for, and their paired difference with its interval."""
    both = [prompt for prompt, values in own.items() if values and other.get(prompt)]
    ours, theirs = ([mean(side[prompt]) for prompt in both] for side in (own, other))
    apart = [a - b for a, b in zip(ours, theirs, strict=True)]
    low, high = ratio_interval(apart, [1.0] * len(apart), seed)
    return {
        "policy": mean(ours) if both else None,
        "compare_to": mean(theirs) if both else None,
        "difference": mean(apart) if both else None,
        "low": low,
        "high": high,
        "prompts": len(both),
    }


def win_rate(own: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    """How often a completion of the policy earns more than one of the other model for the same prompt; a tie counts as half.

    Every completion of one side meets every one of the other; prompts count alike. Wins, ties and losses count such meetings.
    """
    tally: Counter[str] = Counter(wins=0, ties=0, losses=0)
    rates = []
    for prompt, mine in own.items():
        met: Counter[str] = Counter()
        for a in mine:
            for b in other.get(prompt, ()):
                met["ties" if not has_spread([a, b]) else "wins" if a > b else "losses"] += 1
        if met:
            rates.append((met["wins"] + met["ties"] / 2) / met.total())
            tally.update(met)
    low, high = ratio_interval(rates, [1.0] * len(rates), seed)
    return {"rate": mean(rates) if rates else None, "low": low, "high": high, **tally, "prompts": len(rates)}


def _against(own: Sequence[CompletionGroup], other: Sequence[CompletionGroup], seed: int) -> dict[str, Any]:
    mine, theirs = rewards_of(own), rewards_of(other)
    (scores, _, audits), (others, _, _) = _scores(own), _scores(other)
    return {
        "prompts": len(own),
        "win_rate": win_rate(mine, theirs, derive_seed(seed, "win_rate")),
        "plain_reward": difference(mine, theirs, derive_seed(seed, "plain_reward")),
        "criteria": {
            name: {
                **difference(scores[name], others.get(name, {}), derive_seed(seed, "criterion", name)),
                "audit": name in audits,
            }
            for name in sorted(scores)
        },
    }
