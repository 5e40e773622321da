"""Elementwise functions near their zeros, cheaper than expm1 and log1p where the exponential is at hand."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

_SMALL = 0.5
"""|x| below which the Taylor series are used; 1e-17 relative with the terms below."""

_EXPM1_RATIO = [1 / math.factorial(k + 1) for k in range(15)]
_LOG1P_RATIO = [(-1) ** k / (k + 1) for k in range(19)]
_EXPM1 = [1 / math.factorial(k) for k in range(1, 16)]
_DENSITY = [1 / (k * math.factorial(k - 2)) for k in range(2, 18)]


def _polynomial(coefficients: list[float], x: Array, reach: float = _SMALL) -> Array:
    """``Σ c_n xⁿ`` for |x| ≤ reach, with the terms that can move the value in the dtype of x."""
    rounding = float(jnp.finfo(x.dtype).eps) / 8 * coefficients[0]
    needed = [n for n, c in enumerate(coefficients) if abs(c) * reach**n > rounding]
    value = jnp.full_like(x, coefficients[needed[-1]])
    for n in reversed(range(needed[-1])):
        value = value * x + coefficients[n]
    return value


def expm1(x: Array, exp_x: Array) -> Array:
    """``e^x − 1`` with relative accuracy, given ``e^x``."""
    small = jnp.abs(x) < _SMALL
    near = jnp.where(small, x, 0)
    return jnp.where(small, near * _polynomial(_EXPM1, near), exp_x - 1)


def expm1_ratio(x: Array) -> Array:
    """``(e^x − 1)/x``, smooth through 1 at x = 0, with accurate derivatives."""
    small = jnp.abs(x) < _SMALL
    far = jnp.where(small, 1, x)
    return jnp.where(small, _polynomial(_EXPM1_RATIO, jnp.where(small, x, 0)), jnp.expm1(far) / far)


def log1p_ratio(x: Array) -> Array:
    """``log(1 + x)/x`` for x > −1, smooth through 1 at x = 0, with accurate derivatives."""
    small = jnp.abs(x) < 0.12
    far = jnp.where(small, 1, x)
    return jnp.where(small, _polynomial(_LOG1P_RATIO, jnp.where(small, x, 0), 0.12), jnp.log1p(far) / far)


def entropy_density(log_x: Array, x: Array) -> Array:
    """``x log x − x + 1`` with relative accuracy, given x > 0 and its logarithm (at 0 the value is 1).

    ``KL(p‖q) = Σ q·density(p/q)`` and ``log K − H(q) = mean density(K q)``. It is `simplex.bregman_entropy`
    for those who have the logarithm already.
    """
    small = jnp.abs(log_x) < _SMALL
    near = jnp.where(small, log_x, 0)
    return jnp.where(small, near * near * _polynomial(_DENSITY, near), x * log_x - x + 1)


def fewest_digits(value: float) -> str:
    """A number in the fewest digits that read back as it.

    >>> fewest_digits(2.0), fewest_digits(1.23456789)
    ('2', '1.23456789')
    """
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def safe_sqrt(x: Array) -> Array:
    """``√x`` with gradient 0 at 0 instead of inf, and 0 below; of NaN it is NaN."""
    positive = ~(x <= 0)
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


def at_least_float32(dtype: Any) -> Any:
    """The dtype to compute in: float32 for bfloat16 and float16, any other as it is."""
    return dtype if dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


@jax.custom_jvp
def quotient(x: Array, y: Array) -> Array:
    """``x/y`` whose derivatives never form ``1/y²``, which overflows for a y that x/y is finite at."""
    return x / y


@quotient.defjvp
def _quotient_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (_, y), (x_dot, y_dot) = primals, tangents
    ratio = quotient(*primals)
    return ratio, (x_dot - ratio * y_dot) / y


def row_sum(x: Array) -> Array:
    """Σ over the classes, ``[..., 1]``."""
    return jnp.sum(x, axis=-1, keepdims=True)
