"""What a law is, and what it looks at: the outputs of an operator on a batch of cases."""

import dataclasses
from collections.abc import Callable
from functools import cached_property

import numpy as np

from sparsekd_jax.axioms.cases import Cases
from sparsekd_jax.axioms.evaluate import Evaluator
from sparsekd_jax.operators import TemperatureRange

ULP = 2.0**-52
BLUR = 64 * ULP
"""A strict gap below this, in log space, is not decided."""


SINGLE_PRECISION_TOLERANCE = 2e-5
"""What a law forgives an operator that answers in less than float64."""

_WAY = np.concatenate([8.0 ** -np.arange(35, 0, -1), 1 - 2.0 ** -np.arange(1, 49), [1.0]])
"""Places between 0 and 1, dense at both ends: an underflow at any T from 1e-4 up is met on its way back."""

_ALMOST_ALL, _STEPS = 0.98, 24
"""How far the way goes on which two classes grow, and in how many steps it is looked at."""

_POWER = 1e8
"""What a gap may grow by where its classes double: as p²⁶ does, and not as a tie that ends."""

_CLOSER = 6
"""Halvings of the step in which a class comes back: at T = 0.05 it grows 2-fold there, and not 1e18-fold."""


@dataclasses.dataclass(frozen=True, eq=False)
class Margins:
    """What a law says of each case.

    Attributes:
      margin: ``[N]``; NaN outputs give −inf, a case that the law does not speak of +inf.
      left: the left side of the law's inequality or equation, for the reader, ``[N]``.
      right: its right side.
      decided: ``[N]``; False where the law cannot be judged in floating point.
      equal: ``[N]``; True where nothing moved at all (an operator that ignores T).
    """

    margin: np.ndarray
    left: np.ndarray
    right: np.ndarray
    decided: np.ndarray | None = None
    equal: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Law:
    """A law: its id, its formula as printed, its tolerance, and its margin."""

    id: str
    title: str
    formula: str
    margins: Callable[["Observation"], Margins]
    tolerance: float = 1e-9
    sides: tuple[str, str] = ("left", "right")
    uses: tuple[str, ...] = ("p", "T")
    limit: bool = False  # judged by a trend, on fewer cases
    effort: int = 1  # how many times the work of a plain law a single case takes


