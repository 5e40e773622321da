"""The paper's theory as objects that return numbers: arrays in, a result out, no training loop needed.

Reference: Flouro & Chadwick, arXiv 2601.03195; theory.md sections 3 to 5.
"""

from sparsekd_jax.theory.convergence import PenaltyPath, TrackedPath, penalty_path, track
from sparsekd_jax.theory.equivalence import Gap, gap, moment_gap, tangent_features
from sparsekd_jax.theory.equivalent_teachers import (
    EquivalentTeacher,
    StudentDistance,
    compare_students,
    equivalent_teacher,
)
from sparsekd_jax.theory.matching import (
    EquivalenceClasses,
    NearestTemperature,
    classes,
    nearest_temperature,
)
from sparsekd_jax.theory.rates import RateFit, fit_rate
from sparsekd_jax.theory.regression import Fit, SoftmaxRegression, softmax_regression
from sparsekd_jax.theory.tracking import (
    SampledConstants,
    TrackingBound,
    follow,
    path_speed,
    sampled_constants,
    tracking_error,
)

__all__ = [
    "EquivalenceClasses",
    "EquivalentTeacher",
    "Fit",
    "Gap",
    "NearestTemperature",
    "PenaltyPath",
    "RateFit",
    "SampledConstants",
    "SoftmaxRegression",
    "StudentDistance",
    "TrackedPath",
    "TrackingBound",
    "classes",
    "compare_students",
    "equivalent_teacher",
    "fit_rate",
    "follow",
    "gap",
    "moment_gap",
    "nearest_temperature",
    "path_speed",
    "penalty_path",
    "sampled_constants",
    "softmax_regression",
    "tangent_features",
    "track",
    "tracking_error",
]
