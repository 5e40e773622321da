"""Random sampling targets: a softened distribution stored as a few weighted tokens, and unbiased."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from sparsekd_jax import simplex
from sparsekd_jax._refusals import is_traced, require_key
from sparsekd_jax.operators._softening import log_on_rows
from sparsekd_jax.operators.base import Operator
from sparsekd_jax.targets.revealed import PADDING, Dense, Samples, TopK


def sample(
    key: Array,
    operator: Operator,
    target: Dense | Float[ArrayLike, "*batch V"],
    temperature: ArrayLike,
    num_draws: int,
    *,
    proposal: ArrayLike = 1.0,
) -> Samples:
    """N tokens of a softened distribution with weights whose expectation it is: soften first, then sample.

    ``q = F_T(p)``, tokens i_1, …, i_N drawn independently from ``r ∝ q^τ``, and
    ``weight_i = (draws of i)/N · q_i/r_i``, so that ``E Σ_i weight_i e_i = q`` for every p, N and operator.
    Softening afterwards is biased: the draws are then of p, and only an affine operator commutes with the
    mean. Repeated draws are merged; a row with fewer than N distinct tokens is padded.

    Args:
        key: a random key; the rows draw independently.
        operator: a softening operator, or a plain jax function ``(p, T) -> q`` of one row.
        target: `Dense`, or its log-probabilities ``[..., V]`` in nats, −inf allowed.
        temperature: T, a scalar or one a row, broadcastable to ``[...]``.
        num_draws: N ≥ 1, static.
        proposal: τ ≥ 0, a scalar. 1 draws from q itself: every weight is a count over N, and they sum to 1.
            τ < 1 draws rare tokens more often; the weights then sum to 1 in expectation only.

    Returns:
        `Samples` of n = N entries, distinct ids in rising order and then padding; weights in float32, or
        float64 for float64 targets.

    Raises:
        TypeError: a key that is none, num_draws that is no whole number, a target that is not dense.
        ValueError: num_draws below 1, a τ that is negative or not finite, or what the operator refuses.

    Traceable under ``jit`` and ``vmap``; nothing is validated there. A block of √V tokens is drawn with its
    mass to a few ε (1.2e-7 in float32), and of the block's tokens each with its share to a few ε; one with
    r_i = 0 never. The draws take O(V + N√V) of memory a row.

    Reference: arXiv 2503.16870 (random sampling knowledge distillation); theory.md section 6.

    >>> from sparsekd_jax import operators
    >>> teacher = Dense.from_logits(jnp.array([[2.0, 1.0, 0.0, -jnp.inf]]))
    >>> seen = sample(jax.random.key(0), operators.get("power"), teacher, 2.0, 8)
    >>> seen.ids.shape, round(float(seen.weights.sum()), 6), bool((seen.ids < 3).all())
    ((1, 8), 1.0, True)
    """
    require_key(key, ", then the operator and the target")
    _require_draws(num_draws)
    if isinstance(target, TopK | Samples):
        raise TypeError(
            f"target is {type(target).__name__}; tokens are drawn of a Dense target, whose tail is known"
        )
    if np.ndim(proposal):
        raise ValueError(f"proposal has shape {np.shape(proposal)}; one τ is for all rows")
    if not is_traced(proposal):
        tau = float(np.asarray(proposal))
        if not 0 <= tau < math.inf:
            raise ValueError(f"proposal is {tau:g}; the draws are from r ∝ q^τ with a finite τ ≥ 0")
    log_q = _softened_log(operator, target, temperature)
    batch, vocab_size = log_q.shape[:-1], log_q.shape[-1]
    ids, weights = _sample_rows(
        jax.random.split(key, math.prod(batch)),
        log_q.reshape(-1, vocab_size),
        jnp.asarray(proposal).astype(log_q.dtype),
        num_draws,
    )
    shape = (*batch, num_draws)
    draws = jnp.full(batch, num_draws, jnp.int32)
    return Samples(ids.reshape(shape), weights.reshape(shape), draws, vocab_size)


def estimate(samples: Samples) -> Float[Array, "*batch V"]:
    """The distribution that samples estimate, as a dense row: ``Σ_i weights_i e_{ids_i}``.

    Args:
        samples: `Samples`, padded or not.

    Returns:
        ``[..., V]`` ≥ 0; sums to 1 where the draws were from the distribution itself.

    >>> estimate(Samples.from_counts(np.array([3, 0, 1]))).tolist()
    [0.75, 0.0, 0.25]
    """
    if not isinstance(samples, Samples):
        raise TypeError(f"samples is a {type(samples).__name__}; pass Samples, such as sample(...) gives")
    ids, weights = (x.reshape(-1, x.shape[-1]) for x in (samples.ids, samples.weights))
    place = jnp.where(ids == PADDING, samples.vocab_size, ids)  # out of range: dropped
    zeros = jnp.zeros((ids.shape[0], samples.vocab_size), weights.dtype)
    dense = jax.vmap(lambda row, at, w: row.at[at].add(w, mode="drop"))(zeros, place, weights)
    return dense.reshape(*samples.batch_shape, samples.vocab_size)


def expected_distinct(q: Float[ArrayLike, "*batch V"], num_draws: int) -> Float[Array, "*batch"]:
    """How many distinct tokens N draws from q hold on average, ``Σ_i 1 − (1 − q_i)^N``: what is stored.

    Args:
        q: ``[..., V]``, what is drawn from.
        num_draws: N ≥ 1.

    Returns:
        ``[...]``, between 1 and min(N, V).

    Raises:
        TypeError, ValueError: rows that are no distributions, or num_draws that is no whole number ≥ 1.

    >>> float(expected_distinct(jnp.array([0.5, 0.5]), 2))
    1.5
    """
    simplex.require_probabilities(q, "q")
    _require_draws(num_draws)
    q = jnp.asarray(q)
    missed = float(num_draws) * jnp.log1p(-jnp.minimum(q, 1 - jnp.finfo(q.dtype).epsneg))
    return jnp.sum(-jnp.expm1(missed), axis=-1)


def _require_draws(num_draws: int) -> None:
    if not isinstance(num_draws, int | np.integer):
        raise TypeError(f"num_draws is {num_draws!r}; pass a whole number (an int)")
    if num_draws < 1:
        raise ValueError(f"num_draws is {num_draws}; at least one token is drawn")


# -- the draws -------------------------------------------------------------------------------------------


def _softened_log(operator: Operator, target: Dense | ArrayLike, temperature: ArrayLike) -> Array:
    """``log F_T(p)``, ``[..., V]``, in float32 at least."""
    log_p = jnp.asarray(target.log_probs if isinstance(target, Dense) else target)
    simplex.require_log_probabilities(log_p, "target")
    if log_p.dtype.itemsize < 4:  # a row is the distribution that it represents; rounding took it off Σ = 1
        log_p = jax.nn.log_softmax(log_p.astype(jnp.float32), axis=-1)
    return log_on_rows(operator, log_p, temperature)


@functools.partial(jax.jit, static_argnums=3)
def _sample_rows(keys: Array, log_q: Array, tau: Array, num_draws: int) -> tuple[Array, Array]:
    return jax.vmap(lambda key, row: _sample_row(key, row, tau, num_draws))(keys, log_q)


def _sample_row(
    key: Array, log_q: Float[Array, " V"], tau: Array, num_draws: int
) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    off = jnp.isneginf(log_q)
    tempered = jax.nn.log_softmax(jnp.where(off, -jnp.inf, tau * jnp.where(off, 0, log_q)))
    log_r = jnp.where(tau == 1, log_q, tempered)  # weights are then counts over N exactly
    places = jax.random.uniform(key, (2, num_draws), log_q.dtype)
    return _weigh(_pick(jnp.exp(log_r - jnp.max(log_r)), places), log_q, log_r)


def _pick(mass: Float[Array, " V"], places: Float[Array, "2 N"]) -> Int[Array, " N"]:
    """The tokens at places in [0, 1)²: the first finds a block of √V tokens by mass, the second one in it.

    One cumulative sum over V would lose the tokens whose mass is below ε; of a block they are a fair share.
    """
    side = math.isqrt(mass.size - 1) + 1
    blocks = jnp.pad(mass, (0, -mass.size % side)).reshape(-1, side)
    within = _cumulative(blocks)
    across = _cumulative(within[:, -1])
    block = jnp.searchsorted(across, places[0] * across[-1], side="right")
    rows = within[block]
    inside = jax.vmap(lambda row, at: jnp.searchsorted(row, at, side="right"))(rows, places[1] * rows[:, -1])
    return (block * side + inside).astype(jnp.int32)


def _cumulative(mass: Array) -> Array:
    """Sums that never fall, and stay exactly level where the mass is 0: such an entry is never drawn.

    A sum in parallel may round differently at each place, so neither comes by itself.
    """
    sums = jnp.cumsum(mass, axis=-1)
    return jax.lax.cummax(jnp.where(mass > 0, sums, 0), axis=mass.ndim - 1)


def _weigh(
    drawn: Int[Array, " N"], log_q: Float[Array, " V"], log_r: Float[Array, " V"]
) -> tuple[Int[Array, " N"], Float[Array, " N"]]:
    """Distinct ids in rising order with weights ``count/N · q/r``, then padding with weight 0."""
    ordered = jnp.sort(drawn)
    is_new = jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])
    slot = jnp.cumsum(is_new) - 1
    ids = jnp.full_like(ordered, PADDING).at[slot].set(ordered)
    counts = jnp.zeros(ids.shape, log_q.dtype).at[slot].add(1)
    at = jnp.where(ids == PADDING, ids[0], ids)  # any token that was drawn
    return ids, counts / drawn.size * jnp.exp(log_q[at] - log_r[at])
