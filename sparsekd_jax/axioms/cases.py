"""Where laws are tested: sweeps that reach the awkward corners of the simplex, and Hypothesis strategies.

A case is what any law may need: two distributions p and r, a mixing weight, a permutation, and two
temperatures S ≤ T. A sweep draws many at once, stratified so that no corner is left to luck; the strategies
draw one at a time, so that Hypothesis can shrink it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st

from sparsekd_jax._refusals import whole
from sparsekd_jax.operators import TemperatureRange

COLDEST, HOTTEST = 0.05, 1e4
"""The finite window that stands for an open end of a temperature range; limits are laws of their own."""


@dataclasses.dataclass(frozen=True, eq=False)
class Cases:
    """A batch of N cases with K classes, numpy float64.

    Attributes:
      p: distributions ``[N, K]``.
      r: others.
      weight: mixing weights in (0, 1), ``[N]``.
      permutation: ``[N, K]`` int.
      low: temperatures S, ``[N]``.
      high: temperatures T ≥ S.
    """

    p: np.ndarray
    r: np.ndarray
    weight: np.ndarray
    permutation: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __len__(self) -> int:
        return len(self.p)

    @property
    def num_classes(self) -> int:
        """K."""
        return self.p.shape[-1]

    @property
    def interior(self) -> np.ndarray:
        """Which cases keep to the interior of the simplex, ``[N]``."""
        return np.asarray((self.p > 0).all(-1) & (self.r > 0).all(-1))

    def take(self, index: np.ndarray | slice) -> "Cases":
        """The cases at an index."""
        return Cases(*(getattr(self, f.name)[index] for f in dataclasses.fields(self)))

    @classmethod
    def one(
        cls,
        p: Sequence[float] | np.ndarray,
        high: float,
        low: float | None = None,
        r: Sequence[float] | np.ndarray | None = None,
        weight: float = 0.5,
    ) -> "Cases":
        """A single case; S defaults to T, r to the reverse of p."""
        row = np.asarray(p, np.float64)[None]
        other = row[:, ::-1] if r is None else np.asarray(r, np.float64)[None]
        return cls(
            row,
            other,
            np.array([weight]),
            np.arange(row.shape[1])[None, ::-1],
            np.array([high if low is None else low], np.float64),
            np.array([high], np.float64),
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Cases"]) -> "Cases":
        """Several batches with one K as one."""
        return cls(*(np.concatenate([getattr(c, f.name) for c in parts]) for f in dataclasses.fields(cls)))


# -- distributions, by kind --------------------------------------------------------------------------------


def _normalise(weights: np.ndarray) -> np.ndarray:
    p = weights / weights.sum(-1, keepdims=True)
    return p / p.sum(-1, keepdims=True)


def _dirichlet(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    concentration = rng.choice([0.1, 0.5, 1.0, 5.0], (n, 1))
    return _normalise(np.maximum(rng.gamma(np.broadcast_to(concentration, (n, k))), 1e-12))


def _with_ties(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return _normalise(rng.integers(1, rng.integers(2, 6, (n, 1)), (n, k)).astype(float))


def _near_ties(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    p = _dirichlet(rng, n, k) + 1e-3
    rows, (i, j) = np.arange(n), _two_coordinates(rng, n, k)
    p[rows, j] = p[rows, i] * (1 + rng.choice([-1, 1], n) * 10.0 ** -rng.integers(1, 10, n))
    return _normalise(p)


def _dominant(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    rest = 10.0 ** -rng.integers(1, 10, n) * rng.uniform(0.1, 1, n)
    # Half of the rest uneven, half even.
    p = np.where(rng.random((n, 1)) < 0.5, _dirichlet(rng, n, k), 1.0)
    top = rng.integers(0, k, n)
    p[np.arange(n), top] = 0
    p = p / p.sum(-1, keepdims=True) * rest[:, None]
    p[np.arange(n), top] = 1 - rest
    return _normalise(np.maximum(p, 1e-30))


def _tiny(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return _normalise(10.0 ** rng.uniform(-30, 0, (n, k)))


def _nearly_uniform(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    size = np.where(rng.random((n, 1)) < 0.2, 0, 10.0 ** -rng.integers(1, 10, (n, 1)))
    return _normalise(1 + size * rng.uniform(-1, 1, (n, k)))


def _levels(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    """Two or three levels, far apart: a few classes share nearly all the mass."""
    level = 10.0 ** -np.stack([np.zeros(n), rng.uniform(0, 3, n), rng.uniform(2, 8, n)], -1)
    return _normalise(np.take_along_axis(level, rng.integers(0, 3, (n, k)), -1))


def _face(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    """A face, an edge or a vertex: some coordinates are exact zeros."""
    p = np.where(rng.random((n, 1)) < 0.3, _with_ties(rng, n, k), _dirichlet(rng, n, k))
    order = rng.permuted(np.tile(np.arange(k), (n, 1)), axis=1)
    support = np.where(rng.random(n) < 0.3, 1, rng.integers(1, k, n)) if k > 1 else np.ones(n, int)
    p[order >= support[:, None]] = 0
    return _normalise(p)


def _two_coordinates(rng: np.random.Generator, n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    i = rng.integers(0, k, n)
    return i, (i + rng.integers(1, k, n)) % k


_KINDS: tuple[tuple[Callable[[np.random.Generator, int, int], np.ndarray], int], ...] = (
    (_dirichlet, 6),
    (_with_ties, 2),
    (_near_ties, 3),
    (_dominant, 3),
    (_tiny, 2),
    (_nearly_uniform, 2),
    (_levels, 2),
    (_face, 5),
)


def _distributions(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    """n rows of all kinds, in proportion to their weights, shuffled."""
    total = sum(weight for _, weight in _KINDS)
    counts = [weight * n // total for _, weight in _KINDS]
    counts[0] += n - sum(counts)
    p = np.concatenate([kind(rng, count, k) for (kind, _), count in zip(_KINDS, counts, strict=True)])
    return rng.permutation(p)


def _partners(rng: np.random.Generator, p: np.ndarray) -> np.ndarray:
    """r for each p: independent, a permutation, mass moved between two classes, or a small step away."""
    n, k = p.shape
    kind = rng.integers(0, 4, n)
    independent = rng.permutation(p)
    shuffled = np.take_along_axis(p, rng.permuted(np.tile(np.arange(k), (n, 1)), axis=1), -1)
    moved, rows, (i, j) = p.copy(), np.arange(n), _two_coordinates(rng, n, k)
    amount = p[rows, i] * np.where(rng.random(n) < 0.3, 0.999, 10.0 ** rng.uniform(-4, -0.01, n))
    moved[rows, i] -= amount
    moved[rows, j] += amount
    step = 10.0 ** rng.uniform(-5, -0.5, (n, 1))
    near = _normalise((1 - step) * p + step * independent)
    return np.choose(kind.reshape(-1, 1), [independent, shuffled, moved, near])


# -- temperatures ------------------------------------------------------------------------------------------


def _ends(allowed: TemperatureRange) -> tuple[float, float]:
    high = max(HOTTEST, 10 * allowed.low) if math.isinf(allowed.high) else allowed.high
    return min(COLDEST, 0.5 * high) if allowed.low == 0 else allowed.low, high


def _strata(rng: np.random.Generator, n: int, low: float, high: float) -> np.ndarray:
    return low + (high - low) * (rng.permutation(n) + rng.random(n)) / n


def _temperatures(rng: np.random.Generator, n: int, allowed: TemperatureRange) -> np.ndarray:
    """T's over the range: dense in [1, 20], log-uniform, next to 1 and to both ends, and small numbers."""
    low, high = _ends(allowed)
    dense = _strata(rng, n, max(low, min(1.0, high)) if high > 1 else low, min(high, 20.0))
    wide = np.exp(_strata(rng, n, math.log(low), math.log(high)))
    gap = 10.0 ** -rng.integers(1, 11, n) * rng.choice([-1, 0, 1], n)
    edge = np.where(rng.random(n) < 0.5, low * (1 + np.abs(gap)), high * (1 - np.abs(gap)))
    simple = rng.choice([0.1, 0.25, 0.5, 0.75, 1.25, 1.5, 2, 3, 4, 5, 10, 50], n)
    kind = rng.choice(5, n, p=[0.55, 0.2, 0.1, 0.05, 0.1])
    t = np.choose(kind, [dense, wide, 1 + gap, edge, simple])
    inside = allowed.inside(t) & (t >= low) & (t <= high)
    return np.where(inside, t, dense)


