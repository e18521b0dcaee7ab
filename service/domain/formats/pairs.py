"""Anthropic's HH, UltraFeedback as it was made and as it was binarised, and constitutional AI with its critiques."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from service.domain.formats.reading import Options, Reading, Shape, pair
from service.domain.formats.source import Fault, Source, Turn, fail

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ANSWER = "\n\nAssistant:"
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
_NAMES = {"user": "Human", "assistant": "Assistant"}


# --- HH: a conversation in one text ---


def _is_hh(row: Mapping[str, Any]) -> bool:
    texts = [row.get("chosen"), row.get("rejected")]
    return "prompt" not in row and all(isinstance(text, str) and _TURN.match(text) for text in texts)


def _hh(source: Source, _options: Options) -> Reading:
    """The prompt is what both share, up to the last turn of the assistant."""
    chosen, rejected = source.text("chosen"), source.text("rejected")
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not _TURN.match(text):
            fail(source.at(name), "no_turns", "a text of HH begins with '\\n\\nHuman:'")
    shared = next((k for k, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    shared = min(len(chosen), len(rejected)) if shared is None else shared
    cut = chosen.rfind(_ANSWER, 0, shared)
    if cut < 0:
        fail(source.at("rejected"), "no_prompt", "'chosen' and 'rejected' share no prompt up to '\\n\\nAssistant:'")
    start = cut + len(_ANSWER)
    answers = {"chosen": chosen[start:], "rejected": rejected[start:]}
    for name, answer in answers.items():
        if _TURN.search(answer):
            message = "the two conversations part before their last turn; a pair is two answers to one prompt"
            fail(source.at(name), "parts_early", message)
        if not answer.strip():
            fail(source.at(name), "empty", f"the last answer of '{name}' is empty")
    prompt = _parsed(chosen[:cut])
    if prompt[-1]["role"] == "assistant":
        fail(source.at("chosen"), "invalid_prompt", "two turns of the assistant follow each other")
    return Reading(prompt, _spoken(answers["chosen"]), _spoken(answers["rejected"]), joined=True)


def _parsed(text: str) -> list[Turn]:
    pieces = _TURN.split(text)[1:]
    return [
        {"role": _SPEAKERS[speaker], "content": _spoken(said)}
        for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def _spoken(text: str) -> str:
    return text.removeprefix(" ")


def _write_hh(reading: Reading) -> dict[str, Any]:
    lines = []
    for turn in reading.messages:
        if turn["role"] not in _NAMES:
            fail("", "no_system_turn", "HH has no system turn, and this row has one; export another format")
        if _TURN.search(turn["content"]):
            fail("", "ambiguous", "a message holds '\\n\\nHuman:' or '\\n\\nAssistant:', which HH reads as a turn")
        lines.append(f"\n\n{_NAMES[turn['role']]}: {turn['content']}")
    start = "".join(lines) + _ANSWER
    for answer in (reading.good, reading.bad):
        if answer is not None and _TURN.search(answer):
            fail("", "ambiguous", "an answer holds '\\n\\nHuman:' or '\\n\\nAssistant:', which HH reads as a turn")
    return {"chosen": f"{start} {reading.good}", "rejected": f"{start} {reading.bad}"}


# --- UltraFeedback ---

_ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def _is_ultrafeedback(row: Mapping[str, Any]) -> bool:
    answers = row.get("completions")
    return "instruction" in row and isinstance(answers, list) and all(isinstance(a, dict) for a in answers)


def _ultrafeedback(source: Source, _options: Options) -> Reading:
    """Best and worst answer by the mean of the four ratings; by `fine-grained_score`, then `overall_score`, if one lacks ratings.

    The mean first: `overall_score` of the published data has known errors (a 1 read as 10).
    """
    prompt: list[Turn] = [{"role": "user", "content": source.text("instruction")}]
    answers = [Source(a, f"{source.at('completions')}/{k}") for k, a in enumerate(_objects(source, "completions"))]
    texts = [answer.text("response") for answer in answers]
    for score in (_rated, lambda a: _score(a, "fine-grained_score"), lambda a: _score(a, "overall_score")):
        scores = [score(answer.row) for answer in answers]
        if None not in scores:
            break
    else:
        message = "the answers have neither ratings nor scores in common, so none is the better one"
        missing = Fault(source.at("completions"), "no_scores", message)
        return Reading(prompt, no_answer=missing, no_pair=missing)
    known = [value for value in scores if value is not None]
    best, worst = known.index(max(known)), known.index(min(known))
    if known[best] == known[worst]:
        message = (
            f"all answers are rated {known[best]:g}, so none is the better one; on_error=skip leaves such rows out"
        )
        tie = Fault(source.at("completions"), "tie", message)
        return Reading(prompt, texts[best] if len(texts) == 1 else None, no_answer=tie, no_pair=tie)
    return Reading(prompt, texts[best], texts[worst])


def _objects(source: Source, name: str) -> list[dict[str, Any]]:
    found = source.items(name)
    for position, value in enumerate(found):
        if not isinstance(value, dict):
            fail(
                f"{source.at(name)}/{position}",
                "object_type",
                "an answer is an object with 'response' and 'annotations'",
            )
    return found


def _rated(answer: Mapping[str, Any]) -> float | None:
    """The mean of the four ratings, which are texts in the published data; null if one is missing or "N/A"."""
    aspects = answer.get("annotations")
    ratings = [aspects[name] if isinstance(aspects, dict) and name in aspects else None for name in _ASPECTS]
    numbers = [_number(rating.get("Rating")) if isinstance(rating, dict) else None for rating in ratings]
    found = [number for number in numbers if number is not None]
    return math.fsum(found) / len(found) if len(found) == len(_ASPECTS) else None


def _score(answer: Mapping[str, Any], name: str) -> float | None:
    return _number(answer.get(name))


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return float(value) if re.fullmatch(r"\d{1,3}(\.\d{1,9})?", value.strip(), re.ASCII) else None
    return None if isinstance(value, bool) or not isinstance(value, int | float) else float(value)


def _is_binarised(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("prompt"), str) and "prompt_id" in row and isinstance(row.get("chosen"), list)


def _binarised(source: Source, _options: Options) -> Reading:
    """`messages` says again what `chosen` says, and comes back with the row."""
    source.taken.add("messages")
    found = pair(source, source.text("prompt"), "chosen", "rejected")
    found.joined = True
    return found


def _write_conversations(reading: Reading) -> dict[str, Any]:
    """Both answers with the prompt's turns before them, as UltraFeedback and constitutional AI have them."""
    users = [turn["content"] for turn in reading.messages if turn["role"] == "user"]
    if not users:
        fail("", "no_user_turn", "the format needs a message of the user, and this row has none; export another format")
    good, bad = reading.conversation(reading.good or ""), reading.conversation(reading.bad or "")
    return {"prompt": users[-1], "messages": good, "chosen": good, "rejected": bad}


