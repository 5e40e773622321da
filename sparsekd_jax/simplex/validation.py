"""Refusing what is not a batch of distributions, in eager code; traced values pass unseen."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike

from sparsekd_jax._refusals import is_traced, refuse

SUM_TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 4e-3, "float16": 1e-3}
"""How far from 1 a distribution may sum, by dtype: what an operator accepts, and what it promises.

In float16 nothing is promised beyond 16,384 classes, where 1/K is no normal number: of 100,000 classes, rows
next to uniform are off by up to 2e-3.
"""


def _require_rows(x: ArrayLike, name: str, remedy: str) -> np.ndarray | None:
    """The checks that every kind of row shares; the array to look at, or None where it is traced."""
    if not (hasattr(x, "dtype") or isinstance(x, int | float)):
        raise TypeError(f"{name} is a {type(x).__name__}; pass an array: jnp.asarray({name})")
    shape, dtype = np.shape(x), jnp.result_type(x)
    if dtype.name not in SUM_TOLERANCE:
        raise TypeError(f"{name} has dtype {dtype}; {remedy}")
    if len(shape) == 0 or shape[-1] < 2:
        raise ValueError(
            f"{name} has shape {shape}; the last axis holds the classes and needs K ≥ 2 of them. "
            "For a binary probability p pass the pair [1 − p, p]."
        )
    return None if is_traced(x) else np.asarray(x)


def _on_another_axis(wide: np.ndarray, tolerance: float, name: str) -> str:
    """The remedy where the classes lie on another axis, which is the one that sums to 1."""
    for axis in range(wide.ndim - 1):
        if (np.abs(wide.sum(axis) - 1) <= tolerance).all():
            return f"Axis {axis} sums to 1: classes go last, pass jnp.moveaxis({name}, {axis}, -1)."
    return ""


def _refuse_nan_and_inf(x: np.ndarray, name: str, remedy: str) -> None:
    bad = ~(x < np.inf)  # −inf is an ordinary logarithm
    refuse(bad.any(-1), name, lambda i: f"contains {x[i][bad[i]][0]}; {remedy}")


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
    refuse(
        ~np.isfinite(wide).all(-1),
        name,
        lambda i: f"contains {wide[i][~np.isfinite(wide[i])][0]}; find its origin (jax_debug_nans helps)",
    )
    refuse(
        (wide < 0).any(-1),
        name,
        lambda i: (
            f"contains the negative entry {wide[i].min():.7g}. "
            "If these are logits call op.from_logits(z, T); if log-probabilities, op.log(log_p, T)."
        ),
    )
    refuse(
        ~(np.abs(wide.sum(-1) - 1) <= tolerance),
        name,
        lambda i: (
            f"sums to {wide[i].sum():.13g}, off by {abs(wide[i].sum() - 1):.3g} (tolerance {tolerance:g} in "
            f"{x.dtype.name}). "
            + (
                _on_another_axis(wide, tolerance, name)
                or f"If these are unnormalised weights pass simplex.normalize({name}); "
                "if logits, call op.from_logits(z, T)."
            )
        ),
    )


def require_log_probabilities(log_p: ArrayLike, name: str = "log_p") -> None:
    """The same for log-probabilities: −inf is allowed, ``logsumexp`` must be 0 within the tolerance.

    Raises:
      TypeError: not floating point.
      ValueError: K < 2; NaN or +inf; a row that does not normalise.

    >>> require_log_probabilities(jnp.array([0.0, 0.0]))
    Traceback (most recent call last):
    ValueError: log_p: sums to 2 after exp, off by 1 (tolerance 4e-05 in float32). If these are logits...
    """
    x = _require_rows(log_p, name, f"log-probabilities are floating point: pass {name}.astype(jnp.float32)")
    if x is None:
        return
    wide = x.astype(np.float64)
    _refuse_nan_and_inf(wide, name, "log-probabilities are ≤ 0, −inf allowed")
    with np.errstate(over="ignore"):
        total = np.exp(wide).sum(-1)
    # The rounding of log_p itself moves the sum, by up to H(p)/2 ulp. In bfloat16 that can be more, for even
    # rows of some thousand classes: those are refused too, and float32 is the remedy.
    tolerance = 4 * SUM_TOLERANCE[x.dtype.name]
    wide_name = name if x.dtype.itemsize >= 4 else f"{name}.astype(jnp.float32)"
    refuse(
        ~(np.abs(total - 1) <= tolerance),
        name,
        lambda i: (
            f"sums to {total[i]:.13g} after exp, off by {abs(total[i] - 1):.3g} (tolerance {tolerance:g} in "
            f"{x.dtype.name}). "
            + (
                f"These sum to 1 as they are: if they are probabilities pass jnp.log({name})."
                if (wide[i] >= 0).all() and abs(wide[i].sum() - 1) <= tolerance
                else f"If these are logits call op.from_logits(z, T) or pass jax.nn.log_softmax({wide_name})."
            )
        ),
    )


def require_logits(logits: ArrayLike, name: str = "logits") -> None:
    """Refuse logits that define no distribution: NaN, +inf, or a row of −inf only.

    >>> require_logits(jnp.array([jnp.nan, 0.0]))
    Traceback (most recent call last):
    ValueError: logits: contains nan; logits are finite, or −inf for an impossible class
    """
    x = _require_rows(logits, name, f"logits are floating point: pass {name}.astype(jnp.float32)")
    if x is None:
        return
    wide = x.astype(np.float64)
    _refuse_nan_and_inf(wide, name, "logits are finite, or −inf for an impossible class")
    refuse(
        np.isneginf(wide).all(-1), name, lambda i: "every logit is −inf; at least one class must be possible"
    )
