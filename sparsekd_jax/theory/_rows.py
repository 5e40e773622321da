"""What every module that evaluates an operator on given rows needs: the rows, validated."""

import math

import numpy as np
from jaxtyping import ArrayLike

from sparsekd_jax import simplex
from sparsekd_jax.operators import Operator, SofteningOperator
from sparsekd_jax.operators.base import require_operator


def rows_of(operator: Operator, p: ArrayLike, temperature: float) -> np.ndarray:
    """Validated rows as they are read, p/Σp in float64, in the domain of the operator."""
    require_operator(operator)
    if np.ndim(temperature) != 0 or not 0 < float(temperature) < math.inf:
        raise ValueError(f"temperature is {temperature}; here it is one finite number > 0")
    given = p if hasattr(p, "dtype") else np.asarray(p, np.float64)
    simplex.require_probabilities(given)
    rows = np.asarray(given).astype(np.float64)
    rows /= rows.sum(-1, keepdims=True)
    if isinstance(operator, SofteningOperator):
        allowed = operator.claims.temperatures
        if float(temperature) not in allowed:
            raise ValueError(f"temperature is {temperature:g}; {operator.name} takes T in {allowed}")
        operator._require_domain(rows, "p")
    return rows
