"""Convergence rates fitted to measurements: ``a + b·n^(−γ)`` with an interval for γ, or 'undecided'."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import ArrayLike, Float
from scipy import optimize, stats

from sparsekd_jax._refusals import require_level

GAMMAS = np.geomspace(0.02, 10.0, 500)
"""Rates searched, 1.25 % apart; an interval that reaches an end is open there."""

_MIN_STAGES = 5
_SPAN = 64
_MISFIT = 0.01


@dataclasses.dataclass(frozen=True)
class RateFit:
    """A fitted rate ``a + b·n^(−γ)`` and what the data say of γ.

    Attributes:
        gamma: γ, the maximum likelihood estimate, or the end of `GAMMAS` where the likelihood still rises.
        a: floor, in the unit of the values: fitted, or as given.
        b: amplitude, in the unit of the values.
        low: lower bound of γ's profile-likelihood interval; None without one.
        high: upper bound; None without one. A bound at an end of `GAMMAS` is not a bound.
        level: coverage of the interval.
        misfit: p-value of the test that the means follow this form at all; None without replicate covariance.
        verdict: 'decided' where the interval is interior, narrower than a factor 2, the form is not refused
            at 1 %, and the n can show a rate at all: they double, or grow less, from one to the next, over a
            factor 64, from 3/(1 − ρ) on where ρ is known; else 'undecided'.
        reasons: all that stands against a decision, the design before the fit; empty where decided.
    """

    gamma: float
    a: float
    b: float
    low: float | None
    high: float | None
    level: float
    misfit: float | None
    verdict: Literal["decided", "undecided"]
    reasons: tuple[str, ...]

    @property
    def reason(self) -> str:
        """The reasons in one line."""
        return "; ".join(self.reasons)


def fit_rate(
    values: Float[ArrayLike, "R J"],
    stages: Float[ArrayLike, " J"],
    *,
    floor: float | None = None,
    rho: float | None = None,
    level: float = 0.95,
) -> RateFit:
    """Fit ``a + b·n^(−γ)`` to replicates of a curve, with a profile-likelihood interval for γ.

    Each replicate (seed) is a Gaussian vector over the n with mean ``a + b·n^(−γ)`` and ONE unknown
    covariance, so what the n share within a seed is used. With Q(γ) the generalised least squares residual
    of the mean vector under the covariance of the mean, profiled over (a, b), the likelihood ratio of γ is a
    function of ``(R − 1 + Q(γ))/(R − 1 + Q_min) − 1``, which times ν is F(1, ν), ν = R − J + q − 1, for
    q = 3 parameters (2 with the floor given): exact for a linear model, so close where γ is well determined.

    Args:
        values: ``[R, J]``, a row a seed, the same seed at every n; lower or higher may be better.
        stages: the n, ``[J]``, J ≥ 5, increasing, > 0.
        floor: a, where it is known (solved exactly, say); then it is not fitted.
        rho: contraction ρ of a stage, where known: below n = 3/(1 − ρ) the curve is not yet a power of n, and
            an interval fitted there covers some other γ.
        level: coverage in (0, 1).

    Returns:
        A `RateFit`. With R ≤ J, or a singular covariance, the fit is by least squares, has no interval, and
        is 'undecided'; so are n that cannot show a rate, whatever the interval.

    Raises:
        ValueError: fewer than five n, shapes that do not fit, n not increasing, values that are not finite,
            a floor that is not finite, rho outside [0, 1), level outside (0, 1).

    γ is searched in `GAMMAS` and refined to 1e-6 relative, its bounds to rounding.

    Reference: theory.md section 4, budget.

    >>> n = np.array([4, 8, 16, 32, 64, 128, 256])
    >>> noise = 0.001 * np.random.default_rng(0).normal(size=(20, 7))
    >>> fit = fit_rate(0.5 + 2.0 / n + noise, n)
    >>> fit.verdict, round(fit.gamma, 1), round(fit.a, 2)
    ('decided', 1.0, 0.5)
    """
    y, n = _checked(values, stages, floor, rho, level)
    replicates, size = y.shape
    whiten = _whitener(y)
    singular = whiten is None
    weights = np.eye(size) if whiten is None else whiten
    mean = weights @ (y.mean(0) - (floor or 0.0))
    one = weights @ np.ones(size) if floor is None else None

    def residual(gamma: float) -> float:
        return float(_solve(mean, one, weights @ n**-gamma)[0])

    profile = _solve(mean, one, n ** -GAMMAS[:, None] @ weights.T)[0]
    gamma = _refine(profile, residual)
    best, a, b = (float(x) for x in _solve(mean, one, weights @ n**-gamma))
    a = a if floor is None else floor

    against = _faults_of_design(n, rho)
    if singular:
        against.append(
            f"{replicates} replicates give no regular covariance of {size} stages: an interval needs more "
            f"than {size} of them, not identical"
        )
        return RateFit(gamma, a, b, None, None, level, None, "undecided", tuple(against))

    q = 3 if floor is None else 2
    freedom = replicates - size + q - 1
    limit = best + float(stats.f.ppf(level, 1, freedom)) / freedom * (replicates - 1 + best)
    low, high = _interval(profile, lambda g: residual(g) - limit, limit, gamma)
    spare = size - q
    hotelling = best / (replicates - 1) * (replicates - spare) / spare
    misfit = float(stats.f.sf(hotelling, spare, replicates - spare))
    against += _faults_of_fit(low, high, misfit)
    verdict: Literal["decided", "undecided"] = "undecided" if against else "decided"
    return RateFit(gamma, a, b, low, high, level, misfit, verdict, tuple(against))


def _checked(
    values: ArrayLike, stages: ArrayLike, floor: float | None, rho: float | None, level: float
) -> tuple[np.ndarray, np.ndarray]:
    y, n = np.asarray(values, np.float64), np.asarray(stages, np.float64)
    if y.ndim != 2 or n.ndim != 1 or y.shape[1] != len(n) or len(y) == 0:
        raise ValueError(f"values {y.shape}, stages {n.shape}: need [R, J], a row a seed, and [J]")
    if len(n) < _MIN_STAGES:
        raise ValueError(f"stages holds {len(n)} n; three parameters need at least {_MIN_STAGES}")
    if not (np.all(n > 0) and np.all(np.diff(n) > 0)):
        raise ValueError("stages must be positive and increasing")
    if not np.isfinite(y).all():
        row, column = (int(i) for i in np.argwhere(~np.isfinite(y))[0])
        raise ValueError(f"values[{row}, {column}] is {y[row, column]}: find out why that run failed")
    if floor is not None and not math.isfinite(floor):
        raise ValueError(f"floor is {floor}; give the exact limit of the curve, or leave it out")
    if rho is not None and not 0 <= rho < 1:
        raise ValueError(f"rho is {rho}; the contraction of a stage lies in [0, 1)")
    require_level(level)
    return y, n


def _whitener(y: np.ndarray) -> np.ndarray | None:
    """Inverse Cholesky factor of the covariance of the mean; None where that is singular."""
    replicates, size = y.shape
    if replicates <= size:
        return None
    covariance = np.cov(y, rowvar=False) / replicates
    scale = np.sqrt(np.diag(covariance))
    # What is left of identical replicates is rounding, and means nothing.
    if np.any(scale <= 1e-13 * np.abs(y).max()):
        return None
    correlation = covariance / np.outer(scale, scale)
    if np.linalg.eigvalsh(correlation)[0] <= 1e-12 * size:
        return None
    return np.linalg.inv(np.linalg.cholesky(covariance))


def _solve(y: np.ndarray, one: np.ndarray | None, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Residual, a, b of the least squares of y ``[J]`` on (one, x), or on x, for each x ``[..., J]``."""
    if one is None:
        b = x @ y / np.sum(x * x, axis=-1)
        return np.sum((y - b[..., None] * x) ** 2, axis=-1), np.zeros_like(b), b
    length = one @ one
    tilt, level = x @ one / length, one @ y / length
    rest = x - tilt[..., None] * one  # x and one are nearly parallel as γ → 0
    left = y - level * one
    b = rest @ left / np.sum(rest * rest, axis=-1)
    return np.sum((left - b[..., None] * rest) ** 2, axis=-1), level - tilt * b, b


