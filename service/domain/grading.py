"""Gradings: texts, dataset rows or stored completions graded by a rubric version, or aggregated anew from stored cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, model_validator

from service.domain.base import Value, content_hash, refuse
from service.domain.conversation import Message, Name, Text
from service.domain.dataset import DemonstrationRow, PreferenceRow, PromptRow, prompt_view
from service.domain.job import DatasetId, Rubrics
from service.domain.judge import Votes
from service.domain.rubric import Aggregation, AuthoredContent, RubricId
from service.domain.scoring import ScoringOptions
from service.domain.spending import JudgeBudget

GradingState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
GRADING_TERMINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})

CompletionId = Annotated[str, StringConstraints(pattern=r"^cmp_[0-9a-z]+$")]
JobId = Annotated[str, StringConstraints(pattern=r"^job_[0-9a-z]+$")]
GradingId = Annotated[str, StringConstraints(pattern=r"^grd_[0-9a-z]+$")]

TRY_TEXTS = 16
SOURCES = ("texts", "dataset", "completions", "job", "grading")


def _as_row(value: Any) -> Any:
    return {"prompt": value} if isinstance(value, str) else value


Prompt = Annotated[PromptRow, BeforeValidator(_as_row, json_schema_input_type=PromptRow | str)]
"""A prompt's row, or its text alone."""


class TextIn(Value):
    """A text to grade. Texts with an equal `group` are compared with each other; without one, those with an equal prompt."""

    prompt: Prompt
    text: Text
    group: Name | None = None


def of_training(aggregation: Aggregation, who: str) -> Iterator[tuple[tuple[int | str, ...], str, str]]:
    """What a request may not ask for because it has no steps; an author's defaults of this kind are for training jobs."""
    asked = {
        "max_null_share": (
            aggregation.max_null_share is not None,
            f"pauses a training job; {who} has nothing to pause",
        ),
        "confidence_exponent_final": (
            aggregation.confidence_exponent_final is not None,
            f"is reached over the steps of a training job, and {who} has none; give 'confidence_exponent'",
        ),
        "pooling": (
            aggregation.pooling == "shrunk",
            f"'shrunk' draws towards earlier steps of a training job, and {who} has none; leave it at 'group'",
        ),
    }
    for name, (given, message) in asked.items():
        if given:
            yield ("aggregation", name), "invalid_option", f"{name} {message}"


class GradingSpec(Value):
    """What is POSTed to `/v1/gradings`: one source, and what to grade it by.

    `votes`: every judged criterion is asked at least so often. `fresh`: judges are asked even for cells that are known. Both
    together ask a judge again about what it has judged before (`/v1/judges/{id}/self-agreement`).
    """

    rubric: Rubrics | None = None
    texts: Annotated[list[TextIn], Field(min_length=1)] | None = None
    dataset: DatasetId | None = None
    completions: Annotated[list[CompletionId], Field(min_length=1)] | None = None
    job: JobId | None = None
    grading: GradingId | None = None
    purpose: Literal["train", "evaluation", "comparison", "revision"] | None = None
    aggregation: Aggregation = Aggregation()
    reuse_cells: bool = False
    votes: Votes | None = None
    fresh: bool = False
    limits: JudgeBudget = JudgeBudget()

    @property
    def source(self) -> str:
        """The name of the one source."""
        return next(name for name in SOURCES if getattr(self, name) is not None)

    @model_validator(mode="after")
    def _one_source(self) -> GradingSpec:
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            said = f", and {' and '.join(given)} are there" if given else ""
            refuse(((), "one_of", f"give exactly one of {', '.join(SOURCES)}{said}"))
        problems = list(self._problems(given[0]))
        if problems:
            refuse(*problems)
        return self

    def _problems(self, source: str) -> Iterator[tuple[tuple[int | str, ...], str, str]]:
        if self.rubric is None and not self.reuse_cells:
            yield ("rubric",), "missing", "name the rubric version to grade by"
        if self.reuse_cells and source in ("texts", "dataset"):
            yield (
                ("reuse_cells",),
                "invalid_option",
                f"{source} have no stored cells to reuse; name completions, a job or a grading",
            )
        if self.purpose is not None and source != "job":
            yield (
                ("purpose",),
                "invalid_option",
                "'purpose' goes with a job, whose completions are of more than one purpose",
            )
        yield from of_training(self.aggregation, "a grading")
        asking = {"limits": self.limits.bounded, "votes": self.votes is not None, "fresh": self.fresh}
        for name in (name for name, given in asking.items() if self.reuse_cells and given):
            yield (name,), "invalid_option", f"stored cells are aggregated without a call; leave '{name}' out"
        seen: set[str] = set()
        for position, completion in enumerate(self.completions or ()):
            if completion in seen:
                yield ("completions", position), "duplicate", f"completion '{completion}' stands twice"
            seen.add(completion)


class TryIn(Value):
    """What is POSTed to `…/versions/{n}/try`: some texts of one prompt, graded at once as one group."""

    prompt: Prompt
    completions: Annotated[list[Text], Field(min_length=1, max_length=TRY_TEXTS)]
    aggregation: Aggregation = Aggregation()

    @model_validator(mode="after")
    def _no_job(self) -> TryIn:
        problems = list(of_training(self.aggregation, "a try"))
        if problems:
            refuse(*problems)
        return self


class ProbeIn(Value):
    """What is POSTed to `…/versions/{n}/probe`: the prompt that answers without content are put beside."""

    prompt: Prompt


class TryDraftIn(TryIn):
    """What is POSTed to `/v1/rubrics/try`: the same with a content that is no version yet. `rubric` says whose next version it
    would be: a rubric may not include itself."""

    content: AuthoredContent
    rubric: RubricId | None = None


def scoring_options(aggregation: Aggregation) -> ScoringOptions:
    """How a grading scores: the resolved aggregation, and the advantage options that jobs have by default."""
    known = {field.name for field in fields(ScoringOptions)}
    given = aggregation.model_dump(exclude_none=True)
    return ScoringOptions(**{name: value for name, value in given.items() if name in known})


def prompt_key(view: dict[str, Any]) -> str:
    """Prompts with this key are equal, whatever their ids are, and whether they were written as text or as one message."""
    return content_hash({name: value for name, value in view.items() if name not in ("id", "form")})


def graded_texts(kind: str, row_id: str, content: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """(prompt as graders see it, text) of each completion that a dataset's row holds."""
    if kind == "preferences":
        pair = PreferenceRow.model_validate(content)
        view = prompt_view(_prompt_row(pair.prompt, metadata=pair.metadata), row_id)
        return [(view, pair.text("chosen")), (view, pair.text("rejected"))]
    row = DemonstrationRow.model_validate(content)
    if row.messages is not None:
        return [(prompt_view(_prompt_row(row.messages[:-1]), row_id), row.messages[-1].content)]
    assert row.prompt is not None
    assert row.completion is not None
    return [(prompt_view(_prompt_row(row.prompt), row_id), row.completion)]


TEXTS_PER_ROW = {"demonstrations": 1, "preferences": 2}
"""The kinds of datasets whose rows hold texts to grade."""


def _prompt_row(prompt: str | list[Message], **more: Any) -> PromptRow:
    # Built without validation: what a demonstration may have before its answer is more than what a policy may be asked.
    place = {"prompt": prompt} if isinstance(prompt, str) else {"messages": prompt}
    return PromptRow.model_construct(**place, **more)
