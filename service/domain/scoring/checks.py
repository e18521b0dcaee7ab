"""Which options go together, and which need something of the rubric: told before anything is sampled or paid for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from service.domain.scoring.values import GATE, CriterionWeight, ScoringOptions


class Mismatch(NamedTuple):
    """An option that cannot be had: its place below `algorithm`, and a sentence that says what to do."""

    place: tuple[str, str]
    message: str


def mismatches(options: ScoringOptions, criteria: Sequence[CriterionWeight] = ()) -> Iterator[Mismatch]:
    """Everything that is wrong with these options for these criteria; without criteria, with the options alone."""
    yield from _among_options(options)
    own = [c for c in criteria if not c.audit]
    gates = [c.key for c in own if c.gate is not None]
    steps = [c.key for c in own if c.step_pooling is not None]
    if gates:
        if any(c.key == GATE for c in own):
            yield Mismatch(
                ("aggregation", "weighting"),
                f"the rubric has gates, whose part of an advantage is called '{GATE}'; give the criterion '{GATE}' another key",
            )
        gated = f"a gate acts on the whole reward ('{gates[0]}' is one)"
        if options.level == "criterion":
            yield Mismatch(
                ("advantage", "level"), f"level 'criterion' has no reward to gate, and {gated}; use 'reward'"
            )
        if options.noise_aware:
            yield Mismatch(("advantage", "noise_aware"), f"noise_aware knows no noise of a gated reward, and {gated}")
        if options.weighting == "healthbench":
            yield Mismatch(("aggregation", "weighting"), f"the benchmark's own score knows no gates, and {gated}")
    if steps:
        if options.level == "criterion":
            yield Mismatch(
                ("advantage", "level"), f"level 'criterion' does not go with step criteria, and '{steps[0]}' is one"
            )
        for place, wanted in _wants_noise(options):
            yield Mismatch(
                place, f"{wanted} does not go with step criteria, whose votes vary by step: '{steps[0]}' is one"
            )
    single = [c.key for c in own if c.judged and c.votes is not None and c.votes < 2]
    if single:
        for place, wanted in _wants_noise(options):
            yield Mismatch(
                place, f"{wanted} needs 'votes' of 2 or more on every judged criterion; '{single[0]}' has a single vote"
            )


def _wants_noise(options: ScoringOptions) -> Iterator[tuple[tuple[str, str], str]]:
    if options.noise_aware:
        yield ("advantage", "noise_aware"), "noise_aware"
    if options.weighting == "inverse_variance":
        yield ("aggregation", "weighting"), "weighting 'inverse_variance'"


def _among_options(options: ScoringOptions) -> Iterator[Mismatch]:
    if options.level == "criterion":
        if options.noise_aware:
            yield Mismatch(
                ("advantage", "noise_aware"),
                "noise_aware measures the reward's noise; it does not go with level 'criterion'",
            )
        if options.baseline == "none":
            yield Mismatch(
                ("advantage", "baseline"),
                "level 'criterion' centres every criterion, so it does not go with baseline 'none'",
            )
    if options.min_group_confidence > 0 and options.weighting in ("inverse_variance", "healthbench"):
        yield Mismatch(
            ("aggregation", "min_group_confidence"),
            f"min_group_confidence does not go with weighting '{options.weighting}', whose weights are no confidences",
        )
