"""Operators and plain functions on rows: the one place that says how a plain function is called."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax import simplex
from sparsekd_jax.operators.base import Operator, SofteningOperator, require_operator


def on_rows(
    operator: Operator, rows: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch K"]:
    """F_T of rows, T a scalar or one a row; a plain function gets one row and its T, as from the checker."""
    require_operator(operator)
    if isinstance(operator, SofteningOperator):
        return operator(rows, temperature)

    def on_row(row: Array, t: ArrayLike = temperature) -> Array:
        q = operator(row, t)
        _require_classes(row, q)
        return q

    if jnp.ndim(temperature) == 0:
        return jnp.vectorize(on_row, signature="(k)->(k)")(rows)
    t = jnp.broadcast_to(jnp.asarray(temperature).astype(rows.dtype), rows.shape[:-1])
    return jnp.vectorize(on_row, signature="(k),()->(k)")(rows, t)


def log_on_rows(
    operator: Operator, log_rows: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch K"]:
    """log F_T of rows given as logarithms: by an operator's own log entry, else through probabilities."""
    if isinstance(operator, SofteningOperator):
        return operator.log(log_rows, temperature)
    off = jnp.isneginf(log_rows)
    p = jnp.where(off, 0, jnp.exp(jnp.where(off, 0, log_rows)))
    return simplex.safe_log(on_rows(operator, p, temperature))


def soften(operator: Operator, p: Float[np.ndarray, "N K"], temperature: float) -> Float[np.ndarray, "N K"]:
    """F_T(P) in float64, whatever the setting of the process; compiled for few numbers of rows."""
    require_operator(operator)
    bucket = 64
    while bucket < len(p):
        bucket *= 4
    padded = p[np.arange(bucket) % len(p)]
    with jax.enable_x64(True):
        rows = jnp.asarray(padded, jnp.float64)
        try:
            q = np.asarray(on_rows(operator, rows, temperature), np.float64)[: len(p)]
        except (
            TypeError,
            jax.errors.NonConcreteBooleanIndexError,
        ):  # numpy code, or a mistake that shows again
            by_row: Callable[..., Any] = operator
            q = np.stack([np.asarray(by_row(row.copy(), temperature), np.float64) for row in p])
            _require_classes(p[0], q[0])
    return q


def _require_classes(given: Any, returned: Any) -> None:
    shapes = [list(jnp.shape(x)) for x in (given, returned)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"the operator maps [K] = {shapes[0]} to {shapes[1]}; it must return [K]")
