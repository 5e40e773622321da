"""Divergence of a student from a teacher that is seen in part, the treatment of the unseen tokens named."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from sparsekd_jax import simplex
from sparsekd_jax._refusals import require_key, resembling, whole
from sparsekd_jax.distill import divergences
from sparsekd_jax.distill.divergences import kl_from_logs
from sparsekd_jax.targets import Softened
from sparsekd_jax.targets.revealed import without

TAIL_POLICIES: Mapping[str, str] = MappingProxyType(
    {
        "bounds": "the smallest divergence over every tail mass that the bounds admit",
        "uniform": "unseen tokens share the tail mass equally, the maximum-entropy tail",
        "bucket": "all unseen tokens are one outcome, of the mass that they have after softening each",
        "sampled": "as uniform, from a few unseen tokens drawn at random; unbiased",
        "renormalized-top-k": "both sides renormalised on the observed tokens: blind to all else",
    }
)
"""What a loss does with the tokens that it did not see, and what that means."""


def require_tail_policy(tail: str) -> None:
    """Refuse a name that is none of `TAIL_POLICIES`.

    >>> require_tail_policy("unifrom")
    Traceback (most recent call last):
    ValueError: unknown tail policy 'unifrom'; did you mean 'uniform'? Known: bounds, uniform, bucket, ...
    """
    if tail not in TAIL_POLICIES:
        hint = resembling(tail, TAIL_POLICIES) or ";"
        raise ValueError(f"unknown tail policy {tail!r}{hint} Known: {', '.join(TAIL_POLICIES)}")


def target_divergence(
    student_logits: Float[Array, "*batch V"],
    softened: Softened,
    tail: str,
    *,
    key: PRNGKeyArray | None = None,
    num_sampled: int = 8,
    mask: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Forward divergence ``KL(target‖student)`` of each row in nats, the tail by a named policy.

    With q the softened target, t its tail mass, m unseen tokens and s the student:

    - ``"uniform"``: KL to the full distribution that gives each unseen token t/m.
    - ``"bucket"``: KL on k + 1 outcomes, the observed tokens and all others together. It says nothing of how
      the student spreads its tail, and is never more than the KL to the full teacher with that t.
    - ``"bounds"``: the minimum of that over t in [tail_lower, tail_upper], at
      ``t* = sigmoid(logit s_tail + KL(c‖s_c))`` clipped, c and s_c the two conditionals on observed tokens.
      0 exactly where the student is a possible teacher; never more than the KL to the true one. Needs targets
      whose tail alone is uncertain: power and mixture, not Tsallis.
    - ``"sampled"``: "uniform" with the mean of log s over unseen tokens taken from ``num_sampled`` of them,
      drawn with replacement: value and gradient have the expectation of "uniform".
    - ``"renormalized-top-k"``: KL(c‖s_c). Mass that the student puts on unseen tokens has no effect and no
      gradient; `renormalization_error` says what that misses.

    The gradient with respect to the logits z is ``s − q`` for "uniform". For a target from `Samples` it is
    unbiased, since q is. No gradient reaches the target. A target without unseen tokens has one KL, whatever
    the policy.

    Args:
        student_logits: ``[..., V]``; bfloat16 and float16 are computed in float32.
        softened: of the same rows, from `targets.soften`.
        tail: a name of `TAIL_POLICIES`; no default.
        key: for "sampled".
        num_sampled: tokens a row for "sampled".
        mask: ``[...]``; a False row counts 0 and gives gradient 0, whatever it holds.

    Returns:
        ``[...]`` in nats, float32 at least; inf where the student excludes what the target has.

    Raises:
        ValueError: an unknown policy, one that the target does not carry, or shapes that do not fit.
        TypeError: a target that was not softened.

    Reference: theory.md section 6; the minimum over t is in closed form as the sum is convex in t.

    >>> from sparsekd_jax import operators, targets
    >>> seen = targets.top_k(jnp.log(jnp.array([0.5, 0.25, 0.15, 0.1])), 2)
    >>> soft = targets.soften(operators.get("power"), seen, 1.0)
    >>> round(float(target_divergence(jnp.zeros(4), soft, "bucket")), 4)
    0.1733
    """
    require_tail_policy(tail)
    _require_softened(softened)
    shape = (*softened.log_probs.shape[:-1], softened.vocab_size)
    if jnp.shape(student_logits) != shape:
        raise ValueError(
            f"student_logits has shape {jnp.shape(student_logits)}; the target's rows need {shape}"
        )
    z = divergences.blank_rows(student_logits, mask)
    dtype = max(z.dtype, softened.log_probs.dtype, key=lambda d: d.itemsize)
    z = z.astype(dtype)
    softened = jax.lax.stop_gradient(softened)
    log_q, log_t = softened.log_probs.astype(dtype), simplex.safe_log(softened.tail_mass.astype(dtype))
    if softened.ids is None:
        distance = kl_from_logs(_blank(log_q, mask), jax.nn.log_softmax(z, axis=-1))
        return distance if mask is None else jnp.where(mask, distance, 0)
    seen = softened.ids >= 0
    z_seen = jnp.take_along_axis(z, jnp.where(seen, softened.ids, 0), axis=-1)
    z_seen = jnp.where(seen, z_seen, -jnp.inf)

    if tail == "renormalized-top-k":
        distance = kl_from_logs(_blank(_normalized(log_q), mask), _normalized(z_seen))
        return distance if mask is None else jnp.where(mask, distance, 0)
    if tail in ("bucket", "bounds"):
        # Not 1 − Σ over the observed: where the student's tail is small that is rounding noise.
        log_tail, log_head = _log_sum(without(z, softened.ids, -jnp.inf)), _log_sum(z_seen)
        log_z = jnp.logaddexp(log_tail, log_head)
        log_tail = log_tail - log_z
        if tail == "bounds":
            _require_ratios(softened)
            log_q = _normalized(log_q)
            gap = kl_from_logs(log_q, _normalized(z_seen)) + log_tail - (log_head - log_z)
            t = _nearest_tail(jax.lax.stop_gradient(gap), softened)
            log_q, log_t = log_q + simplex.safe_log(1 - t)[..., None], simplex.safe_log(t)
    else:
        log_z = _log_sum(z)
        m = softened.num_unseen.astype(dtype)
        if tail == "uniform":
            mean = _mean_unseen(z, z_seen, m)
        else:
            mean = jnp.mean(jnp.take_along_axis(z, _draw(softened, key, num_sampled), axis=-1), axis=-1)
        # t log(t/m) − t·mean log s is t (log t − (mean log s + log m)): one more outcome of a KL.
        log_tail = mean - log_z + jnp.log(jnp.maximum(m, 1))
    target = jnp.concatenate([log_q, log_t[..., None]], axis=-1)
    student = jnp.concatenate([z_seen - log_z[..., None], log_tail[..., None]], axis=-1)
    distance = kl_from_logs(_blank(target, mask), student)
    return distance if mask is None else jnp.where(mask, distance, 0)


