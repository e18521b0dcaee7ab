"""A contender's process: loads, then takes one step per request and answers with what it took."""

from __future__ import annotations

import gc
import os
import platform
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.trainers.sizes import Data


def main(connection: Connection, kind: str, data: Data, folder: str, contender: dict[str, Any]) -> None:
    """Serve until the other side hangs up. `contender` has who it is (`ours`, `trl`), its threads and its options."""
    log = os.open(Path(folder) / f"{contender['name']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(TRL_EXPERIMENTAL_SILENCE="1", HF_HUB_OFFLINE="1")
    import torch

    torch.set_num_threads(contender["threads"])
    sizes = data.sizes
    before = {"rss": 0.0}

    def ask(seen: dict[str, float]) -> bool:
        """Hand over what the last step did (with the peak of its memory) and wait for the next request."""
        if seen:
            seen["memory"] = peak_rss() - before["rss"]
        connection.send(seen)
        try:
            more = bool(connection.recv())
        except EOFError:
            return False
        gc.collect()
        if not before["rss"]:
            before["rss"] = rss()
            forget_peak()
        return more

    if contender["who"] == "trl":
        from benchmarks.trainers import peer

        peer.run(kind, sizes, data, Path(folder), options=contender["options"], ask=ask)
        return
    from benchmarks.trainers import ours

    for seen in ours.steps(kind, sizes, data, Path(folder), contender["options"]):
        if not ask(seen):
            return


def rss() -> float:
    """Bytes that this process holds in memory."""
    return _status("VmRSS")


def peak_rss() -> float:
    """The most that it has held since `forget_peak`."""
    return _status("VmHWM")


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def forget_peak() -> None:
    """Start measuring the peak anew (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def versions() -> dict[str, str]:
    """What was measured with."""
    from importlib.metadata import version

    names = ("torch", "transformers", "trl", "accelerate", "datasets")
    processor = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    return {"python": platform.python_version(), "processor": processor, **{name: version(name) for name in names}}
