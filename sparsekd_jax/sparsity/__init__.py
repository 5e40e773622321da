"""Sparse training: schedules, masks of exact counts, and the optax wrapper that keeps zeros zero."""

from sparsekd_jax.sparsity.masks import apply_masks, layer_zeros, straight_through, zero_fraction
from sparsekd_jax.sparsity.patterns import (
    PATTERNS,
    Pattern,
    count_to_drop,
    global_masks,
    layer_masks,
)
from sparsekd_jax.sparsity.regrowth import regrow
from sparsekd_jax.sparsity.schedules import (
    SCHEDULES,
    Schedule,
    cubic,
    geometric,
    linear,
    one_shot,
    sparsities,
)
from sparsekd_jax.sparsity.scores import SCORES, Score, magnitude, movement, random, taylor
from sparsekd_jax.sparsity.select import Select, by_path, is_kernel
from sparsekd_jax.sparsity.state import SparsifyState, StraightThroughState, current_masks
from sparsekd_jax.sparsity.structured import block, channel, n_m
from sparsekd_jax.sparsity.transform import sparsify, update_masks

__all__ = [
    "PATTERNS",
    "SCHEDULES",
    "SCORES",
    "Pattern",
    "Schedule",
    "Score",
    "Select",
    "SparsifyState",
    "StraightThroughState",
    "apply_masks",
    "block",
    "by_path",
    "channel",
    "count_to_drop",
    "cubic",
    "current_masks",
    "geometric",
    "global_masks",
    "is_kernel",
    "layer_masks",
    "layer_zeros",
    "linear",
    "magnitude",
    "movement",
    "n_m",
    "one_shot",
    "random",
    "regrow",
    "sparsify",
    "sparsities",
    "straight_through",
    "taylor",
    "update_masks",
    "zero_fraction",
]
