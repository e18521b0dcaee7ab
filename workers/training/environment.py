"""Where batches come from: shuffled data, and rollouts that are graded while the next groups are still sampled."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.domain.grade import Cell
from service.domain.job import JobSpec
from service.domain.rubric import Aggregation
from service.domain.scoring import Past
from workers.advantages.group import scored_row
from workers.algorithms.base import Demonstration, Drawn, Preference
from workers.policy.causal import CausalPolicy
from workers.policy.generation.sampler import Sample, SamplingOptions
from workers.policy.steps import steps_by_criterion
from workers.policy.tokenization import decode
from workers.seeds import ShuffledCursor, derive_seed
from workers.training.ports import Control, Grader, Grading, Recorder, Revisions, Suspended
from workers.training.state import NULL_WINDOW, TrainerState
from workers.types import Completion, CompletionGroup, Prompt


@dataclass(slots=True)
class Rollouts:
    """Samples groups from the policy and grades them."""

    policy: CausalPolicy
    grader: Grader
    control: Control
    seed: int
    max_completion_tokens: int
    top_p: float = 1.0
    top_k: int | None = None
    sampling_s: float = 0.0
    """Seconds that the last rollout took until its last token."""
    grading_wait_s: float = 0.0
    """Seconds from there until the last cell was there: the part of the judges' time that nothing hid."""

    def run(
        self,
        prompts: Sequence[Prompt],
        *,
        purpose: str,
        step: int,
        group_size: int,
        temperature: float,
        draw: int = 0,
        seeded_by: str | None = None,
    ) -> tuple[list[CompletionGroup], Grading]:
        """Graded groups in the order of the prompts. The seed depends on purpose (or `seeded_by`), step and draw alone."""
        groups: dict[int, CompletionGroup] = {}
        place = f"{purpose}.{draw}" if draw else purpose  # questions of another draw are other questions
        grading = self.grader.start(place, step)

        def on_group(index: int, samples: list[Sample]) -> None:
            group = CompletionGroup(prompts[index], [self._completion(sample) for sample in samples])
            groups[index] = group
            grading.submit(group)

        options = SamplingOptions(
            group_size=group_size,
            temperature=temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_tokens=self.max_completion_tokens,
            eos_ids=self.policy.eos_ids,
            pad_id=self.policy.pad_id,
            seed=derive_seed(self.seed, "rollout", seeded_by or place, step),
        )
        started = time.monotonic()
        self.policy.sample([prompt.tokens for prompt in prompts], options, on_group, self.control.check)
        sampled = time.monotonic()
        grading.finish()
        self.sampling_s, self.grading_wait_s = sampled - started, time.monotonic() - sampled
        stop_without_budget(list(groups.values()))
        for group in groups.values():
            pairs = zip(group.completions, group.cells, strict=True)
            group.steps = [self._steps(completion, cells) for completion, cells in pairs]
        return [groups[index] for index in range(len(prompts))], grading

    def _steps(self, completion: Completion, cells: dict[str, Cell]) -> dict[str, list[int]]:
        policy = self.policy
        return steps_by_criterion(policy.tokenizer, completion.tokens, policy.eos_ids, completion.text, cells)

    def _completion(self, sample: Sample) -> Completion:
        text = decode(self.policy.tokenizer, sample.tokens, self.policy.eos_ids)
        return Completion(sample.tokens, sample.logprobs, sample.finish_reason, text)


def stop_without_budget(groups: Sequence[CompletionGroup]) -> None:
    """Raise `Suspended` if a budget forbade a cell: what is left of a step without it is noise, and after the resume it is there.

    The cells that were paid for stand, and the same samples are asked about again: only what is missing is asked anew.
    """
    forbidden = [cell for group in groups for row in group.cells for cell in row.values() if cell.status == "budget"]
    if forbidden:
        count = f"{len(forbidden)} cell{'s' * (len(forbidden) != 1)}"
        raise Suspended(f"budget_exhausted: {count} of this step could not be asked for: {forbidden[0].reason}")


