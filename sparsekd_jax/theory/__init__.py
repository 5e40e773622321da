"""The paper's theory as objects that return numbers: arrays in, a result out, no training loop needed.

One room a section of theory.md: bias and variance, the path of a compression, its convergence, when two
operators train the same student, and the privacy of softened labels.
"""

from sparsekd_jax.theory import (
    bias_variance,
    convergence,
    equivalence,
    homotopy,
    intervals,
    privacy,
    ridge,
    text_only,
    variance,
)

__all__ = [
    "bias_variance",
    "convergence",
    "equivalence",
    "homotopy",
    "intervals",
    "privacy",
    "ridge",
    "text_only",
    "variance",
]
