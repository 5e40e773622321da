"""The distillation loss from hidden states and output matrices, without the logits of all tokens at once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from sparsekd_jax import simplex
from sparsekd_jax._numerics import at_least_float32
from sparsekd_jax._refusals import is_traced, refuse, whole
from sparsekd_jax.distill import _fused_program as program
from sparsekd_jax.distill.divergences import Divergence, get_divergence, kl_from_logs
from sparsekd_jax.distill.losses import (
    Operator,
    WeightedSum,
    needs_labels,
    per_row,
    require_shares,
    require_weights,
    scale_exponent,
)
from sparsekd_jax.distill.target_losses import require_tail_policy
from sparsekd_jax.operators import PowerTransform
from sparsekd_jax.operators.base import SofteningOperator, broadcast_temperature
from sparsekd_jax.targets import PADDING, Dense, Samples, Softened, TopK, soften


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinearLogits:
    """Logits ``hidden @ matrix + bias`` that nobody has computed yet. A pytree: so is its gradient.

    Attributes:
        hidden: ``[..., d]``, the last hidden state of each token.
        matrix: ``[d, V]``, the output layer, in the dtype of ``hidden``; transpose a tied embedding.
        bias: ``[V]`` or None; −inf excludes a token.

    >>> LinearLogits(jnp.ones((3, 2)), jnp.ones((2, 5))).vocab_size
    5
    """

    hidden: Float[Array, "*batch d"]
    matrix: Float[Array, "d V"]
    bias: Float[Array, " V"] | None = None

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.matrix.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """``[...]``, the shape of ``hidden`` without the last axis."""
        return self.hidden.shape[:-1]


def linear_distillation_loss(
    student: LinearLogits,
    target: LinearLogits | Dense | TopK | Samples | Softened,
    labels: Int[Array, "*batch"] | None = None,
    *,
    operator: Operator,
    temperature: ArrayLike,
    alpha: ArrayLike = 0.0,
    soften_student: bool = True,
    scale: ArrayLike | None = None,
    divergence: str | Divergence = "forward-kl",
    tail: str | None = None,
    weights: Float[Array, "*batch"] | Bool[Array, "*batch"] | None = None,
    chunk_size: int | None = None,
) -> WeightedSum:
    """``Σ w·[(1 − α)·c·D(F_T(p_t), q_s) + α·CE(y, p_s)]`` and ``Σ w``, logits held for few tokens at a time.

    The loss of each row is that of `distillation_loss`, or for a target seen in part (1 − α)·c times
    `target_divergence`, on the logits that `LinearLogits` stands for. What differs is how it is computed:

    - Over chunks of rows: logits of both sides, then, a few rows at a time, their loss and its derivative by
      the student's logits in their place, then its products with ``matrix`` and ``hidden``, added up. That is
      four matrix products for a linear teacher and three for any other, none twice; the forward pass leaves
      the gradients, and the backward pass multiplies them by one number. Hence a sum, and no loss a row.
      Where no gradient is asked nothing of it is computed, nor where it is asked of ``hidden`` alone that of
      ``matrix``.
    - Temporaries: two arrays ``[chunk, V]``, which do not grow with V as ``chunk_size`` falls with it. In a
      narrower dtype than float32 also the gradients in float32, and whatever the backend widens. Online sums
      over tiles of the vocabulary would compute every logit twice, and are needed only where one row is too
      long to hold.

    bfloat16 and float16 are multiplied as they are and summed in float32, with the derivatives by the logits
    rounded to them; everything between the products is float32. On accelerators products of float32 follow
    ``jax_default_matmul_precision``. In float32 value and gradients agree with float64 to about 1e-6.

    Differentiable once, in reverse, by ``student``. No gradient reaches the target; in temperature, alpha,
    scale, weights and the operator's parameters it is refused, and so are forward mode and second
    derivatives.

    Args:
        student: hidden states ``[..., d_s]`` and matrix ``[d_s, V]``.
        target: the teacher as hidden states ``[..., d_t]`` and matrix ``[d_t, V]``; its log-probabilities
            (`Dense.from_logits`); or what it revealed, softened here by `targets.soften`, or already
            (`Softened`), as samples must be unless the operator is the mixture.
        labels: ``[...]`` classes in [0, V); needed where α > 0.
        operator: softening operator F, or a plain function ``(p, T) -> q``; power is fastest.
        temperature: T, a scalar or one a row.
        alpha: weight of the hard labels, in [0, 1].
        soften_student: soften both sides, or the target only.
        scale: gradient scale c; by default `gradient_scale`, T² for power on both sides.
        divergence: a name of `DIVERGENCES`, a `JensenShannon`, or a function ``(log_p, log_q) -> [...]``. Of
            a target seen in part only forward KL is known.
        tail: for a target seen in part, a name of `TAIL_POLICIES` but "sampled".
        weights: ``[...]``, sample weights ≥ 0 or a token mask; by default 1 each. A row of weight 0 counts 0
            and gives gradient 0, whatever its hidden state, target and label hold, NaN included.
        chunk_size: rows whose logits are held, at most; by default 3·2²²/V, at least 1. The matrices are read
            once a chunk, so more rows are faster where memory allows. The result is the same up to rounding.

    Returns:
        A `WeightedSum` in float32 at least. Differentiate its ``numerator``, or its ``mean``.

    Raises:
        ValueError: shapes that do not fit, labels or weights out of range, a target that is none (values are
            seen in eager code only); α > 0 without labels; a scale, divergence or tail that is not known.
        TypeError: dtypes that differ, a target that cannot be softened here, derivatives as above.

    Reference:
        Hinton, Vinyals and Dean, arXiv 1503.02531; gradients in the forward pass after Hsu et al., "Liger
        Kernel", arXiv 2410.10989; theory.md section 6 for targets seen in part.

    >>> from sparsekd_jax import operators
    >>> one, two = (LinearLogits(jnp.full((3, 2), x), jnp.eye(2, 4)) for x in (0.0, 1.0))
    >>> loss = lambda s: linear_distillation_loss(s, two, operator=operators.get("power"), temperature=2.0)
    >>> float(loss(one).mean), float(loss(two).mean)
    (0.122, 0.0)
    """
    batch, vocab_size = _require_student(student), student.vocab_size
    dtype = at_least_float32(student.hidden.dtype)
    metric = get_divergence(divergence)
    exponent = 0 if scale is not None else scale_exponent(operator, soften_student, divergence)
    if not needs_labels(alpha):
        labels = None
    elif labels is None:
        raise ValueError("labels are needed where alpha > 0: pass labels, or alpha=0")
    if chunk_size is not None:
        whole("chunk_size", chunk_size)

    t = per_row(temperature, "temperature", batch, dtype)
    if isinstance(operator, SofteningOperator):
        broadcast_temperature(operator, temperature, batch, dtype)  # refuses what is out of its range
    w = _weights(weights, batch, dtype)
    live, share = w != 0, per_row(alpha, "alpha", batch, dtype)
    require_shares(alpha)
    factor = t**exponent if scale is None else per_row(scale, "scale", batch, dtype)
    if labels is not None:
        _require_labels(labels, batch, vocab_size, live)
    _require_tail(target, tail, metric, soften_student, operator)
    given, teacher = _target(jax.lax.stop_gradient(target), batch, vocab_size, live, operator, t)

    def flat(x: Array) -> Array:
        return x.reshape(live.size, *x.shape[len(batch) :])

    rows = program.Rows(given, t, (1 - share) * factor * w, share * w, live, labels)
    hidden = flat(student.hidden)
    settings = program.Settings(
        metric, soften_student, tail, **program.sizes(len(hidden), hidden.shape[-1], vocab_size, chunk_size)
    )
    total = program.numerator(
        settings,
        (hidden, student.matrix, student.bias),
        jax.tree.map(flat, rows),
        (teacher, _argument(operator, given, dtype)),
    )
    return WeightedSum(total, jnp.sum(w))


def _argument(operator: Operator, given: Array | Softened, dtype: Any) -> Any:
    """The operator as an argument of the program, whose α is then not known: its form is chosen before."""
    if not isinstance(operator, SofteningOperator):
        return jax.tree_util.Partial(operator)
    one_dtype = isinstance(given, Softened) or at_least_float32(given.dtype) == dtype
    return operator.to_compile(dtype) if one_dtype else operator


def _require_linear(logits: LinearLogits, name: str) -> None:
    parts = {"hidden": logits.hidden, "matrix": logits.matrix, "bias": logits.bias}
    dtypes = {part: jnp.result_type(x) for part, x in parts.items() if x is not None}
    first = dtypes["hidden"]
    if not jnp.issubdtype(first, jnp.floating) or len(set(dtypes.values())) > 1:
        found = ", ".join(f"{part} {dtype}" for part, dtype in dtypes.items())
        raise TypeError(f"{name} has {found}; they share one floating dtype: cast the others with .astype")
    shapes = {part: jnp.shape(x) for part, x in parts.items() if x is not None}
    width, size = shapes["matrix"] if len(shapes["matrix"]) == 2 else (None, None)
    if not shapes["hidden"] or shapes["hidden"][-1] != width or shapes.get("bias", (size,)) != (size,):
        found = ", ".join(f"{part} {shape}" for part, shape in shapes.items())
        raise ValueError(
            f"{name} has {found}; hidden is [..., d], matrix [d, V] (transpose an embedding [V, d]), bias [V]"
        )


def _require_student(student: LinearLogits) -> tuple[int, ...]:
    _require_linear(student, "student")
    if 0 in (*student.hidden.shape, *student.matrix.shape):
        raise ValueError(f"student has hidden {student.hidden.shape}: without rows there is no loss")
    return student.batch_shape


def _weights(weights: Array | None, batch: tuple[int, ...], dtype: Any) -> Array:
    if weights is None:
        return jnp.ones(batch, dtype)
    require_weights(weights, batch, "the hidden states")
    return jnp.asarray(weights).astype(dtype)


def _require_labels(labels: Array, batch: tuple[int, ...], vocab_size: int, live: Array) -> None:
    if jnp.shape(labels) != batch or not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise ValueError(
            f"labels are {jnp.result_type(labels)} of shape {jnp.shape(labels)}; they are whole numbers, one "
            f"a row of the hidden states, {batch}"
        )
    if not is_traced(labels, live):
        y = np.asarray(labels)
        refuse(
            np.asarray(live) & ((y < 0) | (y >= vocab_size)),
            "labels",
            lambda i: f"is {y[i]}, no class in [0, {vocab_size}); give a row to leave out weight 0",
        )


_log_sum = jax.jit(lambda log_p: jax.nn.logsumexp(log_p.astype(at_least_float32(log_p.dtype)), axis=-1))


def _target(
    target: Any, batch: tuple[int, ...], vocab_size: int, live: Array, operator: Operator, t: Array
) -> tuple[Array | Softened, tuple[Array, Array | None] | None]:
    """What each row of the program is given, and the output layer that turns it into logits."""
    if not isinstance(target, LinearLogits | Dense | TopK | Samples | Softened):
        raise TypeError(
            f"target is a {type(target).__name__}; give LinearLogits, Dense (Dense.from_logits), TopK, "
            "Samples or Softened"
        )
    if isinstance(target, LinearLogits):
        _require_linear(target, "target")
    rows = target.log_probs.shape[:-1] if isinstance(target, Softened) else target.batch_shape
    if (rows, target.vocab_size) != (batch, vocab_size):
        raise ValueError(
            f"target has rows {rows} over {target.vocab_size} tokens; the student has {batch} over "
            f"{vocab_size}"
        )
    if isinstance(target, LinearLogits):
        return target.hidden, (target.matrix, target.bias)
    if isinstance(target, Dense):
        if not is_traced(target, live):
            # In one pass, not by simplex.require_log_probabilities: its float64 copy is what is spared here.
            total = np.exp(np.asarray(_log_sum(target.log_probs), np.float64))
            tolerance = 4 * simplex.SUM_TOLERANCE[target.log_probs.dtype.name]
            refuse(
                np.asarray(live) & ~(np.abs(total - 1) <= tolerance),
                "target",
                lambda i: f"sums to {total[i]:.9g} after exp; if these are logits use Dense.from_logits",
            )
        return target.log_probs.astype(at_least_float32(target.log_probs.dtype)), None
    if isinstance(target, Softened):
        return target, None
    return soften(operator, _without_dead_rows(target, live), t), None  # type: ignore[arg-type]


def _without_dead_rows(target: TopK | Samples, live: Array) -> TopK | Samples:
    """Rows of weight 0 as rows of nothing but padding: they may hold anything."""
    ids = jnp.where(live[..., None], target.ids, PADDING)
    if isinstance(target, Samples):
        weights = jnp.where(live[..., None], target.weights, 0)
        return dataclasses.replace(target, ids=ids, weights=weights)
    return dataclasses.replace(
        target,
        ids=ids,
        log_probs=jnp.where(live[..., None], target.log_probs, -jnp.inf),
        tail_mass=jnp.where(live, target.tail_mass, 1),
        num_ranked=jnp.where(live, target.num_ranked, 0),
    )


def _require_tail(
    target: Any, tail: str | None, metric: Divergence, soften_student: bool, operator: Operator
) -> None:
    """What a target seen in part asks of the other arguments."""
    if not (isinstance(target, TopK | Samples) or (isinstance(target, Softened) and target.ids is not None)):
        if tail is not None:
            raise ValueError(f"tail is {tail!r}, but the target shows all tokens; leave tail out")
        return
    if tail is None or tail == "sampled":
        raise ValueError(
            "the target is seen in part: say what its unseen tokens are, by tail='uniform' (of which "
            "'sampled' would be an estimate), 'bounds', 'bucket' or 'renormalized-top-k'"
        )
    require_tail_policy(tail)
    if metric is not kl_from_logs:
        raise ValueError("of a target seen in part only divergence='forward-kl' is known")
    if soften_student and type(operator) is not PowerTransform:
        raise ValueError(
            "both sides of a target seen in part are softened by power only; take soften_student=False"
        )
