"""Divergences between a target p and a student q, each from log-probabilities, one number a row.

Both sides may hold −inf. With no NaN in, neither a value nor a gradient is NaN; a value is inf where the
mathematics says so, and the coordinate that made it infinite gets gradient 0. bfloat16 and float16 are
computed and returned in float32, since sums over many tokens follow; float32 and float64 stay as they are.

Each is a sum of terms ≥ 0 (for the KL family Bregman terms, such as ``p log(p/q) − p + q``, whose extra parts
cancel for distributions), so a value is accurate relative to itself, to about 1e-5 in float32, even where
both sides nearly agree, and is not negative beyond the rounding of one term. `kl_from_logs` is the exception
in float32 and float64: the textbook sum, with an error of about 1e-7 in float32.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsekd_jax._numerics import at_least_float32, entropy_density
from sparsekd_jax._refusals import real, resembling

LogProbs = Float[Array, "*batch K"]
PerRow = Float[Array, "*batch"]
Divergence = Callable[[LogProbs, LogProbs], PerRow]
"""A function ``(log_p, log_q) -> [...]`` of the target's and the student's log-probabilities."""

_NEAR = 0.5
"""|log p − log q| below which a term is taken from a series."""


def widened(x: Any) -> Array:
    """bfloat16 and float16 as float32; anything else as it is."""
    x = jnp.asarray(x)
    return x.astype(at_least_float32(x.dtype))


def blank_rows(x: Any, mask: Array | None, value: float = 0.0) -> Array:
    """Rows outside the mask replaced before anything is computed: NaN there reaches no value, no gradient."""
    x = widened(x)
    if mask is None:
        return x
    if jnp.shape(mask) != x.shape[:-1]:  # broadcast, it would fall on other rows or make new ones
        raise ValueError(f"mask has shape {jnp.shape(mask)} and the rows {x.shape[:-1]}: give one a row")
    return jnp.where(mask[..., None], x, value)


def times(weight: Array, losses: Array) -> Array:
    """``weight·losses``, with 0 times inf or NaN equal to 0, in value and gradient."""
    return weight * jnp.where((weight != 0) | jnp.isfinite(losses), losses, 0)


def _support(log_p: Array, log_q: Array) -> tuple[Array, Array, Array, Array, Array]:
    """Where p, q, both are on; then both logarithms, each 0 where it is −inf, so that no infinity is left.

    This is the first of the two `where` that keep gradients from being 0 times inf.
    """
    has_p, has_q = ~jnp.isneginf(log_p), ~jnp.isneginf(log_q)
    return has_p, has_q, has_p & has_q, jnp.where(has_p, log_p, 0), jnp.where(has_q, log_q, 0)


def _bregman(log_ratio: Array, p: Array, q: Array) -> Array:
    """``p log(p/q) − p + q ≥ 0``, given log(p/q)."""
    small = jnp.abs(log_ratio) < _NEAR
    near = jnp.where(small, log_ratio, 0)
    return jnp.where(small, q * entropy_density(near, jnp.ones_like(near)), p * log_ratio - p + q)


def _gap(log_p: Array, log_q: Array) -> Array:
    """``p − q``, accurate relative to itself."""
    log_ratio, p, q = log_p - log_q, jnp.exp(log_p), jnp.exp(log_q)
    small = jnp.abs(log_ratio) < _NEAR
    return jnp.where(small, q * jnp.expm1(jnp.where(small, log_ratio, 0)), p - q)


@jax.custom_jvp
def _kl_term(log_p: Array, log_q: Array) -> Array:
    return _bregman(log_p - log_q, jnp.exp(log_p), jnp.exp(log_q))


@_kl_term.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (log_p, log_q), (dlog_p, dlog_q) = primals, tangents
    slope = jnp.exp(log_p) * (log_p - log_q) * dlog_p - _gap(log_p, log_q) * dlog_q
    return _kl_term(log_p, log_q), slope


def _bregman_kl(log_p: Array, log_q: Array) -> Array:
    has_p, has_q, both, safe_p, safe_q = _support(log_p, log_q)
    terms = _kl_term(jnp.where(both, safe_p, 0), jnp.where(both, safe_q, 0))
    # Where p is off the term is q, the rest of its Bregman form; where only q is off it is infinite.
    off = jnp.where(has_p, jnp.inf, jnp.where(has_q, jnp.exp(safe_q), 0))
    return jnp.sum(jnp.where(both, terms, off), axis=-1)


def kl_from_logs(log_p: LogProbs, log_q: LogProbs) -> PerRow:
    """Forward divergence ``KL(p‖q) = Σ p_i (log p_i − log q_i)`` from logarithms, in nats.

    Coordinates with p_i = 0 count 0, whatever q_i; q_i = 0 < p_i gives inf, with gradient 0 in that row.
    Neither the value nor the gradient, −p_i with respect to log q_i, is ever NaN for −inf entries. By
    rounding alone the value can be negative, by about 1e-7 in float32. In bfloat16 and float16, where rounded
    log-probabilities miss Σ = 1 by up to a per cent, the terms are ``p log(p/q) − p + q`` instead: never
    negative, gradient q_i − p_i.

    Args:
        log_p: ``[..., K]``, −inf allowed.
        log_q: ``[..., K]``, −inf allowed, same dtype.

    Returns:
        ``[...]`` in nats, float32 at least.

    >>> float(kl_from_logs(jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.5, 0.5]))))
    0.6931
    """
    if jnp.result_type(log_p) in (jnp.bfloat16, jnp.float16):
        return _bregman_kl(widened(log_p), widened(log_q))
    has_p, has_q, both, safe_p, _ = _support(log_p, log_q)
    safe_q = jnp.where(both, log_q, 0)
    terms = jnp.where(both, jnp.exp(safe_p) * (safe_p - safe_q), 0)
    missed = (has_p & ~has_q).any(axis=-1)
    return jnp.where(missed, jnp.inf, jnp.sum(terms, axis=-1))


def reverse_kl_from_logs(log_p: LogProbs, log_q: LogProbs) -> PerRow:
    """Reverse divergence ``KL(q‖p) = Σ q_i (log q_i − log p_i)``, the student first, in nats.

    p_i = 0 < q_i gives inf: a target that excludes classes (top-k) needs another divergence, or both sides
    softened by an operator with full support. The gradient is q_i log(q_i/p_i) with respect to log q_i.

    Args:
        log_p: ``[..., K]``, the target; −inf allowed.
        log_q: ``[..., K]``, the student; −inf allowed, same dtype.

    Returns:
        ``[...]`` in nats, ≥ 0, float32 at least.

    >>> float(reverse_kl_from_logs(jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([1.0, 0.0]))))
    0.6931
    """
    return _bregman_kl(widened(log_q), widened(log_p))


def total_variation_from_logs(log_p: LogProbs, log_q: LogProbs) -> PerRow:
    """Total variation distance ``½ Σ |p_i − q_i|``, from 0 to 1.

    The gradient is −½ q_i sign(p_i − q_i) with respect to log q_i; at p_i = q_i, a corner, it is 0.

    Args:
        log_p: ``[..., K]``, −inf allowed.
        log_q: ``[..., K]``, −inf allowed, same dtype.

    Returns:
        ``[...]``, a fraction, float32 at least.

    >>> float(total_variation_from_logs(jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.5, 0.5]))))
    0.5
    """
    log_p, log_q = widened(log_p), widened(log_q)
    has_p, has_q, both, safe_p, safe_q = _support(log_p, log_q)
    p, q = jnp.where(has_p, jnp.exp(safe_p), 0), jnp.where(has_q, jnp.exp(safe_q), 0)
    near = _gap(jnp.where(both, safe_p, 0), jnp.where(both, safe_q, 0))
    return 0.5 * jnp.sum(jnp.abs(jnp.where(both, near, p - q)), axis=-1)


def _log_mix(log_ratio: Array, share: float) -> Array:
    """``log(1 − share + share·e^log_ratio)``, accurate near 0 and without overflow."""
    moderate = log_ratio < 20
    by_one = jnp.log1p(share * jnp.expm1(jnp.where(moderate, log_ratio, 0)))
    by_ratio = log_ratio + jnp.log1p((1 - share) * jnp.expm1(jnp.where(moderate, 0, -log_ratio)))
    return jnp.where(moderate, by_one, by_ratio)


def _log_over_mixture(beta: float, log_p: Array, log_q: Array) -> tuple[Array, Array]:
    """log(p/m) and log(q/m)."""
    return -_log_mix(log_q - log_p, 1 - beta), -_log_mix(log_p - log_q, beta)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _js_term(beta: float, log_p: Array, log_q: Array) -> Array:
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    p_over_m, q_over_m = _log_over_mixture(beta, log_p, log_q)
    m = beta * p + (1 - beta) * q
    return beta * _bregman(p_over_m, p, m) + (1 - beta) * _bregman(q_over_m, q, m)


@_js_term.defjvp
def _(beta: float, primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (log_p, log_q), (dlog_p, dlog_q) = primals, tangents
    p_over_m, q_over_m = _log_over_mixture(beta, log_p, log_q)
    slope = beta * jnp.exp(log_p) * p_over_m * dlog_p + (1 - beta) * jnp.exp(log_q) * q_over_m * dlog_q
    return _js_term(beta, log_p, log_q), slope


@dataclasses.dataclass(frozen=True)
class JensenShannon:
    """Generalised Jensen–Shannon ``JS_β(p‖q) = β·KL(p‖m) + (1 − β)·KL(q‖m)``, ``m = βp + (1 − β)q``.

    β is the weight of p, the target (teacher), in the mixture and in the sum. So ``JS_β/β → KL(p‖q)``,
    forward, as β → 0, and ``JS_β/(1 − β) → KL(q‖p)``, reverse, as β → 1; JS_β itself tends to 0 at both ends,
    which is why they are refused. Near p = q, ``JS_β ≈ β(1 − β)·KL``: divide by it for the size of KL.
    Always finite: at most ``−β log β − (1 − β) log(1 − β)``. The gradient is (1 − β) q_i log(q_i/m_i) with
    respect to log q_i. An instance is a `Divergence`, and hashable: a static argument of `jax.jit`.

    Args:
        beta: β, a number in (0, 1).

    Raises:
        ValueError: β outside (0, 1).
        TypeError: β that is no number.

    Reference:
        Agarwal et al., "On-Policy Distillation of Language Models", arXiv 2306.13649, section 2, with P the
        teacher; `simplex.jensen_shannon_divergence` with ``weight`` = β.

    >>> p, q = jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.5, 0.5]))
    >>> float(JensenShannon(0.5)(p, q)), float(JensenShannon(1e-3)(p, q) / 1e-3)
    (0.2158, 0.692)
    """

    beta: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", real("beta", self.beta))
        if not 0.0 < self.beta < 1.0:
            raise ValueError(
                f"beta must lie in (0, 1), the weight of the target in the mixture, got {self.beta}; the "
                "limits of JS_β/β at 0 and JS_β/(1 − β) at 1 are 'forward-kl' and 'reverse-kl'"
            )

    def __call__(self, log_p: LogProbs, log_q: LogProbs) -> PerRow:
        """JS_β of each row: ``[..., K]`` and ``[..., K]`` to ``[...]`` in nats."""
        log_p, log_q = widened(log_p), widened(log_q)
        has_p, has_q, both, safe_p, safe_q = _support(log_p, log_q)
        terms = _js_term(self.beta, jnp.where(both, safe_p, 0), jnp.where(both, safe_q, 0))
        only_p = -self.beta * math.log(self.beta) * jnp.exp(safe_p)
        only_q = -(1 - self.beta) * math.log1p(-self.beta) * jnp.exp(safe_q)
        off = jnp.where(has_p, only_p, jnp.where(has_q, only_q, 0))
        return jnp.sum(jnp.where(both, terms, off), axis=-1)


DIVERGENCES: Mapping[str, Divergence] = MappingProxyType(
    {
        "forward-kl": kl_from_logs,
        "reverse-kl": reverse_kl_from_logs,
        "jensen-shannon": JensenShannon(0.5),
        "total-variation": total_variation_from_logs,
    }
)
"""The divergences by name, each ``(log_p, log_q) -> [...]``; other β by `JensenShannon`."""


def get_divergence(divergence: str | Divergence) -> Divergence:
    """The divergence that a name of `DIVERGENCES` stands for; a function stands for itself.

    Args:
        divergence: a name, or a function ``(log_p, log_q) -> [...]``.

    Returns:
        The function.

    Raises:
        ValueError: an unknown name.
        TypeError: a class, such as `JensenShannon` without its β.

    >>> get_divergence("revers-kl")
    Traceback (most recent call last):
    ValueError: unknown divergence 'revers-kl'; did you mean 'reverse-kl'? Known: forward-kl, reverse-kl, ...
    """
    if isinstance(divergence, type):
        raise TypeError(
            f"divergence is the class {divergence.__name__}; make one of it first, such as JensenShannon(0.5)"
        )
    if callable(divergence):
        return divergence
    if not isinstance(divergence, str) or divergence not in DIVERGENCES:
        hint = resembling(divergence, DIVERGENCES) or ";"
        raise ValueError(
            f"unknown divergence {divergence!r}{hint} Known: {', '.join(DIVERGENCES)}, JensenShannon(beta)"
        )
    return DIVERGENCES[divergence]


def local_order(divergence: str | Divergence) -> int:
    """n such that ``D(u + εx ‖ u + εy)`` goes like ε^n: 2 for KL, reverse KL and JS_β, 1 for total variation.

    Raises:
        ValueError: a function that is not one of these.

    >>> local_order("jensen-shannon"), local_order("total-variation")
    (2, 1)
    """
    function = get_divergence(divergence)
    if function is total_variation_from_logs:
        return 1
    if function in (kl_from_logs, reverse_kl_from_logs) or isinstance(function, JensenShannon):
        return 2
    name = getattr(function, "__name__", repr(function))
    raise ValueError(
        f"gradient_scale is not known for divergence {name}; give scale a number, such as 1/r² where it is "
        "quadratic near p = q, or soften the targets only (soften_student=False: scale 1)"
    )
