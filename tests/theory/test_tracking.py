"""The tracking theorem on problems solved in closed form: twins, budgets, and where it does not hold."""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sparsekd_jax.theory.convergence import TrackingBound, follow, path_speed, tracking_error

STAGES = 8


def bound_of(**changes):
    constants = {"mu": 1.0, "L": 4.0, "P": 3.0, "G": 2.0, "m": 2, "eta": 0.2, "e0": 0.5, "floor": 0.1}
    return TrackingBound(**(constants | changes))


# -- the formula -------------------------------------------------------------------------------------


@given(step=st.floats(1e-3, 1), speed=st.floats(0, 1e3), start=st.floats(0, 1e3), n=st.integers(1, 200))
def test_the_formula_solves_the_recursion(step, speed, start, n):
    error = start
    for _ in range(n):
        error = (1 - step) * (error + speed / n)
    ours = tracking_error(n, mu=1.0, eta=step, m=1, P=speed, e0=start)
    assert float(ours) == pytest.approx(error, rel=1e-11, abs=1e-280)


def test_a_contraction_next_to_1_keeps_its_digits():
    eta, n, m = 1e-13, 1000, 3
    with mpmath.workdps(50):
        rho = (1 - mpmath.mpf(eta)) ** m
        want = rho**n + mpmath.mpf(2) / n * rho * (1 - rho**n) / (1 - rho)
        assert float(tracking_error(n, mu=1.0, eta=eta, m=m, P=2.0, e0=1.0)) == pytest.approx(
            float(want), rel=1e-13
        )
        # The quotient of differences, as written in the theorem, has lost three digits there.
        quotient = (1 - float(rho) ** n) / (1 - float(rho)) * 2 / n + 1
    assert quotient != pytest.approx(float(want), rel=1e-13)


def test_a_stage_that_reaches_the_minimiser_leaves_nothing():
    bound = bound_of(L=1.0, eta=1.0)
    assert (bound.rho, bound.error(1), bound.required_stages(0.0)) == (0.0, 0.0, 1)


constants = st.fixed_dictionaries(
    {
        "mu": st.floats(0.1, 10),
        "L": st.floats(10, 100),
        "P": st.floats(0, 100),
        "G": st.floats(0, 10),
        "m": st.integers(1, 20),
        "eta": st.floats(1e-3, 0.018),
        "e0": st.floats(0, 100),
    }
)


@given(constants, st.floats(1e-3, 10))
def test_required_stages_is_the_smallest(given_constants, epsilon):
    bound = TrackingBound(**given_constants)
    n = bound.required_stages(epsilon)
    assert bound.bound(n) <= epsilon
    assert n == 1 or bound.bound(n - 1) > epsilon
    curve = bound.error(np.arange(1, 300))
    assert (np.diff(curve) <= 1e-12 * curve[0] + 1e-300).all()
    below = np.flatnonzero(bound.G * curve <= epsilon)
    assert n == below[0] + 1 if below.size else n >= 300


def test_required_stages_says_when_there_is_none():
    assert bound_of().required_stages(0.0) is None
    assert bound_of().required_stages(-1.0) is None
    assert bound_of(G=0.0).required_stages(0.0) == 1
    assert bound_of(P=0.0, e0=0.0).required_stages(0.0) == 1
    assert bound_of(P=1e300, G=1e3).required_stages(1e5) > 1e297
    with pytest.raises(ValueError, match="epsilon is nan"):
        bound_of().required_stages(math.nan)
    with pytest.raises(OverflowError, match=r"more than 2\^1000"):
        bound_of(P=1e300).required_stages(1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mu": 0.0}, "singular Hessian certifies no rate. Add a ridge"),
        ({"mu": 5.0}, "needs mu ≤ L"),
        ({"mu": math.nan}, "singular Hessian"),
        ({"L": math.inf}, "needs mu ≤ L < ∞"),
        ({"P": math.inf}, "hard masks.*Anneal"),
        ({"P": -1.0}, "P is -1.0"),
        ({"G": math.inf}, "G is inf"),
        ({"e0": math.nan}, "e0 is nan"),
        ({"m": 0}, "m must be at least 1, got 0"),
        ({"eta": 0.41}, r"eta is 0.41; the theorem needs 0 < eta ≤ 2/\(mu \+ L\) = 0.4"),
        ({"eta": 0.0}, "eta is 0.0"),
        ({"floor": math.inf}, "floor is inf"),
    ],
)
def test_constants_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        bound_of(**changes)


