"""From rows to token ids. Prompts and completions are tokenised apart, as they meet the model when it samples."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from service.domain.conversation import Message
from service.domain.dataset import DemonstrationRow, PreferenceRow

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


class TokenizationError(ValueError):
    """A row that this model cannot be given; the message says why."""


def eos_ids_of(model: Any, tokenizer: Any) -> list[int]:
    """Every id that ends a completion: the tokenizer's, and all of the generation and model configurations'."""
    found: set[int] = set()
    sources = (
        tokenizer.eos_token_id,
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(model.config, "eos_token_id", None),
    )
    for value in sources:
        if isinstance(value, int):
            found.add(value)
        elif value is not None:
            found.update(int(item) for item in value)
    return sorted(found)


def encode_prompt(tokenizer: Any, prompt: str | Sequence[Message], eos_ids: Sequence[int]) -> list[int]:
    """The ids that the policy continues: plain text as it is, messages through the chat template."""
    if isinstance(prompt, str):
        ids: list[int] = list(tokenizer(prompt)["input_ids"])
        while ids and ids[-1] in eos_ids:  # some tokenizers end every text; nothing could follow that
            ids.pop()
    else:
        ids = render(tokenizer, prompt, generation_prompt=True)
    if not ids:
        raise TokenizationError("the prompt has no tokens")
    return ids


def encode_demonstration(tokenizer: Any, row: DemonstrationRow, eos_ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Prompt ids and completion ids; the completion ends with an EOS id, which is trained like any other token."""
    messages = conversation_of(row)
    if messages is not None:
        prompt = render(tokenizer, messages[:-1], generation_prompt=True)
        whole = render(tokenizer, messages, generation_prompt=False)
        completion = whole[len(prompt) :] if whole[: len(prompt)] == prompt else _after_the_prompt(tokenizer, messages)
        # Templates often write a line break after the end of the turn; sampling stops before it.
        last = max((k for k, token in enumerate(completion) if token in eos_ids), default=None)
        completion = completion[: last + 1] if last is not None else [*completion, eos_ids[0]]
    else:
        assert isinstance(row.prompt, str)
        prompt = encode_prompt(tokenizer, row.prompt, eos_ids) if row.prompt else _start(tokenizer)
        ids = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
        completion = [*ids, _own_eos(tokenizer, eos_ids)]
    if not prompt:
        raise TokenizationError("the prompt has no tokens and the model has no BOS token to start from")
    return prompt, completion


def conversation_of(row: DemonstrationRow) -> list[Message] | None:
    """The row as messages that end with the assistant's; null for plain text."""
    if row.messages is not None:
        return row.messages
    if isinstance(row.prompt, str):
        return None
    assert row.prompt is not None
    assert row.completion is not None
    return [*row.prompt, Message(role="assistant", content=row.completion)]


