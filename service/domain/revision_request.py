"""What is POSTed to `/v1/revisions`: stored completions, and who is to make them better."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, model_validator

from service.domain.base import Value, refuse
from service.domain.grader import JudgeGrader
from service.domain.grading import CompletionId, GradingId, JobId
from service.domain.revision import POLICY, REVISED, JudgeId, RevisionOptions, Use, use_problems
from service.domain.rubric import Criterion, RubricContent
from service.domain.spending import JudgeBudget

SOURCES = ("completions", "job", "grading")

Purpose = Literal["train", "evaluation", "comparison", "revision"]
Completions = Annotated[list[CompletionId], Field(min_length=1, max_length=100_000)]
Problem = tuple[tuple[int | str, ...], str, str]


class StoredCompletions(Value):
    """The source that requests about stored completions share: named ones, a job's, or a grading's."""

    completions: Completions | None = None
    job: JobId | None = None
    grading: GradingId | None = None
    purpose: Purpose | None = None

    def source_problems(self) -> Iterator[Problem]:
        """Not exactly one source, a purpose without a job, a completion that is named twice."""
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            said = f", and {' and '.join(given)} are there" if given else ""
            yield (), "one_of", f"give exactly one of {', '.join(SOURCES)}{said}"
        if self.purpose is not None and self.job is None:
            message = "'purpose' goes with a job, whose completions are of more than one purpose"
            yield ("purpose",), "invalid_option", message
        seen: set[str] = set()
        for position, completion in enumerate(self.completions or ()):
            if completion in seen:
                yield ("completions", position), "duplicate", f"completion '{completion}' stands twice"
            seen.add(completion)


class RevisionSpec(StoredCompletions, RevisionOptions):
    """Revise stored completions. Named ones are revised each; of a job or a grading those below their group's best.

    Each is graded by the rubric version that it was graded by, its judges as they are now.
    """

    uses: Annotated[list[Use], Field(min_length=1)] = ["pairs", "demonstrations"]
    reviser: Annotated[str, StringConstraints(pattern=r"^(policy|jdg_[0-9a-z]+)$")] | None = None
    limits: JudgeBudget = JudgeBudget()

    @property
    def revises(self) -> bool:
        """Whether anything is asked of a reviser; best and worst of groups are there already."""
        return bool(REVISED & set(self.uses))

    @model_validator(mode="after")
    def _consistent(self) -> RevisionSpec:
        problems: list[Problem] = [*self.source_problems(), *use_problems(self.uses, self)]
        if "group" in self.uses:
            message = "'group' puts a revision into a job's own update: it belongs to algorithm.revision of a grape or grpo job"
            problems.append((("uses", self.uses.index("group")), "invalid_option", message))
        if self.reviser == POLICY:
            message = (
                "stored completions have no policy at hand; register the checkpoint (POST /v1/checkpoints/{id}/promote), make a "
                "judge of that model, and name the judge"
            )
            problems.append((("reviser",), "invalid_option", message))
        elif self.revises and self.reviser is None:
            problems.append((("reviser",), "missing", "name the judge whose endpoint or model writes the revisions"))
        elif not self.revises and self.reviser is not None:
            message = "'pairs_from_group' takes completions that are there already; leave the reviser out"
            problems.append((("reviser",), "invalid_option", message))
        if self.completions is not None and "per_group" in self.model_fields_set:
            message = "named completions are revised each; leave 'per_group' out, or name a job or a grading"
            problems.append((("per_group",), "invalid_option", message))
        if problems:
            refuse(*problems)
        return self


class LabelSpec(StoredCompletions):
    """What is POSTed to `/v1/pair-labels`: a judge says which of two completions of a prompt is better (RLAIF).

    Named completions come in twos, first with second, third with fourth; of a job or a grading, each group's best by plain reward
    is paired with its worst. Each pair is asked about in both orders: where the two answers disagree it is a tie. `guidelines`:
    what better means, beside the guidelines of the rubric version that the first of the two was graded by.
    """

    judge: JudgeId
    guidelines: Annotated[str, StringConstraints(max_length=100_000)] = ""
    preferences: Annotated[str, StringConstraints(pattern=r"^ds_[0-9a-z]+$")] | None = None
    limits: JudgeBudget = JudgeBudget()

    @model_validator(mode="after")
    def _consistent(self) -> LabelSpec:
        problems: list[Problem] = list(self.source_problems())
        if self.completions is not None and len(self.completions) % 2:
            message = f"completions are compared in twos, and there are {len(self.completions)}"
            problems.append((("completions",), "odd_number", message))
        if problems:
            refuse(*problems)
        return self


def with_votes(content: RubricContent, votes: int, own: dict[str, int]) -> RubricContent:
    """The content with every judged criterion asked at least so often. `own` has each judge's own number of votes."""
    return content.model_copy(update={"criteria": [_asked(criterion, votes, own) for criterion in content.criteria]})


def _asked(criterion: Criterion, votes: int, own: dict[str, int]) -> Criterion:
    if not isinstance(criterion.grader, JudgeGrader):
        return criterion
    more = max(votes, criterion.grader.votes or own.get(criterion.grader.judge, 1))
    return criterion.model_copy(update={"grader": criterion.grader.model_copy(update={"votes": more})})


def prompt_with_votes(prompt: dict[str, Any], votes: int, own: dict[str, int]) -> dict[str, Any]:
    """A prompt as graders see it, its own criteria asked at least so often."""
    criteria = prompt.get("criteria")
    if not isinstance(criteria, list):
        return prompt
    asked = [_asked(Criterion.model_validate(item), votes, own) for item in criteria]
    return {**prompt, "criteria": [criterion.model_dump(mode="json") for criterion in asked]}
