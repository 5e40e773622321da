"""Jackknife intervals against scipy, plain loops and the known variance of crossed random effects."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from sparsekd_jax.theory import intervals
from sparsekd_jax.theory.intervals import Estimate
from tests.theory import testbed


def leave_one_out_means(values):
    """Of a mean over members [m, n]: full [n], and without each member [m, n]."""
    m = len(values)
    full = values.mean(axis=0)
    return full, (m * full - values) / (m - 1)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_jackknife_of_a_mean_is_student_t(level):
    values = np.random.default_rng(0).normal(size=7)
    estimate = intervals.jackknife_t(values.mean(), (values.sum() - values) / 6, level=level)
    low, high = stats.t.interval(level, 6, loc=values.mean(), scale=stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-12)
    assert (estimate.value, estimate.level) == (values.mean(), level)


def plain_two_way(full, without):
    """The mean squares of the crossed design in plain loops."""
    m, n = without.shape
    x = np.array([[m * full[j] - (m - 1) * without[i, j] for j in range(n)] for i in range(m)])
    rows, columns, grand = x.mean(axis=1), x.mean(axis=0), x.mean()
    a = sum((r - grand) ** 2 for r in rows) / (m - 1) / m
    b = sum((f - np.mean(full)) ** 2 for f in full) / (n - 1) / n
    e = sum((x[i, j] - rows[i] - columns[j] + grand) ** 2 for i in range(m) for j in range(n))
    e /= (m - 1) * (n - 1) * m * n
    variance = max(a + b - e, a, b)
    dof = variance**2 / (a**2 / (m - 1) + b**2 / (n - 1) + e**2 / ((m - 1) * (n - 1)))
    return variance, max(dof, min(m, n) - 1)


@given(st.sampled_from([(2, 2), (3, 9), (6, 4)]), st.integers(0, 10**6), st.floats(0, 3), st.floats(0, 3))
def test_two_way_is_the_crossed_analysis_of_variance(shape, seed, by_member, by_example):
    m, n = shape
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(m, n)) + by_member * rng.normal(size=(m, 1)) + by_example * rng.normal(size=n)
    full, without = leave_one_out_means(values)
    estimate = intervals.two_way_jackknife_t(full, without)
    variance, dof = plain_two_way(full, without)
    assert estimate.value == pytest.approx(values.mean(), abs=1e-12)
    assert estimate.high - estimate.value == pytest.approx(
        special.stdtrit(dof, 0.975) * variance**0.5, rel=1e-9
    )
    assert variance >= values.mean(axis=1).var(ddof=1) / m - 1e-12  # never below either way alone


@pytest.mark.parametrize(("by_member", "by_example"), [(1.0, 1.0), (0.2, 1.0), (1.0, 0.2)])
def test_two_way_covers_the_mean_of_crossed_effects_and_each_way_alone_does_not(by_member, by_example, x64):
    m, n, count = 8, 30, 2000
    keys = jax.random.split(jax.random.key(0), 3)
    values = (
        by_member * jax.random.normal(keys[0], (count, m, 1))
        + by_example * jax.random.normal(keys[1], (count, 1, n))
        + jax.random.normal(keys[2], (count, m, n))
    )
    full = values.mean(axis=1)
    without = (m * full[:, None] - values) / (m - 1)

    def coverage(rule):
        value, variance, dof = jax.jit(jax.vmap(rule))(full, without)
        half = special.stdtrit(np.asarray(dof), 0.975) * np.sqrt(np.asarray(variance))
        return np.mean(np.abs(np.asarray(value)) <= half), np.mean(np.asarray(variance))

    covered, variance = coverage(intervals.two_way)
    assert 0.94 <= covered <= 0.985
    # The clip at the larger way alone only ever adds.
    assert variance >= by_member**2 / m + by_example**2 / n + 1 / (m * n) - 0.01
    assert variance == pytest.approx(by_member**2 / m + by_example**2 / n + 1 / (m * n), rel=0.1)
    assert coverage(testbed.wrong_count)[0] < 0.7
    if by_example > by_member:
        assert coverage(testbed.members_only)[0] < 0.85


@pytest.mark.parametrize("wrap", [lambda rule: rule, jax.jit])
def test_one_of_a_kind_has_no_variance_under_jit_either(wrap):
    """NaN from the two-way rule and a variance of 0 from the other, if the shape were let through."""
    with pytest.raises(ValueError, match=r"without has shape \(1,\); one member has no variance: retrain"):
        wrap(intervals.one_way)(jnp.float32(1.0), jnp.ones(1))
    for shape in ((1, 4), (4, 1)):
        with pytest.raises(ValueError, match="needs two of each: retrain on more resamples, or take"):
            wrap(intervals.two_way)(jnp.ones(shape[1]), jnp.ones(shape))


def test_members_that_agree_give_an_interval_without_width(x64):
    spread = intervals.two_way(jnp.ones(4), jnp.ones((3, 4)))
    assert tuple(map(float, spread)) == (1.0, 0.0, 2.0)


def test_the_interval_of_a_positive_number_stays_positive():
    spread = intervals.Spread(np.float64(1.0), np.float64(1.0), np.float64(4.0))
    estimate = intervals.with_quantile(spread, 0.95, positive=True)
    assert 0 < estimate.low < 1 < estimate.high
    assert estimate.low * estimate.high == pytest.approx(1)
    nothing = intervals.Spread(np.float64(0.0), np.float64(0.0), np.float64(4.0))
    assert intervals.with_quantile(nothing, 0.95, positive=True).low == 0


def test_the_interval_of_a_difference_is_as_long_as_the_tail_of_chi_squared():
    """χ²_ν/ν has relative error √(2/ν) and skewness 2√(2/ν); a lognormal that skewed is 5 % longer."""
    dof, level = 40, 0.95
    spread = intervals.Spread(1.0, 2 / dof, 1e9)
    nothing = intervals.Spread(1.0, 0.0, 1e9)
    estimate = intervals.of_difference(spread, nothing, intervals.Spread(0.0, 2 / dof, 1e9), level)
    long_tail = stats.chi2(dof).ppf((1 + level) / 2) / dof - 1
    assert estimate.high == pytest.approx(1.05 * long_tail, rel=0.01)
    assert estimate.low == -estimate.high
    student = intervals.with_quantile(intervals.Spread(0.0, 2 / dof, 1e9), level)
    assert student.high < 0.93 * long_tail


def test_the_interval_of_a_difference_without_spread_has_no_width():
    one, none = intervals.Spread(1.0, 0.5, 4.0), intervals.Spread(0.0, 0.0, 4.0)
    for difference in (intervals.Spread(0.0, 0.0, 4.0), intervals.Spread(1.0, 0.5, 4.0)):
        same = intervals.of_difference(one, none, difference, 0.95)
        assert same == intervals.with_quantile(difference, 0.95)
    equal = intervals.of_difference(one, one, intervals.Spread(0.0, 0.0, 4.0), 0.95)
    assert (equal.low, equal.high) == (0, 0)


def test_an_interval_longer_than_a_float_is_infinite():
    """Two examples and a level of .9999: t = 6366, and e^t is no float. That is no answer, and no crash."""
    spread = intervals.Spread(1.0, 1.0, 1.0)
    positive = intervals.with_quantile(spread, 0.9999, positive=True)
    assert (positive.low, positive.high) == (0.0, np.inf)
    difference = intervals.of_difference(spread, spread, intervals.Spread(0.0, 2.0, 1.0), 0.9999)
    assert (difference.low, difference.high) == (-np.inf, np.inf)


def test_the_bootstrap_is_the_quantiles_of_resampled_statistics():
    values = np.random.default_rng(3).exponential(size=60).astype(np.float32)
    estimate = intervals.percentile_bootstrap(jnp.mean, values, key=jax.random.key(0), resamples=4000)
    drawn = np.random.default_rng(4).choice(values, (20_000, 60)).mean(axis=1)
    assert estimate.value == pytest.approx(values.mean(), rel=1e-6)
    assert (estimate.low, estimate.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)


def test_why_the_bootstrap_is_refused_for_few_members():
    """Theory.md: .53, .70, .79 at m = 3, 5, 10, where the ensemble is resampled for a variance."""
    rng = np.random.default_rng(0)
    covered = []
    for m in (3, 5, 10):
        index = rng.integers(0, m, (500, m))
        resampled = rng.normal(size=(400, m))[:, index].var(axis=-1, ddof=1)
        low, high = np.quantile(resampled, [0.025, 0.975], axis=1)
        covered.append(np.mean((low <= 1) & (high >= 1)))
    assert covered == sorted(covered)
    assert covered[-1] < 0.85


def test_estimates_print_their_bounds():
    assert str(Estimate(0.5, None, None)) == "0.5 (no interval)"
    assert str(Estimate(0.5, 0.25, 1.0)) == "0.5 [0.25, 1]"


bootstrap = functools.partial(intervals.percentile_bootstrap, key=jax.random.key(0), resamples=8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intervals.jackknife_t(1.0, [1.0]), r"without has shape \(1,\)"),
        (lambda: intervals.jackknife_t(1.0, [1.0, np.nan]), r"without\[1\] is nan"),
        (lambda: intervals.jackknife_t(np.inf, [1.0, 2.0]), "full is inf"),
        (lambda: intervals.jackknife_t(1.0, [1.0, 2.0], level=95), "level"),
        (lambda: intervals.two_way_jackknife_t(np.ones(1), np.ones((3, 1))), "two examples"),
        (lambda: intervals.two_way_jackknife_t(np.ones(3), np.ones((3, 4))), r"full has shape \(3,\)"),
        (lambda: intervals.jackknife_t([1.0, 2.0], [1.0, 2.0]), r"full has shape \(2,\)"),
        (lambda: intervals.with_quantile(intervals.Spread(1.0, 0.1, 9.0), 95), "level must lie"),
        (lambda: intervals.with_quantile(intervals.Spread(1.0, -0.1, 9.0), 0.9), "variance is -0.1"),
        (lambda: bootstrap(jnp.mean, np.ones(50), resamples=0), "resamples is 0"),
        (lambda: bootstrap(lambda x: x.mean(0), np.ones((50, 2))), r"statistic returns shape \(2,\)"),
        (lambda: bootstrap(jnp.mean, np.ones(49)), "m ≥ 50.*Use jackknife_t"),
        (lambda: bootstrap(jnp.mean, 1.0), "members holds 0"),
        (lambda: bootstrap(jnp.mean, np.ones(50), level=0), "level"),
        (lambda: bootstrap(lambda x: jnp.log(x).sum(), np.zeros(50)), "not finite"),
    ],
)
def test_refusals_name_the_argument_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()
