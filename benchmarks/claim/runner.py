"""Runs what is missing, in one process or in two, until it is done or the time is up."""

from __future__ import annotations

import hashlib
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks.claim.protocol import PolicyKind, Protocol, RunKey, run_keys
from benchmarks.claim.store import RunStore

ROOT = Path(__file__).parents[2]
Result = tuple[RunKey, list[float]]


def train(protocol: Protocol, key: RunKey) -> list[float]:
    """One run's curve. Imports torch only for the policy that needs it."""
    if key.policy == "categorical":
        from benchmarks.claim import categorical

        return categorical.train(protocol, key)
    from benchmarks.claim import transformer

    return transformer.train(protocol, key)


def train_chunk(protocol: Protocol, keys: list[RunKey]) -> list[Result]:
    """Several runs: what a process is given at once."""
    return [(key, train(protocol, key)) for key in keys]


def code_digest() -> str:
    """Of the arithmetic that decides the numbers beside the protocol: scoring, the algorithm, its losses, the harness."""
    files = [
        *sorted((ROOT / "service/domain/scoring").glob("*.py")),
        *sorted((ROOT / "workers/losses").glob("*.py")),
        *(
            ROOT / f"workers/{name}.py"
            for name in ("algorithms/grape", "algorithms/base", "training/loop", "training/optim")
        ),
        *(
            ROOT / f"benchmarks/claim/{name}.py"
            for name in ("problem", "judge", "scoring", "categorical", "transformer")
        ),
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:16]


def run_missing(
    protocol: Protocol,
    policies: Iterable[PolicyKind],
    store: RunStore,
    *,
    processes: int,
    minutes: float | None,
    say: Callable[[str], None],
) -> int:
    """Train what the store lacks; the number of runs that are still missing when the time was up."""
    code, started = code_digest(), time.monotonic()
    missing = [key for policy in policies for key in run_keys(protocol, policy) if key not in store.curves]
    chunks = list(_chunks(missing))
    done = 0

    def time_is_up() -> bool:
        return minutes is not None and time.monotonic() - started > 60 * minutes

    def keep(results: list[Result]) -> None:
        nonlocal done
        store.add(results, code)
        done += len(results)
        key = results[0][0]
        say(
            f"{done}/{len(missing)} runs, {time.monotonic() - started:.0f} s: {key.policy} {key.cell.setting} "
            f"{key.cell.noise} {key.cell.confidence} {key.cell.missing} {key.arm}"
        )

    if processes == 1:
        for chunk in chunks:
            if time_is_up():
                break
            keep(train_chunk(protocol, chunk))
        return len(missing) - done
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        waiting = iter(chunks)
        # No more is handed out than is being worked on, so that a stop loses nothing.
        running = [
            pool.submit(train_chunk, protocol, chunk) for _, chunk in zip(range(processes), waiting, strict=False)
        ]
        while running:
            future = running.pop(0)
            keep(future.result())
            if not time_is_up() and (chunk := next(waiting, None)) is not None:
                running.append(pool.submit(train_chunk, protocol, chunk))
    return len(missing) - done


def _chunks(keys: list[RunKey]) -> Iterator[list[RunKey]]:
    """Runs of a few seconds together: all seeds of a categorical cell, one transformers run."""
    chunk: list[RunKey] = []
    for key in keys:
        same = chunk and (key.policy, key.cell, key.arm) == (chunk[0].policy, chunk[0].cell, chunk[0].arm)
        if chunk and not (same and key.policy == "categorical"):
            yield chunk
            chunk = []
        chunk.append(key)
    if chunk:
        yield chunk
