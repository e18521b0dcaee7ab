"""Loaded models, kept for the next batch: the least recently used go when memory is short."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

log = logging.getLogger(__name__)


class Loaded(Protocol):
    """A model in memory."""

    @property
    def bytes(self) -> int:
        """What its weights take."""


T = TypeVar("T", bound=Loaded)


class Shelf:
    """At most `bound` bytes of weights (null: no bound), and always the one that is asked for, however large it is."""

    def __init__(self, bound: int | None = None) -> None:
        self.bound = bound
        self._models: OrderedDict[str, Any] = OrderedDict()

    def take(self, key: str, size: int, load: Callable[[], T]) -> T:
        """The model of this key, loaded if it is not here. `size`: the bytes that it is expected to take."""
        if key in self._models:
            self._models.move_to_end(key)
            found: T = self._models[key]
            return found
        # Before loading, so that the old and the new are never in memory together; and after, when its size is known.
        self._make_room(size)
        model = load()
        self._make_room(model.bytes)
        self._models[key] = model
        return model

    def _make_room(self, wanted: int) -> None:
        while self.bound is not None and self._models and self.held + wanted > self.bound:
            key, _ = self._models.popitem(last=False)
            log.info("model %s is put away to make room", key)

    @property
    def held(self) -> int:
        """The bytes of all models here."""
        return sum(model.bytes for model in self._models.values())

    def __contains__(self, key: str) -> bool:
        return key in self._models
