"""Operators matched by what a student sees of them: the nearest temperature, and classes of operators."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import ArrayLike, Float
from scipy import optimize
from scipy.sparse import csgraph

from sparsekd_jax.operators import Operator, SofteningOperator
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.operators.base import operator_name
from sparsekd_jax.theory.equivalence.gaps import checked_teacher, pull_back


@dataclasses.dataclass(frozen=True)
class NearestTemperature:
    """The temperature S of G whose targets look to the student most like those of F_T.

    Attributes:
        temperature: S.
        gap: ``‖Xᵀ(F_T(P) − G_S(P))‖/N``, what is left.
        same: the gap at S = T, before the search (None where G does not take T).
        relative: gap over ``‖Xᵀ(F_T(P) − u)‖/N``: 0 is equivalent, 1 no better than uniform targets, inf
            where uniform targets are equivalent and no S is.
        at_end: whether S is at an end of the range searched, so that nearer ones may lie beyond.
        searched: that range.
        identified: whether one S is nearest. False where others of the 65 searched, not next to it, are as
            near to rounding, such as all of them where the features do not see what G does: then
            ``temperature`` is any one of those.
    """

    temperature: float
    gap: float
    same: float | None
    relative: float
    at_end: bool
    searched: tuple[float, float]
    identified: bool = True

    def __str__(self) -> str:
        if not self.identified:
            return f"not identified: gap {self.gap:.4g} at T = {self.temperature:.6g} and at others alike"
        end = ", an end of the range searched" if self.at_end else ""
        return f"T = {self.temperature:.6g}{end}: gap {self.gap:.4g}, {self.relative:.4g} of the signal"


def nearest_temperature(
    first: Operator,
    temperature: float,
    second: Operator,
    probabilities: Float[ArrayLike, "N K"],
    features: Float[ArrayLike, "N d"] | Float[ArrayLike, "N K D"],
    *,
    temperatures: tuple[float, float] | None = None,
) -> NearestTemperature:
    """The S that minimises ``‖Xᵀ(F_T(P) − G_S(P))‖/N``: 65 values on a log scale, then Brent's method.

    Args:
        first: F, at ``temperature`` T.
        second: G, whose temperature is sought.
        probabilities: P, ``[N, K]``.
        features: X, as for `gap`.
        temperatures: closed range to search; by default what G claims within [0.05, 1000], for a plain
            function [1, 1000].

    Returns:
        A `NearestTemperature`; log S is found to about 1e-8, and to 1e-13 where the gap reaches 0. Where no
        S is nearer than another it says ``identified=False``: look there before you read the temperature.

    Raises:
        ValueError: a range that is not 0 < low < high < ∞, or as `gap`.

    Reference: theory.md section 5.

    >>> from sparsekd_jax.operators import ConvexMixture, PowerTransform
    >>> found = nearest_temperature(PowerTransform(), 2.0, ConvexMixture(), [[0.9, 0.1]], [[1.0]])
    >>> round(found.temperature, 6), round(found.gap, 9)
    (1.6, 0.0)
    >>> rows = [[0.8, 0.2], [0.2, 0.8]]    # a constant feature sees their mean, which no S moves
    >>> nearest_temperature(PowerTransform(), 2.0, ConvexMixture(), rows, [[1.0], [1.0]]).identified
    False
    """
    p, x = checked_teacher(probabilities, features)
    low, high = _searchable(second) if temperatures is None else temperatures
    if not 0 < low < high < math.inf:
        raise ValueError(f"temperatures are ({low}, {high}); needs 0 < low < high < ∞")
    target = soften(first, p, temperature)

    def distance(log_s: float) -> float:
        s = min(max(math.exp(log_s), low), high)  # exp(log(high)) may round past high
        return float(np.linalg.norm(pull_back(x, target - soften(second, p, s)))) / len(p)

    grid = np.linspace(math.log(low), math.log(high), 65)
    values = [distance(t) for t in grid]
    k = int(np.argmin(values))
    log_s, best = grid[k], values[k]
    # Brent's method places x to 1.5e-8 of its size; from its answer as the origin, to rounding.
    for reach in (grid[1] - grid[0], 1e-6):
        bounds = (max(-reach, grid[0] - log_s), min(reach, grid[-1] - log_s))
        origin = log_s
        found = optimize.minimize_scalar(
            lambda t, origin=origin: distance(origin + t),
            bounds=bounds,
            method="bounded",
            options={"xatol": 1e-14},
        )
        if found.fun < best:
            log_s, best = origin + found.x, float(found.fun)
    # The gap is a mean over rows, of terms as large as a feature.
    rounding = 64 * np.finfo(float).eps * float(np.linalg.norm(x.reshape(len(x), -1), axis=-1).mean())
    as_near = grid[np.array(values) <= min(values) + rounding]
    whole = float(np.linalg.norm(pull_back(x, target - 1 / p.shape[1]))) / len(p)
    try:
        same = float(np.linalg.norm(pull_back(x, target - soften(second, p, temperature)))) / len(p)
    except ValueError:  # T is outside what G takes
        same = None
    return NearestTemperature(
        temperature=min(max(math.exp(log_s), low), high),
        gap=best,
        same=same,
        relative=best / whole if whole > rounding else 0.0 if best <= rounding else math.inf,
        at_end=bool(min(log_s - grid[0], grid[-1] - log_s) < 1e-6),
        searched=(low, high),
        identified=bool(np.ptp(as_near) < max(1.5 * (grid[1] - grid[0]), 1e-6)),
    )


def _searchable(operator: Operator) -> tuple[float, float]:
    if not isinstance(operator, SofteningOperator):
        return 1.0, 1000.0
    claimed = operator.claims.temperatures
    low, high = max(claimed.low, 0.05), min(claimed.high, 1000.0)
    return (
        low if low in claimed else math.nextafter(low, high),
        high if high in claimed else math.nextafter(high, low),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class EquivalenceClasses:
    """Operators grouped by what a student on X sees of them.

    Attributes:
        classes: names of the operators, one tuple a class, in the order given.
        diameters: largest gap within each class: single linkage may chain steps of one tolerance.
        names: all names, in the order of ``gaps``.
        gaps: ``‖Xᵀ(F(P) − G(P))‖/N`` for each pair, ``[M, M]``.
        tolerance: largest gap that links two operators.
    """

    classes: tuple[tuple[str, ...], ...]
    diameters: tuple[float, ...]
    names: tuple[str, ...]
    gaps: Float[np.ndarray, "M M"]
    tolerance: float


def classes(
    operators: Mapping[str, Operator] | Sequence[Operator],
    probabilities: Float[ArrayLike, "N K"],
    features: Float[ArrayLike, "N d"] | Float[ArrayLike, "N K D"],
    temperature: float | Sequence[float],
    tolerance: float,
) -> EquivalenceClasses:
    """Single-linkage classes of operators: linked where their gap is at most the tolerance.

    Args:
        operators: by name, or as they are, under the names of the operators or functions.
        probabilities: P, ``[N, K]``.
        features: X, as for `gap`.
        temperature: one for all, or one an operator.
        tolerance: in the unit of the gap, ≥ 0. At 0 rounding separates what is equivalent; 1e-12 does not.

    Returns:
        `EquivalenceClasses`.

    Raises:
        ValueError: a negative tolerance, no operator, two of one name, a wrong number of temperatures; as
            `gap`.

    Reference: theory.md section 5.

    >>> from sparsekd_jax.operators import ConvexMixture, PowerTransform, TsallisSoftening
    >>> ops = [PowerTransform(), ConvexMixture(), TsallisSoftening(alpha=2.0)]
    >>> classes(ops, [[0.7, 0.2, 0.1]], [[1.0]], 2.0, 1e-9).classes
    (('power',), ('mixture', 'tsallis(2)'))
    """
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"tolerance is {tolerance}; it is a gap, finite and ≥ 0")
    if isinstance(operators, Mapping):
        named = list(operators.items())
    else:
        named = [(operator_name(op), op) for op in operators]
    names = tuple(name for name, _ in named)
    if not named:
        raise ValueError("operators is empty; there is nothing to group")
    if len(set(names)) != len(names):
        raise ValueError(f"operators {names} share a name; pass a mapping with a name for each")
    if np.shape(temperature) not in ((), (len(named),)):
        raise ValueError(f"temperature {temperature}: give one for all, or one for each of {len(named)}")
    each = [float(t) for t in np.broadcast_to(np.asarray(temperature, np.float64), len(named))]
    p, x = checked_teacher(probabilities, features)
    seen = np.stack(
        [pull_back(x, soften(op, p, t)).ravel() / len(p) for (_, op), t in zip(named, each, strict=True)]
    )
    gaps = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    _, labels = csgraph.connected_components(gaps <= tolerance, directed=False)
    members = [np.flatnonzero(labels == label) for label in dict.fromkeys(labels)]
    return EquivalenceClasses(
        classes=tuple(tuple(names[i] for i in group) for group in members),
        diameters=tuple(float(gaps[np.ix_(group, group)].max()) for group in members),
        names=names,
        gaps=gaps,
        tolerance=tolerance,
    )