def test_bad_calls_are_named():
    with pytest.raises(TypeError):
        bound_of(m=1.5)
    with pytest.raises(ValueError, match="at least one stage"):
        bound_of().error(0)
    with pytest.raises(ValueError, match="divides total_steps"):
        bound_of().error_at_total(3, 10)
    with pytest.raises(ValueError, match="sigma is -1"):
        bound_of().stochastic_term(-1.0)
    with pytest.raises(ValueError, match="at least two points"):
        path_speed([1.0])
    with pytest.raises(ValueError, match="total_steps must be at least 1, got 0"):
        bound_of().best_stages(0)
    for lambdas in ([0.5, 0.5], [0.0, math.inf]):
        with pytest.raises(ValueError, match="one finite, increasing value for each of the 2 points"):
            path_speed([0.0, 1.0], lambdas)
    with pytest.raises(ValueError, match=r"sigma is 0\.5, and there is no key"):
        follow(lambda x, lam: x, jnp.zeros(2), jnp.ones(1), 1, 0.1, sigma=0.5)
    with pytest.raises(ValueError, match="not finite"):
        path_speed([0.0, math.nan])


# -- the theorem is sharp on one parabola ------------------------------------------------------------


@functools.cache
def parabola():
    """Gradient descent on μ/2(θ − Pλ)² from −e_0, over a batch of problems: |θ_n − P|."""

    def error(mu, speed, eta, m, start):
        lambdas = jnp.arange(1, STAGES + 1).astype(mu.dtype) / STAGES
        path = follow(lambda theta, lam: mu * (theta - speed * lam), -start, lambdas, m, eta)
        return jnp.abs(path[-1] - speed)

    return jax.jit(jax.vmap(error))


def run_parabola(mu, speed, step, m, start):
    """Errors of the runs; ``step`` is ημ in (0, 1]."""
    mu, speed, step, start = (np.atleast_1d(np.asarray(x, float)) for x in (mu, speed, step, start))
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (mu, speed, step / mu, np.atleast_1d(m), start)]
        return np.asarray(parabola()(*arrays))


@settings(max_examples=200)
@given(st.floats(1e-2, 1e2), st.floats(0, 10), st.floats(1e-3, 1), st.integers(1, 30), st.floats(0, 10))
def test_equality_on_a_parabola(mu, speed, step, m, start):
    eta = min(step / mu, 1 / mu)
    bound = TrackingBound(mu=mu, L=mu, P=speed, G=1.0, m=m, eta=eta, e0=start)
    assert float(run_parabola(mu, speed, step, m, start)[0]) == pytest.approx(bound.error(STAGES), abs=1e-10)


def test_broken_twins_are_exceeded():
    rng = np.random.default_rng(0)
    mu, speed, step = rng.uniform(0.1, 10, 500), rng.uniform(1, 10, 500), rng.uniform(0.05, 0.9, 500)
    m, start = rng.integers(1, 5, 500), rng.uniform(0, 1, 500)
    error = run_parabola(mu, speed, step, m, start)
    args = {"mu": mu, "eta": step / mu, "m": m, "e0": start}
    np.testing.assert_allclose(error, tracking_error(STAGES, P=speed, **args), rtol=1e-11)
    rho = (1 - step) ** m
    twins = {
        "no 1/(1 − ρ)": rho**STAGES * start + speed / STAGES * rho * (1 - rho**STAGES),
        "half of P": tracking_error(STAGES, P=speed / 2, **args),
        "no start": tracking_error(STAGES, P=speed, **(args | {"e0": 0.0})),
        "one step too many": tracking_error(STAGES, P=speed, **(args | {"m": m + 1})),
    }
    for name, twin in twins.items():
        assert (error > twin).mean() > 0.9, name


