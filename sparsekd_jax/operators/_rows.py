"""Arithmetic on rows of log-probabilities centred so that their maximum is 0, as every kernel gets them."""

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sparsekd_jax._numerics import row_sum


def centred_logits(logits: Array) -> Array:
    """``log p − max log p`` of logits or of log p itself."""
    return logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))


def centred_log(p: Array, *, sharpened: bool = True) -> Array:
    """``log p − max log p`` with −inf at zeros, relative accuracy next to the maximum, gradient 0 at zeros.

    ``log(p)/T`` multiplies the absolute rounding of log p by 1/T (1.7e-5 in float32 at T = 1e-3). Next to the
    maximum p − p_max is exact, so its log1p keeps relative accuracy; elsewhere log(p/p_max) does. What is
    never ``sharpened``, T being 1 or more, needs no more than the second.
    """
    top = jax.lax.stop_gradient(jnp.max(p, axis=-1, keepdims=True))
    positive = ~(p <= 0)  # NaN is no zero
    if not sharpened:
        return jnp.where(positive, jnp.log(jnp.where(positive, p / top, 1)), -jnp.inf)
    near = 2 * p > top
    far_ratio = jnp.where(near | ~positive, 1, p / top)
    near_gap = jnp.where(near, (p - top) / top, 0)
    return jnp.where(positive, jnp.where(near, jnp.log1p(near_gap), jnp.log(far_ratio)), -jnp.inf)


@jax.custom_jvp
def log_normalizer(centred: Array) -> Array:
    """``log Σ exp(centred)`` for rows whose maximum is 0, ``[..., 1]``, accurate relative to itself.

    One maximal coordinate contributes exactly 1; the sum of the others goes through log1p, so a row that is
    nearly a vertex keeps the small mass of the rest.
    """
    return jnp.log1p(sum_beside_top(centred, jnp.exp(centred)))


@log_normalizer.defjvp
def _log_normalizer_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (centred,), (moved,) = primals, tangents
    value = log_normalizer(centred)
    return value, row_sum(jnp.exp(centred - value) * moved)


@jax.custom_jvp
def centred_softmax(centred: Array) -> Array:
    """``softmax`` of rows whose maximum is 0: one pass less than a softmax that looks for it."""
    weight = jnp.exp(centred)
    return weight / row_sum(weight)


@centred_softmax.defjvp
def _centred_softmax_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    q, moved = centred_softmax(*primals), tangents[0]
    return q, q * (moved - row_sum(q * moved))


def sum_beside_top(centred: Array, weight: Array) -> Array:
    """``Σ w − 1`` for weights that are 1 where ``centred`` is 0 (its maximum), ``[..., 1]``.

    Maxima are counted apart from the sum of the others, which keeps its own relative accuracy. A product with
    the comparison and no argmax: it fuses into the sum.
    """
    top = centred == 0
    ties = row_sum(top.astype(weight.dtype)) - 1
    return row_sum(jnp.where(top, 0, weight)) + ties


def is_uniform(centred: Array) -> Array:
    """Whether every class has the maximum, ``[..., 1]``."""
    return jnp.min(centred, axis=-1, keepdims=True) == 0


def stand_in(where: Array, centred: Array) -> Array:
    """The rows, with 0, −1, −2, … in place of those ``where`` ``[..., 1]``, on which any search ends."""
    ramp = -jnp.arange(centred.shape[-1], dtype=centred.dtype)
    return jnp.where(where, ramp, centred)
