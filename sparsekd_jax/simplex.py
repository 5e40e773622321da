"""Distributions on the probability simplex: entropies, divergences, distances, projection, validation.

Every function works on the last axis of ``[..., K]`` arrays, in nats, under ``jit``, ``vmap`` and ``grad``.

Zeros are ordinary inputs. Values at zeros are the mathematical limits (``0 log 0 = 0``; ``KL(p‖q) = inf``
where p puts mass that q does not). Gradients at an exact zero are those of the function restricted to the
face of the simplex that the zeros define: a coordinate that is off contributes 0. They are never NaN.
(Total variation and the majorization margin are piecewise linear and keep their ordinary slopes.)

Computations run in the dtype of the inputs. A function of two distributions wants them in one dtype.
Only the ``require_*`` functions validate: they are for eager code and let traced values pass.

Reference: Flouro & Chadwick, arXiv 2601.03195; theory.md sections 1 and 4.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

__all__ = [
    "SUM_TOLERANCE",
    "bregman_entropy",
    "entropy",
    "entropy_deficit",
    "fisher_rao_distance",
    "hellinger_distance",
    "jensen_shannon_divergence",
    "kl_divergence",
    "majorization_margin",
    "min_entropy",
    "normalize",
    "project",
    "renyi_entropy",
    "require_log_probabilities",
    "require_logits",
    "require_probabilities",
    "reverse_kl_divergence",
    "safe_log",
    "total_variation",
    "tsallis_entropy",
]

SUM_TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 4e-3, "float16": 1e-3}
"""How far from 1 a distribution may sum, by dtype: what an operator accepts, and what it promises."""

Distribution = Float[Array, "*batch K"]
PerRow = Float[Array, "*batch"]


# -- safe building blocks ------------------------------------------------------------------------------


def safe_log(p: Distribution) -> Distribution:
    """Logarithm with ``log 0 = -inf`` and gradient 0 there instead of inf.

    >>> jax.grad(lambda p: safe_log(p)[0])(jnp.array([0.0, 1.0]))
    Array([0., 0.], dtype=float32)
    """
    positive = p > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, p, 1)), -jnp.inf)


def _safe_sqrt(x: Array) -> Array:
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1)), 0)


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


# -- entropies -----------------------------------------------------------------------------------------


def entropy(p: Distribution) -> PerRow:
    """Shannon entropy ``H(p) = −Σ p_i log p_i`` in nats, from 0 (a vertex) to log K (uniform).

    Args:
      p: distributions, ``[..., K]``.

    Returns:
      ``[...]``; absolute error a few ulp of log K.

    >>> float(entropy(jnp.array([0.5, 0.5, 0.0])))
    0.6931472
    """
    positive = p > 0
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
    far = jnp.where(p > 0, ratio * jnp.log(ratio) - ratio + 1, 1)
    return jnp.mean(jnp.where(near, bregman_entropy(jnp.where(near, excess, 0)), far), axis=-1)


def _expm1_ratio(x: Array) -> Array:
    """``(e^x − 1)/x``, 1 at 0, with accurate derivatives there."""
    small = jnp.abs(x) < 0.5
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    series = jnp.zeros_like(x)
    for k in range(15, 0, -1):
        series = series * near + 1 / math.factorial(k)
    return jnp.where(small, series, jnp.expm1(far) / far)


def _log1p_ratio(x: Array) -> Array:
    """``log(1 + x)/x``, 1 at 0, with accurate derivatives there."""
    small = jnp.abs(x) < 0.1
    near, far = jnp.where(small, x, 0), jnp.where(small, 1, x)
    series = jnp.zeros_like(x)
    for k in range(17, 0, -1):
        series = series * near - (-1) ** k / k
    return jnp.where(small, series, jnp.log1p(far) / far)


def _power_sum_slope(p: Distribution, order: Array) -> PerRow:
    """``(Σ p^order − 1)/(order − 1)`` over the support, for Σ p = 1; at order = 1 it is Σ p log p."""
    positive = p > 0
    log_p = jnp.log(jnp.where(positive, p, 1))
    return jnp.sum(jnp.where(positive, p * (log_p * _expm1_ratio((order - 1) * log_p)), 0), axis=-1)


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
    by_log1p = -slope * _log1p_ratio((near_order - 1) * slope)
    far_order = jnp.where(near_one, 2, safe)
    positive = p > 0
    powers = jnp.where(positive, far_order * jnp.log(jnp.where(positive, p, 1)), -jnp.inf)
    by_logsumexp = jax.nn.logsumexp(powers, axis=-1) / (1 - far_order)
    return jnp.where(infinite, min_entropy(p), jnp.where(near_one, by_log1p, by_logsumexp))


def min_entropy(p: Distribution) -> PerRow:
    """Min-entropy ``H_∞(p) = −log max_i p_i`` in nats.

    >>> float(min_entropy(jnp.array([0.5, 0.25, 0.25])))
    0.6931472
    """
    return -jnp.log(jnp.max(p, axis=-1))


# -- divergences and distances -------------------------------------------------------------------------


@jax.custom_jvp
def _relative_gap(p: Array, q: Array) -> Array:
    """``(p − q)/q``; by hand because the derivative of a quotient squares q, which underflows at 1e-20."""
    return (p - q) / q


@_relative_gap.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (p, q), (dp, dq) = primals, tangents
    return _relative_gap(p, q), (dp - p / q * dq) / q


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
    return _kl_term(p, q), _log_ratio(p, q) * dp - _relative_gap(p, q) * dq


def kl_divergence(p: Distribution, q: Distribution) -> PerRow:
    """Kullback–Leibler divergence ``KL(p‖q) = Σ p_i log(p_i/q_i)`` in nats; inf where p > 0 = q.

    Summed as ``Σ q·φ(p/q)``, φ(x) = x log x − x + 1, each term ≥ 0: never negative, and accurate relative
    to itself for p ≈ q. (The two sums differ by Σp − Σq, which is rounding for distributions.)

    Args:
      p, q: distributions, ``[..., K]``, one dtype.

    Returns:
      ``[...]``, ≥ 0. The gradient is log(p/q) in p and 1 − p/q in q, that of Σ p log(p/q) along the
      simplex; 0 in coordinates of p where p or q is 0, and in coordinates of q where q is 0.

    >>> float(kl_divergence(jnp.array([1.0, 0.0]), jnp.array([0.5, 0.5])))
    0.6931472
    >>> float(kl_divergence(jnp.array([0.5, 0.5]), jnp.array([1.0, 0.0])))
    inf
    """
    both = (p > 0) & (q > 0)
    terms = _kl_term(jnp.where(both, p, 1), jnp.where(both, q, 1))
    # Where p is off the term is q, the rest of the Bregman sum; where only q is off it is infinite.
    off = jnp.where(p > 0, jnp.inf, jnp.where(q > 0, q, 0))
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
      p, q: distributions, ``[..., K]``, one dtype.
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
    on = middle > 0
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
    p_on, q_on = jnp.where(p > 0, p, 0), jnp.where(q > 0, q, 0)
    roots = _safe_sqrt(p) + _safe_sqrt(q)
    gaps = (p_on - q_on) / jnp.where(roots > 0, roots, 1)
    return _safe_sqrt(0.5 * jnp.sum(gaps**2, axis=-1))


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


# -- order and geometry --------------------------------------------------------------------------------


def majorization_margin(p: Distribution, q: Distribution) -> PerRow:
    """Smallest gap of sorted partial sums, ``min_k Σ_{i≤k} (p↓ − q↓)_i``, k = 1 … K − 1.

    p majorizes q (p ≻ q, p is the less even one) iff the margin is ≥ 0; every Schur-concave entropy of p is
    then at most that of q.

    Args:
      p, q: distributions, ``[..., K]``, K ≥ 2, one dtype.

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
    last axis is its own simplex.

    Args:
      x: finite reals, ``[..., K]``.

    Returns:
      Distributions ``[..., K]``; gradients are those of the active face.

    Reference: Held, Wolfe & Crowder (1974); Duchi et al. (2008).

    >>> project(jnp.array([[0.75, 0.5, -0.25], [2.0, 0.0, 0.0]]))
    Array([[0.625, 0.375, 0.   ], [1.   , 0.   , 0.   ]], dtype=float32)
    """
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

    >>> normalize(jnp.array([1.0, 1.0, 2.0]))
    Array([0.25, 0.25, 0.5 ], dtype=float32)
    """
    return weights / jnp.sum(weights, axis=-1, keepdims=True)


