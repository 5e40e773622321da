"""What sampled text can teach: the bias of softened targets, labels needed, and what no estimator can do.

``E F(p̂) = F(p)`` at every p only if F is affine, whatever N: p ↦ E F(p̂) is the Bernstein polynomial of F, and
those fix the affine functions alone. Nor does any other function of the counts help: its expectation is a
polynomial of degree N in p, and power is none.
"""

import dataclasses
import math
from typing import Literal

import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax._refusals import whole
from sparsekd_jax.operators import Operator, SofteningOperator
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.operators.base import operator_name
from sparsekd_jax.targets import text_only
from sparsekd_jax.theory._rows import rows_of
from sparsekd_jax.theory.variance import certified_lipschitz, delta_variance
from sparsekd_jax.theory.variance.samples import outcomes_of, sampled_counts

Estimator = Literal["plug-in", "jackknife"]
Error = Literal["tv", "rmse"]

MIN_EXPECTED_COUNT = 5
"""N·p of the rarest class below which the delta method is not trusted."""

_ESTIMATORS = {"plug-in": text_only.plug_in, "jackknife": text_only.jackknife}


@dataclasses.dataclass(frozen=True, eq=False)
class Bias:
    """How far the expectation of a target from N labels is from the target.

    Attributes:
        value: ``[..., K]``, ``E F̂ − F_T(p)``.
        standard_error: ``[..., K]``, or None where all samples were summed.
    """

    value: np.ndarray
    standard_error: np.ndarray | None = None

    @property
    def worst(self) -> float:
        """The largest size of any coordinate."""
        return float(np.abs(self.value).max())


def bias(
    operator: Operator,
    p: Float[ArrayLike, "*batch K"],
    temperature: float,
    num_draws: int,
    *,
    estimator: Estimator = "plug-in",
    key: Array | None = None,
    draws: int = 20_000,
) -> Bias:
    """Bias of a softened target made from N labels, ``E F̂(counts) − F_T(p)``.

    Without a key the sum over all C(N + K − 1, K − 1) samples, exact to rounding; with one, Monte Carlo.

    Args:
        operator: a softening operator, or a plain function ``(p, T) -> q`` of one row.
        p: ``[..., K]``, what the labels are drawn from.
        temperature: scalar T.
        num_draws: N ≥ 1; 2 for the jackknife.
        estimator: "plug-in" or "jackknife".
        key: a random key, for Monte Carlo.
        draws: how many samples then, a row.

    Returns:
        A `Bias`, with a standard error from Monte Carlo.

    Raises:
        ValueError: no distribution; too many samples to enumerate; or an operator that is not defined where
            a sample has an empty class.

    Reference: theory.md section 6.

    >>> from sparsekd_jax import operators
    >>> bias(operators.get("power"), [0.001, 0.999], 2.0, 100).value.round(4).tolist()
    [-0.0218, 0.0218]
    >>> bias(operators.get("mixture"), [0.001, 0.999], 2.0, 100).worst < 1e-12
    True
    """
    if estimator not in _ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; it is one of {', '.join(map(repr, _ESTIMATORS))}")
    if num_draws < 1 or draws < 2:
        raise ValueError(f"num_draws is {num_draws} and draws {draws}; they are at least 1 and 2")
    whole("num_draws", num_draws)
    whole("draws", draws)
    rows = rows_of(operator, p, temperature)
    shape, flat = rows.shape, rows.reshape(-1, rows.shape[-1])
    truth = soften(operator, flat, temperature)
    if key is None:
        counts, chances = outcomes_of(flat, num_draws)
        found = _ESTIMATORS[estimator](operator, counts, temperature)
        # Of differences, row by row: that the chances sum to 1 only to rounding then costs nothing.
        gaps = [own @ (found - target) for own, target in zip(chances, truth, strict=True)]
        return Bias(np.array(gaps).reshape(shape))
    values, errors = np.empty_like(flat), np.empty_like(flat)
    for i, own in enumerate(jax.random.split(key, len(flat))):
        counts = sampled_counts(own, flat[i], num_draws, draws).astype(np.int64)
        found = _ESTIMATORS[estimator](operator, counts, temperature)
        values[i] = found.mean(0) - truth[i]
        errors[i] = found.std(0, ddof=1) / math.sqrt(draws)
    return Bias(values.reshape(shape), errors.reshape(shape))


