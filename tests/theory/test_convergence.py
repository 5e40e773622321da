"""The tracking bound on staged pruning of softmax regression, where every constant is certified."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekd_jax import operators
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.theory.convergence import (
    TrackingBound,
    penalty_path,
    sampled_constants,
    softmax_regression,
    track,
    tracking_error,
)

ROWS, FEATURES, CLASSES = 6, 3, 3
STAGES, STEPS = 6, 3

OPERATORS = {
    "power": operators.PowerTransform(),
    "mixture": operators.ConvexMixture(),
    "tsallis(1.5)": operators.TsallisSoftening(alpha=1.5),
    "entropy projection": operators.EntropyProjection(),
    "Euclidean entropy projection": operators.EuclideanEntropyProjection(),
}


def random_problems(count, seed=0):
    """Features, softened targets, μ and sparsity of a batch, spread over scales."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.normal(size=(count, 1, 1)))
    x = rng.normal(size=(count, ROWS, FEATURES)) * scale
    p = rng.dirichlet(np.full(CLASSES, 0.5), size=(count, ROWS))
    t = np.exp(rng.uniform(0, 2, count))[:, None]
    soft = [np.asarray(OPERATORS[name](jnp.asarray(p), jnp.asarray(t))) for name in ("power", "mixture")]
    targets = np.where(rng.random((count, 1, 1)) < 0.5, *soft)
    return x, targets, np.exp(rng.uniform(math.log(1e-3), 0, count)), rng.uniform(0, 1, count)


@functools.cache
def runner():
    def one(x, targets, mu, sparsity):
        path = penalty_path(x, targets, mu, sparsity)
        constants = (path.speed, path.uniform_speed, path.problem.smoothness, path.problem.lipschitz)
        return path, constants, track(path, STAGES, STEPS)

    return jax.jit(jax.vmap(one))


def run(*problem):
    with jax.enable_x64(True):
        path, constants, tracked = runner()(*(jnp.asarray(a) for a in problem))
        return path, [np.asarray(c) for c in constants], jax.tree.map(np.asarray, tracked)


def bounds(path, smoothness, speed):
    mu, start = np.asarray(path.problem.mu), np.asarray(path.residual)
    return tracking_error(STAGES, mu=mu, eta=2 / (mu + smoothness), m=STEPS, P=speed, e0=start)


@pytest.fixture(scope="module")
def two_thousand():
    with jax.enable_x64(True):
        return run(*random_problems(2000))


def test_two_thousand_problems_stay_below_the_bound(two_thousand):
    path, (speed, uniform, smoothness, lipschitz), tracked = two_thousand
    error = tracked.errors[:, -1]
    assert tracked.uncertainty.max() < 1e-10
    measured = tracked.chords.max(-1)
    # P: what the stages see ≤ the certificate ≤ the certificate that knows no targets.
    assert (measured <= speed + STAGES * 2 * tracked.uncertainty).all()
    assert (speed <= uniform * (1 + 1e-12)).all()
    for value in (measured, speed, uniform):
        assert (error <= bounds(path, smoothness, value) + 4 * tracked.uncertainty).all()
    excess = tracked.losses[:, -1] - tracked.floor
    allowed = lipschitz * (bounds(path, smoothness, speed) + tracked.uncertainty)
    assert (excess <= allowed + 1e-14).all()
    assert error.max() > 0.1  # there is something to bound


def test_broken_twins_are_exceeded_on_the_same_problems(two_thousand):
    path, (_, _, smoothness, _), tracked = two_thousand
    error, measured, slack = tracked.errors[:, -1], tracked.chords.max(-1), 4 * tracked.uncertainty
    mu = np.asarray(path.problem.mu)
    rho = (1 - 2 * mu / (mu + smoothness)) ** STEPS
    twins = {
        "half of P": bounds(path, smoothness, measured / 2),
        "no 1/(1 − ρ)": measured / STAGES * rho * (1 - rho**STAGES),
        "L for μ": tracking_error(STAGES, mu=smoothness, eta=1 / smoothness, m=STEPS, P=measured),
    }
    for name, twin in twins.items():
        assert (error > twin + slack).sum() > 20, name