def _colder(rng: np.random.Generator, high: np.ndarray, allowed: TemperatureRange) -> np.ndarray:
    """S ≤ T: a short step below, anywhere below, exactly 1, or a fixed ratio."""
    low, _ = _ends(allowed)
    n = len(high)
    short = high - 10.0 ** rng.uniform(-3, -0.3, n) * np.minimum(1, high)
    anywhere = low + (high - low) * rng.random(n)
    kind = rng.choice(4, n, p=[0.5, 0.25, 0.1, 0.15])
    s = np.choose(kind, [short, anywhere, np.ones(n), 0.8 * high])
    return np.where(allowed.inside(s) & (s >= low) & (s <= high), s, np.minimum(high, anywhere))


def sweep(num_classes: int, temperatures: TemperatureRange, size: int, seed: int = 0) -> Cases:
    """A stratified batch of ``size`` cases.

    Args:
      num_classes: K ≥ 2.
      temperatures: the range that S and T keep to; an open end is replaced by a finite window.
      size: number of cases.
      seed: of the draw; the same seed gives the same cases.

    >>> cases = sweep(5, TemperatureRange(1.0), 100)
    >>> len(cases), bool((cases.low <= cases.high).all()), 0 < int(cases.interior.sum()) < 100
    (100, True, True)
    """
    whole("num_classes", num_classes, least=2)
    whole("size", size)
    rng = np.random.default_rng([seed, num_classes, size])
    p = _distributions(rng, size, num_classes)
    high = _temperatures(rng, size, temperatures)
    return Cases(
        p=p,
        r=_partners(rng, p),
        weight=rng.choice([0.5, 0.25, 0.9], size),
        permutation=rng.permuted(np.tile(np.arange(num_classes), (size, 1)), axis=1),
        low=_colder(rng, high, temperatures),
        high=high,
    )