def _after_the_prompt(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The answer's ids where a token of the whole would lie across its beginning: tokenised apart, as it is when it is sampled."""
    before, whole = (
        _written(tokenizer, turns, generation_prompt=prompt)
        for turns, prompt in ((messages[:-1], True), (messages, False))
    )
    if not whole.startswith(before):
        raise TokenizationError(
            "the chat template renders the prompt differently once the answer follows, so the two cannot be told apart"
        )
    return list(tokenizer(whole[len(before) :], add_special_tokens=False)["input_ids"])


def _written(tokenizer: Any, messages: Sequence[Message], *, generation_prompt: bool) -> str:
    """The text that the chat template makes; `render` has shown that it takes these messages."""
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text: str = tokenizer.apply_chat_template(turns, add_generation_prompt=generation_prompt, tokenize=False)
    return text


def encode_preference(
    tokenizer: Any, row: PreferenceRow, eos_ids: Sequence[int]
) -> tuple[list[int], list[int], list[int]]:
    """Ids of the prompt, the chosen and the rejected completion, as demonstrations of the same prompt are encoded."""
    sides = [
        encode_demonstration(tokenizer, DemonstrationRow(prompt=row.prompt, completion=row.text(name)), eos_ids)
        for name in ("chosen", "rejected")
    ]
    (prompt, chosen), (_, rejected) = sides
    if chosen == rejected:
        raise TokenizationError("chosen and rejected have the same tokens, so there is no preference")
    return prompt, chosen, rejected


def encode_scored(
    tokenizer: Any, prompt: Mapping[str, Any], completion: str, eos_ids: Sequence[int], *, as_demonstration: bool
) -> list[int]:
    """The ids that a reward model reads of a completion. `prompt` is a `prompt_view`.

    `as_demonstration`: as our own reward models were trained, so that plain prompts stay plain and nothing follows the end token.
    Other models know the whole conversation as their chat template writes it. Without a template a single user message is plain
    text, a rubric's system prompt before it as the policy had it, and the end token follows the answer.
    """
    messages = prompt["messages"]
    written = prompt.get("form") == "text"
    roles = [message["role"] for message in messages]
    plain = roles == ["user"] or (written and roles == ["system", "user"])
    if plain and (not tokenizer.chat_template or (as_demonstration and written)):
        start = encode_prompt(tokenizer, "\n\n".join(message["content"] for message in messages), eos_ids)
        ids = tokenizer(completion, add_special_tokens=False)["input_ids"]
        end = [_own_eos(tokenizer, eos_ids)] if eos_ids else []
        return [*start, *ids, *end]
    turns = [Message(role=m["role"], content=m["content"]) for m in messages]
    turns.append(Message(role="assistant", content=completion))
    if as_demonstration:
        start, ids = encode_demonstration(tokenizer, DemonstrationRow(messages=turns), eos_ids)
        return [*start, *ids]
    return render(tokenizer, turns, generation_prompt=False)


def encode_chat(tokenizer: Any, messages: Sequence[Message]) -> list[int]:
    """The ids that a chat model continues. Where its template takes no system message, the first user message begins with it."""
    try:
        return render(tokenizer, messages, generation_prompt=True)
    except TokenizationError:
        if not tokenizer.chat_template or len(messages) < 2 or messages[0].role != "system":
            raise
    system, user, *rest = messages
    merged = Message(role=user.role, content=f"{system.content}\n\n{user.content}")
    return render(tokenizer, [merged, *rest], generation_prompt=True)


def _own_eos(tokenizer: Any, eos_ids: Sequence[int]) -> int:
    return int(tokenizer.eos_token_id) if tokenizer.eos_token_id is not None else eos_ids[0]


def _start(tokenizer: Any) -> list[int]:
    return [int(tokenizer.bos_token_id)] if tokenizer.bos_token_id is not None else []


def render(tokenizer: Any, messages: Sequence[Message], *, generation_prompt: bool) -> list[int]:
    """The ids that the chat template makes of messages."""
    if not tokenizer.chat_template:
        raise TokenizationError(
            "the row holds messages and the model's tokenizer has no chat template; give 'prompt' as plain text, "
            "or save a chat template with the tokenizer"
        )
    turns = [{"role": message.role, "content": message.content} for message in messages]
    try:
        encoded = tokenizer.apply_chat_template(
            turns, add_generation_prompt=generation_prompt, tokenize=True, return_dict=True
        )
    except Exception as error:  # templates raise whatever they like, in a language of their own
        raise TokenizationError(f"the chat template refuses these messages: {error}") from None
    return list(encoded["input_ids"])


def decode(tokenizer: Any, tokens: Sequence[int], eos_ids: Sequence[int]) -> str:
    """The text that graders and people see: no special tokens, and U+FFFD for what text cannot hold."""
    kept = list(tokens[:-1]) if tokens and tokens[-1] in eos_ids else list(tokens)
    text: str = tokenizer.decode(kept, skip_special_tokens=True)
    return _UNSTORABLE.sub("\ufffd", text)
