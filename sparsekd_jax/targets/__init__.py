"""What a teacher reveals, dense, top-k or sampled, and what can be certified of the rest."""

from sparsekd_jax.targets import text_only
from sparsekd_jax.targets.revealed import PADDING, Dense, Samples, Target, TopK
from sparsekd_jax.targets.sampling import estimate, expected_distinct, sample

__all__ = [
    "PADDING",
    "Dense",
    "Samples",
    "Target",
    "TopK",
    "estimate",
    "expected_distinct",
    "sample",
    "text_only",
]
