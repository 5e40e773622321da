"""Private labels: distributions kept away from zero, labels drawn through a softener, and their audit."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from sparsekd_jax import simplex
from sparsekd_jax._numerics import at_least_float32
from sparsekd_jax._refusals import refuse, require_key, require_level, whole
from sparsekd_jax.operators import Operator, SofteningOperator
from sparsekd_jax.operators._softening import on_rows
from sparsekd_jax.targets.text_only import clopper_pearson
from sparsekd_jax.theory.privacy.epsilon import require_floor


def clip(p: Float[ArrayLike, "*batch K"], floor: float) -> Float[Array, "*batch K"]:
    """Euclidean projection onto the distributions with ``p_i ≥ δ``: ``max(p − τ, δ)``, τ such that Σ = 1.

    It leaves a row alone that has no smaller entry and moves any other as little as can be. The order of
    classes stays, but for those that end at δ: what they were is gone. Raising entries to δ and dividing by
    their sum is no substitute, as the division takes them below δ again. Mixing is another map: the convex
    mixture ``(1 − Kδ)p + δ``, `operators.ConvexMixture` at ``T = 1/(1 − Kδ)``, has the same floor and moves
    every row but the uniform one.

    Args:
        p: ``[..., K]``.
        floor: δ in [0, 1/K], a Python number.

    Returns:
        ``[..., K]`` with every entry ≥ δ as its dtype rounds it, in the dtype of p.

    Raises:
        ValueError: δ out of range, or rows that are no distributions.

    Reference: theory.md section 7; `simplex.project`.

    >>> [round(x, 3) for x in clip(jnp.array([0.94, 0.06, 0.0]), 0.05).tolist()]
    [0.9, 0.05, 0.05]
    """
    simplex.require_probabilities(p)
    rows = jnp.asarray(p)
    num_classes = rows.shape[-1]
    require_floor(floor, num_classes)
    left = 1 - num_classes * float(floor)
    if left <= 1e-12:
        return jnp.full_like(rows, 1 / num_classes)
    return _clip(rows, float(floor), left)


@jax.jit
def _clip(rows: Array, floor: Array, left: Array) -> Array:
    wide = at_least_float32(rows.dtype)
    x, least, scale = (jnp.asarray(value).astype(wide) for value in (rows, floor, left))
    clipped = least + scale * simplex.project((x - least) / scale)
    inside = jnp.min(x, axis=-1, keepdims=True) >= least
    return jnp.where(inside, x, clipped).astype(rows.dtype)


def sample_labels(
    key: Array, operator: Operator, p: Float[ArrayLike, "*batch K"], temperature: ArrayLike, num_labels: int
) -> Int[Array, "*batch n"]:
    """Independent labels from F_T(p): randomised response through a softener.

    Each label has the ε of `local_epsilon`, n labels of one row together that of `compose`. Where ε needs a
    floor, draw from ``clip(p, δ)``.

    Args:
        key: a random key, secret and never used again.
        operator: a softening operator, or a plain jax function ``(p, T) -> q`` of one row.
        p: ``[..., K]``; bfloat16 and float16 are softened and drawn in float32.
        temperature: T, a scalar or one a row.
        num_labels: n ≥ 1 for each row.

    Returns:
        ``[..., n]`` int32 in [0, K). Under ``jit`` num_labels is static.

    Raises:
        ValueError: what the operator refuses, or an n < 1.
        TypeError: a key that is none, such as a seed, or an n that is no whole number.

    Probabilities are those of the dtype: in float32 a class below about 1e-7 is not drawn as often as it
    should, and T − 1 is off by 2e-4 of itself at T = 1.0001. ε allows for neither: pass float64 rows there.

    >>> from sparsekd_jax import operators
    >>> op = operators.get("mixture")
    >>> sample_labels(jax.random.key(0), op, jnp.array([[1.0, 0.0], [0.0, 1.0]]), 1.001, 3).tolist()
    [[0, 0, 0], [1, 1, 1]]
    """
    require_key(key)
    num_labels = whole("num_labels", num_labels)
    simplex.require_probabilities(p)
    rows = jnp.asarray(p)
    if rows.dtype.itemsize < 4:  # softened in a narrow dtype the probabilities would be off by its rounding
        rows = simplex.normalize(rows.astype(jnp.float32))
    softened = on_rows(operator, rows, temperature)
    if not isinstance(operator, SofteningOperator):
        simplex.require_probabilities(softened, "operator(p, T)")
    return _draw(key, softened, num_labels)


def _out_of_range(drawn: np.ndarray, row: tuple[int, ...]) -> str:
    return f"the label is {drawn[row]}; labels are in [0, K)"


@functools.partial(jax.jit, static_argnums=2)
def _draw(key: Array, probs: Array, num_labels: int) -> Array:
    shape = (num_labels, *probs.shape[:-1])
    labels = jax.random.categorical(key, simplex.safe_log(probs), axis=-1, shape=shape)
    return jnp.moveaxis(labels.astype(jnp.int32), 0, -1)


def audit(
    labels: Int[ArrayLike, " n"], other: Int[ArrayLike, " m"], num_classes: int, *, level: float = 0.95
) -> float:
    """A lower bound of ε from labels drawn of two inputs: what an observer can already tell apart.

    ``max_i log(low_i/high'_i)`` over classes and both directions, of Clopper and Pearson's bounds, each at
    ``(1 − level)/(4K)``: with probability ≥ level it does not exceed the ε of the sampler. Above the
    certified ε it convicts the sampler; below it acquits of nothing, as other inputs may tell more.

    Args:
        labels: ``[n]``, independent labels of one input, in [0, K).
        other: ``[m]``, of another.
        num_classes: K.
        level: confidence in (0, 1).

    Returns:
        The bound in nats, at least 0.

    Raises:
        ValueError: no labels, labels out of range, or a level outside (0, 1).

    Reference: Clopper & Pearson (1934); Jagielski, Ullman & Oprea (2020) for audits of privacy.

    >>> round(audit(np.zeros(1000, int), np.ones(1000, int), 2), 2)
    5.28
    """
    require_level(level)
    whole("num_classes", num_classes, least=2)
    counts = []
    for name, drawn in (("labels", np.asarray(labels)), ("other", np.asarray(other))):
        if drawn.ndim != 1 or not drawn.size or not np.issubdtype(drawn.dtype, np.integer):
            raise ValueError(
                f"{name} has shape {drawn.shape} and dtype {drawn.dtype}; they are whole numbers [n]"
            )
        refuse((drawn < 0) | (drawn >= num_classes), name, functools.partial(_out_of_range, drawn))
        counts.append(np.bincount(drawn, minlength=num_classes))
    miss = (1 - level) / (4 * num_classes)
    (low, high), (other_low, other_high) = (clopper_pearson(count, 1 - 2 * miss) for count in counts)
    ratios = np.concatenate([low / other_high, other_low / high])
    return max(0.0, math.log(float(ratios.max()))) if ratios.max() > 0 else 0.0
