"""Linear students that are determined, and the refusal of those that are not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsekd_jax.theory import ridge


def features(seed=0, rows=12, columns=3):
    return np.random.default_rng(seed).normal(size=(rows, columns))


X = features()
DOUBLE = np.c_[X, X[:, :1]]
KERNEL = X @ X.T  # twelve rows, rank 3


def students(x, penalty):
    """What must agree with least squares, by name: with an intercept, without, and by the kernel."""
    x = jnp.asarray(x)
    return {
        "intercept": ridge.ridge(x, x, penalty),
        "origin": ridge.ridge(x, x, penalty, intercept=False),
        "kernel": ridge.kernel_ridge(x @ x.T, x @ x.T, penalty),
    }


def least_squares(x, targets, penalty, intercept):
    """By rows added to the data and numpy's pseudo-inverse, which needs no rank."""
    n, d = x.shape
    design = np.c_[x, np.ones(n)] if intercept else x
    added = np.sqrt(n * penalty) * np.eye(design.shape[1])[:d]
    rows = np.vstack([design, added])
    weights = np.linalg.lstsq(rows, np.vstack([targets, np.zeros((d, targets.shape[1]))]), rcond=None)[0]
    return design @ weights


@given(st.integers(0, 10**6), st.floats(-6, 2), st.booleans())
def test_columns_that_repeat_are_determined_by_a_penalty(seed, log_penalty, repeat):
    x = features(seed)
    x = np.c_[x, x[:, :1]] if repeat else x
    penalty = 10.0**log_penalty
    targets = np.random.default_rng(seed + 1).dirichlet(np.ones(2), len(x))
    with jax.enable_x64(True):
        for name, student in students(x, penalty).items():
            want = least_squares(x, targets, penalty, name == "intercept")
            np.testing.assert_allclose(student.predict(jnp.asarray(targets)), want, atol=1e-7, err_msg=name)


def test_without_a_penalty_full_rank_is_least_squares(x64):
    targets = np.random.default_rng(1).dirichlet(np.ones(2), len(X))
    for intercept in (True, False):
        student = ridge.ridge(jnp.asarray(X), jnp.asarray(X), 0.0, intercept=intercept)
        want = least_squares(X, targets, 0.0, intercept)
        np.testing.assert_allclose(student.predict(jnp.asarray(targets)), want, atol=1e-12)
    full = jnp.asarray(X @ X.T + np.eye(len(X)))
    np.testing.assert_allclose(ridge.kernel_ridge(full, full, 0.0).smoother, np.eye(len(X)), atol=1e-12)


def test_the_units_of_a_column_do_not_make_it_singular():
    """Columns of size 1e-6 beside 1e6 are independent, and their student is that of one unit."""
    scaled = jnp.asarray(X * [1e-6, 1.0, 1e6], jnp.float32)
    plain = jnp.asarray(X, jnp.float32)
    ours = ridge.ridge(scaled, scaled, 0.0).smoother
    np.testing.assert_allclose(ours, ridge.ridge(plain, plain, 0.0).smoother, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e3 / 3])
def test_a_constant_column_is_the_intercept_again(dtype, value, x64):
    """What centring leaves of it is rounding, of which no weight is made."""
    x = jnp.asarray(np.c_[X, np.full(len(X), value)], dtype)
    with pytest.raises(ValueError, match="depend on each other or are constant"):
        ridge.ridge(x, x, 0.0)
    rows = ridge.ridge(x, x, 1.0).smoother.sum(axis=1)
    np.testing.assert_allclose(rows, 1, atol=1e-5)


