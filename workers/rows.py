"""A job's demonstrations and pairs: from rows to tokens, with everything checked that could fail later.

`JobFailure(data_invalid)` names the row and says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from service.domain.algorithm import SftConfig
from service.domain.dataset import DemonstrationRow, PreferenceRow
from service.domain.job_state import JobFailure
from workers.algorithms.base import Demonstration, Preference
from workers.policy.loading import Reading
from workers.policy.tokenization import TokenizationError, encode_demonstration, encode_preference
from workers.policy.turns import encode_turns

Rows = Iterable[tuple[int, dict[str, Any]]]
T = TypeVar("T")


def read_demonstrations(dataset: str, rows: Rows, reading: Reading, config: Any) -> list[Demonstration]:
    """Every row, tokenised as the algorithm learns it."""
    every_turn = isinstance(config, SftConfig) and config.loss_on == "assistant"

    def read(row_id: str, content: dict[str, Any]) -> Demonstration:
        row = DemonstrationRow.model_validate(content)
        trained: list[bool] | None = None
        if every_turn:
            prompt, completion, trained = encode_turns(reading.tokenizer, row, reading.eos_ids)
        else:
            prompt, completion = encode_demonstration(reading.tokenizer, row, reading.eos_ids)
        _check_whole(row_id, len(prompt) + len(completion), reading.context_length)
        return Demonstration(row_id, prompt, completion, row.weight, trained)

    return _each(dataset, rows, read)


def read_preferences(dataset: str, rows: Rows, reading: Reading) -> list[Preference]:
    """Every pair, both sides tokenised after the same prompt."""

    def read(row_id: str, content: dict[str, Any]) -> Preference:
        row = PreferenceRow.model_validate(content)
        prompt, chosen, rejected = encode_preference(reading.tokenizer, row, reading.eos_ids)
        _check_whole(row_id, len(prompt) + max(len(chosen), len(rejected)), reading.context_length)
        return Preference(row_id, prompt, chosen, rejected, row.margin or 0.0)

    return _each(dataset, rows, read)


def _each(dataset: str, rows: Rows, read: Callable[[str, dict[str, Any]], T]) -> list[T]:
    found = []
    for seq, content in rows:
        row_id = f"{dataset}:{seq}"
        try:
            found.append(read(row_id, content))
        except TokenizationError as error:
            raise JobFailure("data_invalid", f"row {row_id}: {error}") from None
    return found


def _check_whole(row_id: str, whole: int, context: int | None) -> None:
    if context is not None and whole > context:
        raise JobFailure("data_invalid", f"row {row_id} has {whole} tokens, more than the model's context of {context}")