def expected_error(
    operator: Operator, p: Float[ArrayLike, " K"], temperature: float, num_draws: int, *, error: Error = "tv"
) -> float:
    """The error of the plug-in of N labels, all samples summed.

    Args:
        operator: a softening operator, or a plain function ``(p, T) -> q`` of one row.
        p: ``[K]``.
        temperature: scalar T.
        num_draws: N ≥ 1.
        error: "tv", ``E ½Σ_i |F(p̂)_i − F(p)_i|``; or "rmse", the largest over i of
            ``√E(F(p̂)_i − F(p)_i)²``.

    Returns:
        The error, in [0, 1].

    Raises:
        ValueError: as `bias`, or an unknown error.

    >>> from sparsekd_jax import operators
    >>> expected_error(operators.get("mixture"), [0.5, 0.5], 2.0, 100, error="rmse")
    0.025
    """
    _require_error(error)
    row = _one_row(operator, p, temperature)
    counts, chances = outcomes_of(row[None], whole("num_draws", num_draws))
    gaps = text_only.plug_in(operator, counts, temperature) - soften(operator, row[None], temperature)
    if error == "tv":
        return float(chances[0] @ np.abs(gaps).sum(-1)) / 2
    return math.sqrt(float((chances[0] @ gaps**2).max()))


@dataclasses.dataclass(frozen=True)
class Advice:
    """How many labels a context a softened target needs.

    Attributes:
        num_draws: N.
        error: what is to be at most ``epsilon``: "tv" or "rmse" (`expected_error`).
        epsilon: the wanted error.
        method: "bound" guarantees it; "exact" summed: an N that suffices where N − 1 does not; "delta" is the
            size for large N.
        worst_case: whether it is for every p of K classes.
    """

    num_draws: int
    error: Error
    epsilon: float
    method: Literal["bound", "delta", "exact"]
    worst_case: bool

    def __str__(self) -> str:
        where = "every p" if self.worst_case else "this p"
        how = {"bound": "guaranteed", "exact": "all samples summed", "delta": "to first order in 1/N"}
        return f"N = {self.num_draws} for {self.error} ≤ {self.epsilon:g} at {where} ({how[self.method]})"