def corpus(num_classes: int, temperatures: TemperatureRange) -> Cases | None:
    """The known witnesses of K classes with temperatures in the range, or None.

    They are those of theory.md, and one for L2 at K = 5, where few draws meet what its four classes show.
    """
    found = [
        case
        for case in _WITNESSES
        if case.num_classes == num_classes
        and temperatures.inside(case.low).all()
        and temperatures.inside(case.high).all()
    ]
    return Cases.concatenate(found) if found else None


_WITNESSES = (
    Cases.one((0.99, 0.01), 2.0, r=(0.999, 0.001)),
    Cases.one((0.9, 0.1), 2.0, r=(0.5, 0.5)),
    Cases.one((0.9, 0.1, 0.0), 2.0, r=(0.2, 0.2, 0.6)),
    Cases.one((0.49935, 0.49935, 0.0013, 0.0), 1.001, r=(0.49935, 0.49935, 0.0, 0.0013)),
    Cases.one((0.488, 0.488, 0.0239, 9e-5, 1e-5), 1.0001, r=(0.488005, 0.488005, 0.023905, 8.1e-5, 4e-6)),
    Cases.one((0.5, 0.3, 0.2), 0.25),
    Cases.one((0.6, 0.4), 0.5, r=(0.5, 0.5)),
    Cases.one((0.9, 0.1), 0.5, low=0.4),
    Cases.one((0.7, 0.3, 0.0), 2.0, low=2.0),
    Cases.one((0.6, 0.4), 2.0, low=1.0),
    Cases.one((0.9, 0.1), 4.0, low=4.0),
    Cases.one((0.5, 0.5, 0.0), 2.0),
)


