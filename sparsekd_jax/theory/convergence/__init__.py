"""How closely n stages track a moving optimum, every constant in the open, and rates fitted to values."""

from sparsekd_jax.theory.convergence.penalty import PenaltyPath, TrackedPath, penalty_path, track
from sparsekd_jax.theory.convergence.rates import RateFit, fit_rate
from sparsekd_jax.theory.convergence.regression import Fit, SoftmaxRegression, softmax_regression
from sparsekd_jax.theory.convergence.tracking import (
    SampledConstants,
    TrackingBound,
    follow,
    path_speed,
    sampled_constants,
    tracking_error,
)

__all__ = [
    "Fit",
    "PenaltyPath",
    "RateFit",
    "SampledConstants",
    "SoftmaxRegression",
    "TrackedPath",
    "TrackingBound",
    "fit_rate",
    "follow",
    "path_speed",
    "penalty_path",
    "sampled_constants",
    "softmax_regression",
    "track",
    "tracking_error",
]
