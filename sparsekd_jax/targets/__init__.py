"""What a teacher reveals, dense, top-k or sampled, and what can be certified of the rest."""

from sparsekd_jax.targets.revealed import (
    PADDING,
    Dense,
    Samples,
    Target,
    TopK,
    require_consistent,
    top_k,
)
from sparsekd_jax.targets.softening import Softened, soften

__all__ = [
    "PADDING",
    "Dense",
    "Samples",
    "Softened",
    "Target",
    "TopK",
    "require_consistent",
    "soften",
    "top_k",
]
