"""Fitted rates: planted ones recovered, intervals that cover, and 'undecided' where the data cannot tell."""

import dataclasses

import numpy as np
import pytest
from scipy import optimize, stats

from sparsekd_jax.theory.convergence import fit_rate, tracking_error

STAGES = 4.0 * 2.0 ** np.arange(7)
RATES = (0.5, 1.0, 2.0)


def curves(rng, gamma, floor, *, replicates=20, noise=0.02, shared=0.8, stages=STAGES):
    """``floor + 2n^(−γ)`` with noise relative to the first point, part of it shared within a seed."""
    scale = noise * 2 * stages[0] ** -gamma
    each = rng.normal(size=(replicates, len(stages)))
    common = rng.normal(size=(replicates, 1))
    return floor + 2 * stages**-gamma + scale * (np.sqrt(shared) * common + np.sqrt(1 - shared) * each)


def fits(count, gamma, floor, known=False, change=lambda v, rng: v, level=0.95, **options):
    found = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        values = change(curves(rng, gamma, floor, **options), rng)
        found.append(fit_rate(values, STAGES, floor=floor if known else None, level=level))
    return found


def coverage(found, gamma):
    return np.mean([fit.low <= gamma <= fit.high for fit in found])


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("floor", [0.0, 0.5])
@pytest.mark.parametrize("gamma", RATES)
def test_planted_rates_are_recovered_with_coverage(gamma, floor, known):
    found = fits(200, gamma, floor, known)
    # 190 of 200 expected; the binomial puts fewer than 180 at one in a thousand.
    assert coverage(found, gamma) >= 0.9
    assert np.median([fit.gamma for fit in found]) == pytest.approx(gamma, rel=0.03)
    assert np.median([fit.a for fit in found]) == pytest.approx(floor, abs=0.02)
    assert np.median([fit.b for fit in found]) == pytest.approx(2, rel=0.1)
    assert np.mean([fit.verdict == "decided" for fit in found]) > 0.9


@pytest.mark.parametrize("replicates", [9, 12, 50])
def test_few_replicates_cover_as_well(replicates):
    assert coverage(fits(300, 1.0, 0.5, replicates=replicates), 1.0) >= 0.9


def test_broken_twins_do_not_cover():
    options = {"replicates": 30, "noise": 0.01, "shared": 0.95}
    assert coverage(fits(200, 1.0, 0.0, known=True, **options), 1.0) >= 0.9
    half_z = coverage(fits(200, 1.0, 0.0, known=True, level=0.673, **options), 1.0)
    assert half_z < 0.8  # z/2 in place of z
    # Seeds shuffled at each n on their own: the same marginals, no pairs.
    unpaired = fits(200, 1.0, 0.0, known=True, change=lambda v, rng: rng.permuted(v, axis=0), **options)
    assert coverage(unpaired, 1.0) < 0.88


def test_pairing_narrows_the_interval_where_the_floor_is_fitted():
    def width(found):
        return np.median([np.log(fit.high / fit.low) for fit in found])

    options = {"noise": 0.05, "shared": 0.95}
    paired = fits(30, 1.0, 0.5, **options)
    unpaired = fits(30, 1.0, 0.5, change=lambda v, rng: rng.permuted(v, axis=0), **options)
    assert width(paired) < 0.5 * width(unpaired)


