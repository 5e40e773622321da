"""The order and the shape of the simplex: majorization, Euclidean projection, normalisation."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsekd_jax.simplex.entropies import Distribution, PerRow


def majorization_margin(p: Distribution, q: Distribution) -> PerRow:
    """Smallest gap of sorted partial sums, ``min_k Σ_{i≤k} (p↓ − q↓)_i``, k = 1 … K − 1.

    p majorizes q (p ≻ q, p is the less even one) iff the margin is ≥ 0; every Schur-concave entropy of p is
    then at most that of q.

    Args:
      p: distributions, ``[..., K]``, K ≥ 2.
      q: distributions like p, in its dtype.

    Returns:
      ``[...]`` in [−1, 1].

    >>> float(majorization_margin(jnp.array([0.7, 0.2, 0.1]), jnp.array([0.4, 0.3, 0.3])))
    0.2
    """
    gaps = jnp.cumsum(_sort_descending(p) - _sort_descending(q), axis=-1)
    return jnp.min(gaps[..., :-1], axis=-1)


def _sort_descending(x: Array) -> Array:
    return jnp.flip(jnp.sort(x, axis=-1), axis=-1)


def project(x: Float[Array, "*batch K"]) -> Distribution:
    """Euclidean projection onto the simplex, row by row: ``argmin_{q ∈ Δ} ‖q − x‖₂ = max(x − τ, 0)``.

    The threshold τ is exact, from the sorted row (one sort; O(K log K)). Any batch shape: each row of the
    last axis is its own simplex. bfloat16 and float16 are projected in float32.

    Args:
      x: finite reals, ``[..., K]``.

    Returns:
      Distributions ``[..., K]``; gradients are those of the active face.

    Reference: Held, Wolfe & Crowder (1974); Duchi et al. (2008).

    >>> project(jnp.array([[0.75, 0.5, -0.25], [2.0, 0.0, 0.0]]))
    Array([[0.625, 0.375, 0.   ], [1.   , 0.   , 0.   ]], dtype=float32)
    """
    if _is_narrow(x):  # a threshold from sums in either dtype would leave rows that sum to anything
        return project(x.astype(jnp.float32)).astype(x.dtype)
    # Shifting by the maximum changes nothing in exact arithmetic and keeps large inputs accurate.
    shifted = x - jax.lax.stop_gradient(jnp.max(x, axis=-1, keepdims=True))
    descending = _sort_descending(shifted)
    ranks = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    thresholds = (jnp.cumsum(descending, axis=-1) - 1) / ranks.reshape((1,) * (x.ndim - 1) + (-1,))
    active = jnp.sum(descending > thresholds, axis=-1, keepdims=True)
    tau = jnp.take_along_axis(thresholds, active - 1, axis=-1)
    return jnp.maximum(shifted - tau, 0)


def normalize(weights: Float[Array, "*batch K"]) -> Distribution:
    """``w / Σ w``: the explicit way to turn non-negative weights into distributions.

    bfloat16 and float16 are summed and divided in float32: a sum that is itself rounded to either dtype
    would leave rows that `require_probabilities` refuses.

    >>> normalize(jnp.array([1.0, 1.0, 2.0]))
    Array([0.25, 0.25, 0.5 ], dtype=float32)
    """
    if _is_narrow(weights):
        return normalize(weights.astype(jnp.float32)).astype(weights.dtype)
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


def _is_narrow(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating) and x.dtype.itemsize < 4
