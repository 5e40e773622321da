"""What the student is asked to match, one number an example, with the gradient scale in the open."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from sparsekd_jax import simplex
from sparsekd_jax.operators.base import SofteningOperator

Operator = SofteningOperator | Callable[[Array, ArrayLike], Array]
"""A softening operator, or a plain function ``(p, temperature) -> q``."""

# d log-odds of F_T near the uniform distribution: 1/T where T multiplies the dual coordinates, 1/√T where it
# divides the entropy deficit, which is quadratic there. The scales below are the inverse squares.
_SCALE_EXPONENT = {
    "power": 2,
    "mixture": 2,
    "tsallis": 2,
    "entropy-projection": 1,
    "euclidean-entropy-projection": 1,
}


def soften_log_probs(
    operator: Operator, log_probs: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch K"]:
    """``log F_T(exp log_p)`` by an operator's own log entry, or through probabilities for a plain function.

    Args:
        operator: a softening operator, or ``(p, temperature) -> q``.
        log_probs: ``[..., K]`` in nats, −inf allowed.
        temperature: T, a scalar or one a row.

    Returns:
        ``[..., K]`` in nats.

    >>> from sparsekd_jax import operators
    >>> log_q = soften_log_probs(operators.get("power"), jnp.log(jnp.array([0.64, 0.36])), 2.0)
    >>> [round(x, 4) for x in log_q.tolist()]
    [-0.5596, -0.8473]
    """
    if isinstance(operator, SofteningOperator):
        return operator.log(log_probs, temperature)
    off = jnp.isneginf(log_probs)
    p = jnp.where(off, 0, jnp.exp(jnp.where(off, 0, log_probs)))
    return simplex.safe_log(operator(p, temperature))


def kl_from_logs(log_p: Float[Array, "*batch K"], log_q: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
    """Forward divergence ``KL(p‖q) = Σ p_i (log p_i − log q_i)`` from logarithms, in nats.

    Coordinates with p_i = 0 count 0, whatever q_i; q_i = 0 < p_i gives inf. Neither the value nor the
    gradient, −p_i with respect to log q_i, is ever NaN for −inf entries. By rounding alone the value can be
    negative, by about 1e-7 in float32.

    Args:
        log_p: ``[..., K]``, −inf allowed.
        log_q: ``[..., K]``, −inf allowed.

    Returns:
        ``[...]`` in nats.

    >>> float(kl_from_logs(jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.5, 0.5]))))
    0.6931
    """
    has_p, has_q = ~jnp.isneginf(log_p), ~jnp.isneginf(log_q)
    both = has_p & has_q
    # Double where: a gradient of 0 times inf would be NaN, so no infinity may enter the product at all.
    safe_p, safe_q = jnp.where(has_p, log_p, 0), jnp.where(both, log_q, 0)
    terms = jnp.where(both, jnp.exp(safe_p) * (safe_p - safe_q), 0)
    missed = (has_p & ~has_q).any(axis=-1)
    return jnp.where(missed, jnp.inf, jnp.sum(terms, axis=-1))


def cross_entropy(logits: Float[Array, "*batch K"], labels: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Cross-entropy to hard labels, ``−log softmax(z)_y``, in nats.

    Args:
        logits: ``[..., K]``.
        labels: ``[...]``, classes in [0, K).

    Returns:
        ``[...]`` in nats.

    >>> float(cross_entropy(jnp.zeros((4,)), jnp.array(2)))
    1.3863
    """
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]


def gradient_scale(operator: Any, temperature: float, *, soften_student: bool = True) -> float:
    """The factor c that keeps the gradient's size while T varies: 1, T or T².

    Student side not softened: c = 1, the gradient ``softmax(z) − q_t`` has no factor of T to undo.

    Both sides softened: near the uniform distribution u, F_T(u + δ) ≈ u + r(T)·δ, so
    ``KL(F_T(p)‖F_T(q)) ≈ r²·KL(p‖q)`` and c = 1/r² restores it. The multiplier families (power, mixture,
    Tsallis, theory.md section 2) have T·∇φ(q) = ∇φ(p) + const there, so r = 1/T and c = T². The target forms
    (entropy projections) divide the entropy deficit by T, which is quadratic in δ, so r = 1/√T and c = T.
    For power this is the T² of Hinton, Vinyals and Dean, and it is exact for logits small against T.

    Args:
        operator: a softening operator of a known family.
        temperature: T > 0.
        soften_student: whether the student's distribution is softened too.

    Returns:
        c, a positive number.

    Raises:
        ValueError: both sides are softened by an operator whose r is not derived here.

    Reference:
        Hinton, Vinyals and Dean, arXiv 1503.02531, section 2.

    >>> from sparsekd_jax import operators
    >>> gradient_scale(operators.get("power"), 4.0)
    16.0
    >>> gradient_scale(operators.get("power"), 4.0, soften_student=False)
    1.0
    """
    return float(temperature) ** _scale_exponent(operator, soften_student)


