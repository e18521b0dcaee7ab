"""Reading a judge's reply: exactly what was asked, or a named failure. Nothing is repaired."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.domain.grade import CellStatus
from service.domain.rubric import Criterion, LevelScale, UnitScale

MAX_STARTS = 1000
MAX_DIGITS = 400
"""A longer whole number is out of any range, and Python refuses to read it."""

_MARKS = re.compile(r"""\{(?=\s*["}])|</?think>""")


@dataclass(frozen=True, slots=True)
class Verdict:
    """An accepted answer; `score` is after polarity."""

    score: float
    confidence: float | None
    reasoning: str | None
    note: str | None = None
    """What an ok verdict lacks, and why."""


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer, and why."""

    status: CellStatus
    reason: str
    reasoning: str | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reply says on each asked criterion.

    `unasked` counts the verdicts that it gives on anything else. `start` is where the accepted object begins in the reply,
    and `entries` the position of each asked criterion's only entry in its list of verdicts.
    """

    outcomes: dict[str, Verdict | Failure]
    unasked: int = 0
    start: int = 0
    entries: dict[str, int] = field(default_factory=dict)


class _Malformed(ValueError):
    pass


class _Object(dict[str, Any]):
    """A JSON object, with what Python's decoder would forgive: keys that stand twice, NaN and the infinities."""

    fault: str | None = None
    nonces: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class _Constant:
    name: str


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    made.nonces = [value for name, value in pairs if name == "nonce"]
    if len(made) != len(pairs):
        made.fault = "a key stands twice in one object"
    else:
        made.fault = next((fault for _, value in pairs if (fault := _fault(value))), None)
    return made


def _fault(value: Any) -> str | None:
    if isinstance(value, _Constant):
        return f"JSON has no {value.name}"
    if isinstance(value, list):
        return next((fault for item in value if (fault := _fault(item))), None)
    return value.fault if isinstance(value, _Object) else None


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) <= MAX_DIGITS else math.copysign(math.inf, -1 if digits[0] == "-" else 1)


_DECODER = json.JSONDecoder(parse_constant=_Constant, parse_int=_whole, object_pairs_hook=_object)


def read_reply(text: str, nonce: str, criteria: Sequence[Criterion]) -> Reading:
    """A verdict or a failure for each asked criterion. Criteria that were not asked are ignored and counted."""
    try:
        start, entries = _entries(text, nonce)
    except _Malformed as error:
        return Reading({criterion.key: Failure("parse_error", str(error)) for criterion in criteria})
    named = [entry.get("criterion") for entry in entries]
    asked = {criterion.key for criterion in criteria}
    return Reading(
        outcomes={c.key: _verdict(c, [e for e in entries if e.get("criterion") == c.key]) for c in criteria},
        unasked=sum(not isinstance(name, str) or name not in asked for name in named),
        start=start,
        entries={key: named.index(key) for key in asked if named.count(key) == 1},
    )


def _entries(text: str, nonce: str) -> tuple[int, list[dict[str, Any]]]:
    """Where the one object that carries the nonce begins, and its list of verdicts."""
    marked = [(start, end, found) for start, end, found in _objects(text) if nonce in found.nonces]
    if len(marked) != 1:
        many = f"{len(marked)} objects carry" if marked else "no JSON object carries"
        raise _Malformed(f"{many} the nonce of this request; the reply began: {text.strip()[:120]!r}")
    start, end, found = marked[0]
    if found.fault:
        raise _Malformed(found.fault)
    if text[:start].rstrip()[-1:] in ("[", "{", ",") or text[end:].lstrip()[:1] in ("]", "}", ","):
        raise _Malformed("the object stands inside another value, or its brackets do not match")
    entries = found.get("verdicts")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _Malformed("'verdicts' is not a list of objects")
    return start, entries


def objects_in(text: str) -> list[dict[str, Any]]:
    """The JSON objects of a reply that are well formed, in their order."""
    return [dict(value) for _, _, value in _objects(text) if not value.fault]


def _objects(text: str) -> list[tuple[int, int, _Object]]:
    """Every JSON object in the text that is not part of another, with its place; thinking holds none.

    Prose, code fences and a byte order mark around an object are passed over. Tags inside of an object are text.
    """
    found: list[tuple[int, int, _Object]] = []
    position = 0
    for _ in range(MAX_STARTS):
        mark = _MARKS.search(text, position)
        if mark is None:
            break
        position = mark.end()
        if mark.group() == "<think>":
            end = text.find("</think>", position)
            if end >= 0:
                position = end + len("</think>")
            elif not text[: mark.start()].strip("\ufeff \t\r\n"):
                break  # thinking that never ends holds no answer; in the middle of a text the tag is only quoted
        elif mark.group() == "</think>":
            found.clear()  # its opening tag was the end of the question, as in many chat templates
        else:
            try:
                value, position = _DECODER.raw_decode(text, mark.start())
            except (ValueError, RecursionError):
                continue
            found.append((mark.start(), position, value))
    return found


def _verdict(criterion: Criterion, mine: Sequence[dict[str, Any]]) -> Verdict | Failure:
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
    score = score_of(criterion, value)
    if score is None:
        shown = repr(value)[:120]
        return Failure(
            "parse_error", f"the verdict {shown} is not an answer that criterion '{criterion.key}' allows", said
        )
    return Verdict(score, _share(entry.get("confidence")), said)


def score_of(criterion: Criterion, value: Any) -> float | None:
    """The score that an answer stands for, after polarity; null if the criterion does not allow it."""
    if isinstance(criterion.scale, LevelScale):
        return next((level.value for level in criterion.scale.levels if level.label == value), None)
    if isinstance(criterion.scale, UnitScale):
        return _share(value)
    if not isinstance(value, bool):
        return None
    return float(value != (criterion.polarity == "met_is_bad"))


def _share(value: Any) -> float | None:
    """A number in [0, 1]; out of range is no number at all, never clamped."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        return None
    return abs(float(value))  # -0.0 is 0


def value_place(text: str, start: int, path: Sequence[str | int]) -> tuple[int, int] | None:
    """Where a value stands in a JSON text that is known to be well formed: its first character and the one after its last."""
    if not path:
        return start, _DECODER.raw_decode(text, start)[1]
    for name, place in _members(text, start):
        if name == path[0]:
            return value_place(text, place, path[1:])
    return None


def _members(text: str, start: int) -> Iterator[tuple[str | int, int]]:
    """The names, or positions, of an object's or list's members, with the places where their values begin."""
    position = _skip(text, start + 1, "")
    index = 0
    while text[position] not in "]}":
        name: str | int = index
        if text[start] == "{":
            name, position = _DECODER.raw_decode(text, position)
            position = _skip(text, position, ":")
        yield name, position
        _, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position, ",")
        index += 1


def _skip(text: str, position: int, mark: str) -> int:
    """Behind white space, and behind `mark` where it stands there."""
    blank = re.compile(r"[ \t\n\r]*")
    position = blank.match(text, position).end()  # type: ignore[union-attr]
    if mark and text[position] == mark:
        position = blank.match(text, position + 1).end()  # type: ignore[union-attr]
    return position
