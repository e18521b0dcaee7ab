"""Revisions (grape.md §7): what may be asked for, and when one is better than its original.

Both texts are graded afresh by the same judge revisions, blind, with at least two votes, and compared by plain reward.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from service.domain.base import Loc, Value, refuse
from service.domain.grade import Cell
from service.domain.scoring import CriterionWeight, ScoredCell, plain_reward

PROMPT_VERSION = 1
"""The version of the texts that revisers are asked with (`workers/revisions/asking.py` has them)."""

POLICY = "policy"

Use = Literal["pairs", "demonstrations", "group", "pairs_from_group"]
REVISED: frozenset[Use] = frozenset({"pairs", "demonstrations", "group"})
"""The uses that need somebody who revises."""

DatasetId = Annotated[str, StringConstraints(pattern=r"^ds_[0-9a-z]+$")]
JudgeId = Annotated[str, StringConstraints(pattern=r"^jdg_[0-9a-z]+$")]

MARGIN_SLACK = 1e-9
"""A difference exceeds its threshold by more than sums of floats are off."""


class RevisionOptions(Value):
    """What jobs and requests share.

    `reviser`: a judge, whose endpoint or model is asked for the better answer. `margin`: by how much plain reward has to rise.
    `votes`: how often each judged criterion is asked for either text, at least (a criterion that wants more gets more).
    `per_group`: of how many completions of a group revisions are asked, the worst first; null: of all below the group's best.
    `preferences` and `demonstrations`: the datasets that accepted ones go to; where a use has none, one is made for it.
    """

    margin: Annotated[float, Field(ge=0, le=1)] = 0.1
    votes: Annotated[int, Field(ge=2, le=32)] = 2
    per_group: Annotated[int, Field(ge=1, le=1024)] | None = 1
    preferences: DatasetId | None = None
    demonstrations: DatasetId | None = None


class RevisionConfig(RevisionOptions):
    """`algorithm.revision` of a job: after each rollout, completions below their group's best are revised.

    `reviser`: `policy`, the model that is trained, as it is at that step; or a judge. `every_steps`: at every how manieth step.
    """

    uses: Annotated[list[Use], Field(min_length=1)] = ["pairs", "demonstrations"]
    reviser: Literal["policy"] | JudgeId = POLICY
    every_steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1

    @model_validator(mode="after")
    def _consistent(self) -> RevisionConfig:
        problems = list(use_problems(self.uses, self))
        if "group" in self.uses and self.reviser != POLICY:
            message = (
                "a revision enters the update only if the policy wrote it; leave 'group' out, or take reviser 'policy'"
            )
            problems.append((("uses", self.uses.index("group")), "invalid_option", message))
        if problems:
            refuse(*problems)
        return self


def use_problems(uses: Sequence[Use], options: RevisionOptions) -> Iterator[tuple[Loc, str, str]]:
    """What is wrong with the uses, and datasets that none of them fills."""
    for position, use in enumerate(uses):
        if use in uses[:position]:
            yield ("uses", position), "duplicate", f"'{use}' stands twice"
    fills = {"preferences": {"pairs", "pairs_from_group"}, "demonstrations": {"demonstrations"}}
    for name, users in fills.items():
        if getattr(options, name) is not None and not users & set(uses):
            yield (name,), "invalid_option", f"no use fills '{name}'; add {' or '.join(sorted(users))}, or leave it out"


def refuse_group_use(revision: RevisionConfig | None) -> None:
    """For algorithms whose update is not relative to a group."""
    if revision is not None and "group" in revision.uses:
        message = "'group' puts revisions into a group-relative update, which grape and grpo have; leave it out"
        refuse((("revision", "uses", revision.uses.index("group")), "invalid_option", message))


def fills(uses: Sequence[str]) -> dict[str, bool]:
    """Which kinds of datasets these uses fill."""
    return {
        "preferences": "pairs" in uses or "pairs_from_group" in uses,
        "demonstrations": "demonstrations" in uses,
    }


# --- is it better? ---


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of an original and what is to be better, with the plain reward of each; null where a cell had no score.

    `reason` (a code) and `message` say why it is not accepted; both are null if it is.
    """

    original: float | None = None
    better: float | None = None
    standard_error: float | None = None
    threshold: float | None = None
    reason: str | None = None
    message: str | None = None

    @property
    def accepted(self) -> bool:
        """Whether it is better."""
        return self.reason is None

    @property
    def difference(self) -> float | None:
        """By how much its plain reward is higher."""
        return None if self.original is None or self.better is None else self.better - self.original


def compare(
    criteria: Sequence[CriterionWeight],
    original: Mapping[str, Cell],
    better: Mapping[str, Cell],
    *,
    margin: float,
    keep_verifiers: bool = True,
) -> Comparison:
    """Whether `better` is better by more than max(margin, 2·SE), with no null cell and, with `keep_verifiers`, no verifier lost.

    SE² = Σ (w/Σw)² · vote variance/votes over both texts; verifiers and reward models have none. Audit criteria have no say.
    """
    counted = [c for c in criteria if not c.audit]
    for who, cells in (("original", original), ("revision", better)):
        for c in counted:
            if c.key not in cells or cells[c.key].score is None:
                found = f"{cells[c.key].status}: {cells[c.key].reason}" if c.key in cells else "it is missing"
                said = f"the {who}'s cell of '{c.key}' has no score ({found}), so the two cannot be compared"
                return Comparison(reason="null_cell", message=said)
    rewards = [plain_reward(counted, _row(cells)) for cells in (original, better)]
    error = standard_error(counted, (original, better))
    threshold = max(margin, 2 * error)
    before, after = rewards
    assert before is not None
    assert after is not None
    reason: str | None = None
    message: str | None = None
    lost = _lost(counted, original, better) if keep_verifiers else None
    difference = after - before
    if lost is not None:
        reason, message = "verifier_regressed", f"the original passes '{lost}', and the revision does not"
    elif difference <= margin + MARGIN_SLACK:
        reason = "below_margin"
        message = f"plain reward {before:.4f} became {after:.4f}, which is no more than the margin of {margin:g} better"
    elif difference <= threshold + MARGIN_SLACK:
        reason = "within_error"
        message = f"plain reward {before:.4f} became {after:.4f}, and two standard errors are {2 * error:.4f}"
    return Comparison(before, after, error, threshold, reason, message)


def standard_error(criteria: Sequence[CriterionWeight], texts: Sequence[Mapping[str, Cell]]) -> float:
    """Of the difference between the plain rewards of these texts, from the variance of single votes."""
    whole = math.fsum(c.weight for c in criteria)
    return math.sqrt(
        math.fsum(
            (c.weight / whole) ** 2 * (cells[c.key].vote_variance or 0.0) / cells[c.key].votes
            for cells in texts
            for c in criteria
            if c.judged
        )
    )


def _row(cells: Mapping[str, Cell]) -> dict[str, ScoredCell]:
    return {key: ScoredCell(cell.score) for key, cell in cells.items() if cell.score is not None}


VERIFIERS_NOT = frozenset({"judge", "reward_model"})
"""Graders whose scores are opinions: they do not pass or fail."""


def _lost(criteria: Sequence[CriterionWeight], original: Mapping[str, Cell], better: Mapping[str, Cell]) -> str | None:
    """The first verifier that the original passes (score 1) and the other does not."""
    for c in sorted(criteria, key=lambda c: c.key):
        before, after = original[c.key], better[c.key]
        if before.grader not in VERIFIERS_NOT and before.score == 1.0 and (after.score or 0.0) < 1.0:
            return c.key
    return None