# -- noise -------------------------------------------------------------------------------------------


def noisy_rms(curvatures, eta, m, sigma, start, speed, runs=4000):
    """RMS error over runs after the last stage, on a diagonal quadratic whose minimiser moves."""
    with jax.enable_x64(True):
        h = jnp.asarray(curvatures)
        lambdas = jnp.arange(1, STAGES + 1).astype(h.dtype) / STAGES
        end = jnp.zeros_like(h).at[0].set(speed)

        def error(key):
            path = follow(
                lambda x, lam: h * (x - lam * end),
                -start * end / speed,
                lambdas,
                m,
                eta,
                sigma=sigma,
                key=key,
            )
            return jnp.sum((path[-1] - end) ** 2)

        keys = jax.random.split(jax.random.key(0), runs)
        return math.sqrt(float(jnp.mean(jax.jit(jax.vmap(error))(keys))))


def exact_rms(curvatures, shares, end, start, eta, m, sigma, stages):
    """RMS of θ_n − θ*(1) on ½Σh(θ − λ·end)², in closed form: means and variances of each axis, step by step.

    Axis i has the share s_i of the noise: v ← (1 − ηh)²v + η²σ²s.
    """
    h, s, end, mean = (np.asarray(a, float) for a in (curvatures, shares, end, start))
    variance = np.zeros_like(h)
    for k in range(1, stages + 1):
        for _ in range(m):
            mean = mean - eta * h * (mean - k / stages * end)
            variance = (1 - eta * h) ** 2 * variance + eta**2 * sigma**2 * s
    return math.sqrt(np.sum((mean - end) ** 2 + variance))


def within_the_stochastic_bound(axes, share, m, sigma, stages, term):
    """Whether e_n plus a term of the noise bounds the exact RMS; ``term`` is of a bound and σ."""
    h, weights, end, start = (np.array(x) for x in zip(*axes, strict=True))
    mu, smoothness = float(h.min()), float(h.max())
    eta = share * (2 / (mu + smoothness))
    bound = TrackingBound(
        mu=mu,
        L=smoothness,
        P=float(np.linalg.norm(end)),
        G=1.0,
        m=m,
        eta=eta,
        e0=float(np.linalg.norm(start)),
    )
    rms = exact_rms(h, weights / weights.sum(), end, start, eta, m, sigma, stages)
    return rms <= (bound.error(stages) + term(bound, sigma)) * (1 + 1e-9) + 1e-12


small, noisy = st.floats(-10, 10), st.floats(0.01, 1)
noisy_runs = (
    st.lists(st.tuples(st.floats(0.01, 100), noisy, small, small), min_size=1, max_size=4),
    st.floats(0.001, 1),
    st.integers(1, 10),
    st.floats(0, 10),
    st.integers(1, 12),
)


@settings(max_examples=300)
@given(*noisy_runs)
def test_the_stochastic_term_bounds_the_exact_rms(axes, share, m, sigma, stages):
    """Any curvatures, any split of the noise among them, any step size of the theorem; nothing is sampled."""
    assert within_the_stochastic_bound(axes, share, m, sigma, stages, TrackingBound.stochastic_term)


STATIONARY = ([(2.0, 1.0, 0.0, 0.0), (8.0, 1e-9, 0.0, 0.0)], 0.9, 10, 3.0, 10)
"""Noise along the flattest axis until its variance is stationary: there the term is attained."""


@pytest.mark.parametrize(
    "term",
    [
        lambda bound, sigma: 0.999 * bound.stochastic_term(sigma),
        lambda bound, sigma: sigma * math.sqrt(bound.eta / (2 * bound.mu)),  # of small steps only
        lambda bound, sigma: sigma * math.sqrt(bound.eta / (bound.L * (2 - bound.eta * bound.L))),
        lambda bound, sigma: sigma * bound.eta / math.sqrt(bound.m),
    ],
    ids=["one in a thousand less", "the limit of small steps", "L for μ", "one step's noise"],
)
def test_a_smaller_stochastic_term_is_exceeded(term):
    assert within_the_stochastic_bound(*STATIONARY, TrackingBound.stochastic_term)
    assert not within_the_stochastic_bound(*STATIONARY, term)


