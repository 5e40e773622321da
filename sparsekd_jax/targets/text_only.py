"""Targets from sampled text alone: N labels a context, softened by plug-in, jackknife, or without bias.

From N labels p is known only as counts/N = p̂, and ``E F(p̂) = F(p)`` at every p exactly where F is affine.
So the mixture's plug-in is unbiased; for every other operator a target softened after sampling is biased
towards the sample. How much, and how many labels a wanted error needs, is in `theory.text_only`.

Everything here computes and returns float64, whatever the setting of the process: a jackknife multiplies
rounding by N.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, Shaped

from sparsekd_jax._refusals import refuse, require_level
from sparsekd_jax.operators import PowerTransform, TsallisSoftening
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.operators.base import Operator, SofteningOperator, operator_name, require_operator
from sparsekd_jax.targets.revealed import PADDING, Samples

Counts = Samples | Int[np.ndarray, "*batch K"]
"""Counts of every class, ``[..., K]`` whole numbers, or `Samples` drawn from the distribution itself."""

_MONOTONE = (PowerTransform, TsallisSoftening)
"""With two classes φ'(q₁) − φ'(q₂) = (φ'(p₁) − φ'(p₂))/T, which rises with p₁."""
_CHUNK = 4096
"""Rows softened at once."""


def plug_in(operator: Operator, counts: Counts, temperature: float) -> Float[np.ndarray, "*batch K"]:
    """The softened empirical distribution, ``F_T(p̂)``: consistent, and biased unless F is affine.

    Args:
        operator: a softening operator, or a plain function ``(p, T) -> q`` of one row.
        counts: counts ``[..., K]``, or `Samples`.
        temperature: scalar T.

    Returns:
        ``[..., K]``, distributions.

    Raises:
        TypeError: counts that are no whole numbers.
        ValueError: a negative count, a row without a draw, weights that are no counts over N, or a zero
            where the operator is defined on the interior only.

    Reference: theory.md section 6.

    >>> from sparsekd_jax import operators
    >>> plug_in(operators.get("power"), np.array([9, 1]), 2.0)
    array([0.75, 0.25])
    """
    table = counts_of(counts)
    rows = table.reshape(-1, table.shape[-1])
    return _soften(operator, rows / rows.sum(-1, keepdims=True), temperature).reshape(table.shape)


def unbiased(operator: Operator, counts: Counts, temperature: float) -> Float[np.ndarray, "*batch K"]:
    """The plug-in of an operator that claims to be affine, for which alone it has no bias at any p and N.

    Args:
        operator: a softening operator that claims the law "affine" on the simplex at T, as the mixture does
            for T ≥ 1.
        counts: counts ``[..., K]``, or `Samples`.
        temperature: scalar T.

    Returns:
        ``[..., K]``, with ``E = F_T(p)``; for the mixture ``p̂/T + (1 − 1/T)/K``.

    Raises:
        ValueError: an operator that does not claim it, or what `plug_in` refuses.

    Reference: theory.md section 6.

    >>> from sparsekd_jax import operators
    >>> unbiased(operators.get("mixture"), np.array([9, 1]), 2.0)
    array([0.7, 0.3])
    >>> unbiased(operators.get("power"), np.array([9, 1]), 2.0)
    Traceback (most recent call last):
    ValueError: operator: power does not claim to be affine at T = 2, and only an affine softener has an...
    """
    if not is_affine(operator, temperature):
        raise ValueError(
            f"operator: {operator_name(operator)} does not claim to be affine at T = {temperature:g}, and "
            "only an affine softener has an unbiased plug-in (theory.md section 6). Take the mixture at "
            "T ≥ 1; plug_in or jackknife with their bias; or soften before sampling where logits exist "
            "(sample)."
        )
    return plug_in(operator, counts, temperature)


def jackknife(operator: Operator, counts: Counts, temperature: float) -> Float[np.ndarray, "*batch K"]:
    """The plug-in without its bias of order 1/N: ``N·F(p̂) − (N − 1)·Σ_j p̂_j F(p̂ without one j)``.

    Labels of one class leave the same sample behind, so there is one softening a class observed, not N. The
    rest of the bias is O(1/N²) at a fixed interior p; where N·p is about 1 or less it is no cure (power,
    p = (.001, .999), N = 100, T = 2: −.0173 in place of −.0218, F = .0307).

    Args:
        operator: a softening operator, or a plain function ``(p, T) -> q`` of one row.
        counts: counts ``[..., K]``, at least two a row, or `Samples`.
        temperature: scalar T.

    Returns:
        ``[..., K]``. Rows sum to 1; entries can be NEGATIVE, since a corrected estimate is no distribution.

    Raises:
        TypeError, ValueError: as `plug_in`; or a row of one draw, which cannot be left out.

    Reference: Quenouille 1956; theory.md section 6.

    >>> from sparsekd_jax import operators
    >>> jackknife(operators.get("power"), np.array([9, 1]), 2.0).round(4)
    array([0.6158, 0.3842])
    """
    table = counts_of(counts)
    value, _ = _jackknife(operator, table.reshape(-1, table.shape[-1]), temperature)
    return value.reshape(table.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class TargetInterval:
    """A softened target from text with an interval for each of its coordinates.

    Attributes:
        value: ``[..., K]``, the plug-in where the interval is exact, the jackknife otherwise.
        low: ``[..., K]`` ≥ 0.
        high: ``[..., K]`` ≤ 1.
        level: coverage of each coordinate, not of all at once.
        method: "exact" covers with at least ``level``, at every p and N; "jackknife" nearly so for large N·p.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    level: float
    method: Literal["exact", "jackknife"]


