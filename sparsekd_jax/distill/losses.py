"""What the student is asked to match, one number an example, in float32 at least; its scale in the open."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from sparsekd_jax import simplex
from sparsekd_jax._refusals import broadcasts_to, is_traced, refuse
from sparsekd_jax.distill import divergences
from sparsekd_jax.distill.divergences import Divergence
from sparsekd_jax.operators._softening import log_on_rows
from sparsekd_jax.operators.base import Operator as Operator
from sparsekd_jax.operators.base import operator_name, require_operator
from sparsekd_jax.targets import Dense, Samples, Softened, TopK

# The slope r of F_T at the uniform distribution: 1/T where T multiplies the dual coordinates, 1/√T where it
# divides the entropy deficit, which is quadratic there. 1/r² is T to the power below.
_SCALE_EXPONENT = {
    **dict.fromkeys(("power", "mixture", "tsallis"), 2),
    **dict.fromkeys(("entropy-projection", "euclidean-entropy-projection"), 1),
}


def soften_log_probs(
    operator: Operator, log_probs: Float[Array, "*batch K"], temperature: ArrayLike
) -> Float[Array, "*batch K"]:
    """``log F_T(exp log_p)`` by an operator's own log entry, or through probabilities for a plain function.

    Args:
        operator: a softening operator, or a function ``(p, temperature) -> q`` of one row ``[K]`` and its T.
        log_probs: ``[..., K]`` in nats, −inf allowed.
        temperature: T, a scalar or one a row.

    Returns:
        ``[..., K]`` in nats.

    >>> from sparsekd_jax import operators
    >>> log_q = soften_log_probs(operators.get("power"), jnp.log(jnp.array([0.64, 0.36])), 2.0)
    >>> [round(x, 4) for x in log_q.tolist()]
    [-0.5596, -0.8473]
    """
    try:
        return log_on_rows(operator, log_probs, temperature)
    except jax.errors.JAXTypeError as error:
        raise TypeError(
            f"operator {operator_name(operator)} cannot be traced: it holds numpy code, or an if on values, "
            "which axioms.check runs and a loss cannot; write it with jax.numpy and jnp.where"
        ) from error


def cross_entropy(
    logits: Float[Array, "*batch K"], labels: Int[Array, "*batch"], mask: Bool[Array, "*batch"] | None = None
) -> Float[Array, "*batch"]:
    """Cross-entropy to hard labels, ``−log softmax(z)_y``, in nats.

    Args:
        logits: ``[..., K]``.
        labels: ``[...]``, classes in [0, K); one outside gives NaN, never another class's loss.
        mask: ``[...]``; a False row counts 0, whatever its logits and label are.

    Returns:
        ``[...]`` in nats.

    Raises:
        TypeError: labels that are no integers.
        ValueError: labels of another shape than the rows of the logits.

    >>> float(cross_entropy(jnp.zeros((4,)), jnp.array(2)))
    1.3863
    """
    _require_class_ids(labels, jnp.shape(logits))
    log_probs = jax.nn.log_softmax(divergences.blank_rows(logits, mask), axis=-1)
    loss = -jnp.take_along_axis(log_probs, labels[..., None], axis=-1)[..., 0]
    loss = jnp.where(labels < 0, jnp.nan, loss)  # take_along_axis reads those from the end
    return loss if mask is None else jnp.where(mask, loss, 0)


def _require_class_ids(labels: Any, logits: tuple[int, ...]) -> None:
    remedy = "labels are class ids, one a row: of one-hot rows pass labels.argmax(-1)"
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise TypeError(f"labels has dtype {jnp.result_type(labels)}; {remedy}")
    if jnp.shape(labels) != logits[:-1]:
        raise ValueError(f"labels has shape {jnp.shape(labels)} and logits {logits}; {remedy}")


def gradient_scale(
    operator: Any,
    temperature: float,
    *,
    soften_student: bool = True,
    divergence: str | Divergence = "forward-kl",
) -> float:
    """The factor c that keeps the gradient's size while T varies: a power of T.

    Student side not softened: c = 1. The gradient, for KL ``softmax(z) − q_t``, has no factor of T to undo.

    Both sides softened: near the uniform distribution u, F_T(u + δ) ≈ u + r(T)·δ. The multiplier families
    (power, mixture, Tsallis, theory.md section 2) have T·∇φ(q) = ∇φ(p) + const there, so r = 1/T. The target
    forms (entropy projections) divide the entropy deficit by T, which is quadratic in δ, so r = 1/√T.
    A divergence of order n there (`local_order`) has ``D(F_T(p)‖F_T(q)) ≈ rⁿ·D(p‖q)``, and c = r⁻ⁿ:

    - KL, reverse KL and JS_β are quadratic, n = 2: c = T² (for power, Hinton's), or T for the entropy
      projections. JS_β ≈ β(1 − β)·KL there, whatever T is: c restores the size that JS_β itself has at T = 1.
    - Total variation is linear, n = 1: c = T, or √T for the entropy projections.

    Args:
        operator: a softening operator of a known family.
        temperature: T > 0.
        soften_student: whether the student's distribution is softened too.
        divergence: a name of `DIVERGENCES`, or a `JensenShannon`.

    Returns:
        c, a positive number; asymptotically exact for logits small against 1 and against T.

    Raises:
        ValueError: T is not positive; both sides are softened by an operator whose r, or compared by a
            divergence whose n, is not derived here.

    Reference:
        Hinton, Vinyals and Dean, arXiv 1503.02531, section 2.

    >>> from sparsekd_jax import operators
    >>> power = operators.get("power")
    >>> gradient_scale(power, 4.0), gradient_scale(power, 4.0, soften_student=False)
    (16.0, 1.0)
    >>> gradient_scale(power, 4.0, divergence="total-variation")
    4.0
    """
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; it is one finite number > 0")
    return float(temperature) ** scale_exponent(operator, soften_student, divergence)


def scale_exponent(operator: Any, soften_student: bool, divergence: str | Divergence) -> float:
    """The power of T that `gradient_scale` is."""
    require_operator(operator)
    if not soften_student:
        return 0
    family = getattr(operator, "family", None)
    exponent = _SCALE_EXPONENT.get(family) if isinstance(family, str) else None
    if exponent is None or (family == "mixture" and operator.name != "mixture"):  # a schedule of its own
        raise ValueError(
            f"gradient_scale is not known for operator {operator_name(operator)}; give scale a number, such "
            "as 1/r² with r the slope of F_T at the uniform distribution, or soften the targets only "
            "(soften_student=False: scale 1)"
        )
    return exponent if divergences.local_order(divergence) == 2 else exponent / 2


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
    divergence: str | Divergence = "forward-kl",
    mask: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """Distillation loss of each example: ``(1 − α)·c·D(F_T(p_t), q_s) + α·CE(y, p_s)``.

    p_t = softmax(teacher logits), p_s = softmax(student logits); q_s = F_T(p_s) if ``soften_student``, else
    p_s. For D = KL(p‖q) the gradient with respect to the student's logits z is, target-only:
    ``(1 − α)·c·(p_s − F_T(p_t)) + α·(p_s − e_y)``; power on both sides:
    ``(1 − α)·(c/T)·(F_T(p_s) − F_T(p_t)) + α·(p_s − e_y)``. No gradient reaches the teacher. Never NaN where
    the teacher has zeros (logits of −inf). A part of weight 0 counts 0, even where it is infinite.

    Args:
        student_logits: ``[..., K]``.
        teacher_logits: ``[..., K]``, −inf for a class the teacher excludes.
        labels: ``[...]`` classes in [0, K); needed where α > 0. One outside gives NaN: a label that says
            "ignore", such as PyTorch's −100, needs a False in ``mask``.
        operator: softening operator F, or a plain function ``(p, T) -> q`` of one row and its T.
        temperature: T, a scalar or one a row.
        alpha: weight of the hard labels, in [0, 1].
        soften_student: soften both sides (Hinton), or the target only.
        scale: gradient scale c; by default `gradient_scale` of the operator and the divergence.
        divergence: a name of `DIVERGENCES`, a `JensenShannon`, or a function ``(log_p, log_q) -> [...]``.
        mask: ``[...]``; a False row counts 0 and gives gradient 0, whatever its logits and label are.

    Returns:
        ``[...]`` in nats, one loss an example; average it with `weighted_sum`.

    Raises:
        ValueError: α > 0 without labels, or outside [0, 1]; shapes that differ; a scale that is neither known
            nor given; a teacher's row that is NaN, +inf or all −inf, or an operator whose rows do not sum to
            1 (both seen in eager code only).
        TypeError: labels that are no class ids, no operator or one that cannot be traced (numpy code), or a
            teacher seen in part (`target_divergence` takes that).

    Reference:
        Hinton, Vinyals and Dean, arXiv 1503.02531; theory.md section 2 for F.

    >>> from sparsekd_jax import operators
    >>> z = jnp.array([2.0, 0.0, -1.0])
    >>> float(distillation_loss(z, z, operator=operators.get("power"), temperature=4.0))
    0.0
    """
    require_operator(operator)
    require_shares(alpha)
    if isinstance(teacher_logits, Dense | TopK | Samples | Softened):
        raise TypeError(
            f"teacher_logits is a {type(teacher_logits).__name__}, which has no logits; for a teacher seen "
            "in part take target_divergence(student_logits, targets.soften(operator, target, T), tail)"
        )
    if jnp.shape(student_logits) != jnp.shape(teacher_logits):
        raise ValueError(
            f"student_logits has shape {jnp.shape(student_logits)} and teacher_logits "
            f"{jnp.shape(teacher_logits)}; give both the same rows and classes, [..., K]"
        )
    if labels is None and needs_labels(alpha):
        raise ValueError("labels are needed where alpha > 0: pass labels, or alpha=0")
    exponent = 0 if scale is not None else scale_exponent(operator, soften_student, divergence)
    teacher_logits = divergences.blank_rows(jax.lax.stop_gradient(teacher_logits), mask)
    simplex.require_logits(teacher_logits, "teacher_logits")
    log_targets = soften_log_probs(operator, jax.nn.log_softmax(teacher_logits, axis=-1), temperature)
    log_targets = divergences.blank_rows(log_targets, mask, -math.log(jnp.shape(log_targets)[-1]))
    require_distributions(operator, log_targets)
    own = operator if soften_student else None
    distance = _divergence_of(student_logits, log_targets, own, temperature, divergence, mask)
    dtype = distance.dtype
    batch = distance.shape
    share = per_row(alpha, "alpha", batch, dtype)
    # Not gradient_scale itself: here T may be traced, or one number a row.
    factor = jnp.asarray(temperature, dtype) ** exponent if scale is None else scale
    loss = divergences.times((1 - share) * per_row(factor, "scale", batch, dtype), distance)
    if labels is None:
        return loss
    return loss + divergences.times(share, cross_entropy(student_logits, labels, mask))


def require_distributions(operator: Operator, log_targets: Array) -> None:
    """Refuse an operator of whose softened rows one does not sum to 1; traced ones are not looked at."""
    if is_traced(log_targets):
        return
    totals = np.asarray(_totals(log_targets))  # on the device, where a run holds its targets
    name = f"operator {operator_name(operator)}"
    refuse(
        np.isnan(totals),
        name,
        lambda _: "makes NaN; call it on the row to see why, and mend it or leave the row out",
    )
    refuse(
        ~(np.abs(totals - 1) <= 4 * simplex.SUM_TOLERANCE["float32"]),
        name,
        lambda i: f"makes probabilities that sum to {totals[i]:.7g}; divide what it returns by its sum",
    )


@jax.jit
def _totals(log_probs: Array) -> Array:
    return jnp.exp(log_probs).sum(axis=-1)


def require_shares(alpha: ArrayLike) -> None:
    """Refuse a weight of the hard labels outside [0, 1]; a traced one is not looked at."""
    if not is_traced(alpha):
        values = np.asarray(alpha)
        refuse(
            ~((values >= 0) & (values <= 1)),
            "alpha",
            lambda i: f"is {values[i]:g}; it is the weight of the hard labels, in [0, 1]",
        )


def needs_labels(alpha: ArrayLike) -> bool:
    """Whether some row has, or for all that is known may have, a weight of its hard label."""
    return is_traced(alpha) or bool(np.any(np.asarray(alpha) > 0))


def per_row(value: ArrayLike, name: str, batch: tuple[int, ...], dtype: Any) -> Array:
    """A number for each row, from a scalar or what broadcasts to one a row, as a temperature does."""
    shape = jnp.shape(value)
    if not broadcasts_to(shape, batch):
        raise ValueError(f"{name} has shape {shape}; give a scalar, or one a row, {batch}")
    return jnp.broadcast_to(jnp.asarray(value).astype(dtype), batch)


def student_divergence(
    student_logits: Float[Array, "*batch K"],
    log_targets: Float[Array, "*batch K"],
    operator: Operator | None,
    temperature: ArrayLike,
    *,
    divergence: str | Divergence = "forward-kl",
    mask: Bool[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """``D(target, q_s)``, by default KL(target‖q_s), for targets already softened, as the loop has them.

    Args:
        student_logits: ``[..., K]``.
        log_targets: ``[..., K]``, log of the softened teacher.
        operator: softens the student's side too; None leaves it as it is.
        temperature: T of the student's side.
        divergence: a name of `DIVERGENCES`, a `JensenShannon`, or a function ``(log_p, log_q) -> [...]``.
        mask: ``[...]``; a False row counts 0 and gives gradient 0, whatever it holds.

    Returns:
        ``[...]`` in nats.

    Raises:
        ValueError: log_targets are no log-probabilities; seen in eager code, not in bfloat16 or float16.

    >>> z = jnp.array([0.0, 0.0])
    >>> float(student_divergence(z, jnp.log(jnp.array([0.5, 0.5])), None, 1.0))
    0.0
    """
    wide = divergences.blank_rows(log_targets, mask, -math.log(jnp.shape(log_targets)[-1]))
    if wide.dtype == jnp.result_type(log_targets):  # float64 may hold a float32 cache: its tolerance
        simplex.require_log_probabilities(wide.astype(jnp.float32), "log_targets")
    return _divergence_of(student_logits, wide, operator, temperature, divergence, mask)


def _divergence_of(
    student_logits: Array,
    log_targets: Array,
    operator: Operator | None,
    temperature: ArrayLike,
    divergence: str | Divergence,
    mask: Array | None,
) -> Array:
    """`student_divergence` from targets that were looked at, blank outside the mask."""
    log_probs = jax.nn.log_softmax(divergences.blank_rows(student_logits, mask), axis=-1)
    if operator is not None:
        log_probs = soften_log_probs(operator, log_probs, temperature)
    distance = divergences.get_divergence(divergence)(log_targets, log_probs)
    return distance if mask is None else jnp.where(mask, distance, 0)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WeightedSum:
    """Numerator and denominator of a weighted mean; ``a + b`` is the sum over both batches together.

    A mean of means weighs a token by the size of its batch; sums do not. Micro-batches add, shards add by
    `jax.lax.psum`, padding adds nothing. Likewise add the gradients of ``numerator``, and divide once.

    Attributes:
        numerator: scalar ``Σ w_i l_i``, in the unit of the losses.
        denominator: scalar ``Σ w_i``.
    """

    numerator: Float[Array, ""]
    denominator: Float[Array, ""]

    def __add__(self, other: "WeightedSum") -> "WeightedSum":
        return jax.tree.map(jnp.add, self, other)

    @property
    def mean(self) -> Float[Array, ""]:
        """``numerator/denominator``. At weight 0 a ValueError; traced, NaN and a checkify debug check."""
        checkify.debug_check(self.denominator != 0, "WeightedSum.mean: the weights sum to 0")
        if not is_traced(self.denominator) and float(self.denominator) == 0:
            raise ValueError("weights sum to 0, so there is no mean: is every row masked? Add batches first")
        return self.numerator / self.denominator


def weighted_sum(
    losses: Float[Array, "..."], weights: Float[Array, "..."] | Bool[Array, "..."] | None = None
) -> WeightedSum:
    """``Σ w_i l_i`` and ``Σ w_i``, to be added up over micro-batches and shards before the one division.

    A loss of weight 0 contributes exactly 0, value and gradient, even where it is NaN or inf. (Where its
    logits are NaN too, give its loss a ``mask``: a gradient of 0 turns NaN on the way back through them.)

    Args:
        losses: any shape.
        weights: the same shape, ≥ 0: sample weights, or a token mask; by default 1 each.

    Returns:
        A `WeightedSum` in float32 at least; exact weights up to 2²⁴ of them.

    Raises:
        ValueError: weights of another shape; negative, infinite or NaN weights (seen in eager code only).

    >>> one, rest = weighted_sum(jnp.array([1.0])), weighted_sum(jnp.zeros(99))
    >>> float((one + rest).mean), float((one.mean + rest.mean) / 2)
    (0.01, 0.5)
    """
    losses = divergences.widened(losses)
    if weights is None:
        return WeightedSum(jnp.sum(losses), jnp.asarray(losses.size, losses.dtype))
    require_weights(weights, losses.shape, "losses")
    w = jnp.asarray(weights).astype(losses.dtype)
    return WeightedSum(jnp.sum(divergences.times(w, losses)), jnp.sum(w))


def require_weights(weights: Any, shape: tuple[int, ...], of: str, name: str = "weights") -> None:
    """Refuse weights of another shape than what they weigh, and negative, infinite or NaN ones."""
    if np.shape(weights) != shape:
        raise ValueError(f"{name} has shape {np.shape(weights)}, {of} {shape}: give one weight each")
    if not is_traced(weights):
        values = np.asarray(weights)  # inside jit the operations of jnp are traced even on constants
        bad = ~((values >= 0) & (values < np.inf))
        refuse(bad, name, lambda i: f"is {values[i]}; weights are ≥ 0, and 0 for padding")