# --- Constitutional AI: a first answer, its critique, its revision ---


def _is_cai(row: Mapping[str, Any]) -> bool:
    return "init_response" in row and "revision_response" in row


def _cai(source: Source, _options: Options) -> Reading:
    """The revision is the better answer. The critique stays in the row's metadata."""
    if source.has("chosen") and source.has("rejected"):
        prompt = source.prompt("prompt") if source.has("prompt") else None
        source.taken.add("messages")
        found = pair(source, prompt, "chosen", "rejected")
    else:
        name = "prompt" if isinstance(source.row.get("prompt"), str) else "init_prompt"
        turn: Turn = {"role": "user", "content": source.text(name)}
        found = Reading([turn], source.text("revision_response"), source.text("init_response"))
    found.joined = True
    return found


def _is_pair(row: Mapping[str, Any]) -> bool:
    return "chosen" in row and "rejected" in row


SHAPES = (
    Shape("cai", "chain", lambda row: _is_cai(row) or _is_pair(row), _cai, _write_conversations, {"completion": "chosen"},
          distinct=_is_cai),
    Shape("ultrafeedback", "raw", _is_ultrafeedback, _ultrafeedback, lambda r: {"instruction": r.messages[-1]["content"]},
          {"chosen": "completions", "rejected": "completions", "completion": "completions", "prompt": "instruction"}),
    Shape("ultrafeedback", "binarized", lambda row: "prompt" in row and _is_pair(row), _binarised, _write_conversations,
          exports=("preferences",), distinct=_is_binarised),
    Shape("hh", "pair", lambda row: "prompt" not in row and _is_pair(row), _hh, _write_hh,
          {"messages": "chosen", "prompt": "chosen"}, exports=("preferences",), distinct=_is_hh),
)  # fmt: skip
