"""The linter: what an author may want to change in a rubric. It never blocks; what must not be is refused elsewhere.

Every finding has a code, a severity, a JSON pointer into the authored content and a sentence that says what to do. False alarms
teach people to look away, so each rule has a fixture that fires and several that must not.
"""

from __future__ import annotations

from service.domain.inherited import JudgeFacts
from service.domain.lint import grading, overlap, reach, weighing, wording
from service.domain.lint.finding import Finding, Subject
from service.domain.lint.weighing import Shares, shares_of

CODES = (
    "unfalsifiable", "vague_words", "double_barrelled", "verbosity_rewarding", "counting_dependent", "double_negative",
    "gate_with_few_votes", "judge_without_confidence", "unanchored_levels", "disordered_levels", "ordered_nominal_scale",
    "flat_scale", "slow_regex", "included_system_prompt", "duplicate_criteria", "audit_repeats_trained", "dominant_module",
    "dominant_criterion", "weight_extremes", "never_applies", "unused_condition", "nothing_for_other_prompts",
)  # fmt: skip
"""All codes that a finding may have."""


def lint(subject: Subject) -> list[Finding]:
    """Every finding, warnings first, in the order of the rules."""
    found = [finding for room in (wording, grading, overlap, weighing, reach) for finding in room.rules(subject)]
    return sorted(found, key=lambda finding: finding.severity != "warning")


__all__ = ["CODES", "Finding", "JudgeFacts", "Shares", "Subject", "lint", "shares_of"]