def test_traced_penalties_pass_unseen():
    x = jnp.asarray(X)
    found = jax.jit(jax.vmap(lambda a: ridge.ridge(x, x, a).smoother))(jnp.array([0.1, 1.0]))
    np.testing.assert_allclose(found[0], ridge.ridge(x, x, 0.1).smoother, atol=1e-5)
    found = jax.jit(lambda a: ridge.kernel_ridge(x @ x.T, x @ x.T, a).smoother)(0.1)
    np.testing.assert_allclose(found, ridge.kernel_ridge(x @ x.T, x @ x.T, 0.1).smoother, atol=1e-5)
    found = jax.jit(lambda a: ridge.kernel_average(x, x, a).smoother)(0.5)
    np.testing.assert_allclose(found, ridge.kernel_average(x, x, 0.5).smoother, atol=1e-5)


def with_nan(values):
    return jnp.asarray(values).at[2, 0].set(jnp.nan)


def both(function, values, *rest, **more):
    return function(jnp.asarray(values), jnp.asarray(values), *rest, **more)


plain, by_kernel, average = (
    functools.partial(both, f) for f in (ridge.ridge, ridge.kernel_ridge, ridge.kernel_average)
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plain(DOUBLE, 0.0), "train has columns that depend.*penalty 0.0.*give a larger penalty"),
        (lambda: plain(DOUBLE, 0.0, intercept=False), "columns that depend on each other, and"),
        (lambda: plain(DOUBLE, 1e-20), "not determined: give a larger penalty, or leave columns out"),
        (lambda: plain(np.zeros((4, 2)), 0.0, intercept=False), "columns that depend"),
        (lambda: plain(X.T, 0.0), "columns that depend"),  # three rows, twelve columns
        (lambda: plain(X, -0.1), "penalty is -0.1; it is a finite number ≥ 0"),
        (lambda: plain(X, jnp.nan), "penalty is nan"),
        (lambda: plain(X, jnp.inf), "penalty is inf"),
        (lambda: plain(with_nan(X), 1.0), "train, row 2: is not finite"),
        (lambda: ridge.ridge(jnp.asarray(X), with_nan(X), 1.0), "test, row 2: is not finite"),
        (lambda: plain(X[:0], 1.0), r"train has shape \(0, 3\)"),
        (lambda: ridge.ridge(jnp.asarray(X), jnp.asarray(X[:, :2]), 1.0), r"test \(12, 2\); need"),
        (lambda: by_kernel(KERNEL, 0.0), "kernel is singular.*penalty 0.0.*give a larger penalty"),
        (lambda: by_kernel(KERNEL - 2 * np.eye(12), 0.1), "not positive semidefinite"),
        (lambda: by_kernel(KERNEL + np.triu(np.ones((12, 12))), 1.0), "kernel is not symmetric"),
        (lambda: by_kernel(KERNEL, -0.1), "penalty is -0.1"),
        (lambda: by_kernel(with_nan(KERNEL), 0.1), "kernel, row 2: is not finite"),
        (lambda: by_kernel(KERNEL[:, :5], 0.1), r"kernel has shape \(12, 5\)"),
        (lambda: average(X, 0.0), "bandwidth is 0.0; it is a finite length > 0"),
        (lambda: average(X, -1.0), "bandwidth is -1.0"),
        (lambda: average(X, jnp.nan), "bandwidth is nan"),
        (lambda: average(X, 1e-30), "bandwidth is 1e-30: distances over it overflow in float32"),
        (lambda: average(with_nan(X), 1.0), "train, row 2: is not finite"),
    ],
)
def test_refusals_name_the_argument_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_was_refused_would_have_been_a_number():
    """Broken twin: the formula as it stands gives NaN, or weights that mean nothing."""
    x = jnp.asarray(DOUBLE - DOUBLE.mean(axis=0), jnp.float32)
    weights = x @ jnp.linalg.solve(x.T @ x, x.T)
    exact = (hat := np.asarray(X - X.mean(axis=0))) @ np.linalg.pinv(hat)
    assert not np.allclose(weights, exact, atol=1e-3)
    kernel = jnp.asarray(KERNEL, jnp.float32)
    interpolated = jnp.linalg.solve(kernel, kernel.T).T
    assert not np.allclose(interpolated, X @ np.linalg.pinv(X), atol=1e-3)
