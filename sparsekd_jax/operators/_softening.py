"""Operators and plain functions on rows: the one place that says how a plain function is called."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax.operators.base import Operator, SofteningOperator, require_operator


def on_rows(
    operator: Operator, rows: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch K"]:
    """F_T of rows, T a scalar or one a row; a plain function gets one row and its T, as from the checker."""
    require_operator(operator)
    if isinstance(operator, SofteningOperator):
        return operator(rows, temperature)
    if jnp.ndim(temperature) == 0:
        q = jnp.vectorize(lambda row: operator(row, temperature), signature="(k)->(j)")(rows)
    else:
        t = jnp.broadcast_to(jnp.asarray(temperature).astype(rows.dtype), rows.shape[:-1])
        q = jnp.vectorize(operator, signature="(k),()->(j)")(rows, t)
    _require_classes(rows.shape[-1], q.shape[-1])
    return q


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
        _require_classes(p.shape[1], q.shape[1])
    return q


def _require_classes(given: int, returned: int) -> None:
    if given != returned:
        raise ValueError(f"the operator maps [K] = [{given}] to [{returned}]; it must return [K]")
