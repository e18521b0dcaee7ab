"""Golden numbers of the statistics, derived by hand or by counting."""

import math

import numpy as np
import pytest

from benchmarks.claim.statistics import bootstrap, differences, final, medians, quantile, ratios, samples_to

INF = math.inf


def test_samples_to_a_level_are_linear_between_steps():
    curve = [0.0, 0.2, 0.6, 0.5, 0.9]
    assert samples_to(curve, 0.2, 32) == 32  # reached exactly after one step
    assert samples_to(curve, 0.5, 32) == pytest.approx((1 + 0.3 / 0.4) * 32)  # three quarters of the way into step two
    assert samples_to(curve, 0.8, 32) == pytest.approx((3 + 0.3 / 0.4) * 32)  # the dip before does not matter
    assert samples_to(curve, 0.95, 32) == INF
    assert samples_to(curve, -0.1, 32) == 0


def test_final_is_a_mean_over_the_window():
    assert final([1.0, 2.0, 3.0, 5.0], 1) == 5
    assert final([1.0, 2.0, 3.0, 5.0], 2) == 4


def test_medians():
    assert medians(np.array([3.0, 1.0, 2.0])) == 2
    assert medians(np.array([4.0, 1.0, 2.0, 3.0])) == 2.5
    assert medians(np.array([1.0, INF, INF])) == INF
    assert medians(np.array([1.0, 2.0, INF])) == 2


def test_quantiles_are_values_of_the_sample():
    values = np.array([5.0, 1.0, 4.0, 2.0, 3.0, INF])
    assert quantile(values, 0.5) == 3
    assert quantile(values, 0.51) == 4
    assert quantile(values, 1.0) == INF
    assert quantile(values, 0.0) == 1


@pytest.mark.parametrize("count", [5, 9, 15, 51])
def test_the_bootstrap_interval_of_a_median_is_the_exact_one(count):
    """A resample's median is at most the k-th value if at least (n+1)/2 of n draws are: P = P(Binomial(n, k/n) ≥ (n+1)/2).

    The exact percentile interval follows by counting: the first k with P ≥ 2.5 %, and the first with P ≥ 97.5 %.
    """

    def at_most(k):
        p = k / count
        return sum(math.comb(count, m) * p**m * (1 - p) ** (count - m) for m in range((count + 1) // 2, count + 1))

    low = next(k for k in range(1, count + 1) if at_most(k) >= 0.025)
    high = next(k for k in range(1, count + 1) if at_most(k) >= 0.975)
    estimate = bootstrap([float(k) for k in range(1, count + 1)], 20_000)
    assert estimate.value == (count + 1) / 2
    assert (estimate.low, estimate.high) == (low, high)


def test_an_interval_of_equal_values_is_a_point_and_a_seeded_one_repeats():
    estimate = bootstrap([0.7] * 8, 100)
    assert (estimate.value, estimate.low, estimate.high) == (0.7, 0.7, 0.7)
    values = [0.1, 0.9, 0.4, 0.2, 0.7]
    assert bootstrap(values, 500) == bootstrap(values, 500)


def test_the_interval_of_a_mean_agrees_with_the_normal_one():
    """For 400 values the bootstrap distribution of a mean is normal to a few per cent: mean ± 1.96·sd/√n."""
    values = np.random.default_rng(3).gamma(4.0, size=400)
    estimate = bootstrap(values.tolist(), 10_000, statistic=lambda x: x.mean(axis=-1))
    half = 1.96 * values.std() / 20
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_ratios_of_runs_that_never_arrive():
    assert ratios([10.0, INF, 10.0, INF], [20.0, 20.0, INF, INF]) == [0.5, INF, 0.0, 1.0]
    assert ratios([INF, INF, 1.0], [INF, INF, 2.0]) is None  # most pairs say nothing
    assert differences([0.5, 0.25], [0.25, 0.5]) == [0.25, -0.25]


def test_infinite_ratios_have_intervals():
    estimate = bootstrap([0.5, 0.6, INF, INF, INF], 2000)
    assert estimate.value == INF
    assert estimate.low == 0.5
    assert estimate.high == INF
    assert estimate.to_json() == ["inf", 0.5, "inf"]