def interval(
    operator: Operator, counts: Counts, temperature: float, *, level: float = 0.95
) -> TargetInterval:
    """An interval for each coordinate of ``F_T(p)`` from counts.

    Exact where F_T(p)_i rises with p_i alone, and for every i alike: for operators that claim to be affine,
    equivariant and of weak A1 on the simplex, and for power and Tsallis if K = 2. The Clopper–Pearson
    interval of p_i is then mapped through F. Otherwise ``jackknife ± t_{N−1} √V``,
    ``V = (N − 1)/N Σ_j c_j (F(−j) − mean)²``, cut to [0, 1]. A class that was never drawn, or alone, shows no
    spread; its jackknife interval is [0, 1], which says nothing and covers.

    Args:
        operator: a softening operator, or a plain function ``(p, T) -> q`` of one row.
        counts: counts ``[..., K]``, or `Samples`.
        temperature: scalar T.
        level: coverage of each coordinate, in (0, 1).

    Returns:
        A `TargetInterval`.

    Raises:
        TypeError, ValueError: as `jackknife`; or a level outside (0, 1).

    Coverage of the jackknife at level .95, power, T = 2, by exact sums: .94 or more at p = (.6, .3, .1) and N
    from 10 to 80; .87 at p = (.9, .09, .01), N = 80, for the first class. The [0, 1] of classes that were not
    drawn count as covering.

    Reference: Clopper and Pearson 1934; Miller 1974; theory.md section 6.

    >>> from sparsekd_jax import operators
    >>> found = interval(operators.get("mixture"), np.array([9, 1]), 2.0)
    >>> found.method, found.low.round(3), found.high.round(3)
    ('exact', array([0.527, 0.251]), array([0.749, 0.473]))
    """
    require_level(level)
    table = counts_of(counts)
    rows = table.reshape(-1, table.shape[-1])
    by_class = all(_claims(operator, law, temperature) for law in ("affine", "equivariance", "A1"))
    if by_class or (rows.shape[-1] == 2 and isinstance(operator, _MONOTONE)):
        bounds = [_through(operator, bound, temperature) for bound in clopper_pearson(rows, level)]
        value, method = plug_in(operator, rows, temperature), "exact"
    else:
        value, variance = _jackknife(operator, rows, temperature)
        bounds = _jackknife_bounds(value, variance, rows, level)
        method = "jackknife"
    low, high = (bound.reshape(table.shape) for bound in bounds)
    return TargetInterval(value.reshape(table.shape), low, high, level, method)  # type: ignore[arg-type]


