"""The variance of a softened empirical target, in three ways, and its map over three classes."""

import dataclasses
import math
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax._refusals import is_traced, refuse, whole
from sparsekd_jax.operators import Operator, SofteningOperator
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.operators.base import operator_name
from sparsekd_jax.theory._rows import rows_of
from sparsekd_jax.theory.variance.samples import compositions, outcomes_of, sampled_counts
from sparsekd_jax.theory.variance.slopes import face_jacobians, jacobian

Method = Literal["delta", "monte-carlo", "both", "exact"]


@dataclasses.dataclass(frozen=True, eq=False)
class ClassVariances:
    """The variance of a random distribution, by class; with standard errors where it was sampled.

    Attributes:
        per_class: ``[K]``, the variance of each coordinate.
        standard_error: ``[K]``, of each of them, or None.
        total_error: standard error of the total, or None.
    """

    per_class: np.ndarray
    standard_error: np.ndarray | None = None
    total_error: float | None = None

    @property
    def total(self) -> float:
        """Trace of the covariance."""
        return float(self.per_class.sum())


@dataclasses.dataclass(frozen=True, eq=False)
class Amplification:
    """The variance of an empirical target of n samples before and after softening.

    Attributes:
        operator: its name.
        temperature: T.
        p: ``[K]``, what is sampled from.
        num_draws: n.
        before: of p̂, exactly ``p(1 − p)/n``.
        delta: of F_T(p̂) to first order in 1/n, or None if not asked for.
        monte_carlo: of F_T(p̂) from draws, with standard errors, or None.
        exact: of F_T(p̂) from all possible samples, or None.
    """

    operator: str
    temperature: float
    p: np.ndarray
    num_draws: int
    before: ClassVariances
    delta: ClassVariances | None = None
    monte_carlo: ClassVariances | None = None
    exact: ClassVariances | None = None

    def ratio(self, after: ClassVariances | None = None) -> np.ndarray:
        """``[K]``, variance after over before in each class; 1 for a class without any, inf if it gains some.

        Args:
            after: one of the fields; by default the most reliable there is: exact, sampled, delta.
        """
        new, old = self._best(after).per_class, self.before.per_class
        bare = old == 0
        return np.where(bare, np.where(new > 0, np.inf, 1.0), new / np.where(bare, 1, old))

    def total_ratio(self, after: ClassVariances | None = None) -> float:
        """Total variance after over before; above 1 the operator amplifies."""
        return self._best(after).total / self.before.total

    def _best(self, after: ClassVariances | None) -> ClassVariances:
        best = after or self.exact or self.monte_carlo or self.delta
        assert best is not None  # one method always ran
        return best

    def __str__(self) -> str:
        methods = {"exact": self.exact, "delta": self.delta, "Monte Carlo": self.monte_carlo}
        ran = {name: after for name, after in methods.items() if after is not None}
        lines = [f"{self.operator} at T = {self.temperature:g}, n = {self.num_draws}"]
        lines.append("  class         p    before" + "".join(f"{name:>22}" for name in ran))
        for k, mass in enumerate(self.p):
            cells = [f"{v.per_class[k]:.3e} (×{self.ratio(v)[k]:.3g})" for v in ran.values()]
            row = f"  {k:>5} {mass:>9.4g} {self.before.per_class[k]:.3e}"
            lines.append(row + "".join(f"{cell:>22}" for cell in cells))
        cells = [f"{v.total:.3e} (×{self.total_ratio(v):.3g})" for v in ran.values()]
        lines.append(f"  total           {self.before.total:.3e}" + "".join(f"{cell:>22}" for cell in cells))
        if self.monte_carlo is not None:
            lines.append(f"  standard error of the Monte Carlo total: {self.monte_carlo.total_error:.1e}")
        return "\n".join(lines)


