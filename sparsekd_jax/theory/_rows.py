"""Distributions and temperatures that are given to theory: validated, and as they are read."""

import math

import numpy as np
from jaxtyping import ArrayLike

from sparsekd_jax import simplex
from sparsekd_jax.operators import Operator, SofteningOperator
from sparsekd_jax.operators.base import require_operator


def distributions(p: ArrayLike, name: str = "p") -> np.ndarray:
    """Validated rows in float64, each read as the distribution it represents, ``p/Σp``, as operators do.

    From float32 a row sums to 1 within the tolerance of that dtype only.
    """
    given = p if hasattr(p, "dtype") else np.asarray(p, np.float64)
    simplex.require_probabilities(given, name)
    rows = np.asarray(given).astype(np.float64)
    rows /= rows.sum(-1, keepdims=True)
    return rows


def require_temperature(operator: Operator, temperature: float) -> None:
    """Refuse what is not one temperature, or none that the operator takes."""
    if np.ndim(temperature) != 0 or not 0 < float(temperature) < math.inf:
        raise ValueError(f"temperature is {temperature}; here it is one finite number > 0")
    if isinstance(operator, SofteningOperator) and float(temperature) not in operator.claims.temperatures:
        allowed = operator.claims.temperatures
        raise ValueError(f"temperature is {temperature:g}; {operator.name} takes T in {allowed}")


def rows_of(operator: Operator, p: ArrayLike, temperature: float) -> np.ndarray:
    """The `distributions`, in the domain of the operator."""
    require_operator(operator)
    rows = distributions(p)
    require_temperature(operator, temperature)
    if isinstance(operator, SofteningOperator):
        operator._require_domain(rows, "p")
    return rows
