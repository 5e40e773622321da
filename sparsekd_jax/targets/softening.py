"""Softening what a teacher reveals: point values, and bounds that hold whatever the unseen tokens are."""

import dataclasses
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Array, ArrayLike, Float, Int

from sparsekd_jax import simplex
from sparsekd_jax._numerics import at_least_float32, row_sum
from sparsekd_jax._refusals import broadcasts_to, is_traced, refuse
from sparsekd_jax.operators import ConvergenceError, ConvexMixture, PowerTransform, TsallisSoftening
from sparsekd_jax.operators.base import (
    SofteningOperator,
    broadcast_temperature,
    operator_name,
    require_operator,
)
from sparsekd_jax.targets.revealed import Dense, Samples, Target, TopK, require_consistent, static_field

_Counted = PowerTransform | ConvexMixture | TsallisSoftening
"""Operators with a certified bound, and a form for rows of equal classes counted together."""
_OPERATOR_ERROR = {"float64": (0.0, 1e-12), "float32": (2e-6, 0.0)}
"""What an operator promises (`SofteningOperator`): absolute error of q, and relative by max(1, |log q|)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Softened:
    """A softened target: values for the observed tokens, and bounds for what the unseen ones may change.

    Attributes:
        ids: ``[..., k]`` int32, −1 at padding; None where all V tokens are listed in order.
        log_probs: ``[..., k]`` in nats, under a uniform tail (where the tail matters); −inf at padding.
        lower: ``[..., k]`` probabilities that the true ones are certified not to fall below.
        upper: ``[..., k]`` probabilities that they do not exceed.
        tail_mass: ``[...]``, what all unseen tokens have together, under a uniform tail.
        tail_lower: ``[...]``, certified.
        tail_upper: ``[...]``, certified.
        num_unseen: ``[...]``, m.
        vocab_size: V, static.
        ratios_known: static; whether the ratios of observed tokens are certain, only the tail mass is not.
    """

    ids: Int[Array, "*batch k"] | None
    log_probs: Float[Array, "*batch k"]
    lower: Float[Array, "*batch k"]
    upper: Float[Array, "*batch k"]
    tail_mass: Float[Array, "*batch"]
    tail_lower: Float[Array, "*batch"]
    tail_upper: Float[Array, "*batch"]
    num_unseen: Int[Array, "*batch"]
    vocab_size: int = static_field()
    ratios_known: bool = static_field()


def soften(
    operator: SofteningOperator,
    target: Target,
    temperature: ArrayLike,
    *,
    tail_error: ArrayLike | None = None,
) -> Softened:
    """``F_T(p)`` of a teacher that is seen in part, with bounds over every p it could be.

    `Dense`: exact, any operator; the bounds are the operator's accuracy on the row as it is given.

    `TopK`: m unseen tokens have the mass r together and at most p_k each, p_k the last *ranked* entry. Bounds
    are extremal at the flat tail (r/m each) and at the most concentrated one (⌊r/p_k⌋ tokens of p_k and the
    rest on one), each softened by the operator itself, equal tokens counted: O(k) numbers, not O(V).
    Power, any T; Tsallis, T ≥ 1; the mixture, T ≥ 1, exact on observed tokens.
    For entropy projections such bounds do not exist: p = (.4, .2, .095 four times, .02/6 six times), T = 2,
    has a second coordinate .1736, outside [.1745, .1937] of the two tails. They are refused.

    `Samples`: the mixture only, an affine map, so that the estimate stays unbiased.

    Args:
        operator: a `PowerTransform`, `ConvexMixture` or `TsallisSoftening`; for `Dense` any operator.
        target: what was revealed.
        temperature: T, a scalar or one a row.
        tail_error: how far ``target.tail_mass`` may be from the truth beside its own rounding, a scalar or
            one a row; by default ``2 eps (1 − Σ p log p)``, the rounding of log_probs in their dtype, eps its
            unit. 0 where the tail was summed from the tail (`top_k`) or from float64 entries, which gives
            much tighter bounds on a small tail in float32.

    Returns:
        A `Softened` in float32 at least, rounded outward. The truth that a top-k list bounds is any
        distribution whose entries round to those given. Goes under jit and vmap, the temperature traced.

    Raises:
        TypeError: an operator without a certified bound, or a biased one for `Samples`.
        ValueError: a temperature outside the operator's range, or below 1 where the bound needs T ≥ 1; a
            negative tail_error; lists that are not consistent. Traced, NaN and a checkify debug check (of
            consistency, nothing).
        ConvergenceError: a root was not found; traced, NaN.

    Reference: theory.md section 6.

    >>> seen = TopK.observed(np.array([0, 1]), np.log(np.array([0.4, 0.2], np.float32)), vocab_size=12)
    >>> soft = soften(PowerTransform(), seen, 2.0)
    >>> soft.lower.round(3).tolist(), soft.upper.round(3).tolist()
    ([0.205, 0.145], [0.32, 0.227])
    """
    _require_supported(operator, target)
    if isinstance(target, Dense):
        return _dense(operator, target, temperature)
    require_consistent(target)
    values = target.weights if isinstance(target, Samples) else target.log_probs
    dtype = at_least_float32(values.dtype)
    t = broadcast_temperature(operator, temperature, target.batch_shape, dtype)[..., 0]
    bounded = jnp.ones(t.shape, bool) if type(operator) is PowerTransform else t >= 1
    if not is_traced(t):
        refuse(
            ~bounded,
            "temperature",
            lambda i: (
                f"is {float(t[i]):g}; of a target seen in part {operator.name} is known for T ≥ 1 only, "
                "power for any T"
            ),
        )
    if isinstance(target, Samples):
        softened, converged = _samples(operator, target, t), bounded
    else:
        error = None if tail_error is None else _tail_error(tail_error, t)
        softened, converged = _top_k(operator, target, t, error)
    checkify.debug_check((bounded & converged).all(), "soften: T < 1, or a root that was not found")
    if not is_traced(converged) and not bool(converged.all()):
        row = [int(i) for i in np.argwhere(~np.asarray(converged))[0]]
        raise ConvergenceError(f"{operator.name}: no root found in row {row}; there are no bounds without it")
    return _nan_unless(bounded & converged, softened)


def _tail_error(given: ArrayLike, t: Array) -> Array:
    if not is_traced(given):
        values = np.asarray(given, np.float64)
        refuse(~(values >= 0), "tail_error", lambda i: f"is {values[i]:g}; how far a mass may be off is ≥ 0")
        if not broadcasts_to(values.shape, t.shape):
            raise ValueError(f"tail_error has shape {values.shape}; give a scalar or one a row, {t.shape}")
    return jnp.broadcast_to(jnp.asarray(given, t.dtype), t.shape)


def _nan_unless(good: Array, softened: Softened) -> Softened:
    """NaN in every bad row: under jit the only sign that no one can overlook."""

    def marked(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf
        return jnp.where(good.reshape(good.shape + (1,) * (leaf.ndim - good.ndim)), leaf, jnp.nan)

    return jax.tree.map(marked, softened)


def _require_supported(operator: Any, target: Target) -> None:
    if not isinstance(target, Dense | TopK | Samples):
        raise TypeError(f"target is a {type(target).__name__}; soften takes Dense, TopK or Samples")
    require_operator(operator)
    if not isinstance(operator, SofteningOperator):
        raise TypeError(
            f"operator is the function {operator_name(operator)}, of whose bounds nothing is known; use "
            "operators.get"
        )
    if isinstance(target, Samples) and type(operator) is not ConvexMixture:
        raise TypeError(
            f"{operator.name} of sampled tokens is biased at every number of draws, only the mixture is not "
            "(theory.md section 6): soften by ConvexMixture, take a plug-in or jackknife estimate from "
            "targets.text_only and know its bias, or soften the logits before sampling"
        )
    if isinstance(target, TopK) and type(operator) not in get_args(_Counted):
        raise TypeError(
            f"{operator.name} has no certified bound from a top-k list: it depends on the unseen tokens in a "
            "way that no extremal tail bounds (theory.md section 6); use power, mixture or tsallis, or a "
            "Dense target"
        )


@jax.jit
def _samples(op: ConvexMixture, target: Samples, t: Array) -> Softened:
    kept, mixed = op._weights(t[..., None])
    uniform = mixed / target.vocab_size
    seen = target.ids >= 0
    unseen = target.vocab_size - jnp.sum(seen, axis=-1)
    eps = float(jnp.finfo(target.weights.dtype).eps)
    q = kept * target.weights.astype(t.dtype) + uniform
    # A weight says nothing certain of its p, which may be anything in [0, 1]; the affine map does.
    moved = 2 * float(jnp.finfo(t.dtype).eps) / target.vocab_size  # of 1 − 1/T, as T is rounded
    lower = jnp.broadcast_to(jnp.maximum(uniform * (1 - 4 * eps) - moved, 0), q.shape)
    upper = jnp.minimum((kept + uniform) * (1 + 4 * eps) + moved, 1)
    m = unseen.astype(t.dtype)
    tail = uniform[..., 0] * m
    return Softened(
        ids=target.ids,
        log_probs=jnp.where(seen, simplex.safe_log(q), -jnp.inf),
        lower=jnp.where(seen, lower, 0),
        upper=jnp.where(seen, jnp.broadcast_to(upper, q.shape), 0),
        tail_mass=tail,
        tail_lower=jnp.maximum(tail * (1 - 4 * eps) - moved * m, 0),
        tail_upper=jnp.where(
            unseen > 0, jnp.minimum((kept[..., 0] + tail) * (1 + 4 * eps) + moved * m, 1), 0
        ),
        num_unseen=unseen,
        vocab_size=target.vocab_size,
        ratios_known=False,
    )


def _dense(op: SofteningOperator, target: Dense, temperature: ArrayLike) -> Softened:
    rounding = float(jnp.finfo(target.log_probs.dtype).eps)
    log_q = op.log(target.log_probs, temperature)
    log_q = log_q.astype(at_least_float32(log_q.dtype))
    absolute, relative = _OPERATOR_ERROR[log_q.dtype.name]
    q = jnp.exp(log_q)
    size = jnp.where(jnp.isneginf(log_q), 0, 1 + jnp.abs(log_q))
    margin = absolute + q * (relative + 2 * rounding) * size
    none = jnp.zeros(target.batch_shape, log_q.dtype)
    return Softened(
        ids=None,
        log_probs=log_q,
        lower=jnp.maximum(q - margin, 0),
        upper=jnp.minimum(q + margin, 1),
        tail_mass=none,
        tail_lower=none,
        tail_upper=none,
        num_unseen=none.astype(jnp.int32),
        vocab_size=target.vocab_size,
        ratios_known=True,
    )


# -- top-k -----------------------------------------------------------------------------------------------


@jax.jit
def _top_k(op: _Counted, target: TopK, t: Array, tail_error: Array | None) -> tuple[Softened, Array]:
    """The bounds, from four completions of each row: both extremal tails at both ends of what r may be.

    A tail sum is monotone in r and in how concentrated the tail is, in a direction that depends on the
    operator and T; the smallest and largest of four need not know which. A fifth gives the point values.
    """
    k, dtype = target.ids.shape[-1], t.dtype
    eps = float(jnp.finfo(target.log_probs.dtype).eps)
    seen, unseen = target.ids >= 0, target.num_unseen
    log_p = jnp.where(seen, target.log_probs.astype(dtype), -jnp.inf)
    last = jnp.take_along_axis(log_p, jnp.maximum(target.num_ranked - 1, 0)[..., None], axis=-1)[..., 0]
    last = jnp.where(target.num_ranked > 0, last, 0)
    if tail_error is None:
        tail_error = 2 * eps * (1 + jnp.sum(jnp.exp(log_p) * _finite_size(log_p), axis=-1))
    rounding = eps * (4 + _finite_size(last))
    cap = jnp.minimum(jnp.exp(last) * (1 + rounding), 1)
    m = unseen.astype(dtype)
    r = jnp.where(unseen > 0, target.tail_mass.astype(dtype), 0)
    slack = tail_error + r * rounding
    low, high = jnp.clip(r - slack, 0, m * cap), jnp.minimum(r + slack, m * cap)
    tails = [
        _flat(r, m),
        _flat(low, m),
        _flat(high, m),
        _concentrated(low, m, cap),
        _concentrated(high, m, cap),
    ]
    every = (len(tails), *log_p.shape)
    log_x, copies = (jnp.stack(each) for each in zip(*tails, strict=True))
    entries = jnp.concatenate([jnp.broadcast_to(log_p, every), log_x], axis=-1)
    counts = jnp.concatenate([jnp.broadcast_to(seen.astype(dtype), every), copies], axis=-1)
    t = jnp.broadcast_to(t, (len(tails), *t.shape))[..., None]
    log_q, converged = op.log_counted(entries, t, counts)
    log_q = jnp.where(counts > 0, log_q, -jnp.inf)

    # Rounding outward: of log p as given, times what F_T makes of it; of the arithmetic, sums of k terms
    # included; and, absolutely, of what underflows.
    fine = float(jnp.finfo(dtype).eps)
    q = counts * jnp.exp(log_q)
    moved = (1 / t if type(op) is PowerTransform else jnp.ones_like(t)) * _finite_size(entries)
    error = eps * moved + 4 * fine * (moved + _finite_size(log_q))
    common = row_sum(q * error)
    relative, absolute = error + fine * (k / 2 + 8), jnp.full_like(common, jnp.finfo(dtype).tiny)
    if type(op) is TsallisSoftening:
        # What other entries change comes through the root, as a share of their change of Σq, absolutely; so
        # does what p/Σp, as which Tsallis reads a row of sum 1 ± slack, differs from p.
        promised = _OPERATOR_ERROR[dtype.name]
        absolute += common + 2 * slack[None, ..., None] + promised[0]
        relative += promised[1] * (1 + _finite_size(log_q))
    else:
        relative += common
    # T is rounded, and with it what the mixture gives to a token that has nothing of its own.
    from_temperature = 2 * fine / target.vocab_size if type(op) is ConvexMixture else 0.0
    some = ~jnp.isneginf(log_q)
    tail = jnp.sum(q[..., k:], axis=-1)
    tail_margin = jnp.sum((q * relative)[..., k:], axis=-1)
    tail_margin += jnp.where(some[..., k:].any(axis=-1), absolute[..., 0], 0)
    observed = jnp.exp(log_q[..., :k])
    tail_margin += (from_temperature * m)[None]
    margin = observed * relative[..., :k] + jnp.where(some[..., :k], absolute + from_temperature, 0)
    lower, upper = jnp.min((observed - margin)[1:], axis=0), jnp.max((observed + margin)[1:], axis=0)
    tail_lower = jnp.min((tail - tail_margin)[1:], axis=0)
    tail_upper = jnp.max((tail + tail_margin)[1:], axis=0)
    softened = Softened(
        ids=target.ids,
        log_probs=log_q[0, ..., :k],
        lower=jnp.maximum(lower, 0),
        upper=jnp.where(seen, jnp.minimum(upper, 1), 0),
        tail_mass=tail[0],
        tail_lower=jnp.maximum(tail_lower, 0),
        tail_upper=jnp.where(unseen > 0, jnp.minimum(tail_upper, 1), 0),
        num_unseen=unseen,
        vocab_size=target.vocab_size,
        ratios_known=type(op) is not TsallisSoftening,
    )
    return softened, converged.all(axis=(0, -1))


def _finite_size(log_p: Array) -> Array:
    """|log p|, 0 where it is −inf: nothing rounds there."""
    return jnp.where(jnp.isneginf(log_p), 0, jnp.abs(log_p))


def _flat(r: Array, m: Array) -> tuple[Array, Array]:
    """The tail of m tokens of r/m: log-probabilities of three kinds of tokens, and how many of each."""
    none = jnp.zeros_like(r)
    each = jnp.where(m > 0, r / jnp.maximum(m, 1), 0)
    return simplex.safe_log(jnp.stack([each, none, none], -1)), jnp.stack([m, none, none], -1)


def _concentrated(r: Array, m: Array, cap: Array) -> tuple[Array, Array]:
    """⌊r/cap⌋ tokens of ``cap``, one of what is left, and zeros."""
    full = jnp.minimum(jnp.floor(r / jnp.where(cap > 0, cap, 1)), m)
    rest = jnp.clip(r - full * cap, 0, cap)  # by rounding alone it could be −1.8e-15
    one = (full < m).astype(r.dtype)
    x = jnp.stack([jnp.where(full > 0, cap, 0), rest * one, jnp.zeros_like(r)], -1)
    return simplex.safe_log(x), jnp.stack([full, one, m - full - one], -1)
