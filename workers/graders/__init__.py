"""Graders: verifiers, code, reward models, composites and judges. `GRADERS` is the other end of `service.domain.grader.GRADER_CONFIGS`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workers.graders.code import grade_code
from workers.graders.judge.cell import grade_completion
from workers.graders.verifiers import VERIFIERS, composed, scored

GRADERS: dict[str, Callable[..., Any]] = {
    **VERIFIERS,
    "unit_tests": grade_code,
    "python": grade_code,
    "composite": composed,
    "reward_model": scored,
    "judge": grade_completion,
}
