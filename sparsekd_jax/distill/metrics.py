"""How good a classifier is, as sums that add up over batches, and intervals over seeds."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sparsekd_jax._refusals import is_traced, require_level, whole
from sparsekd_jax.distill.divergences import blank_rows, times, widened
from sparsekd_jax.distill.losses import cross_entropy, require_weights

NUM_BINS = 15


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Tally:
    """Numerators and denominator of the metrics; ``a + b`` is the tally of both batches together.

    Attributes:
        count: scalar, summed weights.
        correct: scalar, summed weights of the examples whose largest logit is at the label.
        nll: scalar, summed negative log-likelihood in nats.
        confidence: ``[bins]``, summed largest probability of the examples in each bin of confidence.
        hits: ``[bins]``, summed weights of the correct ones in each bin.
        in_bin: ``[bins]``, summed weights of the examples in each bin.
    """

    count: Float[Array, ""]
    correct: Float[Array, ""]
    nll: Float[Array, ""]
    confidence: Float[Array, " bins"]
    hits: Float[Array, " bins"]
    in_bin: Float[Array, " bins"]

    def __add__(self, other: "Tally") -> "Tally":
        return jax.tree.map(jnp.add, self, other)

    def __eq__(self, other: object) -> bool:
        """Whether all sums are the same numbers, as those of a run and of its resumed twin are."""
        if not isinstance(other, Tally):
            return NotImplemented
        pairs = zip(jax.tree.leaves(self), jax.tree.leaves(other), strict=True)
        return all(np.array_equal(one, another) for one, another in pairs)

    def __repr__(self) -> str:
        """The metrics, not the sums.

        >>> tally(jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([0, 0]))
        Tally(count=2, accuracy=0.5, nll=0.7201, calibration_error=0.4251)
        """
        counted = isinstance(self.count, jax.Array | np.ndarray) and not is_traced(self)
        if not counted or np.ndim(self.count) or not float(self.count):  # traced, of many members, of nothing
            return f"Tally(count={self.count})"
        parts = {
            "count": float(self.count),
            "accuracy": self.accuracy,
            "nll": self.mean_nll,
            "calibration_error": self.calibration_error,
        }
        return f"Tally({', '.join(f'{name}={value:.4g}' for name, value in parts.items())})"

    @property
    def accuracy(self) -> float:
        """Share of correct examples, in [0, 1]."""
        return float(self.correct) / self._counted

    @property
    def mean_nll(self) -> float:
        """Negative log-likelihood of the labels, nats an example."""
        return float(self.nll) / self._counted

    @property
    def calibration_error(self) -> float:
        """Expected calibration error ``Σ_b |Σ_{i in b} (confidence_i − correct_i)| / n``, in [0, 1]."""
        gaps = np.abs(np.asarray(self.confidence) - np.asarray(self.hits))
        return float(gaps.sum()) / self._counted

    @property
    def _counted(self) -> float:
        if float(self.count) == 0:
            raise ValueError("count is 0, so there is no mean: is every example padding? Add tallies first")
        return float(self.count)


def tally(
    logits: Float[Array, "*n K"],
    labels: Int[Array, "*n"],
    weights: Float[Array, "*n"] | None = None,
    *,
    num_bins: int = NUM_BINS,
) -> Tally:
    """The sums behind accuracy, NLL and calibration error of a batch.

    Args:
        logits: ``[n, K]``, or ``[n, L, K]`` of sequences: every label counts.
        labels: ``[n]`` or ``[n, L]``, classes in [0, K).
        weights: as ``labels``, 0 for padding, whose logits and label may be anything; by default 1 each.
        num_bins: equal bins of confidence on (0, 1], each closed above.

    Returns:
        A `Tally`; tallies of batches add up to the tally of the whole.

    Raises:
        ValueError: labels or weights of another shape than the rows of the logits, no bin; negative, infinite
            or NaN weights (seen in eager code only).
        TypeError: labels that are no integers.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, equation 3.

    >>> t = jax.jit(tally)(jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([0, 0]))
    >>> t.accuracy, round(t.mean_nll, 4)
    (0.5, 0.7201)
    """
    num_bins = whole("num_bins", num_bins)
    if weights is not None:
        require_weights(weights, jnp.shape(labels), "labels")
    logits = widened(logits)  # a count in bfloat16 stops at 256
    w = jnp.ones(labels.shape, logits.dtype) if weights is None else weights.astype(logits.dtype)
    mask = None if weights is None else w != 0
    losses = cross_entropy(logits, labels, mask)
    logits = blank_rows(logits, mask)
    probs = jax.nn.softmax(logits, axis=-1)
    confidence = jnp.max(probs, axis=-1)
    predicted = jnp.argmax(logits, axis=-1)
    correct = (predicted == labels.astype(predicted.dtype)).astype(logits.dtype)
    bins = jnp.clip(jnp.ceil(confidence * num_bins).astype(jnp.int32) - 1, 0, num_bins - 1)
    empty = jnp.zeros(num_bins, logits.dtype)
    return Tally(
        count=jnp.sum(w),
        correct=jnp.sum(w * correct),
        nll=jnp.sum(times(w, losses)),
        confidence=empty.at[bins].add(w * confidence),
        hits=empty.at[bins].add(w * correct),
        in_bin=empty.at[bins].add(w),
    )


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean over seeds with its two-sided Student-t interval; the bounds are None for a single seed.

    Attributes:
        mean: the mean.
        low: lower bound.
        high: upper bound.
        n: number of seeds.
        level: coverage.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    level: float = 0.95

    def show(self, *, factor: float = 1.0, decimals: int = 2, sign: str = "") -> str:
        """``mean [low, high]`` as text, or the mean alone where there are no bounds.

        Args:
            factor: numbers shown over numbers stored, 100 for percentages and points.
            decimals: digits after the point.
            sign: of the format: "+" shows that of positive numbers too.

        >>> gain = Interval(0.5, 0.25, 0.75, 3)
        >>> gain.show(), gain.show(factor=100.0, decimals=1, sign="+"), Interval(0.5, None, None, 1).show()
        ('0.50 [0.25, 0.75]', '+50.0 [+25.0, +75.0]', '0.50')
        """

        def text(value: float) -> str:
            return f"{factor * value:{sign}.{decimals}f}"

        if self.low is None or self.high is None:
            return text(self.mean)
        return f"{text(self.mean)} [{text(self.low)}, {text(self.high)}]"


def interval(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Student-t interval ``mean ± t_{n−1, (1+level)/2} · s/√n`` of independent values.

    Args:
        values: one number a seed, at least one.
        level: coverage in (0, 1).

    Returns:
        Mean and bounds, in the unit of the values; no bounds from a single value.

    Raises:
        ValueError: no values, one that is not finite, or a level outside (0, 1).

    >>> i = interval([1.0, 2.0, 3.0])
    >>> i.mean, round(i.low, 4), round(i.high, 4)
    (2.0, -0.4841, 4.4841)
    """
    from scipy import stats

    numbers = [float(v) for v in values]
    if not numbers:
        raise ValueError("values is empty: an interval needs at least one seed")
    bad = [i for i, v in enumerate(numbers) if not math.isfinite(v)]
    if bad:
        raise ValueError(f"values[{bad[0]}] is {numbers[bad[0]]}: find out why that seed failed")
    require_level(level)
    n = len(numbers)
    mean = math.fsum(numbers) / n
    if n == 1:
        return Interval(mean, None, None, 1, level)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in numbers) / (n - 1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * deviation / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, level)


def paired_difference(first: Sequence[float], second: Sequence[float], *, level: float = 0.95) -> Interval:
    """Student-t interval of ``first − second``, seed by seed: what the seeds share cancels.

    Args:
        first: one number a seed.
        second: the same seeds in the same order.
        level: coverage in (0, 1).

    Returns:
        Mean difference and bounds.

    Raises:
        ValueError: different lengths, or what `interval` refuses.

    >>> round(paired_difference([0.98, 0.97], [0.97, 0.96]).mean, 6)
    0.01
    """
    if len(first) != len(second):
        raise ValueError(f"first has {len(first)} values and second {len(second)}: pairs need the same seeds")
    return interval([a - b for a, b in zip(first, second, strict=True)], level=level)