def _scale_exponent(operator: Any, soften_student: bool) -> int:
    if not soften_student:
        return 0
    family = getattr(operator, "family", None)
    exponent = _SCALE_EXPONENT.get(family) if isinstance(family, str) else None
    custom_schedule = family == "mixture" and operator.name != "mixture"
    if exponent is None or custom_schedule:
        name = getattr(operator, "name", getattr(operator, "__name__", repr(operator)))
        raise ValueError(
            f"gradient_scale is not known for operator {name}; give a number, such as 1/r² with r the slope "
            "of F_T at the uniform distribution, or soften the targets only (soften_student=False: scale 1)"
        )
    return exponent


def distillation_loss(
    student_logits: Float[Array, "*batch K"],
    teacher_logits: Float[Array, "*batch K"],
    labels: Int[Array, "*batch"] | None = None,
    *,
    operator: Operator,
    temperature: ArrayLike,
    alpha: ArrayLike = 0.0,
    soften_student: bool = True,
    scale: ArrayLike | None = None,
) -> Float[Array, "*batch"]:
    """Distillation loss of each example: ``(1 − α)·c·KL(F_T(p_t)‖q_s) + α·CE(y, p_s)``.

    p_t = softmax(teacher logits), p_s = softmax(student logits); q_s = F_T(p_s) if ``soften_student``, else
    p_s. The gradient with respect to the student's logits z is, target-only: ``(1 − α)·c·(p_s − F_T(p_t)) +
    α·(p_s − e_y)``; power on both sides: ``(1 − α)·(c/T)·(F_T(p_s) − F_T(p_t)) + α·(p_s − e_y)``. No gradient
    reaches the teacher. Never NaN where the teacher has zeros (logits of −inf).

    Args:
        student_logits: ``[..., K]``.
        teacher_logits: ``[..., K]``, −inf for a class the teacher excludes.
        labels: ``[...]`` classes in [0, K); needed where α > 0.
        operator: softening operator F, or a plain function ``(p, T) -> q``.
        temperature: T, a scalar or one a row.
        alpha: weight of the hard labels, in [0, 1].
        soften_student: soften both sides (Hinton), or the target only.
        scale: gradient scale c; by default `gradient_scale` of the operator.

    Returns:
        ``[...]`` in nats, one loss an example; average it yourself, over what you mean to average.

    Raises:
        ValueError: α > 0 without labels, or a scale that is neither known nor given.

    Reference:
        Hinton, Vinyals and Dean, arXiv 1503.02531; theory.md section 2 for F.

    >>> from sparsekd_jax import operators
    >>> z = jnp.array([2.0, 0.0, -1.0])
    >>> float(distillation_loss(z, z, operator=operators.get("power"), temperature=4.0))
    0.0
    """
    if labels is None and not (isinstance(alpha, float | int) and alpha == 0):
        raise ValueError("labels are needed where alpha > 0: pass labels, or alpha=0")
    exponent = 0 if scale is not None else _scale_exponent(operator, soften_student)
    teacher_log_probs = jax.nn.log_softmax(jax.lax.stop_gradient(teacher_logits), axis=-1)
    log_targets = soften_log_probs(operator, teacher_log_probs, temperature)
    divergence = student_divergence(
        student_logits, log_targets, operator if soften_student else None, temperature
    )
    dtype = divergence.dtype
    # Not gradient_scale itself: here T may be traced, or one number a row.
    if scale is None:
        scale = jnp.asarray(temperature, dtype) ** exponent
    loss = (1 - jnp.asarray(alpha, dtype)) * jnp.asarray(scale, dtype) * divergence
    if labels is None:
        return loss
    return loss + jnp.asarray(alpha, dtype) * cross_entropy(student_logits, labels)


def student_divergence(
    student_logits: Float[Array, "*batch K"],
    log_targets: Float[Array, "*batch K"],
    operator: Operator | None,
    temperature: ArrayLike,
) -> Float[Array, "*batch"]:
    """``KL(target‖q_s)`` for targets already softened; the loop computes those once a stage.

    Args:
        student_logits: ``[..., K]``.
        log_targets: ``[..., K]``, log of the softened teacher.
        operator: softens the student's side too; None leaves it as it is.
        temperature: T of the student's side.

    Returns:
        ``[...]`` in nats.

    >>> z = jnp.array([0.0, 0.0])
    >>> float(student_divergence(z, jnp.log(jnp.array([0.5, 0.5])), None, 1.0))
    0.0
    """
    log_probs = jax.nn.log_softmax(student_logits, axis=-1)
    if operator is not None:
        log_probs = soften_log_probs(operator, log_probs, temperature)
    return kl_from_logs(log_targets, log_probs)
