"""The paper's theory as functions that return numbers: arrays in, a result object out, no training loop.

Reference: Flouro & Chadwick, arXiv 2601.03195; theory.md section 3.
"""

from sparsekd_jax.theory.bias_variance import Comparison, Decomposition, compare, decompose
from sparsekd_jax.theory.intervals import Estimate

__all__ = ["Comparison", "Decomposition", "Estimate", "compare", "decompose"]