def samples_needed(
    operator: Operator,
    temperature: float,
    epsilon: float,
    *,
    p: Float[ArrayLike, " K"] | None = None,
    num_classes: int | None = None,
    error: Error = "tv",
    method: Literal["auto", "bound", "delta", "exact"] = "auto",
) -> Advice:
    """The number N of labels a context at which the plug-in target errs by at most ε.

    "bound", for affine operators (F(p) = s·p + (1 − s)u; the mixture has s = 1/T) and those with a finite L1
    Lipschitz constant s (Tsallis, α < 1 or α ≥ 2, T ≥ 1): ``E TV ≤ (s/2) Σ_i √(p_i(1 − p_i)/N)``, at most
    ``(s/2) √((K − 1)/N)``; RMSE = ``s·max √(p_i(1 − p_i)/N) ≤ s/(2√N)`` for affine ones, otherwise at most
    ``(s/2) √(K(1 − Σp²)/N)``. "delta", at a given interior p: ``Var F_i ≈ V_i/N`` by the slope at p, no bias,
    errors as of a normal; N·min p ≥ 5 or it is refused. "exact", at a given p and few classes: an N that
    suffices (`expected_error` ≤ ε) where N − 1 does not, found by doubling and halving; the least where the
    error falls with N.

    Args:
        operator: a softening operator, or a plain jax function ``(p, T) -> q`` of one row.
        temperature: scalar T.
        epsilon: the wanted error, in (0, 1).
        p: ``[K]``, for advice at one p.
        num_classes: K, for advice that holds at every p; one of the two is given.
        error: "tv" or "rmse", as in `expected_error`.
        method: "auto" is the bound where there is one, else delta.

    Returns:
        An `Advice`.

    Raises:
        ValueError: no N serves every p at a rate that is known (the Lipschitz constant is infinite at zeros:
            power, 1 < α < 2; or not known); p too close to the boundary for delta; too many samples to sum.

    Reference: theory.md sections 2, 3 and 6.

    >>> from sparsekd_jax import operators
    >>> print(samples_needed(operators.get("mixture"), 2.0, 0.05, num_classes=10))
    N = 225 for tv ≤ 0.05 at every p (guaranteed)
    >>> print(samples_needed(operators.get("power"), 2.0, 0.05, p=[0.5, 0.3, 0.2]))
    N = 34 for tv ≤ 0.05 at this p (to first order in 1/N)
    """
    _require_error(error)
    if method not in ("auto", "bound", "delta", "exact"):
        raise ValueError(f"method is {method!r}; it is 'auto', 'bound', 'delta' or 'exact'")
    if not 0 < epsilon < 1:
        raise ValueError(f"epsilon is {epsilon}; an error of distributions lies in (0, 1)")
    if (p is None) == (num_classes is None):
        raise ValueError("give either p, for advice at one p, or num_classes, for every p")
    if num_classes is not None and num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; K ≥ 2")
    if isinstance(operator, SofteningOperator) and operator.claims.domain == "interior":
        raise ValueError(
            f"operator: {operator.name} is not defined where a sample has an empty class, which every N "
            "allows, so its plug-in has no expected error. Take another family"
        )
    if num_classes is not None:  # the temperature is looked at with a row
        rows_of(operator, np.full(whole("num_classes", num_classes), 1 / num_classes), temperature)
    row = None if p is None else _one_row(operator, p, temperature)
    k = num_classes if row is None else len(row)
    assert k is not None
    slope, affine = _slope(operator, temperature, k)
    if method == "auto":
        method = "bound" if row is None or slope < math.inf else "delta"
    if method == "bound":
        _require_slope(operator, temperature, slope)
        needed = _bound(row, k, slope, affine, error) / epsilon**2
    elif row is None:
        raise ValueError(f"num_classes: the method {method!r} is for one p; give p, or method='bound'")
    elif method == "delta":
        needed = _delta(operator, row, temperature, error) / epsilon**2
        _require_inside(operator, row, needed)
    else:
        needed = _least(operator, row, temperature, epsilon, error)
    # A bound that is met exactly must not ask for one more by rounding.
    return Advice(max(1, math.ceil(needed * (1 - 1e-12))), error, epsilon, method, row is None)


@dataclasses.dataclass(frozen=True, eq=False)
class LeastBias:
    """The estimator from N labels of two classes with the smallest worst bias.

    Attributes:
        value: the largest bias over the grid of p, which no estimator can undercut: a lower bound over all p.
        estimates: ``[N + 1]``, the estimate of F_T(p)_1 for each count of class 1. Not kept to [0, 1].
    """

    value: float
    estimates: np.ndarray


def least_bias(operator: Operator, temperature: float, num_draws: int, *, points: int = 301) -> LeastBias:
    """The best of ALL functions g of N labels, two classes: ``min_g max_p |E g(count) − F_T(p)_1|``.

    A linear program over a grid of p. An unbiased estimator exists only if it is 0. E g is a polynomial of
    degree N in p; for power, T ≠ 1, F_T(p)_1 is none, so at every fixed N the value is positive: about .15/N
    at T = 2, and falling geometrically at T = 1/2, where it is a smooth rational function (4e-7 at N = 16).
    With two classes Tsallis α = 3 is affine, and the value 0.

    Args:
        operator: a softening operator, or a plain function ``(p, T) -> q`` of one row.
        temperature: scalar T.
        num_draws: N from 1 to 30 (beyond, the program is too ill-conditioned to trust).
        points: of the grid ``p = sin²θ``, dense at both ends.

    Returns:
        A `LeastBias`, to 1e-7.

    Raises:
        ValueError: N outside 1 to 30, or fewer than two points.
        ArithmeticError: the program was not solved.

    Reference: theory.md section 6; Bernstein polynomials, Lorentz 1953.

    >>> from sparsekd_jax import operators
    >>> round(least_bias(operators.get("power"), 2.0, 4).value, 3)
    0.041
    >>> least_bias(operators.get("mixture"), 2.0, 4).value < 1e-7
    True
    """
    from scipy import optimize

    if points < 2:
        raise ValueError(f"points is {points}; the grid of p has at least its two ends")
    if not 1 <= num_draws <= 30:
        raise ValueError(f"num_draws is {num_draws}; the linear program is trusted for N from 1 to 30")
    whole("num_draws", num_draws)
    whole("points", points)
    first = np.sin(np.linspace(0, np.pi / 2, points)) ** 2
    grid = np.stack([first, 1 - first], axis=1)
    _, chances = outcomes_of(grid, num_draws)
    truth = soften(operator, grid, temperature)[:, 0]
    ones = np.ones((points, 1))
    solved = optimize.linprog(
        np.append(np.zeros(chances.shape[1]), 1.0),
        A_ub=np.block([[chances, -ones], [-chances, -ones]]),
        b_ub=np.concatenate([truth, -truth]),
        bounds=[(None, None)] * chances.shape[1] + [(0, None)],
        method="highs",
    )
    if solved.status != 0:
        raise ArithmeticError(f"the linear program was not solved: {solved.message}")
    return LeastBias(float(solved.fun), solved.x[:-1])


