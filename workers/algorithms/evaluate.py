"""Evaluate: trains nothing. The loop's evaluation at step 0, over `data.prompts`, is all of it."""

from __future__ import annotations

from workers.algorithms.base import Algorithm


class Evaluate(Algorithm):
    """A job that samples a policy and reports plain reward, audit and each criterion's score."""

    trains = False
