"""Divergences and distances between two distributions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from sparsekd_jax._numerics import quotient, safe_sqrt
from sparsekd_jax.simplex.entropies import Distribution, PerRow, bregman_entropy


@jax.custom_jvp
def _log_ratio(p: Array, q: Array) -> Array:
    """``log(p/q)`` for p, q > 0, accurate relative to itself for p ≈ q, without overflow."""
    gap, ratio = (p - q) / q, p / q
    moderate = jnp.where(jnp.abs(gap) < 0.5, jnp.log1p(gap), jnp.log(ratio))
    return jnp.where((ratio > 1e-3) & (ratio < 1e3), moderate, jnp.log(p) - jnp.log(q))


@_log_ratio.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (p, q), (dp, dq) = primals, tangents
    return _log_ratio(p, q), dp / p - dq / q


@jax.custom_jvp
def _kl_term(p: Array, q: Array) -> Array:
    """``p log(p/q) − p + q ≥ 0`` for p, q > 0."""
    gap = (p - q) / q
    near = jnp.abs(gap) < 0.5
    density = q * bregman_entropy(jnp.where(near, gap, 0))
    return jnp.where(near, density, p * _log_ratio(p, q) - (p - q))


@_kl_term.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (p, q), (dp, dq) = primals, tangents
    return _kl_term(p, q), _log_ratio(p, q) * dp - quotient(p - q, q) * dq


def kl_divergence(p: Distribution, q: Distribution) -> PerRow:
    """Kullback–Leibler divergence ``KL(p‖q) = Σ p_i log(p_i/q_i)`` in nats; inf where p > 0 = q.

    Summed as ``Σ q·φ(p/q)``, φ(x) = x log x − x + 1, each term ≥ 0: never negative, and accurate relative
    to itself for p ≈ q. (The two sums differ by Σp − Σq, which is rounding for distributions.)

    Args:
      p: distributions, ``[..., K]``.
      q: distributions like p, in its dtype.

    Returns:
      ``[...]``, ≥ 0. The gradient is log(p/q) in p and 1 − p/q in q, that of Σ p log(p/q) along the
      simplex; 0 in coordinates of p where p or q is 0, and in coordinates of q where q is 0.

    >>> float(kl_divergence(jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5])))
    0.6931472
    >>> float(kl_divergence(jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])))
    inf
    """
    has_p, has_q = ~(p <= 0), ~(q <= 0)
    both = has_p & has_q
    terms = _kl_term(jnp.where(both, p, 1), jnp.where(both, q, 1))
    # Where p is off the term is q, the rest of the Bregman sum; where only q is off it is infinite.
    off = jnp.where(has_p, jnp.inf, jnp.where(has_q, q, 0))
    return jnp.sum(jnp.where(both, terms, off), axis=-1)


def reverse_kl_divergence(p: Distribution, q: Distribution) -> PerRow:
    """Reverse divergence ``KL(q‖p)`` in nats: `kl_divergence` with the arguments exchanged.

    >>> float(reverse_kl_divergence(jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])))
    0.6931472
    """
    return kl_divergence(q, p)


def jensen_shannon_divergence(p: Distribution, q: Distribution, weight: ArrayLike = 0.5) -> PerRow:
    """Jensen–Shannon divergence ``w·KL(p‖m) + (1 − w)·KL(q‖m)``, ``m = w·p + (1 − w)·q``, in nats.

    Args:
      p: distributions, ``[..., K]``.
      q: distributions like p, in its dtype.
      weight: scalar w in [0, 1], the weight of p; 0.5 gives the symmetric divergence, at most log 2.

    Returns:
      ``[...]``, ≥ 0, always finite.

    Raises:
      ValueError: weight outside [0, 1].

    >>> float(jensen_shannon_divergence(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])))
    0.6931472
    """
    if not isinstance(weight, jax.core.Tracer) and not 0 <= float(weight) <= 1:  # type: ignore[arg-type]
        raise ValueError(f"weight is {weight}; it is the share of p in the mixture, between 0 and 1")
    w = jnp.asarray(weight, p.dtype)
    middle = w * p + (1 - w) * q
    # m is 0 where p is not if w = 0, or if w·p underflows: the term is then 0 (or rounds to it), not inf.
    on = ~(middle <= 0)
    left = w * kl_divergence(jnp.where(on, p, 0), middle)
    right = (1 - w) * kl_divergence(jnp.where(on, q, 0), middle)
    return left + right


def total_variation(p: Distribution, q: Distribution) -> PerRow:
    """Total variation distance ``½ Σ |p_i − q_i|``, from 0 to 1.

    >>> float(total_variation(jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5])))
    0.5
    """
    return 0.5 * jnp.sum(jnp.abs(p - q), axis=-1)


def hellinger_distance(p: Distribution, q: Distribution) -> PerRow:
    """Hellinger distance ``√(½ Σ (√p_i − √q_i)²)``, from 0 to 1.

    Returns:
      ``[...]``. The gradient at p = q, where the distance has a corner, is 0.

    >>> float(hellinger_distance(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])))
    1.0
    """
    # √p − √q as a quotient: p − q is exact where p ≈ q, the difference of the roots is not.
    p_on, q_on = jnp.where(p <= 0, 0, p), jnp.where(q <= 0, 0, q)
    roots = safe_sqrt(p) + safe_sqrt(q)
    gaps = (p_on - q_on) / jnp.where(roots > 0, roots, 1)
    return safe_sqrt(0.5 * jnp.sum(gaps**2, axis=-1))


def fisher_rao_distance(p: Distribution, q: Distribution) -> PerRow:
    """Fisher–Rao distance ``2 arccos Σ √(p_i q_i)``, the geodesic arc in radians, from 0 to π.

    Computed from the Hellinger chord h as ``4 arcsin(h/√2)``, which keeps relative accuracy at p ≈ q where
    the arc cosine loses half of its digits.

    >>> float(fisher_rao_distance(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])))
    3.14159
    """
    chord = hellinger_distance(p, q)
    # At most 1, with the slope that jnp.minimum would halve at 1.
    chord = chord - jax.lax.stop_gradient(jnp.maximum(chord - 1, 0))
    return 4 * jnp.arcsin(chord * (0.5**0.5))
