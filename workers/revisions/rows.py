"""What a decided pair leaves behind: its result, and the rows that it gives to datasets, with their lineage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from service.domain.dataset import ROWS
from service.domain.ids import new_id
from service.domain.lineage import Lineage
from service.domain.revision import Comparison

EQUAL = Comparison(reason="equal_texts", message="both texts are equal")
EMPTY = Comparison(reason="empty", message="one of the two texts is empty, and no row of preferences can hold it")


def unfit(kind: str, original: str, better: str) -> Comparison | None:
    """Why two texts need not be graded: they are equal, or they can be no pair. An empty original may still be revised."""
    if original.strip() == better.strip():
        return EQUAL
    return EMPTY if kind != "revision" and not (original and better) else None


@dataclass(frozen=True, slots=True)
class Side:
    """A completion of a pair: its id, and that of the completion that has its fresh cells."""

    id: str
    text: str
    regraded: str | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """A decided pair. `lineage` has what the rows share beside the sides and the numbers."""

    kind: str
    position: int
    prompt: Mapping[str, Any]
    original: Side
    better: Side | None
    comparison: Comparison
    lineage: Mapping[str, Any]


def result_row(pair: Pair, uses: frozenset[str] | set[str]) -> dict[str, Any]:
    """The result, with a preference and a demonstration where it is accepted and the uses want them.

    A revision of an empty text gives a demonstration alone: no row of preferences can hold the original.
    """
    result_id, found = new_id("result"), pair.comparison
    preference = demonstration = None
    if found.accepted and pair.better is not None:
        lineage = _lineage(pair, result_id)
        wanted = {"pairs"} if pair.kind == "revision" else {"pairs_from_group", "labels"}
        if uses & wanted and pair.original.text:
            preference = preference_row(pair, lineage)
        if pair.kind == "revision" and "demonstrations" in uses:
            demonstration = demonstration_row(pair, lineage)
    return {
        "id": result_id,
        "position": pair.position,
        "kind": pair.kind,
        "original_id": pair.original.id,
        "better_id": pair.better.id if pair.better is not None else None,
        "accepted": found.accepted,
        "reason": found.reason,
        "message": found.message,
        "original_reward": found.original,
        "better_reward": found.better,
        "difference": found.difference,
        "standard_error": found.standard_error,
        "threshold": found.threshold,
        "data": {
            **pair.lineage,
            "original_regraded": pair.original.regraded,
            "better_regraded": pair.better.regraded if pair.better is not None else None,
        },
        "preference": preference,
        "demonstration": demonstration,
    }


def _lineage(pair: Pair, result_id: str) -> Lineage:
    assert pair.better is not None
    found = pair.comparison
    return Lineage.model_validate(
        {
            **pair.lineage,
            "kind": pair.kind,
            "result": result_id,
            "chosen": {"completion": pair.better.id, "plain_reward": found.better},
            "rejected": {"completion": pair.original.id, "plain_reward": found.original},
            "difference": found.difference,
            "standard_error": found.standard_error,
            "threshold": found.threshold,
        }
    )


def preference_row(pair: Pair, lineage: Lineage) -> dict[str, Any]:
    """A row of preferences; the margin is the difference of plain rewards, if there is one."""
    assert pair.better is not None
    prompt = written_prompt(pair.prompt)
    texts = {"chosen": pair.better.text, "rejected": pair.original.text}
    sides: dict[str, Any] = texts
    if not isinstance(prompt, str):
        sides = {name: [{"role": "assistant", "content": text}] for name, text in texts.items()}
    margin = {"margin": lineage.difference} if lineage.difference is not None else {}
    return _checked("preferences", {"prompt": prompt, **sides, **margin, "lineage": lineage})


def demonstration_row(pair: Pair, lineage: Lineage) -> dict[str, Any]:
    """A row of demonstrations."""
    assert pair.better is not None
    prompt, text = written_prompt(pair.prompt), pair.better.text
    if isinstance(prompt, str):
        return _checked("demonstrations", {"prompt": prompt, "completion": text, "lineage": lineage})
    messages = [*prompt, {"role": "assistant", "content": text}]
    return _checked("demonstrations", {"messages": messages, "lineage": lineage})


def _checked(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    """As a row that somebody posts is checked and stored."""
    found: dict[str, Any] = ROWS[kind].validate_python(row).model_dump(mode="json", exclude_unset=True)
    return found


def written_prompt(view: Mapping[str, Any]) -> str | list[dict[str, str]]:
    """A prompt as the policy read it: the text, or the messages, a rubric's system prompt included (`shown_messages`)."""
    if view.get("form") == "text":
        return "\n\n".join(message["content"] for message in view["messages"])
    return [dict(message) for message in view["messages"]]