def clopper_pearson(
    counts: Int[np.ndarray, "*batch K"], level: float = 0.95
) -> tuple[Float[np.ndarray, "*batch K"], Float[np.ndarray, "*batch K"]]:
    """The exact binomial interval of each class probability: its lower and its upper bounds.

    Args:
        counts: ``[..., K]``, rows sum to N ≥ 1.
        level: coverage in (0, 1).

    Returns:
        Two arrays ``[..., K]``.

    Raises:
        TypeError, ValueError: as `counts_of`; or a level outside (0, 1).

    >>> [bound.round(4).tolist() for bound in clopper_pearson(np.array([0, 10]))]
    [[0.0, 0.6915], [0.3085, 1.0]]
    """
    from scipy import special

    require_level(level)
    counts = counts_of(counts)
    draws = counts.sum(-1, keepdims=True)
    tail = (1 - level) / 2
    low = np.where(counts > 0, special.betaincinv(np.maximum(counts, 1), draws - counts + 1, tail), 0.0)
    missed = draws - counts
    high = np.where(missed > 0, special.betaincinv(counts + 1, np.maximum(missed, 1), 1 - tail), 1.0)
    return low, high


def counts_of(counts: Counts) -> Int[np.ndarray, "*batch K"]:
    """Counts ``[..., K]`` int64 of checked counts or `Samples`.

    Args:
        counts: counts ``[..., K]``, or `Samples` drawn from the distribution itself.

    Returns:
        ``[..., K]``; the rows sum to the numbers of draws.

    Raises:
        TypeError: counts that are no whole numbers.
        ValueError: K < 2, a negative count, a row without a draw, or weights that are no counts over N
            (importance weights: what was drawn is then no sample of p).

    >>> counts_of(Samples.from_counts(np.array([3, 0, 1])))
    array([3, 0, 1])
    """
    table = _counts_of_samples(counts) if isinstance(counts, Samples) else np.asarray(counts)
    if not np.issubdtype(table.dtype, np.integer):
        raise TypeError(f"counts has dtype {table.dtype}; counts are whole numbers of draws")
    if table.ndim == 0 or table.shape[-1] < 2:
        raise ValueError(f"counts has shape {table.shape}; the last axis holds the classes, K ≥ 2 of them")
    refuse((table < 0).any(-1), "counts", lambda i: f"holds {table[i].min()}; counts are ≥ 0")
    refuse(table.sum(-1) == 0, "counts", lambda _: "no draw at all; leave the row out, or mask it")
    return table.astype(np.int64)


def is_affine(operator: Operator, temperature: float) -> bool:
    """Whether an operator claims to be affine on the whole simplex at T; a plain function claims nothing.

    Args:
        operator: a softening operator, or a plain function.
        temperature: scalar T.

    Returns:
        Whether it does.

    >>> from sparsekd_jax import operators
    >>> is_affine(operators.get("mixture"), 2.0), is_affine(operators.get("mixture"), 0.5)
    (True, False)
    """
    return _claims(operator, "affine", temperature)


def _claims(operator: Operator, law: str, temperature: float) -> bool:
    require_operator(operator)
    _require_scalar(temperature)
    if not isinstance(operator, SofteningOperator):
        return False
    claim = operator.claims.laws.get(law)
    return claim is not None and claim.domain == "simplex" and float(temperature) in claim.temperatures


def _require_scalar(temperature: float) -> None:
    if np.ndim(temperature):
        raise ValueError(
            f"temperature has shape {np.shape(temperature)}; here it is one number for all rows: call once "
            "for each"
        )


# -- counts ----------------------------------------------------------------------------------------------