def variance_amplification(
    operator: Operator,
    p: Float[ArrayLike, " K"],
    temperature: float,
    num_draws: int,
    *,
    method: Method = "delta",
    key: Array | None = None,
    draws: int = 20_000,
) -> Amplification:
    """Variance of a softened empirical target of n samples, beside that of the target itself.

    ``delta``: ``diag(J Cov(p̂) Jᵀ)``, the leading term for large n. ``monte-carlo``: from draws of p̂.
    ``both``: side by side. ``exact``: the sum over all C(n+K−1, K−1) possible samples.

    Args:
        operator: a softening operator, or a plain jax function ``(p, T) -> q``.
        p: ``[K]``, what the n labels are drawn from.
        temperature: scalar T.
        num_draws: n ≥ 1.
        method: which of the above.
        key: a random key, for "monte-carlo" and "both".
        draws: how many p̂, at least 2.

    Returns:
        An `Amplification`.

    Raises:
        TypeError: numbers of draws that are not whole.
        ValueError: no distribution, a vertex (nothing varies), a missing key, too many samples to enumerate,
            or a sample with an empty class where the operator is not defined on the boundary.

    Samples with empty classes are ordinary for an operator defined there. The delta method does not see them:
    it looks at p only, along the face of p if that has zeros.

    Reference: theory.md section 3.

    >>> from sparsekd_jax import operators
    >>> print(variance_amplification(operators.get("power"), [0.01, 0.99], 2.0, 1000, method="exact"))
    power at T = 2, n = 1000
      class         p    before                 exact
          0      0.01 9.900e-06     1.838e-04 (×18.6)
          1      0.99 9.900e-06     1.838e-04 (×18.6)
      total           1.980e-05     3.676e-04 (×18.6)
    """
    if method not in ("delta", "monte-carlo", "both", "exact"):
        raise ValueError(f"method is {method!r}; it is 'delta', 'monte-carlo', 'both' or 'exact'")
    if np.ndim(p) != 1:
        raise ValueError(f"p has shape {np.shape(p)}; it is one distribution [K]")
    num_draws, draws = whole("num_draws", num_draws), whole("draws", draws, least=2)
    row = rows_of(operator, p, temperature)
    if row.max() == 1:
        raise ValueError("p is a vertex: every sample is the same, so there is no variance to amplify")
    delta = sampled = exact = None
    if method in ("delta", "both"):
        delta = ClassVariances(delta_variance(operator, row, temperature) / num_draws)
    if method in ("monte-carlo", "both"):
        sampled = _monte_carlo(operator, row, temperature, num_draws, key, draws)
    if method == "exact":
        outcomes, weights = outcomes_of(row[None], num_draws)
        softened = _soften_samples(operator, outcomes / num_draws, temperature)
        exact = ClassVariances(_weighted_variance(weights, softened)[0])
    return Amplification(
        operator=operator_name(operator),
        temperature=float(temperature),
        p=row,
        num_draws=num_draws,
        before=ClassVariances(row * (1 - row) / num_draws),
        delta=delta,
        monte_carlo=sampled,
        exact=exact,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class AmplificationMap:
    """The variance of a softened target over that of the target, over the simplex of three classes.

    ``print`` gives the title of its picture; `plots.variance_map` draws it.

    Attributes:
        operator: its name.
        temperature: T.
        num_draws: n; None in the limit of many.
        points: ``[N, 3]`` distributions.
        ratio: ``[N]``, total variance of F_T(p̂) over that of p̂.
    """

    operator: str
    temperature: float
    num_draws: int | None
    points: np.ndarray
    ratio: np.ndarray

    def __str__(self) -> str:
        samples = "n → ∞" if self.num_draws is None else f"n = {self.num_draws}"
        return f"{self.operator}, T = {self.temperature:g}, {samples}"


def amplification_map(
    operator: Operator, temperature: float, num_draws: int | None = None, *, resolution: int = 48
) -> AmplificationMap:
    """Where on the simplex of three classes an operator raises the variance of its targets, and where not.

    Args:
        operator: a softening operator, or a plain jax function ``(p, T) -> q``.
        temperature: scalar T.
        num_draws: n, up to 600, for the exact ratio; None for the limit of many samples (delta method),
            the only one for an operator that is not defined where a sample has an empty class.
        resolution: points along an edge, at least 3.

    Returns:
        An `AmplificationMap`.

    Raises:
        ValueError: as `variance_amplification`; a resolution below 3.

    Reference:
        theory.md section 3.

    >>> from sparsekd_jax import operators
    >>> found = amplification_map(operators.get("mixture"), 2.0, resolution=4)
    >>> found.ratio.round(6).tolist()
    [0.25, 0.25, 0.25]
    """
    if resolution < 3 or (num_draws is not None and num_draws < 1):
        raise ValueError(
            f"resolution is {resolution} and num_draws {num_draws}; they are ≥ 3, and ≥ 1 or None"
        )
    if num_draws is not None:
        whole("num_draws", num_draws)
    points = compositions(whole("resolution", resolution), 3)
    points = (points[(points > 0).all(-1)] - 1 / 3) / (resolution - 1)  # inside, symmetric, summing to 1
    points = rows_of(operator, points, temperature)
    before = 1 - np.sum(points**2, axis=-1)
    if num_draws is None:
        after = delta_variance(operator, points, temperature).sum(-1)
    else:
        outcomes, weights = outcomes_of(points, num_draws)
        softened = _soften_samples(operator, outcomes / num_draws, temperature)
        after = num_draws * _weighted_variance(weights, softened).sum(-1)
    return AmplificationMap(
        operator=operator_name(operator),
        temperature=float(temperature),
        num_draws=num_draws,
        points=points,
        ratio=after / before,
    )


# -- three ways to a variance ----------------------------------------------------------------------------


def _soften_samples(operator: Operator, samples: np.ndarray, temperature: float) -> np.ndarray:
    """F_T of samples ``[N, K]``, refused where a sample has an empty class and F is not defined there."""
    if isinstance(operator, SofteningOperator) and operator.claims.domain == "interior":
        empty = (samples == 0).any(-1)
        if empty.any():
            raise ValueError(
                f"{int(empty.sum())} of {len(samples)} samples have an empty class, where {operator.name} is "
                "not defined: use method='delta' (num_draws=None for a map), or another operator"
            )
    out = soften(operator, samples, temperature)
    refuse(
        ~np.isfinite(out).all(-1),
        "sample",
        lambda i: f"{operator_name(operator)} gives {out[i].tolist()} for {samples[i].tolist()}",
    )
    return out


def delta_variance(
    operator: Operator, p: Float[ArrayLike, "*batch K"], temperature: float | Array
) -> Float[np.ndarray, "*batch K"]:
    """``diag(J (diag p − ppᵀ) Jᵀ)``: n times the variance of a softened empirical target, for large n.

    Args:
        operator: a softening operator, or a plain jax function ``(p, T) -> q``.
        p: ``[..., K]``.
        temperature: scalar T.

    Returns:
        ``[..., K]`` as `jacobian` returns it: traced arguments give a jax array to differentiate, in p, in T
        or in a hyper-parameter of the operator.

    Raises:
        ValueError: as `jacobian`; zeros of p are no matter, a class of mass 0 never varies.

    Reference: theory.md section 3.

    >>> from sparsekd_jax import operators
    >>> delta_variance(operators.get("mixture"), [0.5, 0.5], 2.0).tolist()
    [0.0625, 0.0625]
    >>> import jax
    >>> total = lambda t: delta_variance(operators.get("mixture"), jnp.array([0.5, 0.5]), t).sum()
    >>> float(jax.grad(total)(2.0))    # of 1/(2T²)
    -0.125
    """
    xnp: Any = np
    if is_traced(operator, p, temperature):
        xnp, rows, slopes = jnp, p, jacobian(operator, p, temperature)
    else:  # a class of mass 0 never varies, so the slope along the face is all that is seen
        rows = rows_of(operator, p, temperature)  # type: ignore[arg-type]
        slopes = face_jacobians(operator, rows, float(temperature))
    mean = xnp.einsum("...ij,...j->...i", slopes, rows)
    # As a sum of squares, Σ_j p_j (J_ij − Σ_k p_k J_ik)²: nothing cancels, nothing turns negative.
    return xnp.einsum("...ij,...j->...i", (slopes - mean[..., None]) ** 2, rows)


def _monte_carlo(
    operator: Operator, p: np.ndarray, temperature: float, n: int, key: Array | None, draws: int
) -> ClassVariances:
    if key is None:
        raise ValueError("the Monte Carlo method draws: give key=jax.random.key(seed)")
    counts = sampled_counts(key, p, n, draws)
    gaps = _soften_samples(operator, counts / n, temperature)
    gaps = gaps - gaps.mean(axis=0)
    unbiased = draws / (draws - 1)
    squares = gaps**2 * unbiased
    totals = squares.sum(axis=1)
    return ClassVariances(
        per_class=squares.mean(axis=0),
        standard_error=squares.std(axis=0, ddof=1) / math.sqrt(draws),
        total_error=float(totals.std(ddof=1)) / math.sqrt(draws),
    )


def _weighted_variance(weights: np.ndarray, softened: np.ndarray) -> np.ndarray:
    """Variance of each class ``[N, K]`` over outcomes ``[M, K]`` weighted ``[N, M]``."""
    centre = softened.mean(axis=0)  # any shift near the values: the second moment then loses no digits
    mean = weights @ (softened - centre)
    return np.maximum(weights @ (softened - centre) ** 2 - mean**2, 0)
