"""What a teacher reveals, dense, top-k or sampled, and what can be certified of the rest."""

from sparsekd_jax.targets import cache
from sparsekd_jax.targets.revealed import PADDING, Dense, Samples, Target, TopK

__all__ = ["PADDING", "Dense", "Samples", "Target", "TopK", "cache"]