@settings(max_examples=200)
@given(st.data())
def test_no_problem_that_can_be_shrunk_exceeds_the_bound(data):
    number = st.floats(-8, 8, width=32)
    x = np.array(data.draw(st.lists(number, min_size=ROWS * FEATURES, max_size=ROWS * FEATURES)))
    weights = np.array(
        data.draw(st.lists(st.integers(0, 9), min_size=ROWS * CLASSES, max_size=ROWS * CLASSES)), float
    ).reshape(ROWS, CLASSES)
    weights[weights.sum(-1) == 0] = 1
    mu, sparsity = data.draw(st.floats(1e-2, 10)), data.draw(st.floats(0, 1))
    problem = (x.reshape(1, ROWS, FEATURES), (weights / weights.sum(-1, keepdims=True))[None])
    path, (speed, uniform, smoothness, lipschitz), tracked = run(
        *problem, np.array([mu]), np.array([sparsity])
    )
    slack = 4 * tracked.uncertainty + 1e-13
    assert slack < 1e-9
    assert tracked.chords.max() <= speed + STAGES * slack
    assert speed <= uniform + 1e-12
    error = bounds(path, smoothness, speed) + slack
    assert tracked.errors[:, -1] <= error
    assert tracked.losses[:, -1] <= tracked.floor + lipschitz * error + 1e-13


def test_the_end_of_the_path_is_exactly_sparse(two_thousand):
    path, _, _ = two_thousand
    with jax.enable_x64(True):
        end = np.asarray(jax.vmap(lambda one: one.weights(one.dense, 1.0))(path))
        start = np.asarray(jax.vmap(lambda one: one.weights(one.dense, 0.0))(path))
    kept = np.asarray(path.kept)
    np.testing.assert_array_equal(end[~kept], 0)
    np.testing.assert_array_equal(start, np.asarray(path.dense))
    removed = np.round(random_problems(2000)[3] * kept[0].size)
    np.testing.assert_array_equal((~kept).sum((1, 2)), removed)


# -- the constants -----------------------------------------------------------------------------------


def test_the_weights_of_a_ridge_student_are_bounded(two_thousand):
    """‖w_D‖ ≤ √s‖w‖ for the smallest weights, and ‖w‖ ≤ √(2 log K/μ); the largest weights are the twin."""
    path, _, _ = two_thousand
    w, kept, mu = np.asarray(path.dense), np.asarray(path.kept), np.asarray(path.problem.mu)
    norm = np.linalg.norm(w, axis=(1, 2))
    share = 1 - kept.mean((1, 2))
    removed = np.linalg.norm(np.where(kept, 0, w), axis=(1, 2))
    assert (removed <= np.sqrt(share) * norm * (1 + 1e-12)).all()
    assert (norm <= np.sqrt(2 * math.log(CLASSES) / mu)).all()
    stays = np.linalg.norm(np.where(kept, w, 0), axis=(1, 2))
    assert (stays > np.sqrt(1 - share) * norm * (1 + 1e-9)).mean() > 0.8


