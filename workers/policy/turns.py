"""Where the assistant speaks in a conversation: which tokens are learned when every turn of it is trained.

A chat template that marks its answers (`{% generation %}`) says so itself. Any other is asked: rendered up to each answer, and up to
its end, it shows where the answer lies, if both are beginnings of the whole. A template that writes earlier turns differently once
later ones follow (some drop the reasoning in them) cannot be taken apart so, and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from service.domain.conversation import Message
from service.domain.dataset import DemonstrationRow
from workers.policy.tokenization import TokenizationError, conversation_of, encode_demonstration, render

_MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")
INSTEAD = "mark the answers in the template with {% generation %}, or train with algorithm.loss_on 'completion'"


def encode_turns(
    tokenizer: Any, row: DemonstrationRow, eos_ids: Sequence[int]
) -> tuple[list[int], list[int], list[bool]]:
    """(prompt, completion, trained): everything before the first answer, everything from there on, and which of it is an answer.

    The end token after an answer belongs to it. Plain text has no turns: its completion is the answer.
    """
    messages = conversation_of(row)
    if messages is None:
        prompt, completion = encode_demonstration(tokenizer, row, eos_ids)
        return prompt, completion, [True] * len(completion)
    whole, trained = _marked(tokenizer, messages) or _compared(tokenizer, messages)
    trained = _up_to_their_ends(trained, whole, eos_ids)
    first = trained.index(True)
    end = len(whole) - trained[::-1].index(True)
    if first == 0:
        raise TokenizationError("the conversation begins with the assistant, and the template writes nothing before it")
    completion, learned = whole[first:end], trained[first:end]
    if completion[-1] not in eos_ids:
        completion, learned = [*completion, eos_ids[0]], [*learned, True]
    return whole[:first], completion, learned


def _up_to_their_ends(trained: Sequence[bool], whole: Sequence[int], eos_ids: Sequence[int]) -> list[bool]:
    """Each answer with the end token that closes it, in it or behind it, and nothing that a template writes after that."""
    found = [False] * len(trained)
    start = 0
    while start < len(trained):
        stop = start
        while stop < len(trained) and trained[stop]:
            stop += 1
        if stop > start:
            ends = [t for t in range(start, stop) if whole[t] in eos_ids]
            last = ends[-1] + 1 if ends else stop + (stop < len(whole) and whole[stop] in eos_ids)
            found[start:last] = [True] * (last - start)
        start = stop + 1
    return found


def _marked(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[bool]] | None:
    """By the template's own markers; null if it has none."""
    if not isinstance(tokenizer.chat_template, str) or not _MARKER.search(tokenizer.chat_template):
        return None
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        found = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    except Exception as error:  # templates raise whatever they like, in a language of their own
        raise TokenizationError(f"the chat template refuses these messages: {error}") from None
    trained = [bool(flag) for flag in found["assistant_masks"]]
    if not any(trained):
        raise TokenizationError(
            "the chat template marks no answer in this conversation ({% generation %} is never reached)"
        )
    return list(found["input_ids"]), trained


def _compared(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[bool]]:
    """By rendering the conversation up to each answer and up to its end."""
    whole = render(tokenizer, messages, generation_prompt=False)
    trained = [False] * len(whole)
    for k, message in enumerate(messages):
        if message.role != "assistant":
            continue
        before = render(tokenizer, messages[:k], generation_prompt=True) if k else []
        after = render(tokenizer, messages[: k + 1], generation_prompt=False)
        if whole[: len(before)] != before or whole[: len(after)] != after or len(after) <= len(before):
            raise TokenizationError(
                f"the chat template writes turn {k + 1} differently once others follow, so the assistant's words cannot be "
                f"told apart; {INSTEAD}"
            )
        trained[len(before) : len(after)] = [True] * (len(after) - len(before))
    return whole, trained
