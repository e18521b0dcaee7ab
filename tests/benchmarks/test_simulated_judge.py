"""The simulated judge does what the protocol says of it, measured on many cells."""

import math

import numpy as np
import pytest

from benchmarks.claim.judge import SimulatedJudge
from benchmarks.claim.problem import make_problem, stream
from benchmarks.claim.protocol import ALL_ARMS, FULL, NOISES, Arm, Cell

TAU = FULL.categorical.spread
GROUPS = 4000


def judge_of(noise="large", said="honest", missing="none", arm="confidence", seed=0):
    problem = make_problem("independent", FULL.categorical, seed)
    arm = arm if isinstance(arm, Arm) else ALL_ARMS[arm]
    return SimulatedJudge(FULL.judge, problem, Cell("independent", noise, said, missing), arm, seed)


def qualities(judge, groups=GROUPS):
    actions = stream(1, 99).integers(0, FULL.categorical.actions, (groups, 8))
    return judge.problem.quality(judge.problem.latent[0][actions])


@pytest.mark.parametrize("noise", ["small", "large"])
def test_errors_are_unbiased_bounded_and_of_the_stated_size(noise):
    judge = judge_of(noise)
    quality = qualities(judge)
    scores = judge.grade(quality, 0).scores
    error = (scores - quality).reshape(-1, 4)
    assert 0 <= scores.min() <= scores.max() <= 1
    sigma = TAU * np.array(NOISES[noise])
    assert error.std(axis=0) == pytest.approx(sigma, rel=0.03)
    assert np.abs(error.mean(axis=0)).max() < 4 * sigma.max() / math.sqrt(len(error))
    correlation = np.corrcoef(error.T)[np.triu_indices(4, 1)]
    assert np.abs(correlation).max() < 4 / math.sqrt(len(error))


def test_correlation_of_score_and_truth_is_that_of_the_protocol():
    """τ/√(τ²+σ²): .89 .71 .45 .24 at the larger noise."""
    judge = judge_of("large")
    quality = qualities(judge)
    scores = judge.grade(quality, 0).scores
    for j, expected in enumerate((0.894, 0.707, 0.447, 0.243)):
        assert np.corrcoef(scores[..., j].ravel(), quality[..., j].ravel())[0, 1] == pytest.approx(expected, abs=0.02)


def test_without_noise_the_judge_says_the_truth():
    judge = judge_of("none")
    quality = qualities(judge, 3)
    assert (judge.grade(quality, 0).scores == quality).all()


def stated(said, noise="large"):
    judge = judge_of(noise, said)
    quality = qualities(judge)
    rng = stream(judge.seed, 2, 0)  # the judge's own stream: hardness is its first draw
    reliability = judge.reliability(judge._cell_sigma(rng, quality.shape))
    return judge.grade(quality, 0).confidence, reliability


def test_honest_confidence_is_reliability_with_jitter_on_twentieths():
    confidence, reliability = stated("honest")
    twentieths = confidence / 0.05
    assert twentieths == pytest.approx(np.round(twentieths))
    assert 0.05 <= confidence.min() <= confidence.max() <= 1
    # Criterion b lies around ½, far from both ends: jitter .1 and the rounding's .05/√12 are all that is between the two.
    error = (confidence - reliability)[..., 1]
    assert error.std() == pytest.approx(math.sqrt(0.1**2 + 0.05**2 / 12), rel=0.03)
    assert abs(error.mean()) < 0.003
    # Within one criterion it still knows the harder completions from the easier ones.
    assert np.corrcoef(confidence[..., 1].ravel(), reliability[..., 1].ravel())[0, 1] > 0.5


def test_saturated_confidence_hardly_tells_anything():
    confidence, _ = stated("saturated")
    means = confidence.mean(axis=(0, 1))
    assert means == pytest.approx([0.9] * 4, abs=0.05)
    assert means[0] > means[3]
    assert confidence.min() >= 0.7


