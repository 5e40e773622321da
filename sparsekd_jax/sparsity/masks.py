"""Which weights stay: scores, patterns of exact counts, and masks, for any pytree of parameters.

A mask tree has the structure of the parameters: a boolean array where weights may be dropped (True keeps),
None where they may not.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

Select = Callable[[str, Array], bool]
"""Says from its name and value whether a parameter may lose weights."""
Score = Callable[[Array], Array]
"""Maps a weight array to the worth of each weight, same shape; the lowest are dropped first."""
Pattern = Callable[[PyTree, float], PyTree]
"""Maps scores (None where excluded) and the share to drop to masks."""


def _map(function: Callable[..., Any], masks: PyTree, *trees: PyTree) -> PyTree:
    """``jax.tree.map`` in which a None of the first tree is a leaf, so that it meets the others' arrays."""
    return jax.tree.map(function, masks, *trees, is_leaf=lambda leaf: leaf is None)


def path_name(path: tuple[Any, ...]) -> str:
    """A parameter's path as ``layers.0.kernel``, without the ``value`` that NNX variables add to it."""
    parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    if isinstance(path[-1], jax.tree_util.GetAttrKey) and parts[-1] == "value":
        parts.pop()
    return ".".join(parts)


def named_leaves(params: PyTree) -> dict[str, Array]:
    """The arrays of a pytree by name, in the pytree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}


def is_kernel(path: str, leaf: Array) -> bool:
    """The default choice of what may be dropped: matrices and convolution kernels, not biases or norms.

    Args:
        path: the parameter's name, such as ``"layers.0.kernel"``.
        leaf: its value.

    Returns:
        Whether the leaf has at least two axes.

    >>> is_kernel("layers.0.kernel", jnp.ones((3, 2))), is_kernel("layers.0.bias", jnp.ones(2))
    (True, False)
    """
    del path
    return leaf.ndim >= 2


def initial_masks(params: PyTree, where: Select = is_kernel) -> PyTree:
    """Masks that keep everything, None where ``where(path, leaf)`` says the leaf is never dropped."""

    def keep_all(path: tuple[Any, ...], leaf: Array) -> Array | None:
        return jnp.ones(leaf.shape, bool) if where(path_name(path), leaf) else None

    masks = jax.tree_util.tree_map_with_path(keep_all, params)
    if not jax.tree.leaves(masks):
        names = named_leaves(params)
        raise ValueError(
            f"where selects no parameter among {', '.join(names) or 'none'}: there is nothing to prune. "
            "The default takes arrays with two axes or more."
        )
    return masks


def magnitude(weights: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Score by size: ``|w|``.

    Args:
        weights: any shape.

    Returns:
        The same shape, ≥ 0.

    >>> magnitude(jnp.array([-2.0, 1.0])).tolist()
    [2.0, 1.0]
    """
    return jnp.abs(weights)


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
        hint = f"; did you mean {rate / 100:g}?" if 1.0 < rate < 100.0 else ""
        raise ValueError(f"rate must be a share in [0, 1), got {rate:g}{hint}")
    return round(rate * size)


def _keep_best(scores: Float[Array, " n"], rate: float) -> Array:
    """A mask of exactly ``n − count_to_drop(rate, n)`` ones, at the highest scores."""
    keep = scores.size - count_to_drop(rate, scores.size)
    if keep == scores.size:
        return jnp.ones(scores.shape, bool)
    # top_k names positions, so equal scores cannot push the count off; a threshold (score > t) can.
    _, kept = jax.lax.top_k(scores, keep)
    return jnp.zeros(scores.shape, bool).at[kept].set(True)


def global_masks(scores: PyTree, rate: float) -> PyTree:
    """Drop the lowest scores of all layers together; among equal scores the later weight goes first.

    Args:
        scores: arrays of any shape, None for leaves that are never dropped.
        rate: share of all scored weights to drop, in [0, 1).

    Returns:
        Masks with exactly ``count_to_drop(rate, total size)`` zeros.

    Raises:
        ValueError: the rate is outside [0, 1).

    >>> masks = global_masks({"a": jnp.array([1.0, 5.0]), "b": jnp.array([4.0, 1.0])}, 0.5)
    >>> masks["a"].tolist(), masks["b"].tolist()
    ([False, True], [True, False])
    """
    leaves, structure = jax.tree.flatten(scores, is_leaf=lambda leaf: leaf is None)
    scored = [leaf for leaf in leaves if leaf is not None]
    kept = _keep_best(jnp.concatenate([leaf.ravel() for leaf in scored]), rate)
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
        Masks with exactly ``count_to_drop(rate, leaf size)`` zeros in each leaf.

    Raises:
        ValueError: the rate is outside [0, 1).

    >>> masks = layer_masks({"a": jnp.array([1.0, 2.0]), "b": jnp.array([9.0, 8.0])}, 0.5)
    >>> masks["a"].tolist(), masks["b"].tolist()
    ([False, True], [True, False])
    """
    return _map(
        lambda leaf: None if leaf is None else _keep_best(leaf.ravel(), rate).reshape(leaf.shape), scores
    )


SCORES: dict[str, Score] = {"magnitude": magnitude}
PATTERNS: dict[str, Pattern] = {"global": global_masks, "layer": layer_masks}


def apply_masks(params: PyTree, masks: PyTree) -> PyTree:
    """Set dropped weights to exactly zero: ``where(mask, w, 0)``.

    Args:
        params: parameters.
        masks: their masks, None where nothing is dropped.

    Returns:
        Parameters of the same structure.

    >>> apply_masks({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([True, False])})["w"].tolist()
    [1.0, 0.0]
    """
    # Not w * mask: that would keep the NaN of a diverged weight, and give −0.0 for negative ones.
    return _map(lambda m, w: w if m is None else jnp.where(m, w, jnp.zeros_like(w)), masks, params)


def layer_zeros(params: PyTree, where: Select = is_kernel) -> dict[str, tuple[int, int]]:
    """Exact zeros and size of each array that may be dropped.

    Args:
        params: parameters.
        where: which leaves count; the default leaves out biases and norms.

    Returns:
        ``{name: (number of entries that equal 0, number of entries)}``.

    >>> layer_zeros({"w": jnp.eye(3), "b": jnp.zeros(3)})
    {'w': (6, 9)}
    """
    return {
        name: (int(np.count_nonzero(np.asarray(leaf) == 0)), leaf.size)
        for name, leaf in named_leaves(params).items()
        if where(name, leaf)
    }


def zero_fraction(params: PyTree, where: Select = is_kernel) -> float:
    """Share of exact zeros among the weights that may be dropped.

    Args:
        params: parameters.
        where: which leaves count; the default leaves out biases and norms.

    Returns:
        A share in [0, 1].

    >>> zero_fraction({"w": jnp.array([[0.0, 1.0], [0.0, 0.0]])})
    0.75
    """
    counts = layer_zeros(params, where).values()
    return sum(zeros for zeros, _ in counts) / sum(size for _, size in counts)
