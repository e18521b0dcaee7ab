"""What the numbers of a step say about the graders and the policy (grape.md §5 "Nulls must not pay", §9)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from service.domain.grade import Cell
from service.domain.scoring import CriterionWeight, correlation, has_spread, mean, unbiased_std
from workers.types import CompletionGroup

Pairs = Iterable[tuple[float, float]]


def null_metrics(groups: Sequence[CompletionGroup]) -> dict[str, float]:
    """How many cells are null, by family and status; shares are of all cells of the step.

    `null_cells` counts all of them, `null_cells.infra` and `null_cells.subject` those of a family, `null_cells.<status>` those
    of a status that occurred.
    """
    cells = [cell for group in groups for row in group.cells for cell in row.values()]
    counts: dict[str, int] = defaultdict(int)
    for cell in cells:
        if cell.score is None:
            counts["null_cells"] += 1
            counts[f"null_cells.{cell.family}"] += 1
            counts[f"null_cells.{cell.status}"] += 1
    names = ("null_cells", "null_cells.infra", "null_cells.subject")
    metrics = {name: float(counts[name]) for name in (*names, *counts)}
    for name, counted in (("null_share", "null_cells"), ("infra_null_share", "null_cells.infra"),
                          ("subject_null_share", "null_cells.subject")):  # fmt: skip
        metrics[name] = counts[counted] / len(cells) if cells else 0.0
    return metrics


def null_gap(groups: Sequence[CompletionGroup]) -> float | None:
    """How much better completions with subject nulls are than their groups, on the criteria that could be graded.

    For each such completion: Σw·s/Σw over its ok cells, minus the mean of the same over those of its group that have these
    cells. Far below 0: what is bad goes ungraded, so nulls pay. Null if no completion is of that kind.
    """
    gaps = []
    for group in groups:
        counted = [c for c in group.criteria if not c.audit]
        for row in group.cells:
            if not any(row[c.key].family == "subject" for c in counted if c.key in row):
                continue
            others = [c for c in counted if c.key in row and row[c.key].score is not None]
            if others:
                peers = [x for peer in group.cells if (x := _over(others, peer)) is not None]
                own = _over(others, row)
                assert own is not None
                gaps.append(own - mean(peers))
    return mean(gaps) if gaps else None


def _over(criteria: Sequence[CriterionWeight], row: Mapping[str, Cell]) -> float | None:
    scores = [row[c.key].score if c.key in row else None for c in criteria]
    if any(score is None for score in scores):
        return None
    total = math.fsum(c.weight * score for c, score in zip(criteria, scores, strict=True) if score is not None)
    return total / math.fsum(c.weight for c in criteria)


def within_groups(groups: Sequence[CompletionGroup], values: Sequence[Sequence[float | None]]) -> float | None:
    """Pearson's correlation of a value of each completion with its reward, both relative to the means of their group.

    Prompts that ask for long answers and are easy say nothing about the policy; only members with a reward and a value count.
    Null where either does not vary.
    """
    xs: list[float] = []
    ys: list[float] = []
    for group, own in zip(groups, values, strict=True):
        assert group.scored is not None
        pairs = [
            (x, c.reward) for x, c in zip(own, group.scored.completions, strict=True)
            if x is not None and c.reward is not None
        ]  # fmt: skip
        if len(pairs) > 1:
            x_mean, y_mean = mean(x for x, _ in pairs), mean(y for _, y in pairs)
            xs.extend(x - x_mean for x, _ in pairs)
            ys.extend(y - y_mean for _, y in pairs)
    return correlation(xs, ys)


def step_metrics(groups: Sequence[CompletionGroup]) -> dict[str, float]:
    """How many steps completions are cut into, and how that goes with reward; nothing without step criteria."""
    counts: list[list[float | None]] = []
    for group in groups:
        stepped = [c.key for c in group.criteria if c.step_pooling is not None]
        counts.append([_steps(row, stepped) for row in group.cells])
    found = [count for row in counts for count in row if count is not None]
    if not found:
        return {}
    metrics = {"step_count": mean(found)}
    together = within_groups(groups, counts)
    return metrics if together is None else {**metrics, "step_count_reward_correlation": together}


def _steps(row: Mapping[str, Cell], stepped: Sequence[str]) -> float | None:
    counts = [float(len(steps)) for key in stepped if key in row and (steps := row[key].steps)]
    return mean(counts) if counts else None


def criterion_metrics(groups: Sequence[CompletionGroup]) -> dict[str, float]:
    """Which criteria still tell completions apart, and which judges agree with themselves.

    `no_spread.<criterion>`: the share of groups in which all ok cells have one score. `noise_share.<criterion>`: the mean
    variance of the averaged vote over the mean variance of scores within groups; at 1 a judge's votes on one text differ as
    much as the texts do. Only where votes are 2 or more.
    """
    flat: dict[str, list[float]] = defaultdict(list)
    noise: dict[str, list[float]] = defaultdict(list)
    spread: dict[str, list[float]] = defaultdict(list)
    for group in groups:
        for c in group.criteria:
            cells = [row[c.key] for row in group.cells if c.key in row]
            scores = [cell.score for cell in cells if cell.score is not None]
            if len(scores) < 2 or c.audit:
                continue
            for name in c.series:
                flat[name].append(float(not has_spread(scores)))
                spread[name].append(unbiased_std(scores) ** 2)
                noise[name].extend(x.vote_variance / x.votes for x in cells if x.vote_variance is not None)
    metrics = {f"no_spread.{name}": mean(values) for name, values in flat.items()}
    for name, values in noise.items():
        if values and (among := mean(spread[name])) > 0:
            metrics[f"noise_share.{name}"] = mean(values) / among
    return metrics