@given(st.integers(0, 10**6), st.integers(2, 6), st.floats(1.0, 1e4))
def test_the_leverage_of_a_hessian_block(seed, size, kappa):
    """‖H_KK⁻¹H_KD‖ ≤ ½(√κ − 1/√κ) for I ≤ H ≤ κI."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    eigenvalues = np.concatenate([[1, kappa], rng.uniform(1, kappa, size - 2)])
    h = basis @ np.diag(eigenvalues) @ basis.T
    cut = rng.integers(1, size)
    leverage = np.linalg.norm(np.linalg.solve(h[:cut, :cut], h[:cut, cut:]), 2)
    assert leverage <= 0.5 * (math.sqrt(kappa) - 1 / math.sqrt(kappa)) * (1 + 1e-9) + 1e-12


def test_the_leverage_is_sharp():
    kappa = 9.0  # twins: half of it, or √κ − 1 over 2, are exceeded
    angle = math.atan(math.sqrt(kappa))
    c, s = math.cos(angle), math.sin(angle)
    h = np.array([[c, -s], [s, c]]) @ np.diag([kappa, 1.0]) @ np.array([[c, s], [-s, c]])
    assert abs(h[0, 1] / h[0, 0]) == pytest.approx(0.5 * (3 - 1 / 3), rel=1e-12)
    assert abs(h[0, 1] / h[0, 0]) > 0.5 * (3 - 1)


def one_problem(seed=0, mu=0.1):
    x, targets, _, _ = random_problems(1, seed)
    return softmax_regression(x[0], targets[0], mu)


def test_derivatives_are_those_of_jax(x64):
    problem = one_problem()
    w = jnp.asarray(np.random.default_rng(1).normal(size=(FEATURES, CLASSES)))
    np.testing.assert_allclose(problem.gradient(w), jax.jit(jax.grad(problem.objective))(w), atol=1e-14)
    hessian = jax.jit(jax.hessian(problem.objective))(w).reshape(w.size, w.size)
    np.testing.assert_allclose(problem.hessian(w), hessian, atol=1e-14)


@given(st.integers(0, 10**6))
def test_curvature_and_slope_stay_within_their_constants(seed):
    with jax.enable_x64(True):
        problem = one_problem(seed % 50)
        rng = np.random.default_rng(seed)
        w, v = (jnp.asarray(rng.normal(size=(FEATURES, CLASSES)) * 3) for _ in range(2))
        eigenvalues = np.linalg.eigvalsh(np.asarray(problem.hessian(w)))
        step = float(jnp.linalg.norm(w - v))
        assert float(problem.mu) - 1e-12 <= eigenvalues[0]
        assert eigenvalues[-1] <= float(problem.smoothness) * (1 + 1e-12)
        assert abs(float(problem.loss(w) - problem.loss(v))) <= float(problem.lipschitz) * step


def test_sampled_constants_lie_within_the_certified_ones(x64):
    problem = one_problem()
    points = np.random.default_rng(0).normal(size=(20, FEATURES * CLASSES))

    def flat(f):
        return lambda w: f(w.reshape(FEATURES, CLASSES))

    found = sampled_constants(flat(problem.objective), points, flat(problem.loss))
    spectra = [np.linalg.eigvalsh(problem.hessian(jnp.asarray(w.reshape(FEATURES, CLASSES)))) for w in points]
    assert (found.mu, found.L) == pytest.approx((np.min(spectra), np.max(spectra)))
    assert float(problem.mu) <= found.mu + 1e-12
    assert float(problem.smoothness) >= found.L
    assert 0 < found.G <= float(problem.lipschitz)
    flat_loss = sampled_constants(flat(problem.loss), points)  # a shift of all classes changes nothing
    assert flat_loss.mu == 0
    with pytest.raises(ValueError, match="singular Hessian"):
        TrackingBound(mu=flat_loss.mu, L=found.L, P=1.0, G=found.G, m=1, eta=0.1)
    with pytest.raises(ValueError, match=r"need \[S, d\]"):
        sampled_constants(flat(problem.loss), points[0])
    with pytest.raises(ValueError, match="not finite"):
        sampled_constants(lambda w: jnp.sqrt(jnp.sum(w)), np.zeros((1, 2)))


def test_smoothness_and_slope_are_sharp(x64):
    """Twins: λ_max/4 for L and 1 for √2 in G are exceeded by one row between two classes."""
    x = jnp.array([[1.0]], jnp.float64)
    problem = softmax_regression(x, jnp.array([[1.0, 0.0]], jnp.float64), 1e-9)
    even, wrong = jnp.zeros((1, 2), jnp.float64), jnp.array([[-20.0, 20.0]], jnp.float64)
    assert np.linalg.eigvalsh(problem.hessian(even))[-1] == pytest.approx(0.5)
    assert float(problem.smoothness) == pytest.approx(0.5)
    assert float(jnp.linalg.norm(problem.gradient(wrong))) == pytest.approx(math.sqrt(2))
    assert float(problem.lipschitz) == pytest.approx(math.sqrt(2))


def test_the_fit_is_that_of_scipy(x64):
    problem = one_problem(mu=0.05)
    found = scipy.optimize.minimize(
        lambda w: float(problem.objective(jnp.asarray(w.reshape(FEATURES, CLASSES)))),
        np.zeros(FEATURES * CLASSES),
        jac=lambda w: np.asarray(problem.gradient(jnp.asarray(w.reshape(FEATURES, CLASSES)))).ravel(),
        tol=1e-12,
    )
    fit = problem.fit()
    np.testing.assert_allclose(np.asarray(fit.weights).ravel(), found.x, atol=1e-6)
    assert float(fit.gradient_norm) < 1e-15
    assert float(fit.distance_bound) < 1e-12


def test_a_held_weight_does_not_move(x64):
    problem = one_problem()
    trained = jnp.asarray(np.random.default_rng(2).random((FEATURES, CLASSES)) < 0.5)
    held = jnp.full((FEATURES, CLASSES), 0.3)
    fit = problem.fit(trained, held)
    np.testing.assert_array_equal(np.asarray(fit.weights)[~np.asarray(trained)], 0.3)
    slope = np.asarray(problem.gradient(fit.weights))
    assert np.abs(slope[np.asarray(trained)]).max() < 1e-14
    assert np.abs(slope[~np.asarray(trained)]).max() > 1e-3


def test_an_extreme_problem_is_certified_too(x64):
    """Features of size 100 and a ridge of 1e-4: undamped Newton steps diverge there."""
    rng = np.random.default_rng(0)
    x = 100 * rng.normal(size=(20, 3))
    fit = softmax_regression(x, np.eye(3)[rng.integers(0, 3, 20)], 1e-4).fit()
    assert float(fit.distance_bound) < 1e-8


# -- operators, sparsity, floors ---------------------------------------------------------------------


def paths_by_operator(seed, mu, sparsity, student_side=False):
    """One problem under five operators at two temperatures each: (T, path)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 4)) * np.exp(rng.normal(size=4))
    p = rng.dirichlet(np.full(3, 0.4), 20) + 1e-9
    p = p / p.sum(-1, keepdims=True)
    return x, [
        penalty_path(x / t if student_side else x, soften(op, p, t), mu, sparsity)
        for op in OPERATORS.values()
        for t in (1.5, 4.0)
    ]


