"""Random numbers come from the job's seed and a name for their use: never from ids, time, or a generator shared by uses."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for one use, e.g. `derive_seed(0, "rollout", step)`."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class ShuffledCursor:
    """Walks over n rows, epoch after epoch, each epoch in its own order; `position` is all its state."""

    def __init__(self, rows: int, seed: int, name: str, position: int = 0) -> None:
        self.rows, self.seed, self.name, self.position = rows, seed, name, position
        self._epoch = -1
        self._order: list[int] = []

    def take(self, count: int) -> list[int]:
        """The next `count` row indices. Within an epoch no row comes twice."""
        taken = []
        for _ in range(count):
            epoch, place = divmod(self.position, self.rows)
            if epoch != self._epoch:
                generator = torch.Generator().manual_seed(derive_seed(self.seed, "order", self.name, epoch))
                self._order = torch.randperm(self.rows, generator=generator).tolist()
                self._epoch = epoch
            taken.append(self._order[place])
            self.position += 1
        return taken
