"""Masks for any pytree of parameters: made, applied, counted.

A mask tree has the structure of the parameters: a boolean array where weights may be dropped (True keeps),
None where they may not.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from sparsekd_jax.sparsity._arguments import require_params, require_select
from sparsekd_jax.sparsity._trees import map_masks, named_leaves, path_name, require_masks
from sparsekd_jax.sparsity.select import ByPath, Select, is_kernel


def initial_masks(params: PyTree, where: Select = is_kernel) -> PyTree:
    """Masks that keep everything, None where ``where(path, leaf)`` says the leaf is never dropped."""
    require_params("params", params)
    require_select(where)
    names = named_leaves(params)
    if isinstance(where, ByPath):
        where.require_matches(names)

    def keep_all(path: tuple[Any, ...], leaf: Array) -> Array | None:
        return jnp.ones(leaf.shape, bool) if where(path_name(path), leaf) else None

    masks = jax.tree_util.tree_map_with_path(keep_all, params)
    if not jax.tree.leaves(masks):
        raise ValueError(
            f"where selects no parameter among {', '.join(names) or 'none'}: there is nothing to prune. "
            "The default takes arrays with two axes or more."
        )
    return masks


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
    require_masks(masks, params)
    return map_masks(lambda m, w: w if m is None else _masked(w, m), masks, params)


def straight_through(params: PyTree, masks: PyTree) -> PyTree:
    """The value of `apply_masks` with the gradient of the identity: ``f(w) = where(m, w, 0)``, ``∂f/∂w = 1``.

    For the forward pass of ``sparsify(..., straight_through=True)``: dropped weights count as zero, and still
    receive the gradient that they would have at zero, so that a later `update_masks` can bring them back.

    Args:
        params: parameters.
        masks: their masks, None where nothing is dropped.

    Returns:
        Parameters of the same structure, to be used in the loss.

    Reference:
        Bengio, Léonard and Courville, "Estimating or propagating gradients through stochastic neurons",
        arXiv 1308.3432.

    >>> masks = {"w": jnp.array([True, False])}
    >>> jax.grad(lambda p: (3 * straight_through(p, masks)["w"]).sum())({"w": jnp.ones(2)})["w"].tolist()
    [3.0, 3.0]
    """
    require_masks(masks, params)
    return map_masks(lambda m, w: w if m is None else _straight(w, m), masks, params)


def _masked(weights: Array, mask: Array) -> Array:
    # Not w * mask: that would keep the NaN of a diverged weight, and give −0.0 for negative ones.
    return jnp.where(mask, weights, jnp.zeros_like(weights))


# Not w + stop_gradient(masked − w), the usual form: NaN and infinity do not cancel there.
_straight = jax.custom_jvp(_masked)


@_straight.defjvp
def _straight_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    return _masked(*primals), tangents[0]


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
    require_params("params", params)
    require_select(where)
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

    Raises:
        ValueError: ``where`` selects nothing.

    >>> zero_fraction({"w": jnp.array([[0.0, 1.0], [0.0, 0.0]])})
    0.75
    """
    counts = layer_zeros(params, where).values()
    if not counts:
        names = ", ".join(named_leaves(params)) or "none"
        raise ValueError(
            f"where selects no parameter among {names}: there is no share to take. The default "
            "takes arrays with two axes or more, by_path(include=...) those of a name"
        )
    return sum(zeros for zeros, _ in counts) / sum(size for _, size in counts)