def _counts_of_samples(samples: Samples) -> np.ndarray:
    ids, weights = np.asarray(samples.ids), np.asarray(samples.weights, np.float64)
    draws = np.asarray(samples.num_draws)[..., None]
    counts = weights * draws
    whole = np.rint(counts)
    rounding = 2 * float(jnp.finfo(samples.weights.dtype).eps) * counts  # of weights, as they are stored
    refuse(
        (np.abs(counts - whole) > np.minimum(1e-3 + rounding, 0.4)).any(-1)
        | (whole.sum(-1) != draws[..., 0]),
        "counts",
        lambda i: (
            f"weights·N are {counts[i][:4].tolist()} …, not whole numbers that sum to N = {draws[i][0]}: "
            "importance weights are an estimate of the target already (estimate), not counts"
        ),
    )
    rows = ids.reshape(-1, ids.shape[-1])
    table = np.zeros((len(rows), samples.vocab_size), np.int64)
    row, column = np.nonzero(rows != PADDING)
    np.add.at(table, (row, rows[row, column]), whole.reshape(rows.shape)[row, column].astype(np.int64))
    return table.reshape(*ids.shape[:-1], samples.vocab_size)


# -- estimators ------------------------------------------------------------------------------------------


def _soften(operator: Operator, rows: np.ndarray, temperature: float) -> np.ndarray:
    """F_T of empirical rows ``[R, K]`` in chunks; refused where an empty class is outside its domain."""
    _require_scalar(temperature)
    if isinstance(operator, SofteningOperator) and operator.claims.domain == "interior":
        refuse(
            (rows == 0).any(-1),
            "counts",
            lambda i: (
                f"class {int(np.argmax(rows[i] == 0))} has no draw (or its only one is left out), and "
                f"{operator.name} is not defined there: take another family, or more draws"
            ),
        )
    parts = [soften(operator, rows[i : i + _CHUNK], temperature) for i in range(0, len(rows), _CHUNK)]
    return np.concatenate(parts) if parts else rows


def _jackknife(operator: Operator, rows: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """The corrected estimate and its variance, ``[R, K]`` each, from counts ``[R, K]``."""
    draws = rows.sum(-1)
    refuse(draws < 2, "counts", lambda _: "one draw, and the jackknife leaves one out: draw two")
    full = _soften(operator, rows / draws[:, None], temperature)
    mean, variance = np.empty_like(full), np.empty_like(full)
    row, column = np.nonzero(rows)
    # Whole rows a chunk: a row's groups are softened together and then averaged.
    first = np.searchsorted(row, np.arange(len(rows) + 1))
    start = 0
    while start < len(rows):
        stop = max(start + 1, int(np.searchsorted(first, first[start] + _CHUNK, side="right")) - 1)
        group = slice(first[start], first[stop])
        of, left_out = row[group], column[group]
        without = rows[of]
        without[np.arange(len(of)), left_out] -= 1
        softened = _soften(operator, without / (draws[of, None] - 1), temperature)
        share = (rows[of, left_out] / draws[of])[:, None]
        at = first[start:stop] - first[start]
        mean[start:stop] = np.add.reduceat(share * softened, at)
        spread = share * (softened - mean[of]) ** 2
        variance[start:stop] = np.add.reduceat(spread, at)
        start = stop
    n = draws[:, None]
    # N F − (N − 1) mean, by the small difference: nothing large cancels.
    return full + (n - 1) * (full - mean), (n - 1) * variance


def _jackknife_bounds(
    value: np.ndarray, variance: np.ndarray, rows: np.ndarray, level: float
) -> list[np.ndarray]:
    from scipy import special

    draws = rows.sum(-1, keepdims=True)
    half = special.stdtrit(draws - 1, (1 + level) / 2) * np.sqrt(variance)
    silent = (rows == 0) | (rows == draws)
    low = np.where(silent, 0.0, np.clip(value - half, 0, 1))
    high = np.where(silent, 1.0, np.clip(value + half, 0, 1))
    return [low, high]


def _through(operator: Operator, bound: Shaped[np.ndarray, "R K"], temperature: float) -> np.ndarray:
    """F_T(·)_i at a bound of each p_i, where it depends on p_i alone: the rest is shared evenly."""
    k = bound.shape[-1]
    mass = bound.reshape(-1, 1)
    rows = np.concatenate([mass, np.broadcast_to((1 - mass) / (k - 1), (len(mass), k - 1))], axis=1)
    return _soften(operator, rows, temperature)[:, 0].reshape(bound.shape)