# -- validation ----------------------------------------------------------------------------------------


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is an abstract value (inside jit, vmap or grad), which cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def _first_bad(bad: np.ndarray) -> str:
    """The first bad row of a ``[...]`` flag array, as words."""
    if bad.ndim == 0:
        return ""
    index = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"row {index[0] if len(index) == 1 else index}: "


def _require_rows(x: ArrayLike, name: str, remedy: str) -> np.ndarray | None:
    """The checks that every kind of row shares; the array to look at, or None where it is traced."""
    shape, dtype = np.shape(x), jnp.result_type(x)
    if dtype.name not in SUM_TOLERANCE:
        raise TypeError(f"{name} has dtype {dtype}; {remedy}")
    if len(shape) == 0 or shape[-1] < 2:
        raise ValueError(
            f"{name} has shape {shape}; the last axis holds the classes and needs K ≥ 2 of them. "
            "For a binary probability p pass the pair [1 − p, p]."
        )
    return None if is_traced(x) else np.asarray(x)


def _refuse(flags: Any, name: str, say: Callable[[tuple[int, ...]], str]) -> None:
    bad = np.asarray(flags)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(f"{name}, {_first_bad(bad)}{say(index)}")


def require_probabilities(p: ArrayLike, name: str = "p") -> None:
    """Refuse what is not a batch of distributions, naming the argument, the first bad row and a remedy.

    Traced values pass unseen (their dtype and shape are still checked).

    Raises:
      TypeError: not floating point.
      ValueError: K < 2; a NaN, infinite or negative entry; a row whose sum is further from 1 than
        ``SUM_TOLERANCE`` of its dtype.

    >>> require_probabilities(jnp.array([[0.5, 0.5], [0.5, 0.6]]))
    Traceback (most recent call last):
    ValueError: p, row 1: sums to 1.1, off by 0.1 (tolerance 1e-05 in float32). If these are unnormalised...
    """
    x = _require_rows(p, name, f"probabilities are floating point: pass {name}.astype(jnp.float32)")
    if x is None:
        return
    tolerance = SUM_TOLERANCE[x.dtype.name]
    wide = x.astype(np.float64)
    _refuse(
        ~np.isfinite(wide).all(-1),
        name,
        lambda i: f"contains {wide[i][~np.isfinite(wide[i])][0]}; find its origin (jax_debug_nans helps)",
    )
    _refuse(
        (wide < 0).any(-1),
        name,
        lambda i: (
            f"contains the negative entry {wide[i].min():.7g}. "
            "If these are logits call op.from_logits(z, T); if log-probabilities, op.log(log_p, T)."
        ),
    )
    _refuse(
        ~(np.abs(wide.sum(-1) - 1) <= tolerance),
        name,
        lambda i: (
            f"sums to {wide[i].sum():.13g}, off by {abs(wide[i].sum() - 1):.3g} (tolerance {tolerance:g} in "
            f"{x.dtype.name}). If these are unnormalised weights pass simplex.normalize({name}); "
            "if logits, call op.from_logits(z, T)."
        ),
    )


