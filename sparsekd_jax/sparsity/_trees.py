"""Pytrees of parameters beside pytrees of masks: mapping, names, agreement of shapes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from jaxtyping import Array, PyTree

from sparsekd_jax.sparsity._arguments import require_params


def map_masks(function: Callable[..., Any], masks: PyTree, *trees: PyTree) -> PyTree:
    """``jax.tree.map`` in which a None of the first tree is a leaf, so that it meets the others' arrays."""
    return jax.tree.map(function, masks, *trees, is_leaf=lambda leaf: leaf is None)


def within(masks: PyTree, tree: PyTree) -> PyTree:
    """What these masks speak of: all of the tree, or under `optax.masked` the part that is not masked out."""
    structure: Any
    parts, structure = jax.tree.flatten(masks, is_leaf=_ends)
    try:
        leaves = structure.flatten_up_to(tree)
    except ValueError:
        raise ValueError(
            f"params ({', '.join(named_leaves(tree)) or 'none'}) has another tree than the masks of the "
            "state; give the parameters that init saw. Of an nnx.Optimizer take the arrays of both: "
            "nnx.as_pure(trainer.opt_state), nnx.as_pure(nnx.state(model, nnx.Param))"
        ) from None
    pairs = zip(parts, leaves, strict=True)
    return structure.unflatten([part if isinstance(part, optax.MaskedNode) else leaf for part, leaf in pairs])


def over_all(masks: PyTree) -> PyTree:
    """The same masks laid over every parameter: None where `optax.masked` hides what is below."""
    return jax.tree.map(lambda m: None if isinstance(m, optax.MaskedNode) else m, masks, is_leaf=_ends)


def _ends(leaf: Any) -> bool:
    return leaf is None or isinstance(leaf, optax.MaskedNode)


def path_name(path: tuple[Any, ...]) -> str:
    """A parameter's path as ``layers.0.kernel``, without the ``value`` that NNX variables add to it."""
    parts = [str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path]
    if path and isinstance(path[-1], jax.tree_util.GetAttrKey) and parts[-1] == "value":
        parts.pop()
    return ".".join(parts)


def named_leaves(params: PyTree) -> dict[str, Array]:
    """The arrays of a pytree by name, in the pytree's order."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]}


def widened(*arrays: Array) -> tuple[Array, ...]:
    """The arrays in their common dtype, float32 at least."""
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(jnp.float32, *arrays)
    return tuple(array.astype(dtype) for array in arrays)


def require_masks(masks: PyTree, params: PyTree) -> None:
    """Refuse a tree of masks that is not laid over the parameters, such as a whole optimizer state, and masks
    of other shapes than theirs, which would broadcast, or of numbers."""
    require_params("params", params)
    laid: Any
    parts, laid = jax.tree_util.tree_flatten_with_path(masks, is_leaf=lambda leaf: leaf is None)
    try:
        weights = laid.flatten_up_to(params)
    except ValueError:
        raise ValueError(
            f"masks is a {type(masks).__name__} whose tree is not that of params "
            f"({', '.join(named_leaves(params)) or 'none'}); take the masks by current_masks(state)"
        ) from None
    for (path, mask), weight in zip(parts, weights, strict=True):
        shape = getattr(weight, "shape", None)  # a whole layer, or masks and params in each other's place
        if mask is not None and (
            jnp.shape(mask) != shape or not jnp.issubdtype(jnp.result_type(mask), jnp.bool_)
        ):
            what = "what has no shape" if shape is None else f"shape {shape}"
            raise ValueError(
                f"masks holds {jnp.result_type(mask)}{list(jnp.shape(mask))} for "
                f"{path_name(path) or 'the array'} of {what}; give a bool for each weight, True to keep it"
            )


def require_like(argument: str, tree: PyTree, params: PyTree) -> None:
    """Refuse a tree that has not the structure and the shapes of the parameters."""
    structure: Any = jax.tree.structure(params)
    if structure != jax.tree.structure(tree):
        raise ValueError(
            f"{argument} must have the tree structure of params: got leaves "
            f"{', '.join(named_leaves(tree)) or 'none'}, params has {', '.join(named_leaves(params))}"
        )
    for (name, leaf), weight in zip(named_leaves(params).items(), jax.tree.leaves(tree), strict=True):
        if leaf.shape != weight.shape:
            raise ValueError(
                f"{argument} must have the shapes of params: {name} is {weight.shape}, not {leaf.shape}"
            )
