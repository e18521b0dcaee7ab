"""Reading a judge's reply: exactly what was asked, or a named failure. Nothing is repaired."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.domain.grade import CellStatus
from service.domain.rubric import Criterion, LevelScale, UnitScale

MAX_STARTS = 200


@dataclass(frozen=True, slots=True)
class Verdict:
    """An accepted answer; `score` is after polarity."""

    score: float
    confidence: float | None
    reasoning: str | None


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer, and why."""

    status: CellStatus
    reason: str
    reasoning: str | None = None


class _Malformed(ValueError):
    pass


def _no_constants(name: str) -> Any:
    raise _Malformed(f"JSON has no {name}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Malformed("a key stands twice in one object")
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_constants, object_pairs_hook=_no_duplicates)


def read_reply(text: str, nonce: str, criteria: Sequence[Criterion]) -> dict[str, Verdict | Failure]:
    """A verdict or a failure for each asked criterion. Criteria that were not asked are ignored."""
    try:
        entries = _entries(text, nonce)
    except _Malformed as error:
        return {criterion.key: Failure("parse_error", str(error)) for criterion in criteria}
    return {criterion.key: _verdict(criterion, entries) for criterion in criteria}


def _entries(text: str, nonce: str) -> list[dict[str, Any]]:
    cleaned = re.sub(r"<think>.*?</think>", "", text.removeprefix("\ufeff"), flags=re.DOTALL)
    cleaned = cleaned.split("<think>", 1)[0]  # thinking that never ends holds no answer
    marked = [found for found in _objects(cleaned) if found.get("nonce") == nonce]
    if len(marked) != 1:
        many = f"{len(marked)} objects carry" if marked else "no JSON object carries"
        raise _Malformed(f"{many} the nonce of this request; the reply began: {text.strip()[:120]!r}")
    entries = marked[0].get("verdicts")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _Malformed("'verdicts' is not a list of objects")
    return entries


def _objects(text: str) -> list[dict[str, Any]]:
    """Every top-level JSON object in the text, with or without prose and code fences around."""
    found: list[dict[str, Any]] = []
    start = 0
    for _ in range(MAX_STARTS):
        start = text.find("{", start)
        if start < 0:
            break
        try:
            value, start = _DECODER.raw_decode(text, start)
            found.append(value)
        except _Malformed:
            raise
        except (ValueError, RecursionError):
            start += 1
    return found


def _verdict(criterion: Criterion, entries: Sequence[dict[str, Any]]) -> Verdict | Failure:
    mine = [entry for entry in entries if entry.get("criterion") == criterion.key]
    if len(mine) != 1:
        count = "no verdict" if not mine else f"{len(mine)} verdicts"
        return Failure("parse_error", f"the reply has {count} on criterion '{criterion.key}'")
    entry = mine[0]
    reasoning = entry.get("reasoning")
    said = reasoning if isinstance(reasoning, str) and reasoning.strip() else None
    if "verdict" not in entry:
        return Failure("parse_error", "the verdict is missing", said)
    value = entry["verdict"]
    if value is None:
        return Failure("abstain", said or "the judge says that it cannot assess this", said)
    score = _score(criterion, value)
    if score is None:
        return Failure(
            "parse_error", f"the verdict {value!r} is not an answer that criterion '{criterion.key}' allows", said
        )
    return Verdict(score, _confidence(entry.get("confidence")), said)


def _score(criterion: Criterion, value: Any) -> float | None:
    if isinstance(criterion.scale, LevelScale):
        return next((level.value for level in criterion.scale.levels if level.label == value), None)
    if isinstance(criterion.scale, UnitScale):
        return _confidence(value)
    if not isinstance(value, bool):
        return None
    return float(value != (criterion.polarity == "met_is_bad"))


def _confidence(value: Any) -> float | None:
    """A number in [0, 1]; out of range is no number at all, never clamped."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    return float(value)