def test_the_fit_is_the_maximum_of_the_likelihood():
    """Against scipy on the whole Gaussian likelihood, its covariance profiled by the determinant."""
    y = curves(np.random.default_rng(3), 1.0, 0.5)

    def negative(parameters):
        a, b, log_gamma = parameters
        left = y - a - b * STAGES ** -np.exp(log_gamma)
        return 0.5 * len(y) * np.linalg.slogdet(left.T @ left / len(y))[1]

    found = optimize.minimize(
        negative,
        [0.4, 1.5, 0.2],
        method="Nelder-Mead",
        options={"maxiter": 10**4, "xatol": 1e-9, "fatol": 1e-12},
    )
    fit = fit_rate(y, STAGES)
    assert (fit.a, fit.b, np.log(fit.gamma)) == pytest.approx(tuple(found.x), abs=1e-4)
    # The bounds are where the profile of that likelihood has fallen by ½R log(1 + F/ν).
    freedom = len(y) - len(STAGES) + 2
    drop = 0.5 * len(y) * np.log1p(stats.f.ppf(0.95, 1, freedom) / freedom)
    for bound in (fit.low, fit.high):
        at = optimize.minimize(
            lambda ab, bound=bound: negative([*ab, np.log(bound)]),
            [0.5, 2.0],
            method="Nelder-Mead",
            options={"maxiter": 10**4, "xatol": 1e-9, "fatol": 1e-12},
        )
        assert at.fun - found.fun == pytest.approx(drop, rel=1e-5)


def test_noise_of_three_fifths_does_not_decide():
    """Witness: noise/b = .6, smallest n = 4 as a contraction of ρ = ¼ asks for, 200 seeds."""
    for shared in (0.0, 0.8):
        for seed in range(20):
            rng = np.random.default_rng(seed)
            noise = np.sqrt(shared) * rng.normal(size=(200, 1)) + np.sqrt(1 - shared) * rng.normal(
                size=(200, 7)
            )
            fit = fit_rate(1 / STAGES + 0.6 * noise, STAGES, rho=0.25)
            assert fit.verdict == "undecided"
            assert fit.reason.startswith("γ in [")


def test_the_same_noise_decides_where_the_curve_is_seen_from_its_first_stage():
    """The limit of that witness: from n = 1 the signal is b, not b/4, and 200 seeds do decide."""
    n = 2.0 ** np.arange(7)
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=(200, 7))
        assert fit_rate(1 / n + 0.6 * noise, n).verdict == "decided"


def test_the_exact_bound_curve_on_small_n_is_no_power():
    """Witness: on n ≤ 10, ρ = .9 fits γ → 0, a = −6."""
    n = np.arange(1, 11)
    fit = fit_rate(tracking_error(n, mu=1.0, eta=0.1, m=1, P=1.0)[None], n, rho=0.9)
    assert fit.gamma < 0.03
    assert fit.a == pytest.approx(-6, abs=0.5)
    assert (fit.verdict, fit.low, fit.high, fit.misfit) == ("undecided", None, None, None)
    assert list(fit.reasons) == [
        "n spans a factor 10: a rate needs at least 64",
        "the smallest n is 1, below 3/(1 − ρ) = 30: not yet a power of n",
        "1 replicates give no regular covariance of 10 stages: an interval needs more than 10 of them, not "
        "identical",
    ]
    # Where n is large and doubles over a factor 64, the same curve is the 1/n of the theorem.
    n = 30 * 2 ** np.arange(7)
    long = fit_rate(tracking_error(n, mu=1.0, eta=0.1, m=1, P=1.0)[None], n, floor=0.0, rho=0.9)
    assert long.gamma == pytest.approx(1.0, abs=0.05)
    assert long.reason.startswith("1 replicates")


def test_a_narrow_interval_where_no_rate_shows_is_not_a_decision():
    """Without the rule on n, seeds that hardly differ would decide for a γ far from the theorem's 1."""
    rng = np.random.default_rng(0)
    n = np.arange(1, 11)
    curve = tracking_error(n, mu=1.0, eta=0.1, m=1, P=1.0)
    early = fit_rate(curve + 1e-9 * rng.normal(size=(50, 10)), n, floor=-6.0, rho=0.9)
    assert early.high < 2 * early.low
    assert early.high < 0.1
    assert early.verdict == "undecided"
    n = 2.0 ** np.arange(7)
    late = curves(rng, 1.0, 0.5, stages=n)
    assert fit_rate(late, n).verdict == "decided"
    assert fit_rate(late[:, 1:], n[1:]).reason == "n spans a factor 32: a rate needs at least 64"
    assert fit_rate(late, n, rho=0.5).reason.startswith("the smallest n is 1, below 3/(1 − ρ) = 6")


