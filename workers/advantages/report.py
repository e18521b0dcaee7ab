"""The metrics of a step's rollouts, under the names of api.md."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import get_args

from service.domain.scoring import Signal, mean
from workers.advantages.diagnostics import criterion_metrics, null_gap, null_metrics, step_metrics, within_groups
from workers.types import CompletionGroup

REASONS: tuple[Signal, ...] = tuple(signal for signal in get_args(Signal) if signal != "ok")


def rollout_metrics(groups: Sequence[CompletionGroup]) -> dict[str, float]:
    """Means over the step. A series without a value in this step is left out, never 0."""
    values: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        _of_group(group, values)
    metrics = {name: mean(numbers) for name, numbers in values.items()}
    metrics["min_coverage"] = min(values["coverage"], default=0.0)
    metrics["judge_retries"] = float(judge_retries(groups))
    metrics.update(judge_spending(groups))
    metrics["unasked_verdicts"] = float(sum(c.unasked for group in groups for row in group.cells for c in row.values()))
    signals = Counter(group.scored.signal for group in groups if group.scored is not None)
    share = 1 / len(groups) if groups else 0.0
    metrics["groups_without_signal"] = sum(signals[reason] for reason in REASONS) * share
    metrics.update({f"groups_without_signal.{reason}": signals[reason] * share for reason in REASONS})
    lengths = [[float(len(completion.tokens)) for completion in group.completions] for group in groups]
    for name, value in (("length_reward_correlation", within_groups(groups, lengths)), ("null_gap", null_gap(groups))):
        if value is not None:
            metrics[name] = value
    return {**metrics, **null_metrics(groups), **step_metrics(groups), **criterion_metrics(groups)}


def _of_group(group: CompletionGroup, values: dict[str, list[float]]) -> None:
    """Everything that is a plain mean over groups, completions, tokens or cells."""
    scored = group.scored
    assert scored is not None
    names = {c.key: c.series for c in group.criteria}
    for name, value in (
        ("effective_criteria", scored.effective_criteria),
        ("group_confidence", scored.group_confidence),
    ):
        if value is not None:
            values[name].append(value)
    values["weighting_fallback"].append(float(scored.weighting_fallback))
    for key, weighting in scored.weighting.items():
        if weighting.share is not None and weighting.mean_confidence is not None:
            for name in names[key]:
                values[f"share.{name}"].append(weighting.share)
                values[f"confidence.{name}"].append(weighting.mean_confidence)
    for completion, numbers, row in zip(group.completions, scored.completions, group.cells, strict=True):
        values["completion_length"].append(len(completion.tokens))
        if completion.logprobs:  # stored texts have none
            values["entropy"].extend(-x for x in completion.logprobs)
        values["coverage"].append(numbers.coverage)
        for name, value in (
            ("reward", numbers.reward), ("plain_reward", numbers.plain_reward), ("audit", numbers.audit),
        ):  # fmt: skip
            if value is not None:
                values[name].append(value)
        for cell in row.values():
            if cell.score is not None:
                for name in names.get(cell.criterion, (cell.criterion,)):
                    values[f"{'audit' if cell.audit else 'score'}.{name}"].append(cell.score)


def judge_retries(groups: Sequence[CompletionGroup]) -> int:
    """Attempts beyond the first of each vote."""
    cells = [cell for group in groups for row in group.cells for cell in row.values() if cell.grader == "judge"]
    return sum(max(0, cell.attempts - cell.votes) for cell in cells)


def judge_spending(groups: Sequence[CompletionGroup]) -> dict[str, float]:
    """What the judges' cells of this rollout took, its own and not that of the steps before; cached cells took nothing.

    Series of judges that were asked (0 where all was cached); the cost only where a price is known. A step whose calls were made
    before a crash has them still, because its cells have.
    """
    judged = [cell for group in groups for row in group.cells for cell in row.values() if cell.grader == "judge"]
    asked = [cell for cell in judged if not cell.cached]
    if not judged:
        return {}
    found = {
        "judge_calls": float(sum(cell.calls for cell in asked)),
        "judge_tokens_in": float(sum(cell.tokens_in for cell in asked)),
        "judge_tokens_out": float(sum(cell.tokens_out for cell in asked)),
    }
    costs = [cell.cost_usd for cell in judged if cell.cost_usd is not None]
    return {**found, "judge_cost_usd": math.fsum(costs)} if costs else found
