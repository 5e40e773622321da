"""The optimizer state that holds masks, and how to look into it at any depth of a chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from jaxtyping import Array, Int, PyTree

from sparsekd_jax.sparsity._trees import map_masks


class SparsifyState(NamedTuple):
    """State of `sparsify`: masks, the wrapped optimizer's own state, and how many updates it has seen.

    The masks change by `update_masks` and `regrow` alone. ``num_updates`` counts calls of ``update``: inside
    `optax.MultiSteps` those are the updates applied, around it the micro-steps.
    """

    masks: PyTree
    inner_state: optax.OptState
    num_updates: Int[Array, ""]


class StraightThroughState(SparsifyState):
    """State of ``sparsify(..., straight_through=True)``, whose masks may come back."""

    __slots__ = ()


def is_sparsify_state(node: Any) -> bool:
    """Whether a node of an optimizer state is one of the two above."""
    return isinstance(node, SparsifyState)


def current_masks(state: optax.OptState) -> PyTree:
    """The masks inside an optimizer state.

    Args:
        state: a state that contains a `SparsifyState`, at any depth.

    Returns:
        The mask tree, True where a weight is kept, None where it can not be dropped.

    Raises:
        ValueError: there is none.

    >>> from sparsekd_jax.sparsity import sparsify
    >>> current_masks(sparsify(optax.sgd(0.1)).init({"w": jnp.ones((1, 2))}))["w"].tolist()
    [[True, True]]
    """
    for node in jax.tree.leaves(state, is_leaf=is_sparsify_state):
        if is_sparsify_state(node):
            return node.masks
    raise ValueError("state holds no masks: wrap the optimizer as sparsify(optimizer) before its init")


def map_states(function: Callable[[SparsifyState], SparsifyState], state: optax.OptState) -> Any:
    """An optimizer state with every `SparsifyState` in it replaced; a state without one is refused."""
    current_masks(state)
    return jax.tree.map(
        lambda node: function(node) if is_sparsify_state(node) else node, state, is_leaf=is_sparsify_state
    )


def forget(inner_state: PyTree, params: PyTree, kept: PyTree) -> PyTree:
    """Zero every part of a state that mirrors the parameters wherever a weight was not kept."""
    structure: Any = jax.tree.structure(params)
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]

    def mirrors(node: Any) -> bool:
        if structure != jax.tree.structure(node):
            return False
        return [getattr(leaf, "shape", None) for leaf in jax.tree.leaves(node)] == shapes

    def clear(node: Any) -> Any:
        if not mirrors(node):
            return node
        return map_masks(lambda m, a: a if m is None else jnp.where(m, a, jnp.zeros_like(a)), kept, node)

    return jax.tree.map(clear, inner_state, is_leaf=mirrors)
