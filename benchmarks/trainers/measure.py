"""A row, measured: every contender loads, the mathematics is compared on given data, then all take steps in turns."""

from __future__ import annotations

import multiprocessing
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.trainers import worker
from benchmarks.trainers.rows import Contender, Measure, Row
from benchmarks.trainers.sizes import Data, Sizes

Step = dict[str, float]
TOLERANCE = 1e-4


class Seat:
    """A contender's process, waiting to be asked for a step."""

    def __init__(self, row: Row, contender: Contender, sizes: Sizes, folder: Path, threads: int) -> None:
        self.contender = contender
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        description = {
            "name": contender.name, "who": contender.who, "threads": threads,
            "options": {**contender.options, **row.options},
        }  # fmt: skip
        self.connection: Connection = ours
        self.process = multiprocessing.get_context("spawn").Process(
            target=worker.main,
            args=(theirs, row.kind, Data(sizes, fixed=row.fixed), str(folder), description),
            daemon=True,
        )
        self.process.start()
        theirs.close()
        self.log = folder / f"{contender.name}.log"
        self._answer()  # it says nothing once it has loaded

    def _answer(self) -> Step:
        try:
            answer: Step = self.connection.recv()
        except EOFError:
            raise RuntimeError(f"{self.contender.name} ended:\n{self.log.read_text()[-3000:]}") from None
        return answer

    def step(self) -> Step:
        """One step."""
        self.connection.send(True)
        return self._answer()

    def leave(self) -> None:
        """End the process."""
        self.connection.send(False)
        self.connection.close()
        self.process.join(10)
        self.process.kill()


@dataclass
class Measured:
    """The steps of every contender of a row, and how far the two sides' mathematics are apart (relative)."""

    row: Row
    steps: dict[str, list[Step]]
    apart: dict[str, float] = field(default_factory=dict)

    def rates(self, contender: str, measure: Measure) -> list[float]:
        """Units per second of each timed step."""
        return [step[measure.units] / step[measure.per] for step in self.steps[contender]]

    def memory(self, contender: str) -> float:
        """The most that its process held above what it held before its first step, in MB."""
        return max(step["memory"] for step in self.steps[contender]) / 1e6

    def of(self, column: str) -> list[Contender]:
        """The contenders of a column."""
        return [c for c in self.row.contenders if c.column == column]

    def best_tuned(self, measure: Measure) -> Contender:
        """The tuned peer with the highest median."""
        return max(self.of("tuned"), key=lambda c: statistics.median(self.rates(c.name, measure)))


def compare_maths(row: Row, sizes: Sizes, folder: Path, threads: int) -> dict[str, float]:
    """Loss and gradient norm of the same step in float32 on both sides, as relative differences."""
    tuned: dict[str, Any] = {"gradient_checkpointing": False, "bf16": False, "parts": 1, "given": True}
    pair = [
        Contender("maths-ours", "ours", "ours", {"precision": "fp32", "given": True}),
        Contender("maths-trl", "trl", "tuned", tuned),
    ]
    found = []
    for contender in pair:
        seat = Seat(row, contender, sizes, folder, threads)
        found.append(seat.step())
        seat.leave()
    ours, theirs = found
    apart = {
        name: abs(ours[name] - theirs[name]) / max(abs(theirs[name]), 1e-6 if name == "grad_norm" else 1e-2)
        for name in ("loss", "grad_norm")
    }
    if max(apart.values()) > TOLERANCE:
        raise RuntimeError(f"{row.name}: the two sides do not compute the same: {apart} (ours {ours}, TRL {theirs})")
    return {**apart, "loss_ours": ours["loss"], "loss_trl": theirs["loss"]}


def measure(row: Row, sizes: Sizes, folder: Path, threads: int, say: Callable[[str], None]) -> Measured:
    """All steps of a row, contenders in turns, the order turned by one each time."""
    apart = {}
    if row.given:
        apart = compare_maths(row, sizes, folder, threads)
        say(f"{row.name}: same mathematics, relative differences {apart}")
    seats = [Seat(row, contender, sizes, folder, threads) for contender in row.contenders]
    steps: dict[str, list[Step]] = {seat.contender.name: [] for seat in seats}
    try:
        for turn in range(sizes.warm_up + sizes.repeats):
            k = turn % len(seats)
            for seat in [*seats[k:], *seats[:k]]:
                done = seat.step()
                if turn >= sizes.warm_up:
                    steps[seat.contender.name].append(done)
            say(f"{row.name}: turn {turn + 1} of {sizes.warm_up + sizes.repeats}")
    finally:
        for seat in seats:
            seat.leave()
    return Measured(replace(row), steps, apart)
