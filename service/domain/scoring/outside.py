"""The advantage of a text that is compared with a group without being in it (grape.md §7, use `group`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from service.domain.scoring.rewards import gate_factor
from service.domain.scoring.stats import mean
from service.domain.scoring.values import CriterionWeight, Row, ScoredGroup


def outside_advantage(
    scored: ScoredGroup,
    criteria: Sequence[CriterionWeight],
    row: Row,
    baseline: Literal["group_mean", "leave_one_out"],
) -> float:
    """A = (R − mean of the members' rewards) times the members' scale; R has the group's shares and the row's own gates.

    The row enters no mean, deviation, confidence or test for a signal. n/(n−1) belongs to members, whose own reward is in the
    mean, so `leave_one_out` leaves it out here. 0 for a group without signal. The row has every cell that counts.
    """
    members = [c for c in scored.completions if c.member and c.reward is not None]
    factor = members[0].scale_factor if members else None
    if scored.signal != "ok" or not factor:
        return 0.0
    if baseline == "leave_one_out":
        factor *= (len(members) - 1) / len(members)
    gate = gate_factor(criteria, row)
    assert gate is not None
    counted = {key: w.share for key, w in scored.weighting.items() if w.share is not None}
    reward = gate * math.fsum(share * row[key].score for key, share in sorted(counted.items()))
    return factor * (reward - mean(c.reward for c in members if c.reward is not None))
