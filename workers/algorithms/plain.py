"""The collecting half of REINFORCE, TRPO and PPO: sample, grade, plain rewards, baseline, a flat batch."""

from __future__ import annotations

from collections.abc import Sequence

from service.domain.job import JobSpec
from service.domain.policy_gradient import PlainRewardConfig
from service.domain.rubric import DEFAULT_AGGREGATION, Aggregation
from workers.advantages.plain import Baseline, mean_reward, plain_scores, subtract_baseline
from workers.advantages.report import rollout_metrics
from workers.algorithms.base import Environment
from workers.algorithms.policy_gradient import PolicyGradient
from workers.types import CompletionGroup, PolicyBatch


class PlainReward(PolicyGradient):
    """A base. `baseline` says what is subtracted from rewards before they become advantages."""

    baseline: Baseline = "none"
    baseline_decay: float = 0.0

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, PlainRewardConfig)
        self.aggregation = spec.algorithm.aggregation.over(DEFAULT_AGGREGATION)

    def min_coverage(self, of_rubric: Aggregation | None) -> float:
        """What a completion needs to be rewarded: the job's word, else the rubric author's."""
        found = (of_rubric or self.aggregation).min_coverage
        assert found is not None
        return found

    def rollout(self, environment: Environment) -> PolicyBatch:
        """One rollout: the members of all groups, with their advantages."""

        def score(groups: Sequence[CompletionGroup]) -> None:
            self.penalise(groups)
            scored = [
                plain_scores(
                    group,
                    environment.past(group.rubric),
                    self.min_coverage(environment.aggregations.get(group.rubric)),
                )
                for group in groups
            ]
            for group, done in zip(
                groups, subtract_baseline(scored, self.baseline, environment.reward_average), strict=True
            ):
                group.scored = done

        prompts = environment.next_prompts(self.spec.rollout.prompts_per_step)
        groups = environment.rollout(prompts, score)
        environment.report(rollout_metrics(groups))
        found = mean_reward([group.scored for group in groups if group.scored is not None])
        if found is not None:
            environment.note_reward(found, self.baseline_decay)
        return self.batch_of(groups)

    def batch_of(self, groups: Sequence[CompletionGroup]) -> PolicyBatch:
        """The members of all groups, flat. With `truncated: mask`, what ran into the limit is in no sum and no denominator."""
        rows: list[tuple[int, int]] = []
        prompts = []
        for g, group in enumerate(groups):
            members = self.in_loss(group)
            if members:
                prompts.append(group.prompt.tokens)
                rows.extend((g, i) for i in members)
        place = {g: k for k, g in enumerate(dict.fromkeys(g for g, _ in rows))}
        completions = [groups[g].completions[i] for g, i in rows]
        numbers = [groups[g].scored.completions[i] for g, i in rows]  # type: ignore[union-attr]
        return PolicyBatch(
            prompts_P_T=prompts,
            tokens_B_T=[completion.tokens for completion in completions],
            logprobs_B_T=[completion.logprobs for completion in completions],
            advantages_B_T=[
                [n.advantage or 0.0] * len(completion.tokens)
                for n, completion in zip(numbers, completions, strict=True)
            ],
            prompt_of_B=[place[g] for g, _ in rows],
            tokens_in_step=sum(len(completion.tokens) for completion in completions),
            sequences_in_step=len(rows),
            max_completion_tokens=self.spec.rollout.max_completion_tokens,
            temperature=self.temperature,
            rewards_B=[n.reward or 0.0 for n in numbers],
        )