def test_without_a_regular_covariance_there_is_no_interval():
    rng = np.random.default_rng(0)
    few = fit_rate(curves(rng, 1.0, 0.5, replicates=7, noise=1e-6), STAGES)
    assert (few.low, few.verdict) == (None, "undecided")
    assert few.gamma == pytest.approx(1.0, abs=1e-3)
    one = curves(rng, 1.0, 0.5, replicates=1)
    same = fit_rate(np.repeat(one, 30, axis=0), STAGES)
    assert (same.low, same.verdict) == (None, "undecided")
    only_common = fit_rate(one + rng.normal(size=(30, 1)), STAGES)
    assert (only_common.low, only_common.verdict) == (None, "undecided")


def test_a_curve_of_another_form_is_undecided():
    rng = np.random.default_rng(0)
    values = curves(rng, 1.0, 0.5, noise=1e-3) + 0.2 * np.sin(np.arange(7))
    fit = fit_rate(values, STAGES)
    assert fit.misfit < 1e-3
    assert fit.verdict == "undecided"
    form, end, wide = fit.reasons  # all three, since none may hide another
    assert form.startswith("the means do not follow a + b·n^(−γ)")
    assert end.endswith("reaches an end of what was searched: no bound on that side")
    assert wide.endswith("is wider than a factor 2")


def test_the_misfit_is_a_p_value():
    p = np.array([fit.misfit for fit in fits(300, 1.0, 0.5)])
    assert np.mean(p < 0.1) == pytest.approx(0.1, abs=0.05)
    assert np.mean(p < 0.5) == pytest.approx(0.5, abs=0.09)


def test_a_flat_curve_is_undecided():
    values = np.random.default_rng(0).normal(size=(30, 7))
    fit = fit_rate(values, STAGES)
    assert fit.verdict == "undecided"
    faults = fit.reasons
    assert len(faults) == 2
    assert faults[0].endswith("reaches an end of what was searched: no bound on that side")
    assert faults[1].endswith("is wider than a factor 2")


def test_two_faults_are_both_listed():
    """A kink, under noise that leaves γ open between two bounds."""
    values = curves(np.random.default_rng(0), 1.0, 0.5, noise=0.8, shared=0.9) + 0.2 * (np.arange(7) == 3)
    fit = fit_rate(values, STAGES)
    form, wide = fit.reasons
    assert form.startswith("the means do not follow")
    assert wide.endswith("is wider than a factor 2")


def test_sparse_stages_do_not_decide():
    fit = fit_rate(
        curves(np.random.default_rng(0), 1.0, 0.5, stages=4.0 ** np.arange(5)), 4.0 ** np.arange(5)
    )
    assert fit.reason == "n more than doubles between neighbours: a bend between them goes unseen"
    with pytest.raises(dataclasses.FrozenInstanceError):
        fit.gamma = 1.0


GOOD = np.random.default_rng(0).normal(size=(10, 7))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_rate(GOOD[:, :4], STAGES[:4]), "4 n; three parameters need at least 5"),
        (lambda: fit_rate(GOOD, STAGES[:6]), r"values \(10, 7\), stages \(6,\)"),
        (lambda: fit_rate(GOOD[0], STAGES), "a row a seed"),
        (lambda: fit_rate(GOOD, STAGES[::-1]), "increasing"),
        (lambda: fit_rate(GOOD, STAGES - 4), "positive"),
        (lambda: fit_rate(np.where(np.arange(7) == 2, np.nan, GOOD), STAGES), r"values\[0, 2\] is nan"),
        (lambda: fit_rate(GOOD, STAGES, floor=np.inf), "floor is inf"),
        (lambda: fit_rate(GOOD, STAGES, rho=1.0), "rho is 1.0"),
        (lambda: fit_rate(GOOD, STAGES, level=95), "level"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
