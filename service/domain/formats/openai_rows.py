"""Rows of OpenAI's fine-tuning: conversations, and preferences of two answers to one input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from service.domain.formats.reading import Options, Reading, Shape
from service.domain.formats.source import Fault, Source, fail
from service.domain.formats.trl import conversation

_BESIDE = ("tools", "parallel_tool_calls", "functions", "function_call")


def _is_chat(row: Mapping[str, Any]) -> bool:
    """Messages with something that only OpenAI's have; plain ones are TRL's as well."""
    messages = row.get("messages")
    if not isinstance(messages, list) or "prompt" in row:
        return False
    odd = any(
        isinstance(m, dict)
        and (m.keys() - {"role", "content"} or not isinstance(m.get("content"), str) or m.get("role") == "developer")
        for m in messages
    )
    return odd or any(name in row for name in _BESIDE)


def _chat(source: Source, options: Options) -> Reading:
    """An answer with `weight` 0 is not trained on, and so none to imitate."""
    found = conversation(source, options)
    last = source.row["messages"][-1]
    weight = last.get("weight")
    if found.good is not None and weight is not None:
        place = f"{source.at('messages')}/{len(source.row['messages']) - 1}/weight"
        if isinstance(weight, bool) or weight not in (0, 1):
            fail(place, "invalid_weight", "the weight of a message is 0 or 1")
        if weight == 0:
            message = "the answer has weight 0, so it is none to imitate; on_error=skip leaves such rows out"
            found.good, found.no_answer = None, Fault(place, "no_answer", message)
    return found


def _write_chat(reading: Reading) -> dict[str, Any]:
    return {"messages": reading.messages if reading.good is None else reading.conversation(reading.good)}


def _preference(source: Source, _options: Options) -> Reading:
    given = source.inner("input")
    prompt = given.turns("messages")
    answers = []
    for name in ("preferred_output", "non_preferred_output"):
        turns = source.turns(name)
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            message = f"'{name}' must be one message of the assistant; conversations that part earlier are no pair here"
            fail(source.at(name), "invalid_completion", message)
        answers.append(turns[0]["content"])
    good, bad = answers
    return Reading(prompt, good, bad, joined=True)


def _write_preference(reading: Reading) -> dict[str, Any]:
    sides = [[{"role": "assistant", "content": text}] for text in (reading.good, reading.bad)]
    return {"input": {"messages": reading.messages}, "preferred_output": sides[0], "non_preferred_output": sides[1]}


SHAPES = (
    Shape("openai", "preference", lambda row: "preferred_output" in row or "non_preferred_output" in row, _preference,
          _write_preference,
          {"prompt": "input/messages", "messages": "input/messages", "chosen": "preferred_output",
           "rejected": "non_preferred_output"}, exports=("preferences",)),
    Shape("openai", "chat", lambda row: "messages" in row, _chat, _write_chat, exports=("demonstrations", "prompts"),
          distinct=_is_chat),
)  # fmt: skip
