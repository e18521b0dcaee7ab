"""A job's prompts: from a row to what the policy continues and graders see, with everything checked that could fail later."""

from __future__ import annotations

from typing import Any

from service.domain.algorithm import EvaluateConfig, OnPolicyConfig, option_mismatches
from service.domain.conversation import with_system_prompt
from service.domain.dataset import PromptRow, prompt_view
from service.domain.job_state import JobFailure
from service.domain.rubric import Criterion
from workers.graders.rubric import CategoryGrader, RubricGrader, prompt_needs
from workers.policy.loading import Reading
from workers.policy.tokenization import TokenizationError, encode_prompt
from workers.types import Prompt


def read_prompt(
    row_id: str, content: dict[str, Any], reading: Reading, grader: CategoryGrader, *, config: Any, longest: int
) -> Prompt:
    """A row's prompt under its rubric's system prompt; `JobFailure` with the row's id for what is wrong with it.

    It fits into the context with a full completion of `longest` tokens, something is rewarded for it, its criteria allow the
    options of `config` (null: nothing to ask), and it has what their templates refer to.
    """
    row = PromptRow.model_validate(content)
    own = grader.of(row.category)
    system_prompt = own.content.system_prompt
    try:
        text = with_system_prompt(row.text_or_messages, system_prompt)
        tokens = encode_prompt(reading.tokenizer, text, reading.eos_ids)
    except TokenizationError as error:
        raise JobFailure("data_invalid", f"row {row_id}: {error}") from None
    _check_length(row_id, len(tokens), longest, reading.context_length)
    view = prompt_view(row, row_id, system_prompt)
    criteria = own.criteria_of(view)
    _check_criteria(row_id, view, criteria)
    if view.get("criteria") and isinstance(config, OnPolicyConfig | EvaluateConfig):
        _check_options(row_id, criteria, own, config)
    return Prompt(row_id, tokens, view)


def _check_length(row_id: str, prompt: int, completion: int, context: int | None) -> None:
    if context is not None and prompt + completion > context:
        raise JobFailure(
            "data_invalid",
            f"row {row_id}: its prompt has {prompt} tokens, and with max_completion_tokens {completion} it does not fit into "
            f"the model's context of {context}; shorten the prompt or the completions",
        )


def _check_criteria(row_id: str, view: dict[str, Any], criteria: list[Criterion]) -> None:
    if all(criterion.audit for criterion in criteria):
        raise JobFailure(
            "data_invalid",
            f"row {row_id}: no criterion that counts applies to it (category {view['category']!r}, tags {view['tags']}); "
            "widen 'applies_to', give the row criteria of its own, or leave it out",
        )
    for name in prompt_needs(criteria):
        if _lookup(view, name) is None:
            message = f"row {row_id} has no '{name.removeprefix('prompt.')}', which a grader of the rubric needs"
            raise JobFailure("data_invalid", message)


def _check_options(
    row_id: str, criteria: list[Criterion], grader: RubricGrader, config: OnPolicyConfig | EvaluateConfig
) -> None:
    """The row's own criteria allow the job's options, as the rubric's did at submit."""
    options = config.model_copy(update={"aggregation": grader.aggregation})
    for problem in option_mismatches(options, grader.weights_of(criteria)):
        raise JobFailure("data_invalid", f"row {row_id}: {problem.message}")


def _lookup(view: dict[str, Any], name: str) -> Any:
    here: Any = view
    for part in name.split(".")[1:]:
        here = here.get(part) if isinstance(here, dict) else None
    return here
