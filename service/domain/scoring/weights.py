"""Effective weights: what each criterion counts for in one group (grape.md §4)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from service.domain.scoring.stats import mean
from service.domain.scoring.values import CriterionWeight, Past, Row, ScoringOptions, Source

SHRINKAGE = 16
"""k of `pooling: shrunk`: how many cells of this group the history weighs as much as."""

NOISE_FLOOR = 0.01
"""σ_0² of `inverse_variance`: keeps a criterion without any measured noise from taking everything."""


def mean_confidences(
    present: Sequence[CriterionWeight], rows: Sequence[Row], options: ScoringOptions, past: Past
) -> dict[str, tuple[float, Source]]:
    """cbar[j] over the members' ok cells and where it comes from.

    The group itself, else the criterion's default, earlier steps, the w-weighted mean of the other judged criteria that have
    confidences of their own in this group, or 1 (`none`). Verifiers are sure. `shrunk` draws what the group says towards the
    history: (n·group + k·history)/(n + k), n cells with a confidence.
    """
    own: dict[str, float] = {}
    counts: dict[str, int] = {}
    for c in present:
        stated = [x for row in rows if c.key in row and (x := row[c.key].confidence) is not None]
        if stated:
            own[c.key], counts[c.key] = mean(stated), len(stated)
    found: dict[str, tuple[float, Source]] = {}
    for c in present:
        if c.key in own:
            found[c.key] = (own[c.key], "group")
            if options.pooling == "shrunk" and c.memory in past.confidence:
                n = counts[c.key]
                drawn = (n * own[c.key] + SHRINKAGE * past.confidence[c.memory]) / (n + SHRINKAGE)
                found[c.key] = (drawn, "group")
        elif not c.judged:
            found[c.key] = (1.0, "group")
        elif c.default_confidence is not None:
            found[c.key] = (c.default_confidence, "default")
        elif c.memory in past.confidence:
            found[c.key] = (past.confidence[c.memory], "history")
        else:
            peers = [p for p in present if p.judged and p.key != c.key and p.key in own]
            if peers:
                weights = math.fsum(p.weight for p in peers)
                found[c.key] = (math.fsum(p.weight * own[p.key] for p in peers) / weights, "peers")
            else:
                found[c.key] = (1.0, "none")
    return found


def vote_noise(present: Sequence[CriterionWeight], rows: Sequence[Row], past: Past) -> dict[str, float]:
    """u[j]: the variance of the averaged vote, a mean over the ok cells of these rows and of the last 64 groups before.

    0 for verifiers and reward models. ValueError for a judged criterion of which no cell has one: a single vote says nothing
    about its noise.
    """
    found: dict[str, float] = {}
    for c in present:
        if not c.judged:
            found[c.key] = 0.0
            continue
        own = [x for row in rows if c.key in row and (x := row[c.key].noise) is not None]
        cells, total = past.noise.get(c.memory, (0, 0.0))
        if not own and not cells:
            raise ValueError(f"criterion '{c.key}' has no vote variance: its judge needs votes of 2 or more")
        found[c.key] = math.fsum([total, *own]) / (cells + len(own))
    return found


def effective_weights(
    present: Sequence[CriterionWeight],
    confidence: Mapping[str, tuple[float, Source]],
    noise: Mapping[str, float],
    options: ScoringOptions,
) -> tuple[dict[str, float], bool]:
    """e[j], and whether all of them vanished so that e = w (`weighting_fallback`).

    `confidence`: w·cbar^α. `uniform`: w (α = 0, and 0⁰ = 1). `inverse_variance`: w/(u + σ_0²).
    """
    plain = {c.key: c.weight for c in present}
    if options.weighting == "inverse_variance":
        return {key: w / (noise[key] + NOISE_FLOOR) for key, w in plain.items()}, False
    if options.weighting != "confidence":
        return plain, False
    effective = {key: w * confidence[key][0] ** options.confidence_exponent for key, w in plain.items()}
    if math.fsum(effective.values()) > 0:
        return effective, False
    return plain, True


def shares_of(effective: Mapping[str, float], limit: float | None) -> dict[str, float]:
    """v[j] = e[j]/Σe, none above `limit`: what is cut off goes to the others in proportion to their own shares.

    A limit that J criteria cannot keep (J·limit < 1) is taken as 1/J, equal shares.
    """
    total = math.fsum(effective.values())
    shares = {key: value / total for key, value in effective.items()}
    if limit is None:
        return shares
    limit = max(limit, 1 / len(shares))
    capped: set[str] = set()
    while over := {key for key, value in shares.items() if key not in capped and value > limit * (1 + 1e-12)}:
        capped |= over
        rest = math.fsum(value for key, value in effective.items() if key not in capped)
        left = 1.0 - limit * len(capped)
        if rest <= 0:  # everybody else counts for nothing: they share what is left
            others = len(shares) - len(capped)
            return {key: limit if key in capped else left / others for key in shares}
        shares = {key: limit if key in capped else effective[key] / rest * left for key in shares}
    return shares
