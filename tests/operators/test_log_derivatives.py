"""Derivatives of log q next to zeros of p, in float32: rounding may not be divided by a small q."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import operators
from sparsekd_jax.bench.operators import FAMILIES
from sparsekd_jax.operators.base import apply_unchecked

LOG_P = np.log(np.array([0.55, 0.3, 0.15 - 1e-12, 1e-12, np.exp(-60.0)]))


def of_row(entry, operator, x, temperature):
    return apply_unchecked(entry, operator, x[None], jnp.asarray(temperature, x.dtype)[None])[0]


@functools.cache
def jacobians(name):
    """Compiled once a dtype: ∂ log q_i/∂ log p_j and ∂ log q_i/∂T."""
    operator = operators.parse(name)
    return jax.jit(jax.jacobian(lambda log_p, t: of_row("log", operator, log_p, t), (0, 1)))


def slopes(name, temperature, dtype):
    with jax.enable_x64(dtype == "float64"):
        found = jacobians(name)(jnp.asarray(LOG_P, dtype), jnp.asarray(temperature, dtype))
        return [np.asarray(x, np.float64) for x in found]


@pytest.mark.parametrize("name", FAMILIES)
def test_float32_agrees_with_float64(name):
    for temperature in (1.0, 1.001, 2.0):
        pairs = zip(*(slopes(name, temperature, dtype) for dtype in ("float32", "float64")), strict=True)
        for found, expected in pairs:
            # At T = 1.001 float32 knows T − 1 to 1.2e-4, and slopes to some of that.
            np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-3, err_msg=f"T = {temperature}")


@pytest.mark.parametrize("name", FAMILIES)
def test_at_one_they_are_those_of_the_identity(name):
    for dtype in ("float32", "float64"):
        found, _ = slopes(name, 1.0, dtype)
        np.testing.assert_allclose(found, np.eye(5) - np.exp(LOG_P)[None, :], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["tsallis(1.5)", "euclidean-entropy-projection"])
def test_at_one_they_are_those_of_the_identity_where_q_underflows(name, dtype):
    """Logits of many classes reach there: √q or q is 0, 1/q infinite, and their product was NaN."""
    value = functools.partial(of_row, "log", operators.parse(name))
    forward, reverse = (jax.jit(of(value, argnums=(0, 1))) for of in (jax.jacfwd, jax.jacrev))
    for least in {"float32": (-90.0, -165.0, -200.0, -1200.0), "float64": (-720.0, -1400.0, -5000.0)}[dtype]:
        with jax.enable_x64(dtype == "float64"):
            log_p = jnp.asarray([np.log(0.7), np.log(0.3), least], dtype)
            for jacobian in (forward, reverse):
                found, in_t = jacobian(log_p, jnp.ones((), dtype))
                expected = np.eye(3) - np.array([0.7, 0.3, 0.0])
                np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=str(least))
                assert np.isfinite(in_t).all()
                assert in_t[2] > 1e16


@pytest.mark.parametrize("entry", ["probabilities", "log"])
@pytest.mark.parametrize("name", ["power", "tsallis(0.5)"])
def test_what_stands_still_moves_nothing(name, entry):
    """Zeros of p included: a tangent is linear in the direction."""
    p = jnp.array([0.7, 0.3, 0.0], jnp.float32)
    soften = functools.partial(of_row, entry, operators.parse(name), temperature=2.0)
    still = jax.jit(lambda x: jax.jvp(soften, (x,), (jnp.zeros_like(x),))[1])
    np.testing.assert_array_equal(still(jnp.log(p) if entry == "log" else p), 0)


@pytest.mark.parametrize("name", ["power", pytest.param("tsallis(1.5)", marks=pytest.mark.nightly)])
def test_second_derivatives_in_p_next_to_a_zero_are_finite_in_float32(name):
    """q_i of a tiny p_i has a finite one, though p_i⁻² overflows."""
    operator = operators.parse(name)

    def bent(p):
        weights = jnp.array([1.0, -2.0, 0.5], p.dtype)
        value = lambda p: weights @ of_row("probabilities", operator, p, 2.0)  # noqa: E731
        return np.asarray(jax.jit(jax.hessian(value))(p))

    p = np.array([0.7, 0.3, 1e-20], np.float32)
    found = bent(jnp.asarray(p))
    with jax.enable_x64(True):
        wanted = bent(jnp.asarray(p, jnp.float64))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("entry", ["probabilities", "logits", "log"])
def test_tsallis_at_three_halves_far_from_one(entry):
    """Where T² leaves float32: ties share at T → 0, and T → ∞ is uniform; never a row that sums to less."""
    operator = operators.parse("tsallis(1.5)")
    soften = jax.jit(lambda x, t: of_row(entry, operator, x, t))
    p = jnp.array([0.4, 0.4, 0.2], jnp.float32)
    x = p if entry == "probabilities" else jnp.log(p)
    for temperature in (1e-30, 1e-19, 1e14, 1e30):
        q = soften(x, jnp.float32(temperature))
        q = jnp.exp(q) if entry == "log" else q
        np.testing.assert_allclose(q, [0.5, 0.5, 0] if temperature < 1 else [1 / 3] * 3, atol=2e-6)
