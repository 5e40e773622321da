"""The optimizer state that holds masks, and how to look into it at any depth of a chain."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from jaxtyping import Array, Int, PyTree

from sparsekd_jax.sparsity._trees import over_all


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
        The mask tree, True where a weight is kept, None where it can not be dropped, or where `optax.masked`
        hides it.

    Raises:
        ValueError: there is none, or several (of `optax.partition`): give the state of one of them.

    >>> from sparsekd_jax.sparsity import sparsify
    >>> current_masks(sparsify(optax.sgd(0.1)).init({"w": jnp.ones((1, 2))}))["w"].tolist()
    [[True, True]]
    """
    nodes = _sparsify_states(state)
    if len(nodes) > 1:
        raise ValueError(
            f"state holds the masks of {len(nodes)} sparsify; give the state of one, such as that of a label "
            "in inner_states of optax.partition"
        )
    return over_all(nodes[0].masks)


def _sparsify_states(state: optax.OptState) -> list[SparsifyState]:
    nodes = [node for node in jax.tree.leaves(state, is_leaf=is_sparsify_state) if is_sparsify_state(node)]
    if not nodes:
        raise ValueError("state holds no masks: wrap the optimizer as sparsify(optimizer) before its init")
    return nodes


def map_states(function: Callable[[SparsifyState], SparsifyState], state: optax.OptState) -> Any:
    """An optimizer state with every `SparsifyState` in it replaced; a state without one is refused."""
    _sparsify_states(state)
    return jax.tree.map(
        lambda node: function(node) if is_sparsify_state(node) else node, state, is_leaf=is_sparsify_state
    )


def forget(inner_state: PyTree, kept: PyTree) -> PyTree:
    """Zero what a state holds of a weight that was not kept: arrays at the place of a mask, of its shape.

    The place is the end of a path: `optax.masked` and `optax.partition` leave holes in what else mirrors the
    parameters.
    """
    masks = dict(jax.tree_util.tree_flatten_with_path(kept, is_leaf=lambda leaf: leaf is None)[0])

    def clear(path: tuple[Any, ...], leaf: Any) -> Any:
        mask = next((masks[path[i:]] for i in range(len(path) + 1) if path[i:] in masks), None)
        if mask is None or getattr(leaf, "shape", None) != mask.shape:
            return leaf
        return jnp.where(mask, leaf, jnp.zeros_like(leaf))

    return jax.tree_util.tree_map_with_path(clear, inner_state)
