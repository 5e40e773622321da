"""Slopes of softening operators: the Jacobian along the simplex, and Lipschitz constants in L1 and L2."""

import dataclasses
import functools
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax._refusals import is_traced, refuse, whole
from sparsekd_jax.operators import ConvexMixture, PowerTransform, TsallisSoftening, reciprocal_schedule
from sparsekd_jax.operators._softening import on_rows
from sparsekd_jax.operators.base import Operator, SofteningOperator, operator_name, require_operator
from sparsekd_jax.targets.text_only import is_affine
from sparsekd_jax.theory._rows import rows_of

# Of the search. Nearer the boundary than e^FLOOR = 1.5e-8 the rounding of p shows in the derivative by AD.
_POINTS, _SURVIVORS, _ROUNDS, _FLOOR = 2048, 64, 12, -18.0


@dataclasses.dataclass(frozen=True, eq=False)
class Lipschitz:
    """How far apart an operator can move two distributions, per distance between them.

    Attributes:
        operator: its name.
        temperature: T.
        norm: 1 or 2, of distances between distributions.
        value: the constant at ``p``; for kind "lower bound" the greatest that a search found.
        kind: "local", the operator norm of J along the simplex at p; or "lower bound" of the global constant.
        p: ``[K]``, where.
        certified: the closed form of the global constant (the least for every K); inf if there is no finite
            one; None where no closed form is known.
    """

    operator: str
    temperature: float
    norm: Literal[1, 2]
    value: float
    kind: Literal["local", "lower bound"]
    p: np.ndarray
    certified: float | None

    def __str__(self) -> str:
        known = "not known in closed form" if self.certified is None else f"{self.certified:.6g} (certified)"
        what = "at" if self.kind == "local" else "at least, searched; found at"
        where = ", ".join(f"{x:.3g}" for x in self.p)
        return (
            f"{self.operator} at T = {self.temperature:g} in L{self.norm}: {self.value:.6g} {what} p = "
            f"({where}); global: {known}"
        )


def jacobian(
    operator: Operator, p: Float[ArrayLike, "*batch K"], temperature: float | Array
) -> Float[np.ndarray, "*batch K K"]:
    """Derivative of an operator along the simplex, ``J_ij = ∂F_i/∂p_j`` with ``J·1 = 0``.

    Only directions that keep Σp are directions of the simplex. AD also sees how a formula is continued off
    it, so its result is multiplied by ``I − 11ᵀ/K``; columns sum to 0. Power:
    ``(1/T)(diag q − qqᵀ)diag(1/p)``, mixture: ``I/T``, both so projected.

    Args:
        operator: a softening operator, or a plain jax function ``(p, T) -> q``.
        p: ``[..., K]``; with zeros only if the operator claims to be affine, or is a plain function.
        temperature: scalar T.

    Returns:
        ``[..., K, K]``, numpy float64; from traced arguments, which cannot be looked at and are not
        validated, a jax array in the dtype of p.

    Raises:
        TypeError: a function that jax cannot trace, such as numpy code.
        ValueError: no distributions, a temperature out of range, a zero of p that AD cannot answer for, or
            a derivative that is not finite.

    Reference: theory.md section 3.

    >>> from sparsekd_jax import operators
    >>> jacobian(operators.get("mixture"), [0.7, 0.3], 2.0).round(4).tolist()
    [[0.25, -0.25], [-0.25, 0.25]]
    """
    if is_traced(operator, p, temperature):
        given = jnp.asarray(p)
        flat = given.reshape(-1, given.shape[-1])
        t = jnp.asarray(temperature).astype(given.dtype)
        traced = _compiled_jacobians(_batched(operator), flat, t).reshape(*given.shape, -1)
        return traced
    rows = rows_of(operator, p, temperature)  # type: ignore[arg-type]
    return face_jacobians(operator, _inside(operator, rows, float(temperature)), float(temperature))


