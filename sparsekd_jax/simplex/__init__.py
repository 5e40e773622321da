"""Distributions on the probability simplex: entropies, divergences, distances, projection, validation.

Every function works on the last axis of ``[..., K]`` arrays, in nats, under ``jit``, ``vmap`` and ``grad``.

Zeros are ordinary inputs. Values at zeros are the mathematical limits (``0 log 0 = 0``; ``KL(p‖q) = inf``
where p puts mass that q does not). Gradients at an exact zero are those of the function restricted to the
face of the simplex that the zeros define: a coordinate that is off contributes 0. They are never NaN.
(Total variation and the majorization margin are piecewise linear and keep their ordinary slopes.)

Computations run in the dtype of the inputs. A function of two distributions wants them in one dtype.
Only the ``require_*`` functions validate: they are for eager code and let traced values pass. Of a row with a
NaN every measure is NaN. An entry below 0 counts as 0 where its logarithm is taken, and as it is in
sums and differences of entries (total variation, mixtures of p and q, the majorization margin).

Reference: Flouro & Chadwick, arXiv 2601.03195; theory.md sections 1 and 4.
"""

from sparsekd_jax.simplex.divergences import (
    fisher_rao_distance,
    hellinger_distance,
    jensen_shannon_divergence,
    kl_divergence,
    reverse_kl_divergence,
    total_variation,
)
from sparsekd_jax.simplex.entropies import (
    bregman_entropy,
    entropy,
    entropy_deficit,
    min_entropy,
    renyi_entropy,
    safe_log,
    tsallis_entropy,
)
from sparsekd_jax.simplex.geometry import majorization_margin, normalize, project
from sparsekd_jax.simplex.validation import (
    SUM_TOLERANCE,
    require_log_probabilities,
    require_logits,
    require_probabilities,
)

__all__ = [
    "SUM_TOLERANCE",
    "bregman_entropy",
    "entropy",
    "entropy_deficit",
    "fisher_rao_distance",
    "hellinger_distance",
    "jensen_shannon_divergence",
    "kl_divergence",
    "majorization_margin",
    "min_entropy",
    "normalize",
    "project",
    "renyi_entropy",
    "require_log_probabilities",
    "require_logits",
    "require_probabilities",
    "reverse_kl_divergence",
    "safe_log",
    "total_variation",
    "tsallis_entropy",
]
