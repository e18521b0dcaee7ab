"""The metrics of a step's rollouts, under the names of api.md."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from service.domain.scoring import mean
from workers.types import CompletionGroup


def rollout_metrics(groups: Sequence[CompletionGroup]) -> dict[str, float]:
    """Means over the step. A series without a value in this step is left out, never 0."""
    values: dict[str, list[float]] = defaultdict(list)
    cells = nulls = infra_nulls = silent = 0
    for group in groups:
        assert group.scored is not None
        names = {c.key: c.series for c in group.criteria}
        silent += group.scored.signal != "ok"
        if group.scored.effective_criteria is not None:
            values["effective_criteria"].append(group.scored.effective_criteria)
        if group.scored.group_confidence is not None:
            values["group_confidence"].append(group.scored.group_confidence)
        for key, weighting in group.scored.weighting.items():
            if weighting.share is not None and weighting.mean_confidence is not None:
                for name in names[key]:
                    values[f"share.{name}"].append(weighting.share)
                    values[f"confidence.{name}"].append(weighting.mean_confidence)
        for completion, numbers, row in zip(group.completions, group.scored.completions, group.cells, strict=True):
            values["completion_length"].append(len(completion.tokens))
            values["entropy"].extend(-x for x in completion.logprobs)
            values["coverage"].append(numbers.coverage)
            for name, value in (
                ("reward", numbers.reward), ("plain_reward", numbers.plain_reward), ("audit", numbers.audit),
            ):  # fmt: skip
                if value is not None:
                    values[name].append(value)
            for cell in row.values():
                cells += 1
                nulls += cell.score is None
                infra_nulls += cell.family == "infra"
                if cell.score is not None:
                    for name in names.get(cell.criterion, (cell.criterion,)):
                        values[f"{'audit' if cell.audit else 'score'}.{name}"].append(cell.score)
    metrics = {name: mean(numbers) for name, numbers in values.items()}
    metrics["min_coverage"] = min(values["coverage"], default=0.0)
    metrics["judge_retries"] = float(judge_retries(groups))
    metrics["unasked_verdicts"] = float(sum(c.unasked for group in groups for row in group.cells for c in row.values()))
    metrics["groups_without_signal"] = silent / len(groups) if groups else 0.0
    metrics["null_cells"] = float(nulls)
    metrics["null_share"] = nulls / cells if cells else 0.0
    metrics["infra_null_share"] = infra_nulls / cells if cells else 0.0
    return metrics


def judge_retries(groups: Sequence[CompletionGroup]) -> int:
    """Attempts beyond the first of each vote."""
    cells = [cell for group in groups for row in group.cells for cell in row.values() if cell.grader == "judge"]
    return sum(max(0, cell.attempts - cell.votes) for cell in cells)