class Source(Protocol):
    """Where groups come from: a policy that samples them, or what is stored."""

    sampling_s: float
    grading_wait_s: float

    def run(
        self,
        prompts: Sequence[Prompt],
        *,
        purpose: str,
        step: int,
        group_size: int,
        temperature: float,
        draw: int = 0,
    ) -> tuple[list[CompletionGroup], Grading]:
        """Graded groups in the order of the prompts."""


@dataclass(slots=True)
class TrainingEnvironment:
    """The environment of a training job. Prompts and demonstrations are tokenised already."""

    spec: JobSpec
    state: TrainerState
    recorder: Recorder
    prompts: list[Prompt] = field(default_factory=list)
    demonstrations: list[Demonstration] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    steps: int = 0
    check: Callable[[], None] = lambda: None
    rollouts: Source | None = None
    aggregations: dict[str, Aggregation] = field(default_factory=dict)
    max_null_share: float = 1.0
    revisions: Revisions | None = None
    _cursors: dict[str, ShuffledCursor] = field(default_factory=dict)

    def _next(self, name: str, rows: int, count: int) -> list[int]:
        if name not in self._cursors:
            position = self.state.cursors.get(name, 0)
            self._cursors[name] = ShuffledCursor(rows, self.spec.training.seed, name, position)
        taken = self._cursors[name].take(count)
        self.state.cursors[name] = self._cursors[name].position
        return taken

    def next_prompts(self, count: int) -> list[Prompt]:
        """The next prompts, in an order that the seed decides."""
        return [self.prompts[k] for k in self._next("prompts", len(self.prompts), count)]

    @property
    def prompt_count(self) -> int:
        """How many prompts the job's data has."""
        return len(self.prompts)

    @property
    def step(self) -> int:
        """Finished optimizer steps."""
        return self.state.step

    def next_demonstrations(self, count: int) -> list[Demonstration]:
        """The next demonstrations, in an order that the seed decides."""
        return [self.demonstrations[k] for k in self._next("demonstrations", len(self.demonstrations), count)]

    def next_preferences(self, count: int) -> list[Preference]:
        """The next pairs, in an order that the seed decides."""
        return [self.preferences[k] for k in self._next("preferences", len(self.preferences), count)]

    def all_preferences(self, count: int) -> list[Preference]:
        """The pairs that the job sees at `count` a step, each once, in the order of their first use."""
        rows = len(self.preferences)
        order = ShuffledCursor(rows, self.spec.training.seed, "preferences").take(min(rows, self.steps * count))
        return [self.preferences[k] for k in order]

    @property
    def reference(self) -> dict[str, tuple[float, float]]:
        """Summed log-probabilities of pairs under the reference, by row."""
        return self.state.reference

    def past(self, rubric: str) -> Past:
        """What earlier steps say about the criteria of a rubric version."""
        return self.state.history.past(rubric)

    @property
    def reward_average(self) -> float | None:
        """The moving average of earlier steps' mean rewards, corrected for its start at 0; null before the first."""
        total, weight = self.state.reward_average
        return total / weight if weight else None

    def note_reward(self, reward: float, decay: float) -> None:
        """Count a step's mean reward into the moving average, for the steps after it."""
        total, weight = self.state.reward_average
        self.state.reward_average = (decay * total + (1 - decay) * reward, decay * weight + (1 - decay))

    def report(self, metrics: dict[str, float]) -> None:
        """Metrics of the collecting half of a step; they are written with those of the update."""
        self.state.collected.update(metrics)

    def rollout(
        self, prompts: list[Prompt], score: Callable[[Sequence[CompletionGroup]], None]
    ) -> list[CompletionGroup]:
        """Sample, grade, score and record a group for each prompt."""
        return self.rollout_with_signal(prompts, score, 0).groups

    def rollout_with_signal(
        self, prompts: list[Prompt], score: Callable[[Sequence[CompletionGroup]], None], resamples: int
    ) -> Drawn:
        """The same; then, up to `resamples` times, a group of the next prompt in place of each one without signal.

        What was replaced is recorded too, after the groups that stay. Every draw has random numbers of its own, and all of them
        are scored by what earlier steps say. Raises `Suspended` if the judges fail too often: whole steps without a verdict
        would train on nothing.
        """
        step = self.step + 1
        groups, grading = self._draw(prompts, step, 0)
        gradings, replaced, draws = [grading], list[CompletionGroup](), 0
        score(groups)
        while draws < resamples and _verdicts(groups):  # no second try where no judge answers
            lacking = [k for k, group in enumerate(groups) if group.scored is None or group.scored.signal != "ok"]
            if not lacking:
                break
            draws += 1
            fresh, grading = self._draw(self.next_prompts(len(lacking)), step, draws)
            gradings.append(grading)
            replaced.extend(groups[k] for k in lacking)
            for k, group in zip(lacking, fresh, strict=True):
                groups[k] = group
            score(groups)
        sampled = [*groups, *replaced]
        self.recorder.completions(step, "train", sampled)
        if self.revisions is not None:
            self.report(self.revisions.run(step, groups))
        try:
            self._watch_nulls(sampled)
        except Suspended:
            for grading in gradings:
                grading.forget()
            raise
        for group in sampled:
            self.state.history.add(group.rubric, group.criteria, [scored_row(row) for row in group.cells])
        left = sum(group.scored is None or group.scored.signal != "ok" for group in groups)
        if resamples and left:
            data = {"step": step, "groups": left, "of": len(groups), "resamples": draws, "replaced": len(replaced)}
            self.recorder.event("rollout.without_signal", data)
        return Drawn(groups, replaced, draws)

    def _draw(self, prompts: Sequence[Prompt], step: int, draw: int) -> tuple[list[CompletionGroup], Grading]:
        assert self.rollouts is not None
        rollout = self.spec.rollout
        assert rollout.group_size is not None
        assert rollout.temperature is not None
        drawn = self.rollouts.run(
            prompts,
            purpose="train",
            step=step,
            group_size=rollout.group_size,
            temperature=rollout.temperature,
            draw=draw,
        )
        spent = {"sampling_s": self.rollouts.sampling_s, "grading_wait_s": self.rollouts.grading_wait_s}
        so_far = self.state.collected if draw else {}
        self.report({name: so_far.get(name, 0.0) + seconds for name, seconds in spent.items()})
        return drawn

    def _watch_nulls(self, groups: Sequence[CompletionGroup]) -> None:
        judged = _judged(groups)
        if not judged:
            return
        failed = [cell for cell in judged if cell.score is None]
        share = len(failed) / len(judged)
        if share == 1:
            raise Suspended(f"judge_error_rate: no judge cell of this step was ok; the last said: {failed[-1].reason}")
        window = [*self.state.null_shares, share][-NULL_WINDOW:]
        if len(window) == NULL_WINDOW and sum(window) / len(window) > self.max_null_share:
            mean = sum(window) / len(window)
            self.state.null_shares.clear()  # after a resume the judges get a fresh start
            raise Suspended(
                f"judge_error_rate: {mean:.0%} of the judge cells of the last {len(window)} steps failed, more than "
                f"max_null_share {self.max_null_share:.0%}; the last said: {failed[-1].reason if failed else 'ok'}"
            )
        self.state.null_shares.append(share)


def _judged(groups: Sequence[CompletionGroup]) -> list[Cell]:
    return [cell for group in groups for row in group.cells for cell in row.values() if cell.grader == "judge"]


def _verdicts(groups: Sequence[CompletionGroup]) -> bool:
    """Whether any judge has answered, where one was asked."""
    judged = _judged(groups)
    return not judged or any(cell.score is not None for cell in judged)