def trichotomy(alpha: float, temperature: float) -> float:
    """The L1 Lipschitz constant of Tsallis-α softening on the whole simplex, for every K, T ≥ 1.

    ``T^{1/(1−α)}`` for α < 1; infinite for 1 ≤ α < 2 and T > 1, from the slope at zeros (α = 1 is power);
    ``T^{−1/(α−1)} ≤ 1`` for α ≥ 2 (α = 2 is the mixture, 1/T). It is the least that serves every K; for α > 2
    a given K does with less (α = 2.5, T = 2: .500 at K = 2, .605 at K = 5, .6296 at K = 50, of .6300).

    Args:
        alpha: α > 0.
        temperature: T ≥ 1.

    Returns:
        The constant, 1 at T = 1; inf also where float64 does not hold it, as for α a little below 1.

    Raises:
        ValueError: α ≤ 0 or T < 1, where it does not hold.

    Reference: theory.md section 2.

    >>> trichotomy(0.5, 2.0), trichotomy(1.0, 2.0), trichotomy(2.0, 2.0)
    (4.0, inf, 0.5)
    """
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha is {alpha}; Tsallis softening takes 0 < alpha < ∞")
    if not 1 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; the trichotomy holds for T in [1, ∞)")
    if temperature == 1:
        return 1.0
    if alpha < 1:
        with np.errstate(over="ignore"):
            return float(np.float64(temperature) ** (1 / (1 - alpha)))
    return math.inf if alpha < 2 else temperature ** (-1 / (alpha - 1))


def lipschitz(
    operator: Operator,
    temperature: float,
    p: Float[ArrayLike, " K"] | None = None,
    *,
    norm: Literal[1, 2] = 1,
    num_classes: int = 3,
    seed: int = 0,
) -> Lipschitz:
    """The Lipschitz constant of F_T at p, or the greatest that a search of the simplex finds.

    At p it is ``sup ‖Jv‖/‖v‖`` over v with Σv = 0. In L1 the extreme v move mass from one class to another,
    so it is ``max_{i<j} ‖J(e_i − e_j)‖₁/2``, exactly; in L2 the largest singular value of J.

    Args:
        operator: a softening operator, or a plain jax function ``(p, T) -> q``.
        temperature: scalar T.
        p: ``[K]`` for the local constant; None for the search.
        norm: 1 or 2.
        num_classes: K of the search.
        seed: of the search.

    Returns:
        A `Lipschitz`. The searched value is a LOWER bound of the global constant; where that is infinite it
        only says how near the boundary the search went. Points with a derivative that is not finite are
        passed over.

    Raises:
        ValueError: as `jacobian`; a norm other than 1 and 2.

    Reference: theory.md sections 2 and 3.

    >>> from sparsekd_jax import operators
    >>> print(lipschitz(operators.get("power"), 2.0, [0.01, 0.99]))
    power at T = 2 in L1: 4.19116 at p = (0.01, 0.99); global: inf (certified)
    """
    _require_norm(norm)
    if p is not None:
        if np.ndim(p) != 1:
            raise ValueError(f"p has shape {np.shape(p)}; here it is one distribution, [K]")
        where = np.asarray(p, np.float64)
        value = float(_operator_norms(jacobian(operator, p, temperature)[None], norm)[0])
    else:
        whole("num_classes", num_classes, least=2)
        value, where = _search(operator, temperature, norm, num_classes, np.random.default_rng(seed))
    return Lipschitz(
        operator=operator_name(operator),
        temperature=float(temperature),
        norm=norm,
        value=value,
        kind="lower bound" if p is None else "local",
        p=where,
        certified=certified_lipschitz(operator, temperature, norm),
    )


# -- the search and the closed forms ----------------------------------------------------------------------


def _require_norm(norm: int) -> None:
    if norm not in (1, 2):
        raise ValueError(f"norm is {norm!r}; it is 1 or 2")


def _operator_norms(slopes: np.ndarray, norm: int) -> np.ndarray:
    """Norms ``[N]`` of projected Jacobians ``[N, K, K]`` along the simplex."""
    if norm == 2:
        return np.linalg.norm(slopes, ord=2, axis=(-2, -1))
    # One source class at a time: all pairs at once would be K times the memory.
    columns = range(slopes.shape[-1])
    moves = (np.abs(slopes - slopes[..., j : j + 1]).sum(axis=-2).max(axis=-1) for j in columns)
    return functools.reduce(np.maximum, moves) / 2


