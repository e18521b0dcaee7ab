"""A simulated judge: unbiased, noisy, bounded scores, and what it says about its confidence.

For true quality q and error deviation σ[i,j] the score is Beta-distributed with mean q and variance σ[i,j]² (at most
`MOST_NOISE`·q(1−q): nothing in [0, 1] is noisier than a coin). Each cell has its own deviation, σ[i,j] = σ[j]·h[i,j]: some
completions are harder to judge. Its reliability is r = τ²/(τ²+σ[i,j]²), with τ the spread of true quality under the first policy.

What it says: `honest` r plus jitter; `saturated` 0.9, of which r moves a few hundredths; `anti` 1 − r plus jitter. All are
rounded to twentieths, as people and models state confidence, and lie in [0.05, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.claim.problem import JUDGE, LABELS, MISSING, Floats, Problem, stream
from benchmarks.claim.protocol import CRITERIA, NOISES, Arm, Cell, ExploredArm, JudgeProtocol
from service.domain.scoring import ScoredCell

MOST_NOISE = 0.98


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Scores and confidences of a step, shape (groups, completions, criteria); `vote_variance` is null for one vote."""

    scores: Floats
    confidence: Floats
    present: np.ndarray
    vote_variance: Floats | None


class SimulatedJudge:
    """Grades all groups of a step at once. What it says depends on (seed, step) and the completions alone."""

    def __init__(self, protocol: JudgeProtocol, problem: Problem, cell: Cell, arm: Arm, seed: int) -> None:
        self.protocol, self.problem, self.cell, self.arm, self.seed = protocol, problem, cell, arm, seed
        self.sigma = problem.sizes.spread * np.array(NOISES[cell.noise])
        self.calibrated = self._calibrate() if arm.calibrated else None

    def grade(self, quality: Floats, step: int) -> Verdicts:
        """Verdicts on completions of true quality `quality` (groups, completions, criteria)."""
        rng = stream(self.seed, JUDGE, step)
        sigma = self._cell_sigma(rng, quality.shape)
        confidence = self._confidence(rng, sigma)
        votes = np.stack([_beta(rng, quality, sigma) for _ in range(self.arm.votes)])
        variance = votes.var(axis=0, ddof=1) if self.arm.votes > 1 else None
        scores = votes.mean(axis=0)
        if isinstance(self.arm, ExploredArm) and self.arm.votes_on_d > 1:
            more = [_beta(rng, quality[..., -1], sigma[..., -1]) for _ in range(self.arm.votes_on_d - 1)]
            scores[..., -1] = np.mean([scores[..., -1], *more], axis=0)
        return Verdicts(scores, confidence, self._present(quality, step), variance)

    def _cell_sigma(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """σ[j]·h with h uniform in 1 ± cell_spread, divided by √E[h²]: the root mean square over cells stays σ[j]."""
        spread = self.protocol.cell_spread
        hardness = rng.uniform(1 - spread, 1 + spread, shape) / np.sqrt(1 + spread**2 / 3)
        return self.sigma * hardness

    def reliability(self, sigma: Floats) -> Floats:
        """τ²/(τ²+σ²)."""
        tau = self.problem.sizes.spread
        return tau**2 / (tau**2 + sigma**2)

    def _confidence(self, rng: np.random.Generator, sigma: Floats) -> Floats:
        own, jitter = self.protocol, rng.standard_normal(sigma.shape)
        if self.calibrated is not None:
            return np.broadcast_to(self.calibrated, sigma.shape)
        reliability = self.reliability(sigma)
        if self.cell.confidence == "saturated":
            said = own.saturated_at + own.saturated_range * (2 * reliability - 1) + own.saturated_jitter * jitter
        elif self.cell.confidence == "anti":
            said = 1 - reliability + own.jitter * jitter
        else:
            said = reliability + own.jitter * jitter
        rounded = np.round(said / own.rounding) * own.rounding
        return np.clip(rounded, own.lowest, 1.0)

    def _present(self, quality: Floats, step: int) -> np.ndarray:
        """False where the judge failed: a fifth of the cells, `bad` twice as often in the truly worse half of each group."""
        shape = quality.shape
        if self.cell.missing == "none":
            return np.ones(shape, dtype=bool)
        share = np.full(shape[:2], self.protocol.missing)
        if self.cell.missing == "bad":
            rank = self.problem.plain(quality).argsort(axis=1).argsort(axis=1)
            share *= np.where(rank < shape[1] // 2, 4 / 3, 2 / 3)
        return stream(self.seed, MISSING, step).random(shape) >= share[..., None]

    def _calibrate(self) -> Floats:
        """Confidence from labels: the slope of truth on score over `labels` completions of the first policy, per criterion.

        That slope is the reliability (grape.md §4, "calibrators aim at that"), estimated, in [lowest, 1].
        """
        rng = stream(self.seed, LABELS)
        tau, count = self.problem.sizes.spread, self.protocol.labels
        quality = np.clip(0.5 + tau * rng.standard_normal((count, len(CRITERIA))), 0.2, 0.8)
        scores = _beta(rng, quality, self._cell_sigma(rng, quality.shape))
        centred = scores - scores.mean(axis=0)
        slope = (centred * (quality - quality.mean(axis=0))).sum(axis=0) / (centred**2).sum(axis=0)
        return np.clip(slope, self.protocol.lowest, 1.0)

    def rows(self, verdicts: Verdicts, group: int) -> list[dict[str, ScoredCell]]:
        """One group as `score_group` wants it: missing cells are absent, or zeros if the arm fills them."""
        rows = []
        scores, confidence = verdicts.scores[group].tolist(), verdicts.confidence[group].tolist()
        noise = self.noise_of_mean(verdicts, group)
        for i, present in enumerate(verdicts.present[group].tolist()):
            row = {}
            for j, key in enumerate(CRITERIA):
                if present[j]:
                    row[key] = ScoredCell(scores[i][j], confidence[i][j], noise[i][j] if noise else None)
                elif self.arm.zero_fill:
                    row[key] = ScoredCell(0.0, None)
            rows.append(row)
        return rows

    def noise_of_mean(self, verdicts: Verdicts, group: int) -> list[list[float]] | None:
        """Variance of the averaged vote, vote_variance/votes; null for a single vote."""
        if verdicts.vote_variance is None:
            return None
        found: list[list[float]] = (verdicts.vote_variance[group] / self.arm.votes).tolist()
        return found


def _beta(rng: np.random.Generator, mean: Floats, sigma: Floats) -> Floats:
    """Beta with this mean and variance σ²; exactly the mean where σ is 0."""
    variance = np.minimum(sigma**2, MOST_NOISE * mean * (1 - mean))
    if not variance.any():
        return mean.copy()
    concentration = mean * (1 - mean) / variance - 1
    return rng.beta(mean * concentration, (1 - mean) * concentration)
