"""Rows of the datasets that jobs read."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, TypeAdapter, model_validator

from service.domain.base import Value, refuse
from service.domain.conversation import Message, Name, NonEmptyText, Text, shown_messages
from service.domain.criteria import PromptCriteria
from service.domain.lineage import Lineage
from service.domain.origin import Origin

DatasetKind = Literal["prompts", "demonstrations", "preferences"]

Messages = Annotated[list[Message], Field(min_length=1)]


class PromptRow(Value):
    """A prompt to sample completions for; `reference` and `metadata` are for graders, never for the policy.

    `criteria` join those of the rubric for this prompt alone.
    """

    messages: Messages | None = None
    prompt: NonEmptyText | None = None
    reference: JsonValue = None
    category: Name | None = None
    tags: list[Name] = []
    metadata: dict[str, JsonValue] = {}
    criteria: PromptCriteria = []
    origin: Origin | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> PromptRow:
        if (self.messages is None) == (self.prompt is None):
            refuse(((), "one_of", "give either 'messages' or 'prompt'"))
        if self.messages is not None and self.messages[-1].role == "assistant":
            refuse(
                (("messages",), "invalid_prompt", "a prompt ends with a user or system message, not the assistant's")
            )
        return self

    @property
    def text_or_messages(self) -> str | list[Message]:
        """The prompt as it was written: a bare string, or a list of messages."""
        return self.prompt if self.prompt is not None else self.messages or []


def prompt_view(row: PromptRow, row_id: str, system_prompt: str = "") -> dict[str, Any]:
    """A prompt as graders and readers see it, with the system prompt that it is sampled under.

    `form` says how the row was written, and so how models read it.
    """
    view = {
        "id": row_id,
        "category": row.category,
        "messages": shown_messages(row.text_or_messages, system_prompt),
        "form": "text" if isinstance(row.text_or_messages, str) else "messages",
        "reference": row.reference,
        "tags": row.tags,
        "metadata": row.metadata,
    }
    if row.criteria:
        view["criteria"] = [criterion.model_dump(mode="json", exclude_unset=True) for criterion in row.criteria]
    return view


class DemonstrationRow(Value):
    """An answer to imitate: a conversation that ends with the assistant, or a prompt and its completion."""

    messages: Messages | None = None
    prompt: Text | Messages | None = None
    completion: NonEmptyText | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0
    metadata: dict[str, JsonValue] = {}
    origin: Origin | None = None
    lineage: Lineage | None = None

    @model_validator(mode="after")
    def _one_shape(self) -> DemonstrationRow:
        whole = self.messages is not None
        if whole == (self.prompt is not None or self.completion is not None):
            refuse(((), "one_of", "give either 'messages', or 'prompt' with 'completion'"))
        if not whole and (self.prompt is None or self.completion is None):
            missing = "prompt" if self.prompt is None else "completion"
            refuse(((missing,), "missing", f"'{missing}' is missing beside '{_other(missing)}'"))
        if self.messages is not None and (self.messages[-1].role != "assistant" or len(self.messages) < 2):
            refuse(
                (("messages",), "invalid_demonstration", "a demonstration ends with the assistant's answer to a prompt")
            )
        return self


def _other(name: str) -> str:
    return "completion" if name == "prompt" else "prompt"


class PreferenceRow(Value):
    """Two completions of one prompt, the better one first; `margin` says by how much, in the units of a reward.

    Strings, or messages: the prompt's turns, and for each completion one assistant message.
    """

    prompt: NonEmptyText | Messages
    chosen: NonEmptyText | Annotated[list[Message], Field(min_length=1, max_length=1)]
    rejected: NonEmptyText | Annotated[list[Message], Field(min_length=1, max_length=1)]
    margin: Annotated[float, Field(ge=0, le=1e6)] | None = None
    metadata: dict[str, JsonValue] = {}
    origin: Origin | None = None
    lineage: Lineage | None = None

    @model_validator(mode="after")
    def _a_pair(self) -> PreferenceRow:
        kinds = {isinstance(text, str) for text in (self.prompt, self.chosen, self.rejected)}
        if len(kinds) > 1:
            refuse(((), "mixed_shapes", "give prompt, chosen and rejected all as text or all as lists of messages"))
        for name in ("chosen", "rejected"):
            completion = getattr(self, name)
            if not isinstance(completion, str) and completion[0].role != "assistant":
                refuse(((name, 0, "role"), "invalid_role", f"'{name}' is the assistant's message"))
        if not isinstance(self.prompt, str) and self.prompt[-1].role == "assistant":
            refuse((("prompt",), "invalid_prompt", "a prompt ends with a user or system message, not the assistant's"))
        if self.text("chosen") == self.text("rejected"):
            refuse((("rejected",), "equal_completions", "chosen and rejected are equal, so there is no preference"))
        return self

    def text(self, name: Literal["chosen", "rejected"]) -> str:
        """The completion's text."""
        completion: str | list[Message] = getattr(self, name)
        return completion if isinstance(completion, str) else completion[0].content


Row = PromptRow | DemonstrationRow | PreferenceRow

MODELS: dict[str, type[Value]] = {
    "prompts": PromptRow,
    "demonstrations": DemonstrationRow,
    "preferences": PreferenceRow,
}
ROWS: dict[str, TypeAdapter[Any]] = {kind: TypeAdapter(model) for kind, model in MODELS.items()}
"""What a row of each kind must look like."""


class Snapshot(Value):
    """The rows of a dataset up to `last_seq`: published batches never change, so neither does this."""

    dataset: str
    batches: int
    rows: int
    last_seq: int
    hash: str
