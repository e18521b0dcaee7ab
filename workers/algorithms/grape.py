"""GRAPE (grape.md) and, with uniform weighting, GRPO: confidence-weighted group-relative advantages in a PPO-style update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from service.domain.algorithm import OnPolicyConfig, scoring_options
from service.domain.job import JobSpec
from service.domain.rubric import Aggregation
from service.domain.scoring import ScoringOptions, outside_advantage
from workers.advantages.group import score_step, scored_row, token_advantages_of
from workers.advantages.report import rollout_metrics
from workers.algorithms.base import Collected, Environment, Policy
from workers.algorithms.on_policy import Surrogate, divergence_terms, policy_loss, weigh_revisions
from workers.algorithms.policy_gradient import PolicyGradient
from workers.types import Batch, CompletionGroup, LossOutput, PolicyBatch


class Grape(PolicyGradient):
    """Sample a group per prompt, grade it by the rubric, weight by confidence, compare within the group, update."""

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        assert isinstance(spec.algorithm, OnPolicyConfig)
        self.config = spec.algorithm
        self.minibatches = self.config.minibatches
        objective = self.config.objective
        self.surrogate = Surrogate(
            kind=objective.kind,
            clip_low=objective.clip_low,
            clip_high=objective.clip_high,
            ratio=objective.ratio,
            mean_over=objective.aggregation,
            entropy_coef=self.config.entropy_coef,
            **divergence_terms(self.kl),
        )
        self.options = scoring_options(self.config.aggregation, self.config.advantage)

    def collect(self, environment: Environment) -> Collected:
        """Prompts, groups, grades, advantages, for `inner_epochs` passes over them in `minibatches` parts."""

        def options(rubric: str) -> ScoringOptions:
            return self.options_at(environment.step + 1, environment.aggregations.get(rubric))

        def score(groups: Sequence[CompletionGroup]) -> None:
            self.penalise(groups)
            score_step(groups, options, environment.past)

        prompts = environment.next_prompts(self.spec.rollout.prompts_per_step)
        drawn = environment.rollout_with_signal(prompts, score, self.config.without_signal.resamples)
        # All that was sampled: what the policy does must not look better because groups were replaced.
        environment.report(rollout_metrics([*drawn.groups, *drawn.replaced]))
        if self.config.without_signal.resamples:
            environment.report({"resampled_groups": float(len(drawn.replaced)), "resamples": float(drawn.resamples)})
        if self.config.aggregation.confidence_exponent_final is not None:
            environment.report({"confidence_exponent": self.options_at(environment.step + 1).confidence_exponent})
        return Collected(self.batch_of(drawn.groups), self.config.inner_epochs * self.minibatches)

    def options_at(self, step: int, aggregation: Aggregation | None = None) -> ScoringOptions:
        """The options of a step (1 the first) under a rubric's aggregation, else the job's.

        The exponent moves in a straight line to its final value at the last step.
        """
        options = self.options if aggregation is None else scoring_options(aggregation, self.config.advantage)
        final = (aggregation or self.config.aggregation).confidence_exponent_final
        if final is None:
            return options
        assert self.spec.training.steps is not None
        start = options.confidence_exponent
        done = min(1.0, (step - 1) / max(self.spec.training.steps - 1, 1))
        return replace(options, confidence_exponent=start + (final - start) * done)

    def batch_of(self, groups: Sequence[CompletionGroup], *, skip: bool = True) -> PolicyBatch:
        """The members of all groups, flat, each group a unit of minibatches.

        Without a reference and an entropy term a group without signal has a gradient of exactly zero: it is left out (`skip`),
        and its tokens stay in the denominators.
        """
        credit, centred = self.config.objective.step_credit, self.config.advantage.baseline != "none"
        skip = skip and not self.needs_reference and not self.config.entropy_coef
        limit = self.spec.rollout.max_completion_tokens
        batch = PolicyBatch([], [], [], [], [], 0, 0, limit, self.temperature)
        for group in groups:
            assert group.scored is not None
            members = self.in_loss(group)
            if not members:
                continue
            batch.tokens_U.append(sum(len(group.completions[i].tokens) for i in members))
            batch.sequences_U.append(len(members))
            if skip and group.scored.signal != "ok":
                continue
            batch.prompts_P_T.append(group.prompt.tokens)
            for i in members:
                batch.tokens_B_T.append(group.completions[i].tokens)
                batch.logprobs_B_T.append(group.completions[i].logprobs)
                batch.advantages_B_T.append(token_advantages_of(group, i, credit, centred=centred))
                batch.prompt_of_B.append(len(batch.prompts_P_T) - 1)
                batch.unit_of_B.append(len(batch.tokens_U) - 1)
            self._add_revisions(batch, group)
        if batch.revised_B:
            batch.revised_B.extend([False] * (len(batch.tokens_B_T) - len(batch.revised_B)))
        return replace(batch, tokens_in_step=sum(batch.tokens_U), sequences_in_step=sum(batch.sequences_U))

    def _add_revisions(self, batch: PolicyBatch, group: CompletionGroup) -> None:
        """Accepted revisions of a group with signal (grape.md §7): in its unit and in the denominators, in none of its means."""
        baseline = self.config.advantage.baseline
        if not group.revisions or baseline == "none":
            return
        assert group.scored is not None
        for revised in group.revisions:
            advantage = outside_advantage(group.scored, group.criteria, scored_row(revised.cells), baseline)
            tokens = revised.completion.tokens
            batch.revised_B.extend([False] * (len(batch.tokens_B_T) - len(batch.revised_B)))
            batch.tokens_B_T.append(tokens)
            batch.logprobs_B_T.append(revised.completion.logprobs)
            batch.advantages_B_T.append([advantage] * len(tokens))
            batch.prompt_of_B.append(len(batch.prompts_P_T) - 1)
            batch.unit_of_B.append(len(batch.tokens_U) - 1)
            batch.revised_B.append(True)
            batch.tokens_U[-1] += len(tokens)
            batch.sequences_U[-1] += 1

    def complete(self, policy: Policy, batch: Batch) -> Batch:
        """What revisions need beside what every rollout needs."""
        assert isinstance(batch, PolicyBatch)
        completed = super().complete(policy, batch)
        assert isinstance(completed, PolicyBatch)
        return weigh_revisions(policy, batch, completed)

    def loss(self, policy: Policy, batch: PolicyBatch) -> LossOutput:
        """The clipped surrogate plus β·KL minus `entropy_coef`·entropy, divided as `objective.aggregation` says."""
        return policy_loss(policy, batch, self.surrogate)
