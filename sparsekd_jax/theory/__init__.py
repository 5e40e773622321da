"""The paper's theory as objects that return numbers: arrays in, a result out, no training loop needed.

One room a section of theory.md: bias and variance, the path of a compression, its convergence, and when two
operators train the same student.
"""

from sparsekd_jax.theory import (
    bias_variance,
    convergence,
    equivalence,
    homotopy,
    intervals,
    ridge,
    slopes,
    text_only,
    variance,
)

__all__ = [
    "bias_variance",
    "convergence",
    "equivalence",
    "homotopy",
    "intervals",
    "ridge",
    "slopes",
    "text_only",
    "variance",
]
