"""The paper's theory as objects that return numbers: arrays in, a result out, no training loop needed.

Reference: Flouro & Chadwick, arXiv 2601.03195; theory.md sections 3 to 5.
"""

from sparsekd_jax.theory.convergence import PenaltyPath, TrackedPath, penalty_path, track
from sparsekd_jax.theory.regression import Fit, SoftmaxRegression, softmax_regression
from sparsekd_jax.theory.tracking import TrackingBound, follow, path_speed, tracking_error

__all__ = [
    "Fit",
    "PenaltyPath",
    "SoftmaxRegression",
    "TrackedPath",
    "TrackingBound",
    "follow",
    "path_speed",
    "penalty_path",
    "softmax_regression",
    "track",
    "tracking_error",
]
