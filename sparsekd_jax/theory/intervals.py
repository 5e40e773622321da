"""Intervals from an ensemble: jackknife-t over members, two-way with examples, and a guarded bootstrap.

The pure functions `one_way` and `two_way` go under ``jit`` and ``vmap``; the others take concrete arrays and
add the Student quantile.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax._refusals import require_level, whole

MIN_BOOTSTRAP_MEMBERS = 50
"""Fewer members than this, and the percentile bootstrap covers far less than it says."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A number with its two-sided interval; the bounds are None where the data give no interval.

    Attributes:
        value: the point estimate.
        low: lower bound.
        high: upper bound.
        level: coverage that the bounds aim at, in (0, 1).
    """

    value: float
    low: float | None
    high: float | None
    level: float = 0.95

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4g} (no interval)"
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


class Spread(NamedTuple):
    """An estimate with its estimated sampling variance and the degrees of freedom of that variance."""

    value: Float[Array, "..."]
    variance: Float[Array, "..."]
    dof: Float[Array, "..."]


def one_way(full: Float[Array, ""], without: Float[Array, " m"]) -> Spread:
    """The jackknife over members: ``V = (m − 1)/m Σ_i (θ_(−i) − mean)²``, with m − 1 degrees of freedom.

    Args:
        full: the statistic of all m members.
        without: ``[m]``, the statistic with member i left out.

    Returns:
        Value, variance and degrees of freedom; pure, for ``jit`` and ``vmap``.

    Raises:
        ValueError: fewer than two members.

    For a mean it is the usual s²/m. For a statistic of pairs, such as a variance, its expectation is at least
    the true variance (Efron and Stein, 1981).
    """
    m = without.shape[0]
    if m < 2:
        raise ValueError(
            f"without has shape {without.shape}; one member has no variance: retrain on at least 2 resamples"
        )
    variance = (m - 1) / m * jnp.sum((without - jnp.mean(without)) ** 2)
    return Spread(full, variance, jnp.full_like(variance, m - 1))


def two_way(full: Float[Array, " n"], without: Float[Array, "m n"]) -> Spread:
    """The jackknife over members and examples at once, for a mean over examples.

    With the pseudo-values ``x_ij = m·f_j − (m − 1)·f_j^(−i)`` read as crossed random effects
    ``μ + a_i + b_j + e_ij``, the variance of the mean is ``σ_a²/m + σ_b²/n + σ_e²/(mn)``. The jackknife over
    members estimates the first and third term, that over examples the second and third, so

        V = max(V_members + V_examples − V_interaction, V_members, V_examples),

    with Satterthwaite's degrees of freedom. Members alone would treat the test set as if it were the whole
    population.

    Args:
        full: ``[n]``, the statistic of each example from all m members.
        without: ``[m, n]``, the same with member i left out.

    Returns:
        The mean over examples, its variance and degrees of freedom; pure, for ``jit`` and ``vmap``.

    Raises:
        ValueError: fewer than two members or two examples.

    Reference:
        theory.md section 3 (intervals); Owen, "The pigeonhole bootstrap" (2007) for the crossed design.
    """
    m, n = without.shape
    if min(m, n) < 2:
        raise ValueError(
            f"without has shape {without.shape}; a variance over members and examples needs two of each: "
            "retrain on more resamples, or take the examples as fixed (one_way)"
        )
    pseudo = m * full[None] - (m - 1) * without
    by_member, by_example = jnp.mean(pseudo, axis=1), jnp.mean(pseudo, axis=0)
    rest = pseudo - by_member[:, None] - by_example[None] + jnp.mean(pseudo)
    members = jnp.var(by_member, ddof=1) / m
    examples = jnp.var(full, ddof=1) / n
    interaction = jnp.sum(rest**2) / ((m - 1) * (n - 1)) / (m * n)
    variance = jnp.maximum(members + examples - interaction, jnp.maximum(members, examples))
    # Satterthwaite: the variance of a sum of mean squares, each with its own degrees of freedom.
    noise = members**2 / (m - 1) + examples**2 / (n - 1) + interaction**2 / ((m - 1) * (n - 1))
    some = noise > 0
    dof = jnp.where(some, variance**2 / jnp.where(some, noise, 1), m - 1)
    return Spread(jnp.mean(full), variance, jnp.maximum(dof, min(m, n) - 1))


def jackknife_t(full: ArrayLike, without: Float[ArrayLike, " m"], *, level: float = 0.95) -> Estimate:
    """Jackknife-t interval over members, ``θ ± t_{m−1, (1+level)/2} √V`` with V of `one_way`.

    Args:
        full: the statistic of all m members.
        without: ``[m]``, the statistic with member i left out.
        level: coverage in (0, 1).

    Returns:
        The estimate with its bounds, in the unit of the statistic.

    Raises:
        ValueError: fewer than two members, numbers that are not finite, or a level outside (0, 1).

    >>> values = np.array([1.0, 2.0, 3.0])  # of a mean: the ordinary Student-t interval
    >>> print(jackknife_t(2.0, (6.0 - values) / 2))
    2 [-0.4841, 4.484]
    """
    left_out = np.asarray(without, np.float64)
    if left_out.ndim != 1 or left_out.shape[0] < 2:
        raise ValueError(f"without has shape {left_out.shape}; it is one number a member, of at least two")
    if np.ndim(full):
        raise ValueError(f"full has shape {np.shape(full)}; it is one number, of all members")
    return _estimate(one_way, full, left_out, level)


def two_way_jackknife_t(
    full: Float[ArrayLike, " n"], without: Float[ArrayLike, "m n"], *, level: float = 0.95
) -> Estimate:
    """Jackknife-t interval over members and examples for the mean of a statistic over examples (`two_way`).

    Args:
        full: ``[n]``, the statistic of each example from all m members.
        without: ``[m, n]``, the same with member i left out.
        level: coverage in (0, 1).

    Returns:
        The estimate with its bounds, in the unit of the statistic.

    Raises:
        ValueError: fewer than two members or examples, shapes that do not fit, numbers that are not finite,
            or a level outside (0, 1).

    >>> losses = np.array([[0.1, 0.4, 0.2], [0.3, 0.5, 0.2]])  # of a mean over both
    >>> full = losses.mean(axis=0)
    >>> print(two_way_jackknife_t(full, 2 * full - losses))
    0.2833 [-0.05693, 0.6236]
    """
    left_out = np.asarray(without, np.float64)
    if left_out.ndim != 2 or min(left_out.shape) < 2 or np.shape(full) != left_out.shape[1:]:
        raise ValueError(
            f"full has shape {np.shape(full)} and without {left_out.shape}; they are [n] and [m, n], "
            "with at least two members and two examples"
        )
    return _estimate(two_way, full, left_out, level)


def percentile_bootstrap(
    statistic: Callable[[Array], Array],
    members: ArrayLike,
    *,
    key: Array,
    resamples: int = 1000,
    level: float = 0.95,
) -> Estimate:
    """Percentile bootstrap over members: the quantiles of the statistic of members drawn with replacement.

    Args:
        statistic: a jax function of an array like ``members`` to a scalar.
        members: ``[m, ...]``, m ≥ 50: with 3, 5, 10 members a 95 % interval covers .53, .70, .79.
        key: a random key.
        resamples: how many resamples, at least 2.
        level: coverage in (0, 1).

    Returns:
        The statistic of all members with the (1 ± level)/2 quantiles of the resamples.

    Raises:
        ValueError: fewer than 50 members or 2 resamples, a statistic that is no finite scalar, or a level
            outside (0, 1).

    Reference: theory.md section 3 (intervals).

    >>> percentile_bootstrap(jnp.mean, np.ones((10, 2)), key=jax.random.key(0))
    Traceback (most recent call last):
    ValueError: members holds 10; the percentile bootstrap needs m ≥ 50, with fewer it covers far less...
    """
    require_level(level)
    m = np.shape(members)[0] if np.ndim(members) else 0
    if m < MIN_BOOTSTRAP_MEMBERS:
        raise ValueError(
            f"members holds {m}; the percentile bootstrap needs m ≥ {MIN_BOOTSTRAP_MEMBERS}, with fewer it "
            "covers far less than it says (.79 in place of .95 at m = 10). Use jackknife_t."
        )
    if resamples < 2:
        raise ValueError(f"resamples is {resamples}; quantiles need at least 2, 1000 is usual")
    whole("resamples", resamples)
    values = jnp.asarray(members)
    on_all = jnp.asarray(statistic(values))
    if on_all.ndim:
        raise ValueError(
            f"statistic returns shape {on_all.shape}; it returns a scalar of one array of members"
        )

    @jax.jit
    def resampled(keys: Array) -> Array:
        def draw(k: Array) -> Array:
            return statistic(values[jax.random.randint(k, (m,), 0, m)])

        return jax.lax.map(draw, keys, batch_size=64)

    drawn = np.asarray(resampled(jax.random.split(key, resamples)), np.float64)
    value = float(on_all)
    if not (np.isfinite(drawn).all() and np.isfinite(value)):
        raise ValueError("statistic is not finite on some resample; a statistic must be defined on all")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), level)


def with_quantile(spread: Spread, level: float, *, positive: bool = False) -> Estimate:
    """The Student-t interval of one `Spread`.

    Args:
        spread: value, variance and degrees of freedom, scalars.
        level: coverage in (0, 1).
        positive: the statistic is positive and skewed, such as a variance: the interval is taken for its
            logarithm, ``value·exp(± t √variance/value)``, which stays positive and covers better.

    Returns:
        The estimate, by default ``value ± t_{dof, (1+level)/2} √variance``.

    Raises:
        ValueError: a level outside (0, 1), or a negative variance.

    >>> spread = Spread(np.float64(1.0), np.float64(0.04), np.float64(9.0))
    >>> print(with_quantile(spread, 0.95), with_quantile(spread, 0.95, positive=True))
    1 [0.5476, 1.452] 1 [0.6361, 1.572]
    """
    from scipy import special

    require_level(level)
    value, variance = float(spread.value), float(spread.variance)
    if variance < 0:
        raise ValueError(f"spread.variance is {variance}; a variance is ≥ 0")
    half = float(special.stdtrit(float(spread.dof), (1 + level) / 2)) * variance**0.5
    if positive and value > 0:
        with np.errstate(over="ignore"):  # a bound that is too large for a float is inf
            factor = float(np.exp(half / value))
        return Estimate(value, value / factor, value * factor, level)
    return Estimate(value, value - half, value + half, level)


def of_difference(first: Spread, second: Spread, difference: Spread, level: float) -> Estimate:
    """The interval of ``Δ = x − y``, two positive and skewed numbers such as variances.

    Which way Δ is skewed depends on how x and y move together, and few members do not tell. So both ends
    are as far as the long tail of the more skewed of the two: ``Δ ± σ_Δ (exp(γt) − 1)/γ`` with
    ``γ = ⅔ max(σ_x/x, σ_y/y)``, the shifted lognormal whose skewness, 3γ, is that of a multiple of χ² with
    the larger of the two relative errors.

    Args:
        first: x, its variance and degrees of freedom, scalars.
        second: the same of y.
        difference: the same of Δ, from the same members pair by pair.
        level: coverage in (0, 1).

    Returns:
        The estimate of Δ; Student's interval where x and y are not positive.

    Raises:
        ValueError: a level outside (0, 1).

    >>> x, y = Spread(3.0, 0.09, 9.0), Spread(1.0, 0.09, 9.0)
    >>> print(with_quantile(Spread(2.0, 0.18, 9.0), 0.95), of_difference(x, y, Spread(2.0, 0.18, 9.0), 0.95))
    2 [1.04, 2.96] 2 [0.7863, 3.214]
    """
    student = with_quantile(difference, level)
    if student.high is None or min(float(first.value), float(second.value)) <= 0:
        return student
    relative = max(float(term.variance) ** 0.5 / float(term.value) for term in (first, second))
    sigma, half = float(difference.variance) ** 0.5, student.high - student.value
    if relative == 0 or sigma == 0:
        return student
    gamma = 2 / 3 * relative
    with np.errstate(over="ignore"):
        half = sigma * float(np.expm1(gamma * half / sigma)) / gamma
    return Estimate(student.value, student.value - half, student.value + half, level)


_SPREADS = {rule: jax.jit(rule) for rule in (one_way, two_way)}


def _estimate(rule: Callable[..., Spread], full: ArrayLike, without: np.ndarray, level: float) -> Estimate:
    require_level(level)
    whole = np.asarray(full, np.float64)
    for name, numbers in (("full", whole), ("without", without)):
        if not np.isfinite(numbers).all():
            where = [int(i) for i in np.argwhere(~np.isfinite(numbers))[0]]
            raise ValueError(f"{name}{where or ''} is {numbers[tuple(where)]}; find out why it is not finite")
    with jax.enable_x64(True):
        return with_quantile(_SPREADS[rule](jnp.asarray(whole), jnp.asarray(without)), level)
