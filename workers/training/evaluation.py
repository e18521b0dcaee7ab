"""Held-out prompts, judged by plain reward: the yardstick that does not move with confidence (grape.md §4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from service.domain.scoring import Past, ScoringOptions, mean
from workers.advantages.group import score_step
from workers.advantages.report import judge_retries, judge_spending
from workers.training.environment import Rollouts
from workers.training.ports import Recorder, Revisions
from workers.types import CompletionGroup, Prompt

UNIFORM = ScoringOptions(weighting="uniform")


@dataclass(slots=True)
class Evaluation:
    """What is sampled and how. Temperature 0 is greedy."""

    rollouts: Rollouts
    recorder: Recorder
    prompts: list[Prompt]
    temperature: float
    samples: int
    every_steps: int | None = None
    by_prompt: dict[str, float] = field(default_factory=dict)
    """The mean plain reward of each prompt in the last run; prompts of which no completion has one are not in it."""
    purpose: str = "evaluation"
    """The first word of the metrics' names, and what its completions are listed under."""
    groups: list[CompletionGroup] = field(default_factory=list)
    """The last run's, with their numbers."""
    options: Mapping[str, ScoringOptions] = field(default_factory=dict)
    """By rubric, what rewards and advantages are shown by, else uniform weights; nothing trains on them, and no metric but
    `healthbench` is made of them."""

    revisions: Revisions | None = None

    def run(self, step: int) -> dict[str, float]:
        """Sample, grade, record; the metrics `evaluation.*` of this step. The same step always has the same seed, whatever the model."""
        groups, _ = self.rollouts.run(
            self.prompts,
            purpose=self.purpose,
            step=step,
            group_size=self.samples,
            temperature=self.temperature,
            seeded_by="evaluation",
        )
        score_step(groups, self.options_of, lambda rubric: Past())
        self.recorder.completions(step, self.purpose, groups)
        if self.revisions is not None:
            self.recorder.metrics(step, self.revisions.run(step, groups))
        self.groups, self.by_prompt = groups, plain_rewards(groups)
        found = summary(groups) | benchmark([g for g in groups if self.options_of(g.rubric).weighting == "healthbench"])
        metrics = {f"{self.purpose}.{name}": value for name, value in found.items()}
        self.recorder.metrics(step, metrics)
        return metrics

    def options_of(self, rubric: str) -> ScoringOptions:
        """What a rubric's groups are shown by."""
        return self.options.get(rubric, UNIFORM)


def plain_rewards(groups: Sequence[CompletionGroup]) -> dict[str, float]:
    """By prompt: the mean over its completions that have a plain reward."""
    found = {}
    for group in groups:
        assert group.scored is not None
        rewards = [c.plain_reward for c in group.scored.completions if c.plain_reward is not None]
        if rewards:
            found[group.prompt.id] = mean(rewards)
    return found


def benchmark(groups: Sequence[CompletionGroup]) -> dict[str, float]:
    """HealthBench's score of a dataset: the mean over completions, which may be negative each, clipped to [0, 1] at the end."""
    rewards = [c.reward for g in groups if g.scored is not None for c in g.scored.completions if c.reward is not None]
    return {"healthbench": min(1.0, max(0.0, mean(rewards)))} if rewards else {}


def summary(groups: Sequence[CompletionGroup]) -> dict[str, float]:
    """Means over completions; nulls are left out and counted."""
    values: dict[str, list[float]] = defaultdict(list)
    nulls = unrewarded = 0
    for group in groups:
        assert group.scored is not None
        names = {c.key: c.series for c in group.criteria}
        for completion, numbers, row in zip(group.completions, group.scored.completions, group.cells, strict=True):
            values["completion_length"].append(len(completion.tokens))
            unrewarded += numbers.plain_reward is None
            for name, number in (("plain_reward", numbers.plain_reward), ("audit", numbers.audit)):
                if number is not None:
                    values[name].append(number)
            for cell in row.values():
                nulls += cell.score is None
                if cell.score is not None:
                    for name in names.get(cell.criterion, (cell.criterion,)):
                        values[f"{'audit' if cell.audit else 'score'}.{name}"].append(cell.score)
    metrics = {name: mean(numbers) for name, numbers in values.items()}
    metrics["min_coverage"] = min((c.coverage for g in groups if g.scored for c in g.scored.completions), default=0.0)
    metrics["judge_retries"] = float(judge_retries(groups))
    metrics.update(judge_spending(groups))
    metrics["null_cells"] = float(nulls)
    metrics["null_rewards"] = float(unrewarded)
    metrics["completions"] = float(len(values["completion_length"]))
    return metrics
