"""Several processes that train one model: who is who, and how they talk.

Rank 0 leads: it alone knows the supervisor, the database and the graders, and says what is done next; the others follow (`hear`)
until they are told to end. What is said is JSON through gloo on this machine's loopback, never pickle. Nobody waits for longer
than its peers live: a process that dies closes its connections, and whoever waits for it fails.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

PATIENCE = timedelta(days=20)
"""A follower waits for its next word as long as the judges take. More milliseconds do not fit where torch counts them."""
LOOK_EVERY_S = 0.2
"""How often a follower that samples looks whether the leader has stopped."""


class Stopped(Exception):
    """The leader does not want what is being done any more."""


class Team:
    """One rank's view. torchrun has set RANK, WORLD_SIZE and where the others are found; on GPUs rank k has the k-th."""

    def __init__(self) -> None:
        cuda = torch.cuda.is_available()
        dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        if cuda:
            torch.cuda.set_device(self.rank)
        self.mesh: DeviceMesh = init_device_mesh("cuda" if cuda else "cpu", (self.size,))
        self._store = dist.distributed_c10d._get_default_store()
        self._stops = 0
        self._look_at = 0.0

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def tell(self, message: dict[str, Any]) -> None:
        """The leader's word to all others."""
        self._broadcast(json.dumps(message).encode())

    def hear(self) -> dict[str, Any]:
        """The leader's next word."""
        heard: dict[str, Any] = json.loads(self._broadcast(None))
        return heard

    def _broadcast(self, data: bytes | None) -> bytes:
        length = torch.tensor([len(data) if data is not None else 0])
        dist.broadcast(length, 0)
        body = torch.empty(int(length), dtype=torch.uint8)
        if data is not None:
            body = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        dist.broadcast(body, 0)
        return body.numpy().tobytes()

    def all(self, value: Any) -> list[Any]:
        """What every rank says, in the order of ranks, for every rank."""
        data = json.dumps(value).encode()
        lengths = [torch.zeros(1, dtype=torch.long) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(data)]))
        longest = max(int(length) for length in lengths)
        padded = torch.frombuffer(bytearray(data.ljust(longest)), dtype=torch.uint8)
        bodies = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(bodies, padded)
        return [json.loads(body.numpy().tobytes()) for body in bodies]

    # --- stopping in the middle of sampling, where nobody waits for anybody ---

    def stop(self) -> None:
        """The leader's: what all are sampling is not wanted any more."""
        self._store.set(f"grape/stop/{self._stops}", "1")

    def stop_check(self) -> Callable[[], None]:
        """For the sampling that begins now: raises `Stopped` soon after the leader has stopped. Every rank asks for one."""
        self._stops += 1
        key = f"grape/stop/{self._stops}"

        def check() -> None:
            now = time.monotonic()
            if now >= self._look_at:
                self._look_at = now + LOOK_EVERY_S
                if self._store.check([key]):
                    raise Stopped

        return check