def test_noise_leaves_an_error_that_the_noiseless_bound_does_not_know():
    """Witness: e = .125 where the noiseless bound says 3e-12."""
    quiet = TrackingBound(mu=2.0, L=2.0, P=0.0, G=1.0, m=13, eta=0.2, e0=1.0)
    noiseless = quiet.error(4)
    assert noiseless == pytest.approx(3e-12, rel=0.05)
    with jax.enable_x64(True):
        run = jax.jit(
            jax.vmap(
                lambda key: follow(
                    lambda x, lam: 2 * x, jnp.asarray(1.0), jnp.ones(4), 13, 0.2, sigma=0.5, key=key
                )[-1]
            )
        )
        final = np.asarray(run(jax.random.split(jax.random.key(1), 20_000)))
    rms = float(np.sqrt(np.mean(final**2)))
    assert rms == pytest.approx(0.125, rel=0.03)
    assert quiet.stochastic_term(0.5) == pytest.approx(0.125, rel=1e-12)
    assert rms > 1e9 * noiseless  # the twin without the term


@pytest.mark.parametrize(("eta", "m", "sigma"), [(0.02, 1, 0.5), (0.05, 3, 2.0), (0.19, 1, 5.0)])
def test_the_stochastic_term_bounds_the_rms(eta, m, sigma):
    curvatures = [1.0, 2.0, 9.0]
    bound = TrackingBound(mu=1.0, L=9.0, P=3.0, G=1.0, m=m, eta=eta, e0=1.0)
    rms = noisy_rms(curvatures, eta, m, sigma, start=1.0, speed=3.0)
    exact = exact_rms(curvatures, np.full(3, 1 / 3), [3, 0, 0], [-1, 0, 0], eta, m, sigma, STAGES)
    assert rms == pytest.approx(exact, rel=0.05)  # what `follow` does is what the recursion says
    allowed = bound.error(STAGES) + bound.stochastic_term(sigma)
    assert rms <= allowed * (1 + 3 / math.sqrt(2 * 4000))


@given(st.floats(0, 0.999), st.floats(0, 10), st.floats(0, 10), st.floats(0, 10), st.integers(1, 50))
def test_the_stochastic_term_adds_up_over_stages(rho, speed, start, noise, n):
    """The exact RMS recursion of a parabola: r ← √(ρ²(r + P/n)² + (1 − ρ²)v) ≤ e_n + √v."""
    rms = start
    for _ in range(n):
        rms = math.sqrt(rho**2 * (rms + speed / n) ** 2 + (1 - rho**2) * noise**2)
    assert rms <= float(tracking_error(n, mu=1.0, eta=1 - rho, m=1, P=speed, e0=start)) + noise + 1e-10


# -- hard masks --------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6), st.integers(3, 200))
def test_a_hard_mask_has_no_finite_speed(weights, n):
    """f = ½‖θ − w‖² on a growing mask: a removed weight jumps by its own size whatever n."""
    w = np.array(weights)
    lambdas = np.linspace(0, 1, n + 1)
    removal = np.arange(1, len(w) + 1) / (len(w) + 1)
    minimisers = np.where(lambdas[:, None] >= removal, 0.0, w)
    assert path_speed(minimisers) >= n * w.max() * (1 - 1e-12)
    annealed = np.outer(1 - lambdas, w)  # the continuous path to the same end
    assert path_speed(annealed) == pytest.approx(np.linalg.norm(w), rel=1e-9)


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10), st.booleans()), min_size=1, max_size=8))
def test_projection_onto_a_support_of_the_minimiser_never_raises_the_error(entries):
    theta, target, mask = (np.array(x) for x in zip(*entries, strict=True))
    supported = np.where(mask, target, 0.0)
    assert np.linalg.norm(np.where(mask, theta, 0) - supported) <= np.linalg.norm(theta - supported)


