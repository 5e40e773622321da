"""Regrowth as in RigL: the sparsity stays, the connections move."""

from typing import Any

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from jaxtyping import Array, Float, PyTree

from sparsekd_jax._refusals import percent_hint
from sparsekd_jax.sparsity._trees import map_masks, over_all, require_like, within
from sparsekd_jax.sparsity.masks import apply_masks
from sparsekd_jax.sparsity.patterns import ranked
from sparsekd_jax.sparsity.state import SparsifyState, StraightThroughState, forget, map_states


def regrow(
    state: optax.OptState, params: PyTree, gradients: PyTree, fraction: float | Array
) -> tuple[PyTree, Any]:
    """Drop the smallest of the kept weights and regrow as many dropped ones where the gradient is largest.

    In each layer, ``k = min(round(fraction · kept), dropped)``: the k kept weights of least |w| are dropped,
    and of the weights dropped before (never those dropped just now) the k of largest |∂L/∂w| are regrown. So
    every layer keeps its count of zeros exactly. Regrown weights start at zero, and the moments of both begin
    anew. Among equals the earlier weight stays, and the earlier is regrown. The product fraction · kept is
    rounded in float32. Patterns (N:M, blocks) are not kept up; call between scans, and between the updates of
    `optax.MultiSteps`, whose accumulated gradients it leaves alone.

    Args:
        state: an optimizer state that contains a `SparsifyState`, at any depth of a chain.
        params: the current parameters.
        gradients: raw gradients of the loss at ``params`` with dropped weights at zero; those of dropped
            weights decide.
        fraction: share of each layer's kept weights to move, in [0, 1]; it may be traced, so that one that
            decays (cosine, in RigL) compiles once.

    Returns:
        ``(params, state)``: parameters that are zero where weights were dropped or regrown, and the state.

    Raises:
        ValueError: a fraction outside [0, 1], gradients of another structure, a state without masks, or one
            of a straight-through optimizer, whose dropped weights come back by `update_masks`.

    Reference:
        Evci et al., "Rigging the lottery: making all tickets winners", arXiv 1911.11134, algorithm 1.

    >>> from sparsekd_jax.sparsity import sparsify, update_masks
    >>> params = {"w": jnp.array([[1.0, 4.0, 3.0, 2.0]])}
    >>> state = update_masks(sparsify(optax.sgd(0.1)).init(params), params, 0.5)
    >>> params, state = regrow(state, params, {"w": jnp.array([[9.0, 0.0, 0.0, -5.0]])}, 0.5)
    >>> params["w"].tolist(), state.masks["w"].tolist()
    ([[0.0, 4.0, 0.0, 0.0]], [[True, True, False, False]])
    """
    if not isinstance(fraction, jax.core.Tracer) and not 0.0 <= float(fraction) <= 1.0:
        share = float(fraction)
        raise ValueError(f"fraction must be a share in [0, 1], got {share:g}{percent_hint(share)}")
    require_like("gradients", gradients, params)
    moved = params

    def move(node: SparsifyState) -> SparsifyState:
        nonlocal moved
        if isinstance(node, StraightThroughState):
            raise ValueError(
                "state is straight_through: its dropped weights train and come back by update_masks; "
                "regrow is for sparsify(..., straight_through=False)"
            )
        shown, slopes = within(node.masks, params), within(node.masks, gradients)
        masks = map_masks(lambda m, w, g: _move(m, w, g, fraction), node.masks, shown, slopes)
        stayed = map_masks(lambda new, old: None if new is None else new & old, masks, node.masks)
        moved = apply_masks(moved, over_all(stayed))
        return node._replace(masks=masks, inner_state=forget(node.inner_state, stayed))

    new_state = map_states(move, state)
    return moved, new_state


def _move(
    mask: Array | None, weights: Float[Array, "..."], gradients: Float[Array, "..."], fraction: float | Array
) -> Array | None:
    """The new mask of one array; counts are traced, as members of an ensemble may differ in theirs."""
    if mask is None:
        return None
    kept = jnp.sum(mask, dtype=jnp.int32)
    share = jnp.asarray(fraction, jnp.float32) * kept.astype(jnp.float32)
    count = jnp.minimum(jnp.round(share).astype(jnp.int32), mask.size - kept)
    stay = mask & (_ranks(jnp.where(mask, jnp.abs(weights), -jnp.inf)) < kept - count)
    grown = ~mask & (_ranks(jnp.where(mask, -jnp.inf, jnp.abs(gradients))) < count)
    return stay | grown


def _ranks(scores: Float[Array, "..."]) -> Array:
    """The place of each entry from the highest score down, 0, 1, …; every place is taken once."""
    order = ranked(scores.ravel(), scores.size)
    places = jnp.arange(scores.size, dtype=jnp.int32)
    return jnp.zeros(scores.size, jnp.int32).at[order].set(places).reshape(scores.shape)
