"""Softened rows in float64, for every module above that evaluates operators on given distributions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax.operators.base import Operator, SofteningOperator, require_operator


def on_rows(operator: Operator, rows: Array, temperature: ArrayLike) -> Array:
    """F_T of rows ``[N, K]``, traceable; a plain function need not know batches."""
    if isinstance(operator, SofteningOperator):
        return operator(rows, temperature)
    return jax.vmap(lambda row: operator(row, temperature))(rows)


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
        except jax.errors.JAXTypeError:  # numpy code
            by_row: Callable[..., Any] = operator
            q = np.stack([np.asarray(by_row(row, temperature), np.float64) for row in p])
    if q.shape != p.shape:
        raise ValueError(f"the operator maps [K] = [{p.shape[1]}] to {q.shape[1:]}; it must return [K]")
    return q