# -- samples needed --------------------------------------------------------------------------------------


def _one_row(operator: Operator, p: ArrayLike, temperature: float) -> np.ndarray:
    if np.ndim(p) != 1:
        raise ValueError(f"p has shape {np.shape(p)}; here it is one distribution, [K]")
    return rows_of(operator, p, temperature)


def _require_error(error: str) -> None:
    if error not in ("tv", "rmse"):
        raise ValueError(f"error is {error!r}; it is 'tv' or 'rmse'")


def _slope(operator: Operator, temperature: float, num_classes: int) -> tuple[float, bool]:
    """The L1 Lipschitz constant, inf where there is none or none is known; and whether F is affine."""
    if text_only.is_affine(operator, temperature):
        ends = soften(operator, np.eye(2, num_classes), temperature)[:, 0]
        return abs(float(ends[0] - ends[1])), True
    constant = certified_lipschitz(operator, temperature, 1)
    return (math.inf if constant is None else constant), False


def _require_slope(operator: Operator, temperature: float, slope: float) -> None:
    if slope == math.inf:
        raise ValueError(
            f"operator: {operator_name(operator)} at T = {temperature:g} has no finite Lipschitz constant "
            "that is known (for power and Tsallis 1 ≤ α < 2 it is infinite at zeros, below T = 1 none is "
            "known), so no bound on N holds at every p. Give p, or take the mixture, T ≥ 1"
        )


def _bound(row: np.ndarray | None, k: int, slope: float, affine: bool, error: Error) -> float:
    """N·error²: the bound's square at N = 1."""
    spread = np.full(k, math.sqrt((k - 1) / k**2)) if row is None else np.sqrt(row * (1 - row))
    if error == "tv":
        return float(slope * spread.sum() / 2) ** 2
    if affine:
        return float(slope * (0.5 if row is None else spread.max())) ** 2
    return slope**2 / 4 * k * float((spread**2).sum())


def _delta(operator: Operator, row: np.ndarray, temperature: float, error: Error) -> float:
    deviation = np.sqrt(delta_variance(operator, row, temperature))
    if error == "rmse":
        return float(deviation.max()) ** 2
    return (math.sqrt(2 / math.pi) / 2 * float(deviation.sum())) ** 2


def _require_inside(operator: Operator, row: np.ndarray, needed: float) -> None:
    if needed * row.min() < MIN_EXPECTED_COUNT:
        raise ValueError(
            f"p: class {int(row.argmin())} has probability {row.min():.3g}; the delta method gives "
            f"N = {math.ceil(needed)}, of which it expects {needed * row.min():.2g}, and is trusted from "
            f"{MIN_EXPECTED_COUNT} up. For {operator_name(operator)} take method='exact' (few classes)"
        )


def _least(operator: Operator, row: np.ndarray, temperature: float, epsilon: float, error: Error) -> int:
    """An N that suffices where N − 1 does not, by doubling, then halving the bracket.

    It is the least where the error falls with N; for some p it falls with ripples.
    """

    def good(n: int) -> bool:
        return expected_error(operator, row, temperature, n, error=error) <= epsilon

    high = 1
    while not good(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    return high
