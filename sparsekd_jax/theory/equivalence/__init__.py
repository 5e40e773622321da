"""When two softening operators train the same student, and how far apart their students can be."""

from sparsekd_jax.theory.equivalence.gaps import Gap, gap, gap_norm, moment_gap, tangent_features
from sparsekd_jax.theory.equivalence.matching import (
    EquivalenceClasses,
    NearestTemperature,
    classes,
    nearest_temperature,
)
from sparsekd_jax.theory.equivalence.teachers import (
    EquivalentTeacher,
    StudentDistance,
    compare_students,
    equivalent_teacher,
)

__all__ = [
    "EquivalenceClasses",
    "EquivalentTeacher",
    "Gap",
    "NearestTemperature",
    "StudentDistance",
    "classes",
    "compare_students",
    "equivalent_teacher",
    "gap",
    "gap_norm",
    "moment_gap",
    "nearest_temperature",
    "tangent_features",
]
