"""What softening does to the variance of a target: Jacobians, Lipschitz constants, amplification and its map.

An empirical target p̂ of n labels has covariance (diag p − ppᵀ)/n. Softening it gives, to first order,
``Cov F_T(p̂) ≈ J Cov(p̂) Jᵀ``: an operator lowers the variance where it contracts and raises it where it
stretches. That smoother targets reduce variance is true of operators that do not expand L2 distances, such as
the mixture; the power transform stretches near the boundary.
"""

from sparsekd_jax.theory.variance.amplification import (
    Amplification,
    AmplificationMap,
    ClassVariances,
    amplification_map,
    delta_variance,
    variance_amplification,
)
from sparsekd_jax.theory.variance.samples import multinomial_covariance
from sparsekd_jax.theory.variance.slopes import (
    Lipschitz,
    certified_lipschitz,
    jacobian,
    lipschitz,
    trichotomy,
)

__all__ = [
    "Amplification",
    "AmplificationMap",
    "ClassVariances",
    "Lipschitz",
    "amplification_map",
    "certified_lipschitz",
    "delta_variance",
    "jacobian",
    "lipschitz",
    "multinomial_covariance",
    "trichotomy",
    "variance_amplification",
]