def uniform(bounds):
    """One set of constants for all operators and temperatures, and floors that differ."""
    assert len({(b.mu, b.L, b.P, b.G, b.m, b.eta) for b in bounds}) == 1
    assert np.ptp([b.floor for b in bounds]) > 1e-6


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.floats(math.log(0.01), 0), st.floats(0.1, 0.9))
def test_the_constants_are_uniform_over_operators_and_only_the_floor_moves(seed, log_mu, sparsity):
    mu = math.exp(log_mu)
    with jax.enable_x64(True):
        x, paths = paths_by_operator(seed, mu, sparsity)
        bounds = [path.tracking_bound(4, uniform=True) for path in paths]
        uniform(bounds)
        for path, bound in zip(paths, bounds, strict=True):
            tracked = track(path, 8, 4)
            slack = 4 * float(tracked.uncertainty) + 1e-12
            assert float(tracked.errors[-1]) <= bound.error(8) + slack
            assert float(tracked.losses[-1]) <= bound.bound(8) + bound.G * slack
            assert bound.floor == pytest.approx(float(tracked.floor), abs=1e-10)
            assert path.tracking_bound(4).P <= bound.P
    # The constants by hand, of the features alone.
    moment = np.linalg.svd(x, compute_uv=False)[0] ** 2 / 20
    removed, kappa = round(sparsity * 12) / 12, 1 + moment / (2 * mu)
    speed = 0.5 * (math.sqrt(kappa) - 1 / math.sqrt(kappa)) * math.sqrt(2 * math.log(3) * removed / mu)
    slope = math.sqrt(2) * min(np.linalg.norm(x, axis=1).mean(), math.sqrt(moment))
    assert pytest.approx((mu * kappa, speed, slope), rel=1e-9) == (bounds[0].L, bounds[0].P, bounds[0].G)