def require_log_probabilities(log_p: ArrayLike, name: str = "log_p") -> None:
    """The same for log-probabilities: −inf is allowed, ``logsumexp`` must be 0 within the tolerance.

    Raises:
      TypeError: not floating point.
      ValueError: K < 2; NaN or +inf; a row that does not normalise.

    >>> require_log_probabilities(jnp.array([0.0, 0.0]))
    Traceback (most recent call last):
    ValueError: log_p, sums to 2 after exp, off by 1 (tolerance 4e-05 in float32). If these are logits...
    """
    x = _require_rows(log_p, name, f"log-probabilities are floating point: pass {name}.astype(jnp.float32)")
    if x is None:
        return
    wide = x.astype(np.float64)
    _refuse(
        ~(wide < np.inf).all(-1),
        name,
        lambda i: f"contains {wide[i][~(wide[i] < np.inf)][0]}; log-probabilities are ≤ 0, −inf allowed",
    )
    with np.errstate(over="ignore"):
        total = np.exp(wide).sum(-1)
    # The rounding of log_p itself moves the sum by up to max|log p| ulp, weighted: a few ulp in all.
    tolerance = 4 * SUM_TOLERANCE[x.dtype.name]
    _refuse(
        ~(np.abs(total - 1) <= tolerance),
        name,
        lambda i: (
            f"sums to {total[i]:.13g} after exp, off by {abs(total[i] - 1):.3g} (tolerance {tolerance:g} in "
            f"{x.dtype.name}). If these are logits call op.from_logits(z, T) or pass "
            f"jax.nn.log_softmax({name})."
        ),
    )


def require_logits(logits: ArrayLike, name: str = "logits") -> None:
    """Refuse logits that define no distribution: NaN, +inf, or a row of −inf only.

    >>> require_logits(jnp.array([jnp.nan, 0.0]))
    Traceback (most recent call last):
    ValueError: logits, contains nan; logits are finite, or −inf for an impossible class
    """
    x = _require_rows(logits, name, f"logits are floating point: pass {name}.astype(jnp.float32)")
    if x is None:
        return
    wide = x.astype(np.float64)
    _refuse(
        ~(wide < np.inf).all(-1),
        name,
        lambda i: (
            f"contains {wide[i][~(wide[i] < np.inf)][0]}; logits are finite, or −inf for an impossible class"
        ),
    )
    _refuse(
        np.isneginf(wide).all(-1), name, lambda i: "every logit is −inf; at least one class must be possible"
    )
