"""Entropies in nats, and the density that the Shannon ones are built from."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax._numerics import expm1_ratio, log1p_ratio

Distribution = Float[Array, "*batch K"]
PerRow = Float[Array, "*batch"]


def safe_log(p: Distribution) -> Distribution:
    """Logarithm with ``log 0 = -inf`` and gradient 0 there instead of inf; of NaN it is NaN.

    >>> jax.grad(lambda p: safe_log(p)[0])(jnp.array([0.0, 1.0]))
    Array([0., 0.], dtype=float32)
    """
    positive = ~(p <= 0)  # NaN too: it is no zero
    return jnp.where(positive, jnp.log(jnp.where(positive, p, 1)), -jnp.inf)


def bregman_entropy(t: Float[Array, "..."]) -> Float[Array, "..."]:
    """``(1 + t) log(1 + t) − t`` for t ≥ −1, without cancellation at small t.

    It is the density of the KL divergence: ``KL(p‖q) = Σ q · bregman_entropy((p − q)/q)``, each term ≥ 0,
    so that the divergence of nearly equal distributions keeps its relative accuracy.

    Args:
      t: any shape, t ≥ −1. The value at −1 is 1; below, NaN.

    Returns:
      Same shape and dtype, ≥ 0; relative error below 100 ulp.

    >>> float(bregman_entropy(jnp.float32(1e-6)))
    5.0e-13
    """
    small = jnp.abs(t) < 0.1
    near = jnp.where(small, t, 0)
    far = jnp.where(small, 1, t)
    # t²/2 − t³/6 + t⁴/12 − …, coefficients (−1)^k / (k (k − 1)); 16 terms reach 1e-17 at |t| = 0.1.
    series = jnp.zeros_like(t)
    for k in range(17, 1, -1):
        series = series * near + (-1) ** k / (k * (k - 1))
    one_plus = 1 + far
    log_part = jnp.where(far == -1, 0, one_plus * jnp.log1p(jnp.where(far == -1, 0, far)))
    return jnp.where(small, near * near * series, log_part - far)


def entropy(p: Distribution) -> PerRow:
    """Shannon entropy ``H(p) = −Σ p_i log p_i`` in nats, from 0 (a vertex) to log K (uniform).

    Args:
      p: distributions, ``[..., K]``.

    Returns:
      ``[...]``; absolute error a few ulp of log K.

    >>> float(entropy(jnp.array([0.5, 0.5, 0.0])))
    0.6931472
    """
    positive = ~(p <= 0)
    return -jnp.sum(jnp.where(positive, p * jnp.log(jnp.where(positive, p, 1)), 0), axis=-1)


def entropy_deficit(p: Distribution) -> PerRow:
    """``log K − H(p) = KL(p‖u)`` in nats, accurate relative to itself even next to the uniform u.

    Args:
      p: distributions, ``[..., K]``.

    Returns:
      ``[...]``, ≥ 0.

    >>> float(entropy_deficit(jnp.array([0.5001, 0.4999])))
    2.0e-08
    """
    num_classes = p.shape[-1]
    uniform = np.asarray(1 / num_classes, p.dtype)
    # K p − 1 as K (p − fl(1/K)) and what the rounding of 1/K leaves: near 1/K the difference is exact.
    excess = (p - uniform) * num_classes + float(Fraction(float(uniform)) * num_classes - 1)
    near = jnp.abs(excess) < 0.5
    ratio = jnp.where(near | (p <= 0), 1, p * num_classes)
    far = jnp.where(~(p <= 0), ratio * jnp.log(ratio) - ratio + 1, 1)
    return jnp.mean(jnp.where(near, bregman_entropy(jnp.where(near, excess, 0)), far), axis=-1)


def _power_sum_slope(p: Distribution, order: Array) -> PerRow:
    """``(Σ p^order − 1)/(order − 1)`` over the support, for Σ p = 1; at order = 1 it is Σ p log p."""
    positive = ~(p <= 0)
    log_p = jnp.log(jnp.where(positive, p, 1))
    return jnp.sum(jnp.where(positive, p * (log_p * expm1_ratio((order - 1) * log_p)), 0), axis=-1)


def _require_order(order: ArrayLike, like: Array) -> Array:
    if not isinstance(order, jax.core.Tracer) and not float(order) >= 0:  # type: ignore[arg-type]
        raise ValueError(f"order is {order}; an entropy order is a number ≥ 0 (1 is Shannon)")
    return jnp.asarray(order, like.dtype)


def tsallis_entropy(p: Distribution, order: ArrayLike) -> PerRow:
    """Tsallis entropy ``S_α(p) = (1 − Σ p_i^α)/(α − 1)``; α = 1 is Shannon's, in nats.

    Args:
      p: distributions, ``[..., K]``.
      order: scalar α ≥ 0, finite; differentiable, through α = 1 too.

    Returns:
      ``[...]``.

    Raises:
      ValueError: order < 0 or NaN.

    >>> float(tsallis_entropy(jnp.array([0.5, 0.5]), 2.0))
    0.5
    """
    return -_power_sum_slope(p, _require_order(order, p))


def renyi_entropy(p: Distribution, order: ArrayLike) -> PerRow:
    """Rényi entropy ``H_α(p) = log(Σ p_i^α)/(1 − α)`` in nats; α = 1 Shannon, 0 Hartley, inf min-entropy.

    Args:
      p: distributions, ``[..., K]``.
      order: scalar α ≥ 0, inf allowed; differentiable where finite.

    Returns:
      ``[...]``, non-increasing in α.

    Raises:
      ValueError: order < 0 or NaN.

    >>> p = jnp.array([0.5, 0.25, 0.25])
    >>> [round(float(renyi_entropy(p, a)), 4) for a in (0.0, 1.0, 2.0, float("inf"))]
    [1.0986, 1.0397, 0.9808, 0.6931]
    """
    order = _require_order(order, p)
    infinite = jnp.isinf(order)
    safe = jnp.where(infinite, 2, order)
    near_one = jnp.abs(safe - 1) < 0.5
    # Σ p^α loses its digits where α → 1 (there: log1p of a small sum) and underflows where α is large
    # (there: a log-sum-exp).
    near_order = jnp.where(near_one, safe, 1.25)
    slope = _power_sum_slope(p, near_order)
    by_log1p = -slope * log1p_ratio((near_order - 1) * slope)
    far_order = jnp.where(near_one, 2, safe)
    positive = ~(p <= 0)
    powers = jnp.where(positive, far_order * jnp.log(jnp.where(positive, p, 1)), -jnp.inf)
    by_logsumexp = jax.nn.logsumexp(powers, axis=-1) / (1 - far_order)
    return jnp.where(infinite, min_entropy(p), jnp.where(near_one, by_log1p, by_logsumexp))


def min_entropy(p: Distribution) -> PerRow:
    """Min-entropy ``H_∞(p) = −log max_i p_i`` in nats.

    >>> float(min_entropy(jnp.array([0.5, 0.25, 0.25])))
    0.6931472
    """
    return -jnp.log(jnp.max(p, axis=-1))
