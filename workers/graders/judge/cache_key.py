"""What a judged cell depends on, as one hash: two cells with the same key were asked the same question of the same judge.

Left out is what no judge sees and no score contains: a criterion's weight, tags, gate and the like, the judge's id and name, its
limits. Everything else is in, so that a field that is added later is in by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from service.domain.base import canonical_json
from service.domain.judge import JudgeConfig
from service.domain.rubric import Criterion

KEY_VERSION = 1
"""Raise it when replies are read in another way: cells that were read the old way are not found any more."""

_UNSEEN: Mapping[str, Any] = {
    "weight": True, "audit": True, "default_confidence": True, "tags": True, "applies_to": True, "gate": True,
    "grader": {"judge"},
}  # fmt: skip


def digest(*parts: Any) -> bytes:
    """sha256 of the canonical JSON of `parts`; bytes stand in it as hexadecimal digits."""
    plain = [part.hex() if isinstance(part, bytes) else part for part in parts]
    return hashlib.sha256(canonical_json(plain).encode()).digest()


@dataclass(slots=True)
class CellKeys:
    """The keys of one judge's cells under one rubric's guidelines. Parts that many cells share are hashed once.

    `weights`: of a judge that is a registered model, the hash of its files and how exactly it computes. It stands in the key in
    place of the model's id, so that the same files registered twice are one judge. How many threads compute, and what else is
    decoded at the same time, only moves roundings, and is not in it.
    """

    config: JudgeConfig
    guidelines: str
    weights: str = ""
    _judge: bytes = b""
    _criteria: dict[int, tuple[Criterion, bytes]] = field(default_factory=dict)
    _texts: dict[tuple[int, str], bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        told = self.config.model_dump(mode="json")
        if self.weights:
            told["model"] = self.weights
        self._judge = digest(KEY_VERSION, told, self.guidelines)

    def of(
        self, criterion: Criterion, chunk: Sequence[Criterion], prompt: Mapping[str, Any], text: str, reply_format: str
    ) -> bytes:
        """The key of a cell that is asked about in one question with the rest of `chunk`, and answered in this form."""
        together = [self._criterion(one) for one in chunk] if len(chunk) > 1 else []
        parts = [self._judge, self._text(prompt, text), self._criterion(criterion), *together]
        return hashlib.sha256(b"".join(parts) + reply_format.encode()).digest()

    def _criterion(self, criterion: Criterion) -> bytes:
        known = self._criteria.get(id(criterion))
        if known is None:
            made = digest(criterion.model_dump(mode="json", exclude=_UNSEEN))
            known = self._criteria[id(criterion)] = (criterion, made)  # kept with it, so that its id stays its own
        return known[1]

    def _text(self, prompt: Mapping[str, Any], text: str) -> bytes:
        key = (id(prompt), text)
        known = self._texts.get(key)
        if known is None:
            known = self._texts[key] = digest(prompt["messages"], text)
        return known
