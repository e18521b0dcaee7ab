"""What a worker learns about endpoints, on its way to the table: so that what an endpoint cannot do is refused when it is saved."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

Place = tuple[str, str, str]
"""Project, address, model."""

Facts = dict[str, bool]

AGAIN_S = 86_400.0
"""What stays as it was is written again after so long: what was learned counts only for a while."""


@dataclass(slots=True)
class Learned:
    """What was written, and what is not written yet. The engine's loop alone uses it."""

    _written: dict[Place, tuple[Facts, float]] = field(default_factory=dict)
    _new: dict[Place, Facts] = field(default_factory=dict)

    def saw(self, place: Place, known: Facts, said: Mapping[str, object], now: float) -> None:
        """What is known of a place now, but what people have said themselves (`said`). `now`: a monotonic time in seconds."""
        facts = {name: there for name, there in known.items() if said.get(name) is None}
        before, at = self._written.get(place, ({}, 0.0))
        if facts and (facts != before or now - at > AGAIN_S):
            self._written[place] = (facts, now)
            self._new[place] = facts

    def take(self) -> list[tuple[Place, Facts]]:
        """What is to be written."""
        found = list(self._new.items())
        self._new.clear()
        return found

    def put_back(self, taken: Iterable[tuple[Place, Facts]]) -> None:
        """It could not be written; what was seen since is newer."""
        for place, facts in taken:
            self._new.setdefault(place, facts)


def as_rows(facts: Iterable[tuple[Place, Facts]]) -> str:
    """The parameter of `queries.abilities.LEARN`."""
    return json.dumps(
        [
            {"project_id": project, "base_url": address, "model": model, "learned": known}
            for (project, address, model), known in facts
        ]
    )
