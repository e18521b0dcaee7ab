"""The problem behind a seed: what each completion is truly worth on each criterion. Both policies share it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.claim.protocol import SETTINGS, Setting, Sizes

PROBLEM, SAMPLING, JUDGE, MISSING, LABELS = range(5)
"""Streams of random numbers; `stream(seed, JUDGE, step)` depends on nothing else, so arms are paired by seed."""

Floats = NDArray[np.float64]


def stream(seed: int, use: int, *rest: int) -> np.random.Generator:
    """A generator for one use of one seed."""
    return np.random.default_rng([seed, use, *rest])


def factor(setting: Setting) -> Floats:
    """L with L·Lᵀ = the setting's correlation; by eigenvalues, because one shared quality has rank 1."""
    values, vectors = np.linalg.eigh(np.array(setting.correlation))
    return vectors * np.sqrt(np.maximum(values, 0.0))


@dataclass(frozen=True, slots=True)
class Problem:
    """`latent[k, v, j]`: worth of action (or token) v in context k on criterion j, in units of its spread over the actions.

    Over the actions of a context each criterion has mean 0 and deviation 1, and the criteria have exactly the correlation
    of the setting.
    """

    setting: Setting
    sizes: Sizes
    latent: Floats

    @property
    def shares(self) -> Floats:
        """The author's weights, w/Σw."""
        weights = np.array(self.setting.weights)
        return weights / weights.sum()

    @property
    def scale(self) -> float:
        """What a completion's mean latent worth is multiplied by: its deviation under uniform tokens is then `spread`."""
        return self.sizes.spread * float(np.sqrt(self.sizes.completion_tokens))

    def quality(self, mean_latent: Floats) -> Floats:
        """True quality in [0, 1] of a mean latent worth."""
        quality = 0.5 + self.scale * mean_latent
        assert bool(np.all((quality > 0) & (quality < 1))), "the spread leaves the judge's scale"
        return quality

    def plain(self, quality: Floats) -> Floats:
        """The noise-free plain-weight reward Σ w·q/Σw over the last axis: the yardstick."""
        return quality @ self.shares

    @property
    def best(self) -> Floats:
        """The best plain reward there is in each context: the best action, at every position."""
        best: Floats = self.plain(self.quality(self.latent)).max(axis=1)
        return best

    def fraction(self, plain: float) -> float:
        """How far the contexts' mean plain reward is from uniformly random completions (0.5, exactly) to the attainable."""
        return (plain - 0.5) / (float(self.best.mean()) - 0.5)


def make_problem(setting: str, sizes: Sizes, seed: int) -> Problem:
    """The problem of a seed. The same seed has the same raw numbers in every setting."""
    chosen = SETTINGS[setting]
    rng = stream(seed, PROBLEM)
    latent = np.empty((sizes.contexts, sizes.actions, len(chosen.weights)))
    for context in range(sizes.contexts):
        raw = rng.standard_normal((sizes.actions, len(chosen.weights)))
        raw -= raw.mean(axis=0)
        # Whitened, so that no seed has another correlation than its setting says: (XᵀX/n) = I afterwards.
        white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / sizes.actions)).T
        latent[context] = white @ factor(chosen).T
    return Problem(chosen, sizes, latent)