# -- one case at a time, for Hypothesis --------------------------------------------------------------------


def distributions(num_classes: int, interior: bool = False) -> st.SearchStrategy[np.ndarray]:
    """Rows ``w/Σw`` with small whole weights, which shrink towards few, small, equal numbers.

    Args:
      num_classes: K ≥ 2.
      interior: whether to exclude zeros.
    """
    smallest = 1 if interior else 0
    weight = st.integers(smallest, 12) | st.integers(smallest, 10**9)
    rows = st.lists(weight, min_size=num_classes, max_size=num_classes)
    return rows.filter(any).map(lambda w: _normalise(np.asarray(w, np.float64)))


def temperatures(allowed: TemperatureRange) -> st.SearchStrategy[float]:
    """Temperatures of the range: simple numbers first, then any."""
    low, high = _ends(allowed)
    simple = [t for t in (1.0, 2.0, 0.5, 4.0, 10.0, 0.25) if t in allowed and low <= t <= high]
    anywhere = st.floats(low, high, allow_nan=False, exclude_min=allowed.low_open and low == allowed.low)
    return st.sampled_from(simple) | anywhere if simple else anywhere


@st.composite
def cases(draw: st.DrawFn, num_classes: Sequence[int], allowed: TemperatureRange) -> Cases:
    """A single case, as a batch of one."""
    k = draw(st.sampled_from(sorted(num_classes)))
    t = sorted((draw(temperatures(allowed)), draw(temperatures(allowed))))
    return dataclasses.replace(
        Cases.one(draw(distributions(k)), high=t[1], low=t[0], r=draw(distributions(k))),
        permutation=np.asarray(draw(st.permutations(range(k))))[None],
    )


@st.composite
def simpler(draw: st.DrawFn, witness: Cases, num_classes: Sequence[int]) -> Cases:
    """Cases at most as complicated as a given one: fewer classes, fewer digits, rounder temperatures.

    The most complicated draw is the witness itself: Hypothesis starts from a known violation and shrinks it.
    """
    k = witness.num_classes
    fewer = [c for c in sorted(num_classes) if c < k]
    kept = draw(st.sampled_from([*fewer, *[k] * (len(fewer) + 1)]))
    classes = draw(st.permutations(range(k)))[:kept] if kept < k else range(k)
    digits = draw(st.sampled_from([1, 2, 3, 4, 6, 9, 17, 17, 17, 17]))
    degrees = draw(st.sampled_from([0, 1, 2, 3, 4, 6, 17, 17, 17, 17]))
    columns = np.asarray(classes, int)
    ranks = np.argsort(np.argsort(witness.permutation[0][columns]))
    return Cases(
        _rounded(witness.p[:, columns], digits),
        _rounded(witness.r[:, columns], digits),
        witness.weight,
        ranks[None],
        _rounded_temperature(witness.low, degrees),
        _rounded_temperature(witness.high, degrees),
    )


def _rounded(p: np.ndarray, digits: int) -> np.ndarray:
    total = p.sum(-1, keepdims=True)
    if not (total > 0).all():
        return np.full_like(p, 1 / p.shape[-1])
    if digits >= 17 and np.allclose(total, 1, rtol=0, atol=1e-15):
        return p
    rounded = np.round(p / p.max(-1, keepdims=True), min(digits, 16))
    return _normalise(rounded)


def _rounded_temperature(t: np.ndarray, digits: int) -> np.ndarray:
    return t if digits >= 17 else np.maximum(np.round(t, digits), 10.0**-digits)