def test_constants_of_the_targets_or_of_a_softened_student_are_not_uniform(x64):
    """Broken twins: P from the dense student of each operator, and a student softened by T as well."""
    _, paths = paths_by_operator(4, 0.05, 0.5)
    bounds = [path.tracking_bound(4, uniform=True) for path in paths]
    uniform(bounds)
    assert len({round(b.floor, 6) for b in bounds}) == len(bounds)
    with pytest.raises(AssertionError):
        uniform([path.tracking_bound(4) for path in paths])
    _, softened = paths_by_operator(4, 0.05, 0.5, student_side=True)
    with pytest.raises(AssertionError):
        uniform([path.tracking_bound(4, uniform=True) for path in softened])
    # … and the constants of one temperature are none for the other.
    assert len({path.tracking_bound(4, uniform=True).L for path in softened}) == 2


def test_the_bound_shows_its_dependence_on_the_sparsity(x64):
    x, targets, _, _ = random_problems(1, seed=3)
    sparsities = (0.0, 0.34, 0.67, 1.0)
    found = [penalty_path(x[0], targets[0], 0.05, s).tracking_bound(STEPS) for s in sparsities]
    assert found[0].P == 0.0
    assert (np.diff([b.P for b in found]) > 0).all()
    assert len({b.L for b in found}) == 1
    uniform = [float(penalty_path(x[0], targets[0], 0.05, s).uniform_speed) for s in sparsities]
    shares = [float(penalty_path(x[0], targets[0], 0.05, s).sparsity) for s in sparsities]
    np.testing.assert_allclose(uniform, uniform[-1] * np.sqrt(shares), rtol=1e-12)


def nested_floors(seed, mu):
    """ℓ and f at the minimisers on nested supports, from dense to empty, for a batch of problems."""
    x, targets, _, _ = random_problems(400, seed)
    size = FEATURES * CLASSES

    def one(x, targets, mu):
        problem = softmax_regression(x, targets, mu)
        order = jnp.argsort(jnp.argsort(jnp.abs(problem.fit().weights).reshape(-1)))

        def at(count):
            fit = problem.fit((order >= count).reshape(FEATURES, CLASSES))
            return problem.loss(fit.weights), problem.objective(fit.weights)

        return jax.vmap(at)(jnp.arange(size + 1))

    arrays = (jnp.asarray(a) for a in (x, targets, np.full(400, mu)))
    return (np.asarray(a) for a in jax.jit(jax.vmap(one))(*arrays))


def test_the_floor_rises_with_the_sparsity_for_nested_supports_and_the_trained_loss_only(x64):
    loss, objective = nested_floors(0, 0.1)
    assert (np.diff(objective, axis=1) >= -1e-13).all()
    # Witness: the cross-entropy without the ridge, which is not what is minimised, may fall.
    assert np.diff(loss, axis=1).min() < -1e-4


TRUTH = np.r_[np.ones(5), np.zeros(15)]
"""Twenty weights, of which five matter."""


