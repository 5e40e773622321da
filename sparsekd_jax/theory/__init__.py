"""The paper's theory as functions that return numbers: arrays in, a result object out, no training loop.

Reference: Flouro & Chadwick, arXiv 2601.03195; theory.md section 3.
"""

from sparsekd_jax.theory import intervals, ridge
from sparsekd_jax.theory.bias_variance import Comparison, Decomposition, compare, decompose
from sparsekd_jax.theory.intervals import Estimate
from sparsekd_jax.theory.slopes import Lipschitz, jacobian, lipschitz, trichotomy
from sparsekd_jax.theory.variance import (
    Amplification,
    ClassVariances,
    amplification_map,
    multinomial_covariance,
    variance_amplification,
)

__all__ = [
    "Amplification",
    "ClassVariances",
    "Comparison",
    "Decomposition",
    "Estimate",
    "Lipschitz",
    "amplification_map",
    "compare",
    "decompose",
    "intervals",
    "jacobian",
    "lipschitz",
    "multinomial_covariance",
    "ridge",
    "trichotomy",
    "variance_amplification",
]