def _require_softened(target: Any) -> None:
    if not isinstance(target, Softened):
        raise TypeError(
            f"softened is a {type(target).__name__}; pass targets.soften(operator, target, T) of it, with "
            "T = 1 for the teacher as it is"
        )


def renormalization_error(
    student_logits: Float[Array, "*batch V"], softened: Softened, mask: Bool[Array, "*batch"] | None = None
) -> Float[Array, "*batch"]:
    """What "renormalized-top-k" does not see: the "bucket" divergence less the renormalised one, in nats.

    ``t log(t/s_tail) + (1 − t) log((1 − t)/(1 − s_tail)) − t·KL(c‖s_c)``: large where the student puts its
    mass on unseen tokens, and negative where it keeps to the observed ones but orders them wrongly.

    Args:
        student_logits: ``[..., V]``.
        softened: of the same rows.
        mask: ``[...]``; a False row counts 0.

    Returns:
        ``[...]`` in nats.

    >>> from sparsekd_jax import operators, targets
    >>> seen = targets.top_k(jnp.log(jnp.array([0.6, 0.39, 0.005, 0.005])), 2)
    >>> soft = targets.soften(operators.get("power"), seen, 1.0)
    >>> float(renormalization_error(jnp.array([0.43, 0.0, -20.0, 12.0]), soft)) > 10
    True
    """
    policies = ("bucket", "renormalized-top-k")
    full, blind = (target_divergence(student_logits, softened, tail, mask=mask) for tail in policies)
    return full - blind


