"""What each weight is worth: the lowest scores are dropped first.

A score is a function of a weight array. It may also name ``gradients`` or ``key`` among its arguments, and
is then given the gradients of that array, or a random key of its own for each array.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sparsekd_jax.sparsity._arguments import call_with
from sparsekd_jax.sparsity._trees import map_masks, widened

Score = Callable[..., Array]
"""Maps ``(weights)``, ``(weights, *, gradients)`` or ``(weights, *, key)`` to worths, of the same shape."""

_REMEDIES = {
    "gradients": "pass update_masks(..., gradients=g) with the raw gradients of the loss at params",
    "key": "pass update_masks(..., key=jax.random.key(seed))",
}


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


def taylor(weights: Float[Array, "*shape"], *, gradients: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Score by the first-order change of the loss when the weight becomes zero: ``|w · ∂L/∂w|``.

    Args:
        weights: any shape.
        gradients: ∂L/∂w, the same shape; averaged over many examples, as one batch is noise.

    Returns:
        The same shape, ≥ 0, in float32 or wider: bfloat16 products would tie.

    Reference:
        Molchanov et al., "Importance estimation for neural network pruning", arXiv 1906.10771: its
        first-order criterion, without the square.

    >>> taylor(jnp.array([-2.0, 1.0]), gradients=jnp.array([0.5, 3.0])).tolist()
    [1.0, 3.0]
    """
    return jnp.abs(_product(weights, gradients))


def movement(weights: Float[Array, "*shape"], *, gradients: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Score by where a gradient step takes the weight: ``−w · ∂L/∂w``, positive when it moves away from zero.

    The score of movement pruning is the sum of this over the steps of training. Here it is instantaneous, so
    that no further state is held: pass gradients averaged over as many batches as you can.

    Args:
        weights: any shape.
        gradients: ∂L/∂w, the same shape.

    Returns:
        The same shape, signed, in float32 or wider.

    Reference:
        Sanh, Wolf and Rush, "Movement pruning", arXiv 2005.07683.

    >>> movement(jnp.array([-2.0, 1.0]), gradients=jnp.array([0.5, 3.0])).tolist()
    [1.0, -3.0]
    """
    return -_product(weights, gradients)


def random(weights: Float[Array, "*shape"], *, key: Array) -> Float[Array, "*shape"]:
    """Score by chance, the baseline that any other score has to beat: ``U(0, 1)``, independent.

    Args:
        weights: any shape; only the shape is used.
        key: a jax random key.

    Returns:
        The same shape, in float32 whatever the weights, since bfloat16 draws would tie.

    >>> random(jnp.ones((2, 3)), key=jax.random.key(0)).shape
    (2, 3)
    """
    return jax.random.uniform(key, weights.shape, jnp.float32)


SCORES: Mapping[str, Score] = MappingProxyType(
    {
        "magnitude": magnitude,
        "taylor": taylor,
        "movement": movement,
        "random": random,
    }
)


def _product(weights: Array, gradients: Array) -> Array:
    weights, gradients = widened(weights, gradients)
    return weights * gradients


def score_tree(score: Score, masks: PyTree, params: PyTree, gradients: PyTree | None, key: Any) -> PyTree:
    """The score of every array that has a mask, None elsewhere; each array gets a key of its own."""
    leaves = jax.tree.leaves(params)
    leaf_gradients = [None] * len(leaves) if gradients is None else jax.tree.leaves(gradients)
    keys = [None if key is None else jax.random.fold_in(key, i) for i in range(len(leaves))]
    indices = jax.tree.unflatten(jax.tree.structure(params), range(len(leaves)))

    def score_leaf(mask: Array | None, i: int) -> Array | None:
        if mask is None:
            return None
        worth: Array = call_with(score, leaves[i], _REMEDIES, gradients=leaf_gradients[i], key=keys[i])
        if worth.shape != leaves[i].shape:
            raise ValueError(
                f"score must return one worth a weight: it maps shape {leaves[i].shape} to {worth.shape}"
            )
        return worth

    return map_masks(score_leaf, masks, indices)
