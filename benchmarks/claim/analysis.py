"""From stored curves to the numbers of the tables, and to the verdicts on the claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.claim.protocol import (
    ALL_ARMS,
    ARMS,
    CONFIDENCES,
    LEVELS,
    SETTINGS,
    Cell,
    Missing,
    PolicyKind,
    Protocol,
    RunKey,
    cells_and_arms,
    explored,
)
from benchmarks.claim.statistics import Estimate, bootstrap, differences, final, medians, ratios, samples_to
from benchmarks.claim.store import RunStore

PATTERNS: tuple[Missing, ...] = ("random", "bad")


@dataclass(frozen=True, slots=True)
class ArmNumbers:
    """One arm in one cell: per level the samples of each seed, and each seed's final reward."""

    samples: dict[float, list[float]]
    final: list[float]

    def median_samples(self, level: float) -> float:
        """Over seeds; ∞ if half of them never reach the level."""
        return float(medians(np.array(self.samples[level])))

    @property
    def median_final(self) -> float:
        """Over seeds."""
        return float(medians(np.array(self.final)))


@dataclass(frozen=True, slots=True)
class Comparison:
    """An arm against its baseline in one cell, paired by seed."""

    cell: Cell
    arm: str
    baseline: str
    ours: ArmNumbers
    theirs: ArmNumbers
    ratios: dict[float, Estimate | None]
    difference: Estimate


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim, what was measured, and whether it holds. `claimed` is false for lines that are only printed beside a claim."""

    policy: PolicyKind
    claim: str
    measured: Estimate | None
    holds: bool
    claimed: bool = True


class Analysis:
    """The results of one policy, as far as they are measured."""

    def __init__(self, protocol: Protocol, policy: PolicyKind, store: RunStore) -> None:
        self.protocol, self.policy, self.store = protocol, policy, store
        self.sizes = protocol.sizes(policy)

    def curves(self, cell: Cell, arm: str) -> list[list[float]] | None:
        """All seeds' curves; null if some are missing. An arm that reads no confidence ran once for all that is said."""
        if not ALL_ARMS[arm].uses_confidence:
            cell = replace(cell, confidence="any")
        keys = [RunKey(self.policy, cell, arm, seed) for seed in range(self.sizes.seeds)]
        found = [self.store.curves[key] for key in keys if key in self.store.curves]
        return found if len(found) == len(keys) else None

    def numbers(self, cell: Cell, arm: str) -> ArmNumbers | None:
        """Samples and final rewards; null if not all seeds have run."""
        curves = self.curves(cell, arm)
        if curves is None:
            return None
        per_step = self.sizes.samples_per_step
        samples = {level: [samples_to(curve, level, per_step) for curve in curves] for level in LEVELS}
        return ArmNumbers(samples, [final(curve, self.sizes.final) for curve in curves])

    def compare(self, cell: Cell, arm: str, baseline: str) -> Comparison | None:
        """Paired by seed; null if either arm is not measured."""
        ours, theirs = self.numbers(cell, arm), self.numbers(cell, baseline)
        if ours is None or theirs is None:
            return None
        found: dict[float, Estimate | None] = {}
        for level in LEVELS:
            values = ratios(ours.samples[level], theirs.samples[level])
            found[level] = bootstrap(values, self.protocol.bootstrap) if values is not None else None
        difference = bootstrap(differences(ours.final, theirs.final), self.protocol.bootstrap)
        return Comparison(cell, arm, baseline, ours, theirs, found, difference)

    def main(self) -> list[Comparison]:
        """Confidence against uniform: settings × noises × what is said."""
        cells = [Cell(s, n, c) for s in SETTINGS for n in ("small", "large") for c in CONFIDENCES]
        return [found for cell in cells if (found := self.compare(cell, "confidence", "uniform"))]

    def repairs(self) -> list[Comparison]:
        """The repair search, each arm against uniform weights at the same number of votes."""
        planned = [
            (cell, arm)
            for cell, arm in cells_and_arms(self.policy)
            if cell.missing == "none" and arm not in ("uniform", "confidence", "uniform_2")
        ]
        found = [self.compare(cell, arm, "uniform_2" if ARMS[arm].votes == 2 else "uniform") for cell, arm in planned]
        return [comparison for comparison in found if comparison]

    def missing(self) -> list[Comparison]:
        """Imputation against zero-filling."""
        planned = [
            (cell, arm)
            for cell, arm in cells_and_arms(self.policy)
            if cell.missing != "none" and not ARMS[arm].zero_fill
        ]
        return [found for cell, arm in planned if (found := self.compare(cell, arm, f"{arm}_zero"))]

    def explored(self) -> list[Comparison]:
        """What was tried after the first results, against uniform weights or, for missing cells, against zeros."""
        found = [
            self.compare(cell, arm, "uniform" if cell.missing == "none" else "uniform_zero")
            for cell, arm in explored(self.policy)
        ]
        return [comparison for comparison in found if comparison]

    def verdicts(self) -> list[Verdict]:
        """The claims of the protocol; a claim whose cells are not measured yet is left out."""
        return [*self._sample_verdicts(), *self._missing_verdicts()]

    def _sample_verdicts(self) -> list[Verdict]:
        verdicts = []
        for said in CONFIDENCES:
            found = self.compare(Cell("shared", "large", said), "confidence", "uniform")
            if found:
                limit, ratio = self.protocol.claimed_ratio, found.ratios[0.5]
                holds = ratio is not None and ratio.value <= limit
                text = f"shared quality, larger noise, {said} confidence: ≤ {limit}× the samples to 50 %"
                verdicts.append(Verdict(self.policy, text, ratio, holds, claimed=said == "honest"))
        return verdicts

    def _missing_verdicts(self) -> list[Verdict]:
        names = {"random": "at random", "bad": "from bad completions twice as often"}
        verdicts = []
        for pattern in PATTERNS:
            found = [c for c in self.missing() if c.cell.missing == pattern and c.arm == "uniform"]
            planned = {c for c, arm in cells_and_arms(self.policy) if c.missing == pattern and arm == "uniform"}
            if len(found) < len(planned):
                continue
            per_cell = [differences(c.ours.final, c.theirs.final) for c in found]
            pooled = [sum(seed) / len(seed) for seed in zip(*per_cell, strict=True)]
            estimate = bootstrap(pooled, self.protocol.bootstrap)
            text = f"a fifth of the cells missing {names[pattern]}: final reward above that of zero-filling"
            verdicts.append(Verdict(self.policy, text, estimate, estimate.low > 0))
        return verdicts

    def band(self, cell: Cell, arm: str) -> tuple[Sequence[float], Sequence[float], Sequence[float]] | None:
        """Median and quartiles over seeds of the learning curve."""
        curves = self.curves(cell, arm)
        if curves is None:
            return None
        low, middle, high = np.quantile(np.array(curves), (0.25, 0.5, 0.75), axis=0)
        return low.tolist(), middle.tolist(), high.tolist()