def test_projection_onto_another_support_raises_it():
    theta, target, mask = np.array([1.0, 1.0]), np.array([1.0, 1.0]), np.array([True, False])
    assert np.linalg.norm(np.where(mask, theta, 0) - target) > np.linalg.norm(theta - target)


# -- both budgets ------------------------------------------------------------------------------------


@given(constants, st.sampled_from([12, 60, 360]))
def test_at_fixed_total_effort_the_bound_is_smallest_at_one_stage(given_constants, total):
    bound = TrackingBound(**given_constants)
    curve = [bound.error_at_total(n, total) for n in range(1, total + 1) if total % n == 0]
    assert (np.diff(curve) >= -1e-12 * max(curve) - 1e-300).all()
    assume(bound.P > 1e-3)
    assert bound.best_stages(total) == 1
    # At fixed effort a stage, the twin reading of the same theorem, more stages are better.
    assert bound.error(total) < bound.error(1)


def descend(curvature, target, stages, total, eta, start):
    """Error at λ = 1 of diagonal quadratics ½Σh(λ)(θ − θ*(λ))², by the plain loop."""
    theta = np.array(start, float)
    for k in range(1, stages + 1):
        lam = k / stages
        for _ in range(total // stages):
            theta = theta - eta * np.asarray(curvature(lam)) * (theta - target(lam))
    return float(np.linalg.norm(theta - target(1.0)))


@given(
    st.lists(st.tuples(st.floats(0.1, 1), st.floats(-5, 5)), min_size=1, max_size=5),
    st.sampled_from([2, 3, 4, 6, 12]),
    st.floats(0.01, 1.0),
)
def test_one_shot_tracks_a_straight_path_best(axes, stages, eta):
    """Common quadratic Hessian, straight path from θ*(0), η ≤ 1/L."""
    h, end = (np.array(x) for x in zip(*axes, strict=True))
    args = (lambda _: h, lambda lam: lam * end)
    one_shot = descend(*args, 1, 12, eta, np.zeros(len(h)))
    assert one_shot <= descend(*args, stages, 12, eta, np.zeros(len(h))) + 1e-12


def test_one_shot_needs_a_step_below_1_over_L():
    """Counterexample for 1/L < η ≤ 2/(μ + L): steps overshoot, and stages cancel what one shot does not."""
    h, end = np.array([0.1, 1.9]), np.array([0.0, 1.0])
    args = (lambda _: h, lambda lam: lam * end)
    assert 2 / h.sum() >= 1.0
    assert descend(*args, 1, 2, 1.0, [0, 0]) == pytest.approx(0.81)
    assert descend(*args, 2, 2, 1.0, [0, 0]) == pytest.approx(0.045)


def test_a_bent_path_turns_it_round():
    """Witness: θ* = 0 → 2 → 1, μ = L = 1, ρ = ½ a stage."""
    args = (lambda _: 1.0, lambda lam: np.array(4 * lam if lam <= 0.5 else 3 - 2 * lam))
    assert descend(*args, 1, 2, 0.5, 0.0) == pytest.approx(0.25)
    assert descend(*args, 2, 2, 0.5, 0.0) == pytest.approx(0.0)


def test_a_flat_end_turns_it_round():
    """Witness: curvature 1 at λ = ½ and .1 at λ = 1: staged .45, one-shot .81."""
    args = (lambda lam: 1.0 if lam <= 0.5 else 0.1, lambda lam: np.array(lam))
    assert descend(*args, 1, 2, 1.0, 0.0) == pytest.approx(0.81)
    assert descend(*args, 2, 2, 1.0, 0.0) == pytest.approx(0.45)
    # The theorem holds for both: μ = .1, L = 1, P = 1.
    for n, error in ((1, 0.81), (2, 0.45)):
        bound = TrackingBound(mu=0.1, L=1.0, P=1.0, G=1.0, m=2 // n, eta=1.0)
        assert error <= bound.error(n) + 1e-15