def _search(
    operator: Operator, temperature: float, norm: int, num_classes: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """Random points from the centre to 1e-8 of the boundary, then the best of them moved about."""
    jacobian(operator, np.full(num_classes, 1 / num_classes), temperature)  # refuses what cannot be searched
    logits = rng.geometric(0.5, (_POINTS, 1)) * 2.0 * rng.normal(size=(_POINTS, num_classes))
    logits = np.maximum(logits - logits.max(-1, keepdims=True), _FLOOR)
    kept, best = logits[:0], np.empty(0)
    scale = 2.0
    for _ in range(_ROUNDS):
        weights = np.exp(logits)
        slopes = _jacobians_unchecked(operator, weights / weights.sum(-1, keepdims=True), temperature)
        finite = np.isfinite(slopes).all((-2, -1))
        values = np.where(finite, _operator_norms(np.where(finite[:, None, None], slopes, 0), norm), -np.inf)
        kept, best = np.concatenate([kept, logits]), np.concatenate([best, values])
        top = np.argsort(-best)[:_SURVIVORS]
        kept, best = kept[top], best[top]
        logits = np.repeat(kept, _POINTS // _SURVIVORS, axis=0)
        logits = logits + scale * rng.normal(size=logits.shape)
        logits = np.maximum(logits - logits.max(-1, keepdims=True), _FLOOR)
        scale *= 0.6
    weights = np.exp(kept[0])
    return float(best[0]), weights / weights.sum()


def certified_lipschitz(operator: Operator, temperature: float, norm: int) -> float | None:
    """The global constant, from the trichotomy and, for L2, the mixture or the equivalence of norms.

    Args:
        operator: a softening operator, or a plain function.
        temperature: scalar T.
        norm: 1 or 2.

    Returns:
        The constant; inf if there is no finite one; None where no closed form is known.

    Raises:
        ValueError: a norm other than 1 and 2.

    >>> from sparsekd_jax import operators
    >>> [certified_lipschitz(operators.get(name), 2.0, 1) for name in ("power", "mixture")]
    [inf, 0.5]
    """
    require_operator(operator)
    _require_norm(norm)
    if isinstance(operator, PowerTransform):
        alpha = 1.0
    elif isinstance(operator, TsallisSoftening):
        alpha = float(operator.alpha)  # type: ignore[arg-type]
    elif isinstance(operator, ConvexMixture) and operator.schedule is reciprocal_schedule:
        alpha = 2.0
    else:
        return None
    if temperature < 1:
        return None
    constant = trichotomy(alpha, float(temperature))
    return constant if norm == 1 or alpha == 2 or constant in (1.0, math.inf) else None


# -- derivatives of rows ----------------------------------------------------------------------------------


def _batched(operator: Operator) -> Any:
    """An argument of a compiled function on rows ``[N, K]``; a plain function need not know batches."""
    if isinstance(operator, SofteningOperator):
        return operator
    return jax.tree_util.Partial(on_rows, jax.tree_util.Partial(operator))


def _inside(operator: Operator, rows: np.ndarray, temperature: float) -> np.ndarray:
    """Rows at which AD sees the whole slope: at a zero an operator's derivative by AD is that along the face.

    An affine operator has one slope everywhere, so a row with zeros may be moved to the centre.
    """
    zeros = (rows == 0).any(-1)
    if not isinstance(operator, SofteningOperator) or not zeros.any():
        return rows
    if is_affine(operator, temperature):
        return np.where(zeros[..., None], 1 / rows.shape[-1], rows)
    refuse(
        zeros,
        "p",
        lambda i: (
            f"class {int(np.argmax(rows[i] == 0))} has probability 0, where AD sees the slope of "
            f"{operator.name} only along the face (and it may be infinite): drop the class, or move p inside"
        ),
    )
    return rows


@jax.jit
def _compiled_jacobians(operator: Any, rows: Array, temperature: Array) -> Array:
    k = rows.shape[-1]
    along = jnp.eye(k, dtype=rows.dtype) - 1 / k
    # Rows do not see one another, so one shift of all of them has every Jacobian for its derivative.
    shift = jnp.zeros((1, k), rows.dtype)
    slopes = jax.jacfwd(lambda x: operator(rows + x, temperature))(shift)
    return slopes[..., 0, :] @ along[None]


def _jacobians_unchecked(operator: Operator, rows: np.ndarray, temperature: float) -> np.ndarray:
    """Projected Jacobians of rows ``[N, K]`` by AD, along the face at zeros; not finite where AD is not."""
    with jax.enable_x64(True):
        arguments = (_batched(operator), jnp.asarray(rows), jnp.asarray(temperature, jnp.float64))
        try:
            return np.asarray(_compiled_jacobians(*arguments))
        except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError):
            raise TypeError(
                f"operator: jax cannot trace {operator_name(operator)}, so it has no slope here: write it in "
                "jax.numpy, without Python conditions on p or T, or take method='exact' where there is one"
            ) from None


def face_jacobians(operator: Operator, rows: np.ndarray, temperature: float) -> np.ndarray:
    """Projected Jacobians of rows ``[..., K]`` by AD, along the face at zeros; refused if not finite."""
    flat = rows.reshape(-1, rows.shape[-1])
    out = _jacobians_unchecked(operator, flat, temperature).reshape(*rows.shape, -1)
    refuse(
        ~np.isfinite(out).all((-1, -2)),
        "p",
        lambda i: f"the derivative of {operator_name(operator)} is not finite at {rows[i].tolist()}",
    )
    return out
