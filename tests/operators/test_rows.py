"""Arithmetic on centred rows against mpmath, relative to each number, near vertices and uniform rows too."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from sparsekd_jax.operators import _rows

ROWS = np.array(
    [
        [0.7, 0.2, 0.1],
        [0.4, 0.4 - 1e-13, 0.2 + 1e-13],  # next to a tie
        [1 - 1e-18, 1e-18, 1e-200],  # next to a vertex
        [1 / 3, 1 / 3, 1 / 3],
        [0.5, 0.5, 0.0],
        [0.0, 1.0, 0.0],
    ]
)


def exactly(function):
    """``function`` of every row, in 50 digits, rounded once."""
    with mpmath.workdps(50):
        return np.array([[float(x) for x in function([mpmath.mpf(x) for x in row])] for row in ROWS])


def log(x):
    return mpmath.log(x) if x else -mpmath.inf


@pytest.mark.parametrize("sharpened", [True, False])
def test_centred_log(sharpened, x64):
    found = _rows.centred_log(jnp.asarray(ROWS), sharpened=sharpened)
    expected = exactly(lambda p: [log(x / max(p)) for x in p])
    if sharpened:
        np.testing.assert_allclose(found, expected, rtol=4e-16)
    else:
        np.testing.assert_array_equal(np.isneginf(found), ROWS == 0)
        np.testing.assert_allclose(np.exp(found), np.exp(expected), rtol=1e-15)
    assert (found.max(-1) == 0).all()
    # The gradient is that of log p where p > 0, and 0 at zeros.
    slope = jax.grad(lambda p: _rows.centred_log(p, sharpened=sharpened).sum())(ROWS)
    np.testing.assert_allclose(slope, np.divide(1, ROWS, where=ROWS > 0, out=0 * ROWS), rtol=1e-15)


def test_centred_log_keeps_half_of_the_maximum_apart_in_float32():
    with jax.enable_x64(False):
        p = np.linspace(0.01, 1, 2000, dtype=np.float32)
        found = _rows.centred_log(jnp.asarray(np.stack([p, np.ones_like(p)], axis=-1)))[:, 0]
    np.testing.assert_allclose(found, np.log(p.astype(np.float64)), rtol=2e-7)


def test_sums_of_centred_rows(x64):
    centred = _rows.centred_log(jnp.asarray(ROWS))
    beside = _rows.sum_beside_top(centred, jnp.exp(centred))
    np.testing.assert_allclose(beside, exactly(lambda p: [sum(p) / max(p) - 1]), rtol=1e-12)
    np.testing.assert_allclose(
        _rows.log_normalizer(centred), exactly(lambda p: [log(sum(p) / max(p))]), rtol=1e-12
    )
    np.testing.assert_allclose(
        _rows.centred_softmax(centred), exactly(lambda p: [x / sum(p) for x in p]), 1e-13
    )


def test_slopes_of_sums(x64):
    centred = jnp.asarray([[0.0, -1.0, -2.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0], [0.0, -jnp.inf, -0.5]])
    q = np.exp(centred) / np.exp(centred).sum(-1, keepdims=True)
    slope = jax.grad(lambda x: _rows.log_normalizer(x).sum())(centred)
    np.testing.assert_allclose(slope, q, rtol=1e-15)
    found = jax.vmap(jax.jacobian(_rows.centred_softmax))(centred)
    np.testing.assert_allclose(found, q[:, :, None] * (np.eye(3) - q[:, None, :]), rtol=1e-14, atol=1e-17)


def test_uniform_rows_and_what_stands_in_for_them(x64):
    centred = _rows.centred_log(jnp.asarray(ROWS))
    uniform = _rows.is_uniform(centred)
    assert uniform[:, 0].tolist() == [False, False, False, True, False, False]
    np.testing.assert_array_equal(_rows.stand_in(uniform, centred)[3], [0, -1, -2])
    np.testing.assert_array_equal(_rows.stand_in(uniform, centred)[:3], centred[:3])


def test_centred_logits_have_the_slope_of_the_logits(x64):
    logits = jnp.array([[1000.0, 999.0, -1000.0], [3.0, 3.0, 1.0]])
    np.testing.assert_array_equal(_rows.centred_logits(logits), [[0, -1, -2000], [0, 0, -2]])
    np.testing.assert_array_equal(jax.jacobian(lambda x: _rows.centred_logits(x)[0])(logits)[:, 0], np.eye(3))
