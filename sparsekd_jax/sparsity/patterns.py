"""Where zeros may lie: patterns of exact counts, from scores to masks.

A pattern is a function ``(scores, rate) -> masks`` over a tree of score arrays, None where nothing is ever
dropped. Ties fall by position: among equal scores the later goes first. NaN ranks highest, so that a
diverged weight stays and shows itself; −0.0 equals 0.0. Patterns are hashable, hence static arguments of jit.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sparsekd_jax._refusals import percent_hint
from sparsekd_jax.sparsity._trees import map_masks

Pattern = Callable[[PyTree, float], PyTree]
"""Maps scores (None where excluded) and the share to drop to masks."""


def count_to_drop(rate: float, size: int) -> int:
    """How many of ``size`` weights a rate drops: ``round(rate · size)``, so within half a weight of the rate.

    Args:
        rate: share in [0, 1).
        size: number of weights.

    Returns:
        A count; 0 at rate 0.

    Raises:
        ValueError: the rate is outside [0, 1).

    >>> count_to_drop(0.95, 84480)
    80256
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"rate must be a share in [0, 1), got {rate:g}{percent_hint(rate)}")
    return round(rate * size)


def ranked(scores: Float[Array, " n"], keep: int) -> Array:
    """Positions of the ``keep`` highest scores, best first; among equal ones the earlier is better."""
    # Signed zeros and NaNs lose their sign: top_k would rank −0.0 below 0.0, and −NaN below everything.
    scores = jnp.where((scores == 0) | jnp.isnan(scores), jnp.abs(scores), scores)
    # top_k names positions, so equal scores cannot push the count off; a threshold (score > t) can.
    return jax.lax.top_k(scores, keep)[1]


def keep_best(scores: Float[Array, " n"], keep: int) -> Array:
    """A mask of exactly ``keep`` ones, at the highest scores."""
    if keep == scores.size:
        return jnp.ones(scores.shape, bool)
    return jnp.zeros(scores.shape, bool).at[ranked(scores, keep)].set(True)


def global_masks(scores: PyTree, rate: float) -> PyTree:
    """Drop the lowest scores of all layers together; among equal scores the later weight goes first.

    Args:
        scores: arrays of any shape, None for leaves that are never dropped.
        rate: share of all scored weights to drop, in [0, 1).

    Returns:
        Masks with exactly ``count_to_drop(rate, total size)`` zeros. A layer of low scores may lose
        every weight, which cuts the network there.

    Raises:
        ValueError: the rate is outside [0, 1).

    >>> masks = global_masks({"a": jnp.array([1.0, 5.0]), "b": jnp.array([4.0, 1.0])}, 0.5)
    >>> masks["a"].tolist(), masks["b"].tolist()
    ([False, True], [True, False])
    """
    leaves, structure = jax.tree.flatten(scores, is_leaf=lambda leaf: leaf is None)
    with jax.numpy_dtype_promotion("standard"):  # layers of different dtypes are ranked in the widest
        flat = jnp.concatenate([leaf.ravel() for leaf in leaves if leaf is not None])
    kept = keep_best(flat, flat.size - count_to_drop(rate, flat.size))
    masks: list[Array | None] = []
    start = 0
    for leaf in leaves:
        if leaf is None:
            masks.append(None)
            continue
        masks.append(kept[start : start + leaf.size].reshape(leaf.shape))
        start += leaf.size
    return jax.tree.unflatten(structure, masks)


def layer_masks(scores: PyTree, rate: float) -> PyTree:
    """Drop the same share in every layer; among equal scores the later weight goes first.

    Args:
        scores: arrays of any shape, None for leaves that are never dropped.
        rate: share of each array to drop, in [0, 1).

    Returns:
        Masks with exactly ``count_to_drop(rate, leaf size)`` zeros in each leaf. That may be all of a small
        one, since counts are rounded; leave it out with None. `block` and `channel` refuse instead.

    Raises:
        ValueError: the rate is outside [0, 1).

    >>> masks = layer_masks({"a": jnp.array([1.0, 2.0]), "b": jnp.array([9.0, 8.0])}, 0.5)
    >>> masks["a"].tolist(), masks["b"].tolist()
    ([False, True], [True, False])
    >>> int(layer_masks({"small": jnp.arange(8.0)}, 0.95)["small"].sum())  # round(7.6) of 8 go
    0
    """

    def one(leaf: Array | None) -> Array | None:
        if leaf is None:
            return None
        return keep_best(leaf.ravel(), leaf.size - count_to_drop(rate, leaf.size)).reshape(leaf.shape)

    return map_masks(one, scores)


PATTERNS: Mapping[str, Pattern] = MappingProxyType({"global": global_masks, "layer": layer_masks})