def _refine(profile: np.ndarray, residual: Callable[[float], float]) -> float:
    """The minimum next to the best rate of the grid."""
    k = int(np.argmin(profile))
    bounds = (math.log(GAMMAS[max(k - 1, 0)]), math.log(GAMMAS[min(k + 1, len(GAMMAS) - 1)]))
    found = optimize.minimize_scalar(
        lambda t: residual(math.exp(t)), bounds=bounds, method="bounded", options={"xatol": 1e-7}
    )
    return math.exp(found.x)


def _interval(
    profile: np.ndarray, excess: Callable[[float], float], limit: float, gamma: float
) -> tuple[float, float]:
    """Where the profile crosses its limit: the hull of the accepted rates where there are several pieces."""
    inside = GAMMAS[profile <= limit]
    low, high = (min(inside[0], gamma), max(inside[-1], gamma)) if inside.size else (gamma, gamma)
    below, above = GAMMAS[low > GAMMAS], GAMMAS[high < GAMMAS]
    first = optimize.brentq(excess, below[-1], low) if below.size else GAMMAS[0]
    last = optimize.brentq(excess, high, above[0]) if above.size else GAMMAS[-1]
    return float(first), float(last)


def _faults_of_design(n: np.ndarray, rho: float | None) -> list[str]:
    found = []
    if n[-1] < _SPAN * n[0]:
        found.append(f"n spans a factor {n[-1] / n[0]:.3g}: a rate needs at least {_SPAN}")
    if np.any(n[1:] > 2 * n[:-1]):
        found.append("n more than doubles between neighbours: a bend between them goes unseen")
    if rho is not None and n[0] * (1 - rho) < 3 * (1 - 1e-9):
        found.append(
            f"the smallest n is {n[0]:g}, below 3/(1 − ρ) = {3 / (1 - rho):.3g}: not yet a power of n"
        )
    return found


def _faults_of_fit(low: float, high: float, misfit: float) -> list[str]:
    found = []
    if misfit < _MISFIT:
        found.append(f"the means do not follow a + b·n^(−γ) (p = {misfit:.2g}), so no γ describes them")
    if low <= GAMMAS[0] or high >= GAMMAS[-1]:
        found.append(
            f"γ in [{low:.3g}, {high:.3g}] reaches an end of what was searched: no bound on that side"
        )
    if high >= 2 * low:
        found.append(f"γ in [{low:.3g}, {high:.3g}] is wider than a factor 2")
    return found
