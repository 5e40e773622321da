"""What a teacher reveals, dense, top-k or sampled, and what can be certified of the rest."""

from sparsekd_jax.targets import cache, text_only
from sparsekd_jax.targets.revealed import (
    PADDING,
    Dense,
    Samples,
    Target,
    TopK,
    require_consistent,
    top_k,
)
from sparsekd_jax.targets.sampling import estimate, expected_distinct, sample
from sparsekd_jax.targets.softening import Softened, soften

__all__ = [
    "PADDING",
    "Dense",
    "Samples",
    "Softened",
    "Target",
    "TopK",
    "cache",
    "estimate",
    "expected_distinct",
    "require_consistent",
    "sample",
    "soften",
    "text_only",
    "top_k",
]
