"""An optax wrapper that trains the weights a mask keeps and holds the others at exactly zero."""

from typing import Any

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from jaxtyping import Array, PyTree

from sparsekd_jax.sparsity._arguments import named, require_optimizer, require_params, require_select
from sparsekd_jax.sparsity._trees import map_masks, require_like, require_masks, within
from sparsekd_jax.sparsity.masks import initial_masks
from sparsekd_jax.sparsity.patterns import PATTERNS, Pattern
from sparsekd_jax.sparsity.scores import SCORES, Score, score_tree
from sparsekd_jax.sparsity.select import Select, is_kernel
from sparsekd_jax.sparsity.state import SparsifyState, StraightThroughState, forget, map_states


def sparsify(
    inner: optax.GradientTransformation, *, where: Select = is_kernel, straight_through: bool = False
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that weights dropped by its masks are exactly zero after ``apply_updates``.

    ``u = where(m, inner(where(m, g, 0)), −w)``: dropped weights show the inner optimizer no gradient, so that
    its moments and any norm it clips by are those of the kept weights; and the update of a dropped weight is
    −w, because w + (−w) is 0 in floating point whatever the inner optimizer did (weight decay, noise). Only a
    NaN or an infinite w does not cancel: `apply_masks` after `update_masks` zeroes that too.
    For this it has to be the LAST link of a chain: what follows would scale −w.

    The masks start as all ones and never change inside ``update``; `update_masks` and `regrow` change them
    between scans. Inside ``optax.MultiSteps(sparsify(inner), k)`` the masks act, and ``num_updates`` counts,
    once in k micro-steps; ``sparsify(optax.MultiSteps(inner, k).gradient_transformation())`` holds zeros and
    counts at every micro-step. The zeros are exact in both.

    With ``straight_through`` every weight keeps its value and trains: ``u = inner(g)``. The loss has to use
    the function `straight_through` of the parameters and masks, and `update_masks` ranks dropped weights by
    their values like any other, so that they may come back. The parameters are then NOT zero where dropped
    until `apply_masks` makes them so, at export.

    Args:
        inner: any optax transformation.
        where: ``(name, leaf) -> bool``, which leaves may lose weights; by default those of two axes or more,
            `by_path` selects by name.
        straight_through: keep and train dense weights; the masks are for the forward pass.

    Returns:
        An optax transformation; its ``update`` needs ``params``, extra arguments reach the inner one.

    Raises:
        ValueError: ``where`` selects nothing (at init), or ``params`` is missing (at update).
        TypeError: ``inner`` is no optax transformation, or ``params`` is an NNX module (at init).

    >>> tx = sparsify(optax.adamw(1e-3))
    >>> params = {"w": jnp.ones((4, 4)), "b": jnp.ones(4)}
    >>> state = update_masks(tx.init(params), params, 0.75)
    >>> updates, state = jax.jit(tx.update)(params, state, params)
    >>> int((optax.apply_updates(params, updates)["w"] == 0).sum())
    12
    """
    require_optimizer("inner", inner)
    require_select(where)
    inner = optax.with_extra_args_support(inner)
    state_type = StraightThroughState if straight_through else SparsifyState

    def init(params: PyTree) -> SparsifyState:
        with jax.numpy_dtype_promotion("standard"):
            return state_type(initial_masks(params, where), inner.init(params), jnp.zeros((), jnp.int32))

    def update(
        updates: PyTree, state: SparsifyState, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, SparsifyState]:
        if params is None:
            raise ValueError("sparsify needs params: call update(gradients, state, params)")

        def see(mask: Array | None, gradient: Array) -> Array:
            return gradient if mask is None else jnp.where(mask, gradient, jnp.zeros_like(gradient))

        def hold(mask: Array | None, step: Array, weight: Array) -> Array:
            if mask is None:
                return step
            # In the wider dtype of both: a −w rounded to a narrower update would not cancel w, and an update
            # in float32 of a bfloat16 weight would be rounded twice, here and when it is added.
            with jax.numpy_dtype_promotion("standard"):
                dtype = jnp.promote_types(step.dtype, weight.dtype)
            return jnp.where(mask, step.astype(dtype), -weight.astype(dtype))

        seen = updates if straight_through else map_masks(see, state.masks, updates)
        # Optax's own optimizers (adam's bias correction) are not written for strict promotion; this file is.
        with jax.numpy_dtype_promotion("standard"):
            steps, inner_state = inner.update(seen, state.inner_state, params, **extra)
        held = steps if straight_through else map_masks(hold, state.masks, steps, params)
        return held, state_type(state.masks, inner_state, optax.safe_increment(state.num_updates))

    return optax.GradientTransformationExtraArgs(init, update)


def update_masks(
    state: optax.OptState,
    params: PyTree,
    rate: float,
    *,
    score: str | Score = "magnitude",
    pattern: str | Pattern = "global",
    gradients: PyTree | None = None,
    key: Array | None = None,
) -> Any:
    """Choose the masks anew at a sparsity, between scans, and forget the moments of what was dropped.

    A weight dropped before ranks below every kept one, so masks only shrink while the rate does not fall and
    the pattern stays; a weight that does come back starts at zero. With ``straight_through`` all weights rank
    by their scores, and no moment is forgotten, as none has stopped training.
    Arrays of the optimizer state that mirror the parameters (momenta, second moments) become zero where a
    weight was or is dropped. The parameters are untouched: `apply_masks` zeroes them at once, the next update
    does in any case. Pure in its arrays, so it can be jitted (rate, score and pattern static) and vmapped
    over an ensemble.

    Args:
        state: an optimizer state that contains a `SparsifyState`, at any depth of a chain.
        params: the current parameters.
        rate: share of the weights that may be dropped to drop, in [0, 1); a Python number.
        score: "magnitude", "taylor", "movement", "random", or a function of an array of weights; one that
            names ``gradients`` or ``key`` among its arguments is given them.
        pattern: "global" (all layers ranked together), "layer" (the rate in each), `n_m`, `block`, `channel`,
            or a function from scores and rate to masks.
        gradients: raw gradients of the loss at ``params``, of the same structure; "taylor" and "movement"
            need them.
        key: a jax random key; "random" needs it.

    Returns:
        The optimizer state with new masks.

    Raises:
        TypeError: ``params`` is an NNX module.
        ValueError: no `SparsifyState` in ``state`` or one of another tree than ``params``, a rate outside
            [0, 1) or the pattern's range, an unknown name, missing gradients or key, gradients or scores of
            the wrong shape.

    >>> params = {"w": jnp.array([[1.0, -3.0], [0.5, 2.0]])}
    >>> state = update_masks(sparsify(optax.sgd(0.1)).init(params), params, 0.5)
    >>> state.masks["w"].tolist()
    [[False, True], [False, True]]
    """
    require_params("params", params)
    if gradients is not None:
        require_like("gradients", gradients, params)
    score_of = named("score", score, SCORES)
    pattern_of = named("pattern", pattern, PATTERNS, "n_m(n, m), block(shape), channel() or a function")

    def renew(node: SparsifyState) -> SparsifyState:
        shown = within(node.masks, params)
        slopes = None if gradients is None else within(node.masks, gradients)
        scores = score_tree(score_of, node.masks, shown, slopes, key)
        if isinstance(node, StraightThroughState):
            return node._replace(masks=_of_pattern(scores, pattern_of(scores, rate)))
        ranked = map_masks(lambda m, s: None if m is None else jnp.where(m, s, -jnp.inf), node.masks, scores)
        masks = _of_pattern(ranked, pattern_of(ranked, rate))
        stayed = map_masks(lambda new, old: None if new is None else new & old, masks, node.masks)
        return node._replace(masks=masks, inner_state=forget(node.inner_state, stayed))

    return map_states(renew, state)


def _of_pattern(scores: PyTree, masks: PyTree) -> PyTree:
    """What a pattern made of scores, refused where it is no mask for each of them."""
    require_masks(masks, scores)
    return masks
