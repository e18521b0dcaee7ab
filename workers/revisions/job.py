"""Revisions inside a job (`algorithm.revision`): after a rollout, what is below its group's best is revised and graded afresh.

The step waits for them: they belong to this step's policy, and a resumed step finds what it has asked already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from service.domain.asked import Told
from service.domain.base import content_hash
from service.domain.conversation import Message
from service.domain.ids import new_id
from service.domain.places import GRADING, GRADING_LOCAL
from service.domain.revision import POLICY, PROMPT_VERSION, REVISED, Comparison, RevisionConfig, compare
from service.domain.revision_request import prompt_with_votes
from service.domain.scoring import ScoringOptions, has_spread, mean
from workers.advantages.group import Past, score_step
from workers.graders.rubric import CategoryGrader, Desk
from workers.policy.generation.sampler import Sample, SamplingOptions
from workers.policy.loading import Reading
from workers.policy.tokenization import TokenizationError, decode, encode_chat, encode_prompt
from workers.revisions.asking import Critique, critiques_for, revision_messages, written
from workers.revisions.rows import EQUAL, Pair, Side, result_row, unfit
from workers.seeds import derive_seed
from workers.training.environment import stop_without_budget
from workers.training.ports import Control, Recorder, Suspended
from workers.types import Completion, CompletionGroup, RevisedSample

UNIFORM = ScoringOptions(weighting="uniform")
"""Pairs are compared by plain reward; what else stands in their rows is by uniform weights."""


@dataclass(slots=True)
class Candidate:
    """A completion that is to be beaten, by a revision or by the best of its group (`rival`)."""

    group: CompletionGroup
    index: int
    rival: int | None = None
    critiques: list[Critique] | None = None
    revision: Completion | None = None
    better_id: str = ""
    refusal: Comparison | None = None
    pair: CompletionGroup | None = None
    reply: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        """What its result is called."""
        return "revision" if self.rival is None else "group_pair"

    @property
    def better(self) -> Completion | None:
        """What is to beat it."""
        return self.revision if self.rival is None else self.group.completions[self.rival]


@dataclass(slots=True)
class JobRevisions:
    """`grader` grades afresh, with the votes that were asked for. `judges`: the pinned revisions; `model`: the policy's start."""

    config: RevisionConfig
    grader: CategoryGrader
    desk: Desk
    recorder: Recorder
    control: Control
    policy: Any
    reading: Reading
    model: str
    job: str
    judges: Mapping[str, int]
    local_judges: Collection[str]
    votes: Mapping[str, int]
    seed: int
    temperature: float
    max_completion_tokens: int

    def run(self, step: int, groups: Sequence[CompletionGroup]) -> dict[str, float]:
        """Revise what these recorded groups leave to be made better; the metrics. Fills `group.revisions` for the use `group`."""
        if step % self.config.every_steps:
            return {}
        found = [candidate for group in groups for candidate in self._candidates(group)]
        wanted = [candidate for candidate in found if candidate.rival is None]
        if wanted and self.config.reviser == POLICY:
            self._ask_policy(wanted, step)
        elif wanted:
            self._ask_judge(wanted, step)
        self._grade(found, step)
        return self._record(found, step)

    # --- whom to beat ---

    def _candidates(self, group: CompletionGroup) -> list[Candidate]:
        """The worst below the group's best, and the worst beside the best, by plain reward; what has none is left out."""
        assert group.scored is not None
        rewards = {i: c.plain_reward for i, c in enumerate(group.scored.completions) if c.plain_reward is not None}
        if len(rewards) < 2 or not has_spread(list(rewards.values())):
            return []
        order = sorted(
            rewards, key=lambda i: (rewards[i], -i)
        )  # of equals the last is the worst, and the first the best
        best = order[-1]
        found = []
        if REVISED & set(self.config.uses):
            below = [i for i in order if rewards[i] < rewards[best]][: self.config.per_group]
            found = [Candidate(group, i, critiques=self._critiques(group, i)) for i in below]
        if "pairs_from_group" in self.config.uses:
            found.append(Candidate(group, order[0], rival=best))
        return found

    def _critiques(self, group: CompletionGroup, index: int) -> list[Critique]:
        view = group.prompt.view
        criteria = self.grader.of(view["category"]).criteria_of(view)
        return critiques_for(criteria, group.cells[index], group.critiques[index] if group.critiques else {})

    def _messages(self, candidate: Candidate) -> list[dict[str, str]]:
        view = candidate.group.prompt.view
        guidelines = self.grader.of(view["category"]).content.guidelines
        answer = candidate.group.completions[candidate.index].text
        return revision_messages(view, answer, candidate.critiques or [], guidelines, PROMPT_VERSION)

    # --- who revises ---

    def _ask_policy(self, wanted: Sequence[Candidate], step: int) -> None:
        """The policy as it is now, at the rollout's temperature."""
        asked: list[tuple[Candidate, list[int]]] = []
        for candidate in wanted:
            tokens = self._encoded(candidate)
            if tokens is not None:
                asked.append((candidate, tokens))
        samples: dict[int, Sample] = {}
        options = SamplingOptions(
            group_size=1,
            temperature=self.temperature,
            max_tokens=self.max_completion_tokens,
            eos_ids=self.policy.eos_ids,
            pad_id=self.policy.pad_id,
            seed=derive_seed(self.seed, "revision", step),
        )
        if asked:
            prompts = [tokens for _, tokens in asked]
            self.policy.sample(prompts, options, lambda k, group: samples.update({k: group[0]}), self.control.check)
        for k, (candidate, _) in enumerate(asked):
            sample = samples[k]
            text = decode(self.policy.tokenizer, sample.tokens, self.policy.eos_ids)
            if sample.finish_reason != "stop":
                candidate.refusal = _none(f"the revision ran into the limit of {self.max_completion_tokens} tokens")
                continue
            self._take(candidate, Completion(sample.tokens, sample.logprobs, sample.finish_reason, text))

    def _encoded(self, candidate: Candidate) -> list[int] | None:
        """The question as the policy reads it: by its chat template, else as plain text; null, with a refusal, if it cannot."""
        messages, tokenizer = self._messages(candidate), self.policy.tokenizer
        try:
            if tokenizer.chat_template:
                tokens = encode_chat(tokenizer, [Message.model_validate(message) for message in messages])
            else:
                text = "\n\n".join(message["content"] for message in messages)
                tokens = encode_prompt(tokenizer, text, self.policy.eos_ids)
        except TokenizationError as error:
            candidate.refusal = _none(f"the policy cannot be given the question: {error}")
            return None
        context = self.reading.context_length
        if context is not None and len(tokens) + self.max_completion_tokens > context:
            candidate.refusal = _none(
                f"the question has {len(tokens)} tokens, and with {self.max_completion_tokens} more it does not fit into the policy's "
                f"context of {context}"
            )
            return None
        return tokens

    def _ask_judge(self, wanted: Sequence[Candidate], step: int) -> None:
        """The endpoint or model of a judge; what is asked once for a step is not asked again when the step is done again."""
        judge = self.config.reviser
        queue = GRADING_LOCAL if judge in self.local_judges else GRADING
        keys = []
        for candidate in wanted:
            messages = self._messages(candidate)
            keys.append(content_hash(["revision", step, len(keys), judge, messages]))
            self.desk.ask_plainly(keys[-1], judge, [messages], queue=queue)
        told = self.desk.told(keys)
        for key, candidate in zip(keys, wanted, strict=True):
            answer: Told = told[key][0]
            candidate.reply = answer.model_dump(mode="json", exclude={"criterion", "text"})
            if answer.status == "budget":
                raise Suspended(f"budget_exhausted: a revision of this step could not be asked for: {answer.reason}")
            if answer.text is None:
                candidate.refusal = _none(f"the reviser gave no answer ({answer.status}): {answer.reason}")
                continue
            self._take(candidate, Completion([], [], "stop", written(answer.text)))

    @staticmethod
    def _take(candidate: Candidate, revision: Completion) -> None:
        """The revision, or why it is none."""
        original = candidate.group.completions[candidate.index]
        if not revision.text.strip():
            candidate.refusal = Comparison(reason="empty", message="the reviser's answer is empty")
        elif revision.text.strip() == original.text.strip():
            candidate.refusal = EQUAL
        else:
            candidate.revision = revision

    # --- is it better? ---

    def _grade(self, found: Sequence[Candidate], step: int) -> None:
        """Original and rival afresh, each asked about by itself."""
        grading = self.grader.start("revision", step)
        for candidate in found:
            better = candidate.better
            if better is None or candidate.refusal is not None:
                continue
            original = candidate.group.completions[candidate.index]
            candidate.refusal = unfit(candidate.kind, original.text, better.text)
            if candidate.refusal is not None:
                continue
            prompt = candidate.group.prompt
            view = prompt_with_votes(prompt.view, self.config.votes, dict(self.votes))
            candidate.pair = CompletionGroup(replace(prompt, view=view), [original, better])
            grading.submit(candidate.pair)
        grading.finish()
        pairs = [candidate.pair for candidate in found if candidate.pair is not None]
        stop_without_budget(pairs)
        score_step(pairs, UNIFORM, lambda rubric: Past())

    def _record(self, found: Sequence[Candidate], step: int) -> dict[str, float]:
        results: list[dict[str, Any]] = []
        graded: list[tuple[CompletionGroup, list[dict[str, Any]]]] = []
        reasons: Counter[str] = Counter()
        differences = []
        for position, candidate in enumerate(found):
            verdict = candidate.refusal or self._compared(candidate)
            original, better = self._sides(candidate, graded)
            lineage = self._lineage(candidate, step)
            pair = Pair(candidate.kind, position, candidate.group.prompt.view, original, better, verdict, lineage)
            row = result_row(pair, set(self.config.uses))
            row["data"]["reply"] = candidate.reply
            results.append(row)
            if verdict.reason is not None:
                reasons[verdict.reason] += 1
                continue
            assert verdict.difference is not None
            differences.append(verdict.difference)
            if candidate.revision is not None and candidate.pair is not None and "group" in self.config.uses:
                candidate.group.revisions.append(RevisedSample(candidate.revision, candidate.pair.cells[1]))
        self.recorder.revisions(step, graded, results)
        told = {
            "step": step,
            "pairs": len(found),
            "accepted": len(differences),
            "rejected": dict(sorted(reasons.items())),
        }
        self.recorder.event("revision.finished", told)
        metrics = {"revisions": float(len(found)), "revisions.accepted": float(len(differences))}
        metrics |= {f"revisions.rejected.{reason}": float(count) for reason, count in reasons.items()}
        if found:
            metrics["revisions.accepted_share"] = len(differences) / len(found)
        if differences:
            metrics["revisions.difference"] = mean(differences)
        return metrics

    def _compared(self, candidate: Candidate) -> Comparison:
        assert candidate.pair is not None
        original, better = candidate.pair.cells
        keep = candidate.rival is None
        return compare(candidate.pair.criteria, original, better, margin=self.config.margin, keep_verifiers=keep)

    @staticmethod
    def _sides(
        candidate: Candidate, graded: list[tuple[CompletionGroup, list[dict[str, Any]]]]
    ) -> tuple[Side, Side | None]:
        """Both sides; where they were graded, their completions are added to what is recorded."""
        group = candidate.group
        original = Side(group.ids[candidate.index], group.completions[candidate.index].text)
        better = candidate.better
        if candidate.pair is None or better is None:
            return original, None
        ids = [new_id("completion"), new_id("completion")]
        candidate.pair.ids = ids
        regraded = {"purpose": "regraded", "revision_of": None}
        sides: list[dict[str, Any]] = [{**regraded, "source_id": original.id}]
        if candidate.rival is None:
            sides.append({"purpose": "revision", "revision_of": original.id, "source_id": None})
            other = Side(ids[1], better.text, ids[1])
        else:
            rival = group.ids[candidate.rival]
            sides.append({**regraded, "source_id": rival})
            other = Side(rival, better.text, ids[1])
        graded.append((candidate.pair, sides))
        return replace(original, regraded=ids[0]), other

    def _lineage(self, candidate: Candidate, step: int) -> dict[str, Any]:
        view = candidate.group.prompt.view
        version = self.grader.of(view["category"]).name.split("#", 1)[0]
        rubric, _, number = version.rpartition("@")
        found: dict[str, Any] = {
            "job": self.job,
            "step": step,
            "rubric": {"id": rubric, "version": int(number)},
            "votes": self.config.votes,
            "judges": {
                cell.judge: cell.revision
                for row in (candidate.pair.cells if candidate.pair is not None else ())
                for cell in row.values()
                if cell.judge is not None and cell.revision is not None
            },
        }
        if candidate.rival is None:
            found["critiques"] = [critique.id for critique in candidate.critiques or () if critique.id]
            found["reviser"] = self._reviser(step)
        return found

    def _reviser(self, step: int) -> dict[str, Any]:
        if self.config.reviser == POLICY:
            return {"policy": self.model, "step": step - 1 if step else 0, "prompt_version": PROMPT_VERSION}
        judge = self.config.reviser
        return {"judge": judge, "revision": self.judges[judge], "prompt_version": PROMPT_VERSION}


def _none(message: str) -> Comparison:
    return Comparison(reason="no_revision", message=message)