def test_anti_calibrated_confidence_is_highest_where_the_judge_errs_most():
    confidence, reliability = stated("anti")
    means = confidence.mean(axis=(0, 1))
    assert list(means) == sorted(means)
    assert np.corrcoef(confidence.ravel(), reliability.ravel())[0, 1] < -0.8


def test_a_fifth_is_missing_at_random():
    judge = judge_of(missing="random")
    quality = qualities(judge)
    gone = ~judge.grade(quality, 0).present
    assert gone.mean() == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / gone.size))
    plain = judge.problem.plain(quality)[..., None]
    assert (gone * plain).sum() / gone.sum() == pytest.approx(plain.mean(), abs=0.002)


def test_bad_completions_lose_twice_as_many():
    """p over the worse half and p/2 over the better one, a fifth together: 4/15 and 2/15."""
    judge = judge_of(missing="bad")
    quality = qualities(judge)
    gone = ~judge.grade(quality, 0).present
    worse = judge.problem.plain(quality).argsort(axis=1).argsort(axis=1) < 4
    assert gone.mean() == pytest.approx(0.2, abs=0.005)
    assert gone[worse].mean() == pytest.approx(4 / 15, abs=0.007)
    assert gone[~worse].mean() == pytest.approx(2 / 15, abs=0.006)


def test_rows_leave_missing_cells_out_and_the_zero_arm_fills_them():
    judge, filled = judge_of(missing="random"), judge_of(missing="random", arm="confidence_zero")
    quality = qualities(judge, 50)
    verdicts, same = judge.grade(quality, 3), filled.grade(quality, 3)
    assert (verdicts.scores == same.scores).all()
    for group in range(50):
        for there, row, zeros in zip(
            verdicts.present[group], judge.rows(verdicts, group), filled.rows(same, group), strict=True
        ):
            assert set(row) == {key for key, is_there in zip("abcd", there, strict=True) if is_there}
            assert set(zeros) == set("abcd")
            assert {k: zeros[k] for k in row} == row
            assert all(zeros[k].score == 0 and zeros[k].confidence is None for k in set("abcd") - set(row))


def test_two_votes_halve_the_variance_and_say_so():
    judge = judge_of(arm="uniform_2")
    quality = qualities(judge)
    verdicts = judge.grade(quality, 0)
    sigma = TAU * np.array(NOISES["large"])
    assert (verdicts.scores - quality).std(axis=(0, 1)) == pytest.approx(sigma / math.sqrt(2), rel=0.03)
    assert verdicts.vote_variance.mean(axis=(0, 1)) == pytest.approx(sigma**2, rel=0.06)


def test_four_votes_on_d_halve_its_deviation_and_no_other():
    judge, single = judge_of(arm="votes_on_d_4"), judge_of(arm="uniform")
    quality = qualities(judge)
    scores, before = judge.grade(quality, 0).scores, single.grade(quality, 0).scores
    assert (scores[..., :3] == before[..., :3]).all()
    assert (scores - quality)[..., 3].std() == pytest.approx(TAU * NOISES["large"][3] / 2, rel=0.03)
    assert abs((scores - quality)[..., 3].mean()) < 4 * TAU * 2 / math.sqrt(quality[..., 3].size)


def test_calibration_estimates_reliability_from_its_labels():
    """τ²/(τ²+σ²) is .8 .5 .2 .06 at the larger noise; 64 labels leave an error of about .06 at the second."""
    found = np.array([judge_of(arm="calibrated", seed=seed).calibrated for seed in range(60)])
    assert found.mean(axis=0) == pytest.approx([0.8, 0.5, 0.2, 0.06], abs=0.03)
    assert 0.02 < found[:, 1].std() < 0.12


def test_verdicts_depend_on_seed_and_step_alone():
    quality = qualities(judge_of(), 5)
    verdicts = judge_of().grade(quality, 4)
    assert (verdicts.scores == judge_of(said="anti", arm="uniform").grade(quality, 4).scores).all()
    assert (verdicts.scores != judge_of().grade(quality, 5).scores).any()
    assert (verdicts.scores != judge_of(seed=1).grade(quality, 4).scores).any()
