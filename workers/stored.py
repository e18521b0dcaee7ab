"""Stored completions as groups of candidates: whoever wrote them, they are read as this job's model reads its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from service.domain.dataset import DemonstrationRow
from service.domain.grading import prompt_key
from service.domain.job_state import JobFailure
from workers.graders.rubric import CategoryGrader
from workers.policy.loading import Reading
from workers.policy.tokenization import TokenizationError, encode_demonstration
from workers.training.environment import stop_without_budget
from workers.training.ports import Control, Grader, Grading
from workers.types import Completion, CompletionGroup, Prompt

Stored = Iterable[tuple[dict[str, Any], str, str | None]]


def read_stored(rows: Stored, reading: Reading, grader: CategoryGrader) -> list[CompletionGroup]:
    """Groups by equal prompt, in the order of their first; each text once, empty ones left out: nothing could be learned of them.

    `JobFailure(data_invalid)` for a prompt that nobody grades, and for what does not fit into the model's context.
    """
    groups: dict[str, CompletionGroup] = {}
    for view, text, finish in rows:
        if not text.strip():
            continue
        key = prompt_key(view)
        prompt, completion = _encoded(view, text, reading)
        if key not in groups:
            own = grader.of(view.get("category"))
            if all(criterion.audit for criterion in own.criteria_of(view)):
                raise JobFailure("data_invalid", f"no criterion that counts applies to the prompt of {view['id']}")
            groups[key] = CompletionGroup(Prompt(view["id"], prompt, view), [])
        group = groups[key]
        if all(known.text != text for known in group.completions):
            group.completions.append(Completion(completion, [], finish or "stop", text))
    if not groups:
        raise JobFailure("data_invalid", "every stored completion is empty, so there is nothing to learn from")
    return [_named(group, number) for number, group in enumerate(groups.values())]


def _named(group: CompletionGroup, number: int) -> CompletionGroup:
    """Ids of prompts are unique in a job; stored ones of several sources may not be."""
    return replace(group, prompt=replace(group.prompt, id=f"stored:{number}"))


def _encoded(view: dict[str, Any], text: str, reading: Reading) -> tuple[list[int], list[int]]:
    messages = view["messages"]
    prompt = "\n\n".join(m["content"] for m in messages) if view.get("form") == "text" else messages
    try:
        row = DemonstrationRow.model_validate({"prompt": prompt, "completion": text})
        tokens = encode_demonstration(reading.tokenizer, row, reading.eos_ids)
    except TokenizationError as error:
        raise JobFailure("data_invalid", f"a stored completion of prompt {view['id']}: {error}") from None
    whole, context = sum(map(len, tokens)), reading.context_length
    if context is not None and whole > context:
        message = f"a stored completion of prompt {view['id']} has {whole} tokens with its prompt, more than the context of {context}"
        raise JobFailure("data_invalid", message)
    return tokens


@dataclass(slots=True)
class StoredRollouts:
    """In place of sampling: the stored groups of the prompts that are drawn, graded by the job's rubric."""

    groups: Sequence[CompletionGroup]
    grader: Grader
    control: Control
    sampling_s: float = 0.0
    grading_wait_s: float = 0.0
    _by_prompt: dict[str, CompletionGroup] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._by_prompt = {group.prompt.id: group for group in self.groups}

    def run(
        self, prompts: Sequence[Prompt], *, purpose: str, step: int, draw: int = 0, **sampling: Any
    ) -> tuple[list[CompletionGroup], Grading]:
        """Graded groups in the order of the prompts; what is said about sampling has no say."""
        del draw, sampling
        grading = self.grader.start(purpose, step)
        found = []
        for prompt in prompts:
            self.control.check()
            stored = self._by_prompt[prompt.id]
            found.append(CompletionGroup(stored.prompt, list(stored.completions)))
            grading.submit(found[-1])
        grading.finish()
        stop_without_budget(found)
        return found, grading
