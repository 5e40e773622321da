"""Privacy of labels drawn through a softener: ε by operator, sampling and its audit, composition."""

from sparsekd_jax.theory.privacy.accounting import Guarantee, compose
from sparsekd_jax.theory.privacy.epsilon import LocalEpsilon, local_epsilon, temperature_for
from sparsekd_jax.theory.privacy.labels import audit, clip, sample_labels

__all__ = [
    "Guarantee",
    "LocalEpsilon",
    "audit",
    "clip",
    "compose",
    "local_epsilon",
    "sample_labels",
    "temperature_for",
]
