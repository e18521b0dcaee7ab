"""Problems have exactly the structure that their setting says."""

import numpy as np
import pytest

from benchmarks.claim.problem import make_problem, stream
from benchmarks.claim.protocol import FULL, NOISES, SETTINGS, Cell, cells_and_arms, run_keys

SIZES = FULL.categorical


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("seed", [0, 7])
def test_moments_are_those_of_the_setting_and_not_of_the_draw(setting, seed):
    problem = make_problem(setting, SIZES, seed)
    for context in problem.latent:
        assert context.mean(axis=0) == pytest.approx([0] * 4, abs=1e-9)
        assert context.T @ context / SIZES.actions == pytest.approx(np.array(SETTINGS[setting].correlation), abs=1e-9)


def test_settings_are_the_four_of_the_design():
    correlations = {name: np.array(s.correlation) for name, s in SETTINGS.items()}
    assert correlations["shared"].min() == 1
    assert (correlations["independent"] == np.eye(4)).all()
    assert set(correlations["correlated"][np.triu_indices(4, 1)]) == {0.5}
    # In the conflicting setting the noisiest criterion is against all others and weighs more than all of them.
    assert set(correlations["conflicting"][3, :3]) == {-0.5}
    assert SETTINGS["conflicting"].weights[3] > sum(SETTINGS["conflicting"].weights[:3])
    for name in ("small", "large"):
        assert NOISES[name] == tuple(sorted(NOISES[name]))
    assert np.array(NOISES["large"]) == pytest.approx(2 * np.array(NOISES["small"]))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_random_policy_attains_nothing_and_the_best_actions_attain_all(setting):
    problem = make_problem(setting, SIZES, 3)
    plain = problem.plain(problem.quality(problem.latent))
    assert problem.fraction(float(plain.mean())) == pytest.approx(0, abs=1e-9)
    assert problem.fraction(float(plain.max(axis=1).mean())) == pytest.approx(1)
    assert 0.2 < problem.quality(problem.latent).min() < problem.quality(problem.latent).max() < 0.8


def test_completions_of_several_tokens_have_the_same_spread():
    """Deviation of a mean of T independent words is 1/√T, and the scale has √T: τ again, whatever T."""
    problem = make_problem("independent", FULL.transformers, 0)
    words = stream(0, 99).integers(0, FULL.transformers.actions, (40_000, FULL.transformers.completion_tokens))
    quality = problem.quality(problem.latent[0][words].mean(axis=1))
    assert quality.std(axis=0) == pytest.approx([FULL.transformers.spread] * 4, rel=0.03)


def test_the_table_is_whole():
    """Four settings × two noises × three confidences for the claim, and every arm beside them; nothing is planned twice."""
    for policy in ("categorical", "transformers"):
        planned = list(cells_and_arms(policy))
        assert len(planned) == len(set(planned))
        claim = {
            (c.setting, c.noise, c.confidence) for c, arm in planned if arm == "confidence" and c.missing == "none"
        }
        assert len(claim) == 4 * 2 * 3
        for setting in SETTINGS:
            for noise in ("small", "large"):
                assert (Cell(setting, noise, "any"), "uniform") in planned
    assert len({key.seed for key in run_keys(FULL, "categorical")}) >= 50
    assert len({key.seed for key in run_keys(FULL, "transformers")}) >= 5
