"""Elementwise functions near their zeros, cheaper than expm1 and log1p where the exponential is at hand."""

import math

import jax.numpy as jnp
from jaxtyping import Array

_SMALL = 0.5
"""|x| below which the Taylor series are used; 1e-17 relative with the terms below."""

_EXPM1 = [1 / math.factorial(k) for k in range(15, 0, -1)]
_DENSITY = [1 / (k * math.factorial(k - 2)) for k in range(17, 1, -1)]


def _polynomial(coefficients: list[float], x: Array) -> Array:
    value = jnp.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def expm1(x: Array, exp_x: Array) -> Array:
    """``e^x − 1`` with relative accuracy, given ``e^x``."""
    small = jnp.abs(x) < _SMALL
    near = jnp.where(small, x, 0)
    return jnp.where(small, near * _polynomial(_EXPM1, near), exp_x - 1)


def entropy_density(log_x: Array, x: Array) -> Array:
    """``x log x − x + 1`` with relative accuracy, given x > 0 and its logarithm (at 0 the value is 1).

    ``KL(p‖q) = Σ q·density(p/q)`` and ``log K − H(q) = mean density(K q)``. It is `simplex.bregman_entropy`
    for those who have the logarithm already.
    """
    small = jnp.abs(log_x) < _SMALL
    near = jnp.where(small, log_x, 0)
    return jnp.where(small, near * near * _polynomial(_DENSITY, near), x * log_x - x + 1)


def row_sum(x: Array) -> Array:
    """Σ over the classes, ``[..., 1]``."""
    return jnp.sum(x, axis=-1, keepdims=True)
