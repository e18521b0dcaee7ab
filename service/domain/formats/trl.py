"""TRL's dataset types, each in its plain and its conversational form: fields of texts, or of lists of messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from service.domain.formats.reading import Options, Reading, Shape, pair
from service.domain.formats.source import Fault, Source, fail

Row = Mapping[str, Any]


def _has(*names: str, without: tuple[str, ...] = ()) -> Callable[[Row], bool]:
    return lambda row: all(name in row for name in names) and not any(name in row for name in without)


def _plain_language(source: Source, _options: Options) -> Reading:
    """A text without a prompt: all of it is learned."""
    text = source.text("text")
    if not text:
        fail(source.at("text"), "empty", "'text' is empty")
    return Reading("", text)


def _language_prompt(reading: Reading) -> dict[str, Any]:
    if reading.joined:
        return {"messages": reading.conversation(reading.good or "")}
    return {"text": f"{reading.prompt if isinstance(reading.prompt, str) else ''}{reading.good or ''}"}


def conversation(source: Source, _options: Options) -> Reading:
    """Messages that may end with the assistant's answer."""
    found = source.turns("messages")
    if found[-1]["role"] != "assistant":
        message = "the conversation does not end with the assistant's answer; import it into a dataset of kind prompts"
        return Reading(found, no_answer=Fault(f"{source.at('messages')}/{len(found) - 1}/role", "no_answer", message))
    if len(found) < 2:
        fail(source.at("messages"), "no_prompt", "the conversation holds an answer and nothing that it answers")
    return Reading(found[:-1], found[-1]["content"], joined=True)


def _messages(reading: Reading) -> dict[str, Any]:
    return {"messages": reading.messages if reading.good is None else reading.conversation(reading.good)}


def _prompt_only(source: Source, _options: Options) -> Reading:
    return Reading(source.prompt())


def _completion(source: Source, _options: Options) -> Reading:
    prompt, answer = source.prompt(), source.prompt("completion")
    if isinstance(answer, str):
        return Reading(prompt, answer)
    if isinstance(prompt, str):
        fail(source.at("completion"), "mixed_shapes", "'prompt' and 'completion' must both be texts or both messages")
    if answer[-1]["role"] != "assistant":
        place = f"{source.at('completion')}/{len(answer) - 1}/role"
        fail(place, "invalid_role", "a completion ends with the assistant's message")
    return Reading([*prompt, *answer[:-1]], answer[-1]["content"])


def _prompt_and_completion(reading: Reading) -> dict[str, Any]:
    return {"prompt": reading.prompt, "completion": reading.completion(reading.good or "")}


def _unpaired(source: Source, options: Options) -> Reading:
    found = _completion(source, options)
    label = source.value("label")
    if label not in (True, False):
        fail(source.at("label"), "bool_type", "'label' says whether the completion is good: true or false")
    if not label:
        message = "'label' is false: the completion is bad, and so none to imitate; on_error=skip leaves such rows out"
        found.good, found.no_answer = None, Fault(source.at("label"), "bad_completion", message)
    message = "a row with a 'label' holds one completion, and a pair needs two of the same prompt"
    found.no_pair = Fault(source.at("label"), "no_pair", message)
    return found


def _stepwise(source: Source, _options: Options) -> Reading:
    prompt, steps, labels = source.prompt(), source.items("completions"), source.items("labels")
    if len(steps) != len(labels):
        message = f"'labels' has {len(labels)} values for {len(steps)} steps in 'completions'"
        fail(source.at("labels"), "length", message)
    for position, (step, label) in enumerate(zip(steps, labels, strict=True)):
        if not isinstance(step, str):
            fail(f"{source.at('completions')}/{position}", "string_type", "a step is a text")
        if label not in (True, False):
            fail(f"{source.at('labels')}/{position}", "bool_type", "a step's label is true or false")
    no_pair = Fault(source.at("labels"), "no_pair", "labelled steps are one answer, and a pair needs two")
    wrong = next((position for position, label in enumerate(labels) if not label), None)
    if wrong is None:
        return Reading(prompt, "\n\n".join(steps), no_pair=no_pair)
    message = f"step {wrong} is labelled false, so the answer is none to imitate; on_error=skip leaves such rows out"
    no_answer = Fault(f"{source.at('labels')}/{wrong}", "bad_completion", message)
    return Reading(prompt, no_answer=no_answer, no_pair=no_pair)


def _explicit(source: Source, _options: Options) -> Reading:
    return pair(source, source.prompt(), "chosen", "rejected")


def _implicit(source: Source, _options: Options) -> Reading:
    return pair(source, None, "chosen", "rejected")


def _explicit_pair(reading: Reading) -> dict[str, Any]:
    good, bad = reading.completion(reading.good or ""), reading.completion(reading.bad or "")
    return {"prompt": reading.prompt, "chosen": good, "rejected": bad}


def _implicit_pair(reading: Reading) -> dict[str, Any]:
    if isinstance(reading.prompt, str):
        return {"chosen": f"{reading.prompt}{reading.good}", "rejected": f"{reading.prompt}{reading.bad}"}
    return {"chosen": reading.conversation(reading.good or ""), "rejected": reading.conversation(reading.bad or "")}


SHAPES = (
    Shape("trl", "stepwise", _has("prompt", "completions", "labels"), _stepwise, lambda r: {"prompt": r.prompt},
          {"completion": "completions"}),
    Shape("trl", "unpaired", _has("prompt", "completion", "label"), _unpaired,
          lambda r: {**_prompt_and_completion(r), "label": True}),
    Shape("trl", "prompt_completion", _has("prompt", "completion"), _completion, _prompt_and_completion,
          exports=("demonstrations",)),
    Shape("trl", "preference", _has("prompt", "chosen", "rejected"), _explicit, _explicit_pair, exports=("preferences",)),
    Shape("trl", "implicit_preference", _has("chosen", "rejected", without=("prompt",)), _implicit, _implicit_pair),
    Shape("trl", "conversation", _has("messages", without=("prompt",)), conversation, _messages,
          exports=("demonstrations",)),
    Shape("trl", "text", _has("text", without=("prompt", "messages")), _plain_language, _language_prompt,
          {"completion": "text"}),
    Shape("trl", "prompt_only", _has("prompt"), _prompt_only, lambda r: {"prompt": r.prompt}, {"messages": "prompt"},
          exports=("prompts",)),
)  # fmt: skip