@dataclasses.dataclass
class Observation:
    """The outputs of an operator on a batch of cases, each evaluated when first asked for."""

    evaluator: Evaluator
    cases: Cases
    temperatures: TemperatureRange

    @cached_property
    def hot(self) -> np.ndarray:
        """F_T(p)."""
        return self.evaluator.soften(self.cases.p, self.cases.high)

    @cached_property
    def cold(self) -> np.ndarray:
        """F_S(p), S ≤ T."""
        return self.evaluator.soften(self.cases.p, self.cases.low)

    @cached_property
    def partner(self) -> np.ndarray:
        """F_T(r)."""
        return self.evaluator.soften(self.cases.r, self.cases.high)

    @cached_property
    def broken(self) -> np.ndarray:
        """Where F_T(p) or F_S(p) is not finite, ``[N]``."""
        return ~np.isfinite(self.hot).all(-1) | ~np.isfinite(self.cold).all(-1)

    def log_hot(self, rows: np.ndarray) -> np.ndarray | None:
        """log F_T(p) at some rows without underflow, or None for a plain function."""
        if not self.evaluator.has_log:
            return None
        return self.evaluator.log_soften(self.cases.p[rows], self.cases.high[rows])

    def truncated(self, rows: np.ndarray, lost: np.ndarray) -> np.ndarray:
        """Whether F_T(p) cuts off what it lost in some rows, ``[R]``, by probabilities alone.

        On the way from p to u, where no class is small, an underflow passes through tiny numbers, and so does
        what rounding took, as of 1 − Σ others; a truncation comes back as a plain one, or never.

        Args:
          rows: which cases, ``[R]``.
          lost: the classes whose zeros are in doubt, ``[R, K]``; the largest of each row is looked at. All
            False: nothing was lost, so nothing is cut off.
        """
        p, t, k = self.cases.p[rows], self.cases.high[rows], self.cases.num_classes
        largest = np.argmax(np.where(lost, p, 0), -1)[:, None, None]

        def found(way: np.ndarray) -> np.ndarray:
            path = (1 - way[..., None]) * p[:, None] + way[..., None] / k
            q = self.evaluator.soften(path.reshape(-1, k), np.repeat(t, way.shape[-1]))
            return np.take_along_axis(q.reshape(path.shape), largest, -1)[..., 0]

        q = found(np.tile(_WAY, (len(p), 1)))
        least = np.where(q > 0, q, np.inf).min(-1)
        first = np.argmax(q > 0, -1)
        below, above = np.where(first > 0, _WAY[first - 1], 0), _WAY[first]
        for _ in range(_CLOSER):
            middle = np.sqrt(below * above)
            q = found(middle[:, None])[:, 0]
            least = np.where(q > 0, np.minimum(least, q), least)
            below, above = np.where(q > 0, below, middle), np.where(q > 0, middle, above)
        return lost.any(-1) & (least > (1e-6 if self.evaluator.single_precision else 1e-12))

    def squeezed(self, rows: np.ndarray, larger: np.ndarray, smaller: np.ndarray) -> np.ndarray:
        """Whether two classes of some rows are equal in F_T(p) for want of digits, ``[R]``, and not tied.

        As both grow in proportion, at the cost of the rest, a gap that floats do not resolve, such as that of
        p⁴ at p = 1e-4, comes out of the rounding by a power of their size; a tie ends at once, or never.

        Args:
          rows: which cases, ``[R]``.
          larger: the class of each that is larger in p, ``[R]``.
          smaller: the one that is smaller.
        """
        p, t, k = self.cases.p[rows], self.cases.high[rows], self.cases.num_classes
        each = np.arange(len(p))
        pair = np.zeros(p.shape, bool)
        pair[each, larger] = pair[each, smaller] = True
        held = np.where(pair, p, 0).sum(-1)
        most = np.log(np.maximum(_ALMOST_ALL / held, 1))  # log of what they may grow by

        def gap(log_growth: np.ndarray) -> np.ndarray:
            growth = np.exp(log_growth)[..., None]
            kept = (1 - growth * held[:, None, None]) / np.maximum(1 - held, 1e-300)[:, None, None]
            path = np.where(pair[:, None], growth, kept) * p[:, None]
            q = self.evaluator.soften(path.reshape(-1, k), np.repeat(t, log_growth.shape[-1]))
            q = q.reshape(path.shape)
            with np.errstate(divide="ignore", invalid="ignore"):
                ends = [
                    np.log(np.take_along_axis(q, i[:, None, None], -1)[..., 0]) for i in (larger, smaller)
                ]
                return (ends[0] - ends[1]) / np.maximum(1, np.abs(ends[0]))

        way = most[:, None] * np.linspace(0, 1, _STEPS)
        resolved = gap(way) > BLUR
        first = np.argmax(resolved, -1)
        below, above = way[each, np.maximum(first - 1, 0)], way[each, first]
        for _ in range(_CLOSER):
            middle = (below + above) / 2
            seen = gap(middle[:, None])[:, 0] > BLUR
            below, above = np.where(seen, below, middle), np.where(seen, middle, above)
        doubled = gap(np.minimum(above + np.log(2), most)[:, None])[:, 0]
        return resolved.any(-1) & (doubled < _POWER * BLUR)


def entropy(q: np.ndarray) -> np.ndarray:
    """Shannon entropy of numpy rows, in nats; zeros and negative entries count 0, NaN stays NaN."""
    with np.errstate(invalid="ignore"):
        positive = ~(q <= 0)
        return np.sum(np.where(positive, q * -np.log(np.where(positive, q, 1)), 0), -1) + 0.0  # no −0


def worst_if_nan(margin: np.ndarray, *outputs: np.ndarray) -> np.ndarray:
    """The margin, −inf in rows where it is NaN or an output is not finite."""
    broken = np.isnan(margin)
    for q in outputs:
        broken |= ~np.isfinite(q).all(-1)
    return np.where(broken, -np.inf, margin)


def sorted_by(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both, row by row in the order in which p falls."""
    order = np.argsort(-p, axis=-1, kind="stable")
    return np.take_along_axis(p, order, -1), np.take_along_axis(q, order, -1)
