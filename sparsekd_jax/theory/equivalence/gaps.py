"""When two softening operators train the same student: what a student on given features sees of them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax._refusals import refuse
from sparsekd_jax.operators import Operator
from sparsekd_jax.operators._softening import on_rows, soften
from sparsekd_jax.theory._rows import distributions

Temperatures = float | tuple[float, float]
"""One temperature for both operators, or one each."""


@dataclasses.dataclass(frozen=True)
class Gap:
    """What a student on features X sees of the difference of two softened teachers.

    Attributes:
        value: ``‖Xᵀ(F(P) − G(P))‖`` (Frobenius), divided by N for the mean loss; 0 iff the two train the same
            student. In the unit of X.
        target_distance: ``‖F(P) − G(P)‖``, root mean square over rows.
        rank: rank of X; of tangent features, what is left of it for logits up to a shift.
        full_rank: whether X has N independent rows (tangent features: rank N(K − 1)); then a gap of 0
            forces F(P) = G(P).
        distance_per_gap: ``‖F(P) − G(P)‖_rms ≤ distance_per_gap·value`` where ``full_rank``; else inf.
        reduction: whether the loss it belongs to is the mean or the sum over rows.
    """

    value: float
    target_distance: float
    rank: int
    full_rank: bool
    distance_per_gap: float
    reduction: Literal["mean", "sum"]

    def student_bound(self, mu: float) -> float:
        """``gap/μ``, a bound on the distance of the weights of the two ridge students.

        Args:
            mu: the ridge (μ/2)‖w‖² added to the loss of the same ``reduction``.

        Raises:
            ValueError: mu ≤ 0: without a ridge the weights have no bound, only predictions agree at gap 0.
        """
        if not 0 < mu < math.inf:
            raise ValueError(f"mu is {mu}; the bound gap/mu needs a ridge mu > 0")
        return self.value / mu


def gap(
    first: Operator,
    second: Operator,
    probabilities: Float[ArrayLike, "N K"],
    features: Float[ArrayLike, "N d"] | Float[ArrayLike, "N K D"],
    temperature: Temperatures,
    *,
    reduction: Literal["mean", "sum"] = "mean",
) -> Gap:
    """The gap ``‖Xᵀ(F_T(P) − G_S(P))‖/N`` of two operators on a teacher, for linear-softmax students on X.

    Cross-entropy to targets over such students depends on the targets through XᵀF(P) alone, the student side
    being unsoftened. So at gap 0 the two students agree on X (their weights up to a shift of all classes and
    null(X)); with a ridge μ their weights differ by at most gap/μ.

    Args:
        first: F.
        second: G.
        probabilities: P, the teacher, ``[N, K]``.
        features: X, ``[N, d]``; or `tangent_features` ``[N, K, D]``, where the statements are theorems for
            the linearised model and measurements for the network.
        temperature: T for both, or the pair (T of F, S of G).
        reduction: of the loss that the ridge is added to: "mean" (the gap is divided by N) or "sum".

    Returns:
        A `Gap`, in float64 whatever the setting of the process.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, rows that are no distributions,
            a temperature that an operator does not take.

    Reference: theory.md section 5.

    >>> from sparsekd_jax.operators import ConvexMixture, PowerTransform
    >>> p = np.array([[0.9, 0.1], [0.1, 0.9]])
    >>> found = gap(PowerTransform(), ConvexMixture(), p, np.ones((2, 1)), 2.0)
    >>> round(found.value, 12), round(found.target_distance, 3), found.full_rank
    (0.0, 0.071, False)
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}; it is 'mean' or 'sum', as in the loss of the student")
    p, x = checked_teacher(probabilities, features)
    at_first, at_second = pair(temperature)
    difference = soften(first, p, at_first) - soften(second, p, at_second)
    scale = 1 / len(p) if reduction == "mean" else 1.0
    singular, needed = _spectrum(x)
    rank = int(np.sum(singular > singular.max() * np.finfo(float).eps * max(x.size // len(x), len(x))))
    full = rank == needed
    return Gap(
        value=scale * float(np.linalg.norm(pull_back(x, difference))),
        target_distance=float(np.linalg.norm(difference)) / math.sqrt(len(p)),
        rank=rank,
        full_rank=full,
        distance_per_gap=float(1 / (scale * singular[needed - 1] * math.sqrt(len(p)))) if full else math.inf,
        reduction=reduction,
    )


def gap_norm(
    first: Operator,
    second: Operator,
    probabilities: Float[Array, "N K"],
    features: Float[Array, "N d"] | Float[Array, "N K D"],
    temperature: ArrayLike | tuple[ArrayLike, ArrayLike],
) -> Float[Array, ""]:
    """``‖Xᵀ(F_T(P) − G_S(P))‖/N`` in jax: the value of `gap`, to jit, vmap and differentiate.

    Args:
        first: F.
        second: G; a pytree of hyper-parameters, which may be traced.
        probabilities: P, ``[N, K]``, taken as it is.
        features: X, ``[N, d]`` or ``[N, K, D]``, taken as it is.
        temperature: T for both, or the pair (T of F, S of G).

    Returns:
        Scalar in the dtype of P. At 0 there is no derivative: it is a norm.

    Reference: theory.md section 5.

    >>> from sparsekd_jax.operators import ConvexMixture, PowerTransform
    >>> p, x = jnp.array([[0.9, 0.1]]), jnp.ones((1, 1))
    >>> slope = jax.grad(lambda s: gap_norm(PowerTransform(), ConvexMixture(), p, x, (2.0, s)))
    >>> float(slope(1.5)) < 0 < float(slope(1.7))    # 1.6 is nearest
    True
    """
    at_first, at_second = temperature if isinstance(temperature, tuple) else (temperature, temperature)
    difference = on_rows(first, probabilities, at_first) - on_rows(second, probabilities, at_second)
    seen = features.T @ difference if features.ndim == 2 else jnp.einsum("nkd,nk->d", features, difference)
    return jnp.linalg.norm(seen) / len(probabilities)


def moment_gap(
    first: Operator,
    second: Operator,
    probabilities: Float[ArrayLike, "N K"],
    statistic: Float[ArrayLike, "K r"],
    temperature: Temperatures,
) -> np.ndarray:
    """``‖Aᵀ(F_T(p) − G_S(p))‖`` for each row: 0 iff both train the same member of an exponential family.

    The family is ``q_θ ∝ exp(Aθ)``; cross-entropy to F(p) over it depends on the target through AᵀF(p) alone.

    Args:
        first: F.
        second: G.
        probabilities: rows p, ``[N, K]``.
        statistic: A, ``[K, r]``.
        temperature: T for both, or the pair (T of F, S of G).

    Returns:
        ``[N]``, numpy float64.

    Raises:
        ValueError: shapes that do not fit, a statistic that is not finite, rows that are no distributions, a
            temperature that an operator does not take.

    Reference: theory.md section 5.

    >>> from sparsekd_jax.operators import ConvexMixture, PowerTransform
    >>> p = np.array([[0.2, 0.6, 0.2]])
    >>> mean_only = np.array([[-1.0], [0.0], [1.0]])
    >>> round(float(moment_gap(PowerTransform(), ConvexMixture(), p, mean_only, 2.0)[0]), 12)
    0.0
    """
    p, a = distributions(probabilities, "probabilities"), np.asarray(statistic, np.float64)
    if p.ndim != 2 or len(p) == 0 or a.ndim != 2 or p.shape[1] != len(a):
        raise ValueError(f"probabilities {p.shape}, statistic {a.shape}: need [N, K] and [K, r]")
    refuse(~np.isfinite(a).all(-1), "statistic", lambda i: "is not finite")
    at_first, at_second = pair(temperature)
    return np.linalg.norm((soften(first, p, at_first) - soften(second, p, at_second)) @ a, axis=-1)


def tangent_features(
    apply: Callable[[Any, Any], Float[Array, "N K"]], params: Any, x: Any
) -> Float[Array, "N K D"]:
    """Derivatives of the logits in the parameters: the features of the linearised model.

    Args:
        apply: ``(params, x) -> logits [N, K]``, traceable; an NNX model by ``nnx.split`` and ``nnx.merge``.
        params: pytree of float arrays, D numbers in all.
        x: inputs.

    Returns:
        ``[N, K, D]``, in the dtype of the logits; N·K·D numbers, so for small models or few rows. For
        ``x @ w`` they are x_i ⊗ I, and `gap` with them equals `gap` with x.

    Reference: theory.md section 5.

    >>> tangent_features(lambda w, x: x @ w, jnp.ones((3, 2)), jnp.ones((4, 3))).shape
    (4, 2, 6)
    """
    leaves = jax.tree.leaves(jax.jacrev(apply)(params, x))
    dtype = jnp.result_type(*leaves)
    return jnp.concatenate([leaf.astype(dtype).reshape(*leaf.shape[:2], -1) for leaf in leaves], axis=-1)


# -- shared with the modules beside this one ----------------------------------------------------------


def pull_back(x: np.ndarray, targets: Float[np.ndarray, "N K"]) -> np.ndarray:
    """XᵀT: ``[d, K]`` for features ``[N, d]``, ``[D]`` for tangent features ``[N, K, D]``."""
    return x.T @ targets if x.ndim == 2 else np.einsum("nkd,nk->d", x, targets)


def checked_teacher(probabilities: ArrayLike, features: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """P and X in float64, or an error that names what does not fit."""
    p, x = distributions(probabilities, "probabilities"), np.asarray(features, np.float64)
    fits = p.ndim == 2 and x.ndim in (2, 3) and len(x) == len(p) > 0 and x.shape[-1] > 0
    if not fits or (x.ndim == 3 and x.shape[1] != p.shape[1]):
        raise ValueError(f"probabilities {p.shape}, features {x.shape}: need [N, K] and [N, d] or [N, K, D]")
    refuse(~np.isfinite(x).reshape(len(x), -1).all(-1), "features", lambda i: "is not finite")
    return p, x


def pair(temperature: Temperatures) -> tuple[float, float]:
    """(T of F, S of G)."""
    if np.shape(temperature) == ():
        return temperature, temperature  # type: ignore[return-value]
    if np.shape(temperature) != (2,):
        raise ValueError(f"temperature is {temperature}; give one for both, or the pair (T of F, S of G)")
    first, second = temperature  # type: ignore[misc]
    return first, second


def _spectrum(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Singular values of X on what targets can differ by, and how many of them pin the targets down."""
    if x.ndim == 2:
        return np.linalg.svd(x, compute_uv=False), len(x)
    centred = x - x.mean(axis=1, keepdims=True)  # targets differ by rows that sum to 0
    rows = centred.reshape(-1, x.shape[2])
    return np.linalg.svd(rows, compute_uv=False), len(x) * (x.shape[1] - 1)