def _require_ratios(softened: Softened) -> None:
    if not softened.ratios_known:
        raise ValueError(
            "tail 'bounds' needs a target whose tail mass alone is uncertain, as softened by power or "
            "mixture from a top-k list; here the ratios of observed tokens are uncertain too (Tsallis, or "
            "an estimate from samples): take tail='uniform'"
        )


def _nearest_tail(gap: Array, softened: Softened) -> Array:
    """The t in the bounds next to ``sigmoid(gap)``; its derivative is not needed (envelope theorem)."""
    low, high = (x.astype(gap.dtype) for x in (softened.tail_lower, softened.tail_upper))
    free = jnp.clip(jax.nn.sigmoid(gap), low, high)
    return jnp.where(jnp.isnan(gap), low, free)  # inf − inf: the student excludes both, every t costs inf


def _mean_unseen(z: Array, z_seen: Array, m: Array) -> Array:
    """The mean logit of unseen tokens, −inf where the student excludes one, without an array of them."""

    def finite_sum(x: Array) -> tuple[Array, Array]:
        off = jnp.isneginf(x)
        return jnp.sum(jnp.where(off, 0, x), axis=-1), jnp.sum(off, axis=-1)

    # About the largest logit, so that the difference of the two sums cancels little.
    top = jax.lax.stop_gradient(jnp.max(z, axis=-1, keepdims=True))
    (total, off), (head, off_seen) = finite_sum(z - top), finite_sum(z_seen - top)
    padding = z_seen.shape[-1] - (z.shape[-1] - m).astype(off_seen.dtype)
    excluded = off > off_seen - padding
    return jnp.where(excluded, -jnp.inf, (total - head) / jnp.maximum(m, 1) + top[..., 0])


def _draw(softened: Softened, key: PRNGKeyArray | None, count: int) -> Int[Array, "*batch count"]:
    """Unseen ids, uniform with replacement: the u-th unseen one is u plus the observed ids at or below it."""
    if key is None:
        raise ValueError("tail 'sampled' needs a key: pass key=jax.random.key(...), a new one each step")
    require_key(key)
    whole("num_sampled", count)
    assert softened.ids is not None
    size = softened.vocab_size
    observed = jnp.sort(jnp.where(softened.ids < 0, 2 * size, softened.ids), axis=-1)
    before = observed - jnp.arange(observed.shape[-1], dtype=observed.dtype).reshape(
        (1,) * (observed.ndim - 1) + (-1,)
    )
    m = jnp.maximum(softened.num_unseen, 1)[..., None].astype(observed.dtype)
    u = jax.random.randint(key, (*m.shape[:-1], count), 0, m, dtype=observed.dtype)
    skipped = jnp.sum(before[..., None, :] <= u[..., None], axis=-1).astype(u.dtype)
    return jnp.minimum(u + skipped, size - 1)


def _log_sum(x: Array) -> Array:
    """logsumexp; −inf with gradient 0 of a row of nothing but −inf."""
    some = (x > -jnp.inf).any(axis=-1, keepdims=True)
    return jnp.where(some[..., 0], jax.nn.logsumexp(jnp.where(some, x, 0), axis=-1), -jnp.inf)


def _normalized(log_w: Array) -> Array:
    """log of the conditional distribution; −inf stays."""
    total = _log_sum(log_w)[..., None]
    off = jnp.isneginf(log_w)
    return jnp.where(off, -jnp.inf, jnp.where(off, 0, log_w) - jnp.where(jnp.isneginf(total), 0, total))


def _blank(log_q: Any, mask: Array | None) -> Array:
    """Targets outside the mask as no outcome at all: KL 0, gradient 0."""
    return log_q if mask is None else jnp.where(mask[..., None], log_q, -jnp.inf)
