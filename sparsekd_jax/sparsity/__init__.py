"""Sparse training: schedules, masks of exact counts, and the optax wrapper that keeps zeros zero."""

from sparsekd_jax.sparsity.masks import (
    PATTERNS,
    SCORES,
    Pattern,
    Score,
    Select,
    apply_masks,
    count_to_drop,
    global_masks,
    is_kernel,
    layer_masks,
    layer_zeros,
    magnitude,
    zero_fraction,
)
from sparsekd_jax.sparsity.schedules import SCHEDULES, Schedule, cubic, linear, one_shot, sparsities
from sparsekd_jax.sparsity.transform import SparsifyState, current_masks, sparsify, update_masks

__all__ = [
    "PATTERNS",
    "SCHEDULES",
    "SCORES",
    "Pattern",
    "Schedule",
    "Score",
    "Select",
    "SparsifyState",
    "apply_masks",
    "count_to_drop",
    "cubic",
    "current_masks",
    "global_masks",
    "is_kernel",
    "layer_masks",
    "layer_zeros",
    "linear",
    "magnitude",
    "one_shot",
    "sparsify",
    "sparsities",
    "update_masks",
    "zero_fraction",
]
