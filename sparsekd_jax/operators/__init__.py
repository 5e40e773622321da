"""Softening operators on the probability simplex: pure, jitted, vmapped, differentiable.

>>> get("tsallis", alpha=1.5).name
'tsallis(1.5)'
>>> names()[:3]
('power', 'mixture', 'tsallis')
"""

from sparsekd_jax.operators import lawless
from sparsekd_jax.operators.base import (
    Claim,
    Claims,
    ConvergenceError,
    Domain,
    Operator,
    SofteningOperator,
    TemperatureRange,
)
from sparsekd_jax.operators.entropy_projection import EntropyProjection
from sparsekd_jax.operators.euclidean_entropy_projection import EuclideanEntropyProjection
from sparsekd_jax.operators.mixture import ConvexMixture, reciprocal_schedule
from sparsekd_jax.operators.power import PowerTransform
from sparsekd_jax.operators.registry import TableRow, get, names, parse, table_rows
from sparsekd_jax.operators.tsallis import TsallisSoftening
from sparsekd_jax.operators.variational import Variational, variational

__all__ = [
    "Claim",
    "Claims",
    "ConvergenceError",
    "ConvexMixture",
    "Domain",
    "EntropyProjection",
    "EuclideanEntropyProjection",
    "Operator",
    "PowerTransform",
    "SofteningOperator",
    "TableRow",
    "TemperatureRange",
    "TsallisSoftening",
    "Variational",
    "get",
    "lawless",
    "names",
    "parse",
    "reciprocal_schedule",
    "table_rows",
    "variational",
]