def least_squares_risks(count, choose, intercept=False):
    """‖ŵ − w‖² of least squares on the chosen of d = 20 features, n = 30, noise 1, in ``count`` data sets."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 30, 20))
    y = x @ TRUTH + rng.normal(size=(count, 30))
    if intercept:
        x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    dense = np.linalg.solve(x.mT @ x, (x.mT @ y[..., None]))[..., 0]
    keep = choose(dense)
    kept = np.take_along_axis(x, keep[:, None, :], axis=2)
    weights = np.linalg.solve(kept.mT @ kept, kept.mT @ y[..., None])[..., 0]
    found = np.zeros_like(dense)
    np.put_along_axis(found, keep, weights, axis=1)
    return ((found - TRUTH) ** 2).sum(-1)


def the_first(k):
    """The first k features: with k ≥ 5 all that matter."""
    return lambda dense: np.tile(np.arange(k), (len(dense), 1))


def largest(k):
    return lambda dense: np.argsort(-np.abs(dense), axis=1)[:, :k]


@pytest.mark.parametrize(
    ("intercept", "kept", "risk"),
    [(True, 20, 2.50), (True, 11, 0.647), (False, 20, 2.222), (False, 8, 0.381)],
)
def test_the_risk_of_least_squares_on_a_support_that_is_known(intercept, kept, risk):
    """Inverse Wishart: k/(n − k − 1), n one less with an intercept. Theory.md: 2.50 dense, .65 pruned."""
    exact = kept / (30 - intercept - kept - 1)
    assert exact == pytest.approx(risk, abs=5e-4)
    found = least_squares_risks(4000, the_first(kept), intercept)
    error = found.std() / math.sqrt(len(found))
    assert found.mean() == pytest.approx(exact, abs=4 * error)
    # Broken twin: k/(n − k).
    assert abs(found.mean() - kept / (30 - intercept - kept)) > 4 * error


def test_the_floor_of_a_population_risk_may_be_negative():
    """Support chosen by magnitude on the same data: eight kept and fitted again halve the dense 2.22."""
    dense = least_squares_risks(4000, the_first(20))
    for kept, risk, oracle in ((8, 1.11, 8 / 21), (5, 1.10, 5 / 24)):
        sparse = least_squares_risks(4000, largest(kept))
        assert sparse.mean() == pytest.approx(risk, abs=0.08)
        assert sparse.mean() > 2 * oracle  # choosing costs more than fitting
        floor = sparse.mean() - dense.mean()
        assert floor == pytest.approx(risk - 20 / 9, abs=0.12)
        bound = TrackingBound(mu=1.0, L=2.0, P=1.0, G=1.0, m=5, eta=0.5, floor=floor)
        assert bound.bound(100) < 0


# -- input -------------------------------------------------------------------------------------------

TARGETS = np.array([[0.5, 0.5], [0.9, 0.1]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: penalty_path(np.eye(2), TARGETS, 0.0, 0.5), "singular.*give a ridge mu > 0"),
        (lambda: penalty_path(np.eye(2), TARGETS, 0.1, 95), "sparsity is 95; it is the share"),
        (lambda: softmax_regression(np.eye(3), TARGETS, 0.1), r"features \(3, 3\) and targets \(2, 2\)"),
        (lambda: softmax_regression(np.eye(2) * np.nan, TARGETS, 0.1), "features, row 0: is not finite"),
        (lambda: softmax_regression(np.eye(2), 2 * TARGETS, 0.1), "targets, row 0: sums to 2"),
        (lambda: softmax_regression(np.eye(2), TARGETS, -0.1), "mu is -0.1"),
        (lambda: softmax_regression(np.eye(2), np.eye(2), 0.0), "targets, row 0: has a zero.*give mu > 0"),
        (
            lambda: track(penalty_path(np.eye(2), TARGETS, 0.1, 0.5), 0, 1),
            "num_stages must be at least 1, got 0",
        ),
        (
            lambda: track(penalty_path(np.eye(2), TARGETS, 0.1, 0.5), 2, 0),
            "steps is 0; a stage needs at least",
        ),
        (lambda: track(penalty_path(np.eye(2), TARGETS, 0.1, 0.5), 2, 3, -1.0), "eta is -1.0"),
    ],
)
def test_bad_arguments_are_named(call, message, x64):
    with pytest.raises(ValueError, match=message):
        call()


def test_numbers_of_another_kind_are_named():
    with pytest.raises(TypeError, match=r"num_stages must be a whole number .* got 2\.5"):
        track(penalty_path(np.eye(2), TARGETS, 0.1, 0.5), 2.5, 3)
    for dtype in (int, jnp.bfloat16):
        with pytest.raises(TypeError, match=r"features has dtype .*astype\(np\.float32\)"):
            softmax_regression(np.eye(2, dtype=dtype), TARGETS, 0.1)


def test_float32_says_how_far_it_got():
    path = penalty_path(np.eye(2, dtype=np.float32), TARGETS.astype(np.float32), 0.1, 0.5)
    tracked = track(path, 4, 20)
    assert tracked.errors.dtype == jnp.float32
    assert 0 < float(tracked.uncertainty) < 1e-4
    assert float(tracked.errors[-1]) <= path.tracking_bound(20).error(4) + float(tracked.uncertainty)
