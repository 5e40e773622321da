"""An optax wrapper that trains the weights a mask keeps and holds the others at exactly zero."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from jaxtyping import Array, PyTree

from sparsekd_jax.sparsity.masks import (
    PATTERNS,
    SCORES,
    Pattern,
    Score,
    Select,
    _map,
    initial_masks,
    is_kernel,
)


class SparsifyState(NamedTuple):
    """State of `sparsify`: masks, changed by `update_masks` alone, and the wrapped optimizer's own state."""

    masks: PyTree
    inner_state: optax.OptState


def sparsify(
    inner: optax.GradientTransformation, *, where: Select = is_kernel
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that weights dropped by its masks are exactly zero after ``apply_updates``.

    ``u = where(m, inner(where(m, g, 0)), −w)``: dropped weights show the inner optimizer no gradient, so that
    its moments and any norm it clips by are those of the kept weights; and the update of a dropped weight is
    −w, because w + (−w) is 0 in floating point whatever the inner optimizer did (weight decay, noise).
    For this it has to be the LAST link of a chain: what follows would scale −w.

    The masks start as all ones and never change inside ``update``; `update_masks` changes them between scans.

    Args:
        inner: any optax transformation.
        where: ``(name, leaf) -> bool``, which leaves may lose weights; by default those of two axes or more.

    Returns:
        An optax transformation; its ``update`` needs ``params``, extra arguments reach the inner one.

    Raises:
        ValueError: ``where`` selects nothing (at init), or ``params`` is missing (at update).

    >>> tx = sparsify(optax.adamw(1e-3))
    >>> params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    >>> state = update_masks(tx.init(params), params, 0.75)
    >>> updates, state = jax.jit(tx.update)(params, state, params)
    >>> int((optax.apply_updates(params, updates)["w"] == 0).sum())
    12
    """
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> SparsifyState:
        with jax.numpy_dtype_promotion("standard"):
            return SparsifyState(initial_masks(params, where), inner.init(params))

    def update(
        updates: PyTree, state: SparsifyState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, SparsifyState]:
        if params is None:
            raise ValueError("sparsify needs params: call update(gradients, state, params)")
        seen = _map(lambda m, g: g if m is None else jnp.where(m, g, jnp.zeros_like(g)), state.masks, updates)
        # Optax's own optimizers (adam's bias correction) are not written for strict promotion; this file is.
        with jax.numpy_dtype_promotion("standard"):
            steps, inner_state = inner.update(seen, state.inner_state, params, **extra)

        def hold(mask: Array | None, step: Array, weight: Array) -> Array:
            # In the weight's dtype: a −w rounded to a narrower update would not cancel w.
            return step if mask is None else jnp.where(mask, step.astype(weight.dtype), -weight)

        return _map(hold, state.masks, steps, params), SparsifyState(state.masks, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def update_masks(
    state: optax.OptState,
    params: PyTree,
    rate: float,
    *,
    score: str | Score = "magnitude",
    pattern: str | Pattern = "global",
) -> Any:
    """Choose the masks anew at a sparsity, between scans, and forget the moments of what was dropped.

    A weight dropped before ranks below every kept one, so masks only shrink while the rate does not fall.
    Arrays of the optimizer state that mirror the parameters (momenta, second moments) become zero where a
    weight was or is dropped. The parameters are untouched: `apply_masks` zeroes them at once, the next update
    does in any case. Pure in its arrays, so it can be jitted (rate static) and vmapped over an ensemble.

    Args:
        state: an optimizer state that contains a `SparsifyState`, at any depth of a chain.
        params: the current parameters.
        rate: share of the weights that may be dropped to drop, in [0, 1); a Python number.
        score: "magnitude", or a function from weights to worths.
        pattern: "global" (all layers ranked together), "layer" (the rate in each), or a function.

    Returns:
        The optimizer state with new masks.

    Raises:
        ValueError: no `SparsifyState` in ``state``, a rate outside [0, 1), or an unknown name.

    >>> params = {"w": jnp.array([[1.0, -3.0], [0.5, 2.0]])}
    >>> state = update_masks(sparsify(optax.sgd(0.1)).init(params), params, 0.5)
    >>> current_masks(state)["w"].tolist()
    [[False, True], [False, True]]
    """
    score_of = _named("score", score, SCORES)
    pattern_of = _named("pattern", pattern, PATTERNS)
    current_masks(state)  # refuses a state without masks

    def renew(node: Any) -> Any:
        if not isinstance(node, SparsifyState):
            return node
        scores = _map(
            lambda m, w: None if m is None else jnp.where(m, score_of(w), jnp.full_like(w, -jnp.inf)),
            node.masks,
            params,
        )
        masks = pattern_of(scores, rate)
        stayed = _map(lambda new, old: None if new is None else new & old, masks, node.masks)
        return SparsifyState(masks, _forget(node.inner_state, params, stayed))

    return jax.tree.map(renew, state, is_leaf=_is_sparsify_state)


def current_masks(state: optax.OptState) -> PyTree:
    """The masks inside an optimizer state.

    Args:
        state: a state that contains a `SparsifyState`, at any depth.

    Returns:
        The mask tree, True where a weight is kept, None where it can not be dropped.

    Raises:
        ValueError: there is none.

    >>> current_masks(sparsify(optax.sgd(0.1)).init({"w": jnp.ones((1, 2))}))["w"].tolist()
    [[True, True]]
    """
    for node in jax.tree.leaves(state, is_leaf=_is_sparsify_state):
        if _is_sparsify_state(node):
            return node.masks
    raise ValueError("state holds no masks: wrap the optimizer as sparsify(optimizer) before its init")


def _is_sparsify_state(node: Any) -> bool:
    return isinstance(node, SparsifyState)


def _forget(inner_state: PyTree, params: PyTree, kept: PyTree) -> PyTree:
    """Zero every part of a state that mirrors the parameters wherever a weight was not kept."""
    structure: Any = jax.tree.structure(params)
    shapes = [leaf.shape for leaf in jax.tree.leaves(params)]

    def mirrors(node: Any) -> bool:
        if structure != jax.tree.structure(node):
            return False
        return [getattr(leaf, "shape", None) for leaf in jax.tree.leaves(node)] == shapes

    def forget(node: Any) -> Any:
        if not mirrors(node):
            return node
        return _map(lambda m, a: a if m is None else jnp.where(m, a, jnp.zeros_like(a)), kept, node)

    return jax.tree.map(forget, inner_state, is_leaf=mirrors)


def _named(argument: str, choice: Any, known: dict[str, Any]) -> Any:
    if not isinstance(choice, str):
        return choice
    if choice not in known:
        raise ValueError(f"{argument} {choice!r} is unknown; known: {', '.join(known)}, or pass a function")
    return known[choice]
