"""Bias and variance of an ensemble of students, and whether a sparse one beats a dense one.

A member is a student fitted on its own resample of the data; arrays of probabilities come in, from any
framework, and a result object goes out. Members that differ by their seed on fixed data give the variance of
the optimisation only.
"""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float, Int

from sparsekd_jax._refusals import refuse, require_level
from sparsekd_jax.theory import _terms
from sparsekd_jax.theory._rows import distributions
from sparsekd_jax.theory._terms import LeftOut, Loss, Terms, terms
from sparsekd_jax.theory.intervals import Estimate, Spread, of_difference, one_way, two_way, with_quantile

__all__ = ["Comparison", "Decomposition", "LeftOut", "Terms", "compare", "decompose", "terms"]

Examples = Literal["random", "fixed"]
Verdict = Literal["sparse wins", "dense wins", "undecided"]

ROUNDING = 1e-12
"""An advantage below this is the rounding of equal risks, not a reason to prefer either student."""


@dataclasses.dataclass(frozen=True, eq=False)
class Decomposition:
    """Squared bias, variance and risk of an ensemble, averaged over the examples.

    The corrected terms: ``variance`` is m/(m − 1) times the plug-in one, ``bias_squared`` is what is left of
    the risk, so that ``risk = bias_squared + variance`` exactly. Under KL the terms are in nats and the part
    of bias² is played by KL(p⋆‖q̄).

    Attributes:
        loss: "brier" or "kl".
        against: "truth", or "labels": then the risk contains the noise of the labels, and bias² apart from
            that noise is not identified, so both bias fields are None.
        num_members: m.
        num_examples: n.
        bias_squared: ``‖E q − p⋆‖²`` or ``KL(p⋆‖q̄)``; an estimate of it can be below 0.
        variance: ``E‖q − E q‖²`` or ``E KL(q̄‖q)``.
        risk: ``E‖q − p⋆‖²`` or ``E KL(p⋆‖q)``; against labels the Brier score or the negative log-likelihood.
        plug_in_variance: the variance of the m members about their own centre, biased low.
        variance_map: ``[n, K]``, corrected, by example and class; its sum over classes is the variance.
        bias_squared_map: ``[n, K]``, corrected, by example and class, or None.
    """

    loss: Loss
    against: Literal["truth", "labels"]
    num_members: int
    num_examples: int
    bias_squared: Estimate | None
    variance: Estimate
    risk: Estimate
    plug_in_variance: float
    variance_map: np.ndarray
    bias_squared_map: np.ndarray | None

    @property
    def plug_in_bias_squared(self) -> float | None:
        """Squared bias of the mean of the m members, too large by Var/m; None against labels."""
        return None if self.bias_squared is None else self.risk.value - self.plug_in_variance

    @property
    def variance_per_example(self) -> np.ndarray:
        """``[n]``, corrected."""
        return self.variance_map.sum(axis=1)

    @property
    def variance_per_class(self) -> np.ndarray:
        """``[K]``, the part of each class in the variance, averaged over examples."""
        return self.variance_map.mean(axis=0)

    @property
    def bias_squared_per_example(self) -> np.ndarray | None:
        """``[n]``, corrected, or None."""
        return None if self.bias_squared_map is None else self.bias_squared_map.sum(axis=1)

    @property
    def bias_squared_per_class(self) -> np.ndarray | None:
        """``[K]``, the part of each class in the squared bias, averaged over examples, or None."""
        return None if self.bias_squared_map is None else self.bias_squared_map.mean(axis=0)

    def __str__(self) -> str:
        bias = self.bias_squared or "not identified by labels (only its difference between students is)"
        return (
            f"{self.loss}, {self.num_members} members, {self.num_examples} examples, against {self.against}\n"
            f"bias²     {bias}\nvariance  {self.variance}\nrisk      {self.risk}"
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Whether a sparse student beats a dense one: ΔVar against ΔBias².

    Attributes:
        loss: "brier" or "kl".
        against: "truth" or "labels"; both identify every field.
        num_members: m pairs.
        num_examples: n.
        delta_variance: ``Var_dense − Var_sparse``, what sparsity gains.
        delta_bias_squared: ``Bias²_sparse − Bias²_dense``, what it costs.
        advantage: ``ΔVar − ΔBias² = Risk_dense − Risk_sparse``.
        delta_variance_per_example: ``[n]``.
        delta_bias_squared_per_example: ``[n]``; against labels unbiased but noisy.
    """

    loss: Loss
    against: Literal["truth", "labels"]
    num_members: int
    num_examples: int
    delta_variance: Estimate
    delta_bias_squared: Estimate
    advantage: Estimate
    delta_variance_per_example: np.ndarray
    delta_bias_squared_per_example: np.ndarray

    @property
    def verdict(self) -> Verdict:
        """Which student has the lower risk, where the interval of the advantage excludes 0."""
        if self.advantage.low is None or self.advantage.high is None:
            return "undecided"
        if self.advantage.low > ROUNDING:
            return "sparse wins"
        return "dense wins" if self.advantage.high < -ROUNDING else "undecided"

    def __str__(self) -> str:
        return (
            f"{self.verdict}: ΔVar − ΔBias² = {self.advantage} at level {self.advantage.level:g}\n"
            f"  ΔVar   = Var_dense − Var_sparse     = {self.delta_variance}\n"
            f"  ΔBias² = Bias²_sparse − Bias²_dense = {self.delta_bias_squared}\n"
            f"  {self.loss}, {self.num_members} pairs, {self.num_examples} examples, against {self.against}"
        )


def decompose(
    probabilities: Float[ArrayLike, "m n K"],
    *,
    truth: Float[ArrayLike, "n K"] | None = None,
    labels: Int[ArrayLike, " n"] | None = None,
    loss: Loss = "brier",
    examples: Examples = "random",
    level: float = 0.95,
) -> Decomposition:
    """Squared bias, variance and risk of students retrained on m resamples of the data.

    ``brier``: ``E‖q − p⋆‖² = ‖E q − p⋆‖² + E‖q − E q‖²``; the corrected terms are unbiased.
    ``kl``: ``E KL(p⋆‖q) = KL(p⋆‖q̄) + E KL(q̄‖q)``, ``q̄ ∝ exp(E log q)``; the factor m/(m − 1) mends most of
    the bias of the plug-in variance, not all of it.

    Args:
        probabilities: ``[m, n, K]``, of m ≥ 2 members on the same n examples; intervals need m ≥ 3.
        truth: ``[n, K]``, the known distribution p⋆ of each example; or
        labels: ``[n]``, one class in [0, K) drawn from p⋆ for each example, not used in training.
        loss: "brier" or "kl" (nats).
        examples: "random": the n examples are a sample, and the intervals are for their population; "fixed":
            they are all there is, and the intervals are over members only. With labels "random" alone.
        level: coverage of the intervals in (0, 1).

    Returns:
        A `Decomposition`; with labels its bias² is None, since they hide it behind their own noise.

    Raises:
        TypeError: arrays of the wrong dtype.
        ValueError: rows that are no distributions, shapes, labels out of range, m = 1, neither or both of
            truth and labels; a zero probability under KL, where q̄ does not exist.

    Computed in float64 from rows read as p/Σp; jackknife-t intervals with members and examples crossed.
    The intervals of variance and risk are taken on the logarithm, so they stay positive.

    Reference: theory.md section 3.

    >>> probabilities = np.array([[[0.8, 0.2]], [[0.6, 0.4]], [[0.7, 0.3]]])
    >>> print(decompose(probabilities, truth=np.array([[0.7, 0.3]]), examples="fixed"))
    brier, 3 members, 1 examples, against truth
    bias²     -0.006667 [-0.06404, 0.0507]
    variance  0.02 [...]
    risk      0.01333 [...]
    """
    values = _ensemble(probabilities, "probabilities", loss)
    reference, against = _reference(values, truth, labels, examples, level)
    with jax.enable_x64(True):
        found = jax.device_get(terms(jnp.asarray(values), jnp.asarray(reference), loss))
        bias = _interval(found.bias, examples, level)
        variance, risk = (
            _interval(term, examples, level, positive=True) for term in (found.variance, found.risk)
        )
    m, n, _ = values.shape
    known = against == "truth"
    return Decomposition(
        loss=loss,
        against=against,
        num_members=m,
        num_examples=n,
        bias_squared=bias if known else None,
        variance=variance,
        risk=risk,
        plug_in_variance=variance.value * (m - 1) / m,
        variance_map=found.variance_map,
        bias_squared_map=found.bias_map if known else None,
    )


def compare(
    sparse: Float[ArrayLike, "m n K"],
    dense: Float[ArrayLike, "m n K"],
    *,
    truth: Float[ArrayLike, "n K"] | None = None,
    labels: Int[ArrayLike, " n"] | None = None,
    loss: Loss = "brier",
    examples: Examples = "random",
    level: float = 0.95,
) -> Comparison:
    """Whether a sparse student beats a dense one: ``ΔVar > ΔBias²``, with its interval.

    ``Risk_dense − Risk_sparse = (Var_dense − Var_sparse) − (Bias²_sparse − Bias²_dense)``: an identity, so
    the verdict is that of the risks, and the two differences say where it comes from.

    Args:
        sparse: ``[m, n, K]``, probabilities of the sparse students.
        dense: ``[m, n, K]``, member i trained on the same resample as sparse member i.
        truth: ``[n, K]``, the known p⋆; or
        labels: ``[n]``, one class in [0, K) drawn from p⋆; their noise cancels in the difference.
        loss: "brier" or "kl" (nats).
        examples: as for `decompose`.
        level: coverage of each interval in (0, 1).

    Returns:
        A `Comparison`; "undecided" where the interval of the advantage contains 0, or with two pairs.

    Raises:
        TypeError, ValueError: as `decompose`; and shapes that differ.

    Measured coverage of the 95 % intervals, both losses, m = 5, 10, 20, with students that move in many
    directions and in few: advantage .93 to .97, ΔBias² .93 to .99, ΔVar .95 to .98 (its interval allows for
    the skewness of variances; Student's covers less than .92 of the hardest). Members alone, m = 50 with 450
    labels, cover ΔBias² .28 to .79.

    Reference: theory.md section 3.

    >>> dense = np.array([[[0.9, 0.1]] * 9, [[0.5, 0.5]] * 9, [[0.7, 0.3]] * 9])
    >>> sparse = np.full((3, 9, 2), 0.5)
    >>> print(compare(sparse, dense, truth=np.full((9, 2), 0.5)))
    undecided: ΔVar − ΔBias² = 0.1333 [-0.2804, 0.547] at level 0.95
      ΔVar   = Var_dense − Var_sparse     = 0.08 [-0.2642, 0.4242]
      ΔBias² = Bias²_sparse − Bias²_dense = -0.05333 [-0.5123, 0.4056]
      brier, 3 pairs, 9 examples, against truth
    """
    thin, full = _ensemble(sparse, "sparse", loss), _ensemble(dense, "dense", loss)
    if thin.shape != full.shape:
        raise ValueError(
            f"sparse has shape {thin.shape} and dense {full.shape}; member i of both is one resample of the "
            "training data, example j of both the same example"
        )
    reference, against = _reference(thin, truth, labels, examples, level)
    with jax.enable_x64(True):
        delta = jax.device_get(
            _terms.differences(jnp.asarray(thin), jnp.asarray(full), jnp.asarray(reference), loss)
        )
        bias, advantage = (_interval(term, examples, level) for term in (delta.bias, delta.advantage))
        variance = _interval_of_gain(delta, examples, level)
    return Comparison(
        loss=loss,
        against=against,
        num_members=thin.shape[0],
        num_examples=thin.shape[1],
        delta_variance=variance,
        delta_bias_squared=bias,
        advantage=advantage,
        delta_variance_per_example=delta.variance.full,
        delta_bias_squared_per_example=delta.bias.full,
    )


# -- intervals ------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=1)
def _spread(term: LeftOut, examples: Examples) -> Spread:
    if examples == "random":
        return two_way(*term)
    return one_way(jnp.mean(term.full), jnp.mean(term.without, axis=1))


def _interval_of_gain(delta: _terms.Differences, examples: Examples, level: float) -> Estimate:
    if delta.variance.without.shape[0] < 3:
        return _interval(delta.variance, examples, level)
    dense, sparse = (_spread(term, examples) for term in (delta.variance_dense, delta.variance_sparse))
    return of_difference(dense, sparse, _spread(delta.variance, examples), level)


def _interval(term: LeftOut, examples: Examples, level: float, *, positive: bool = False) -> Estimate:
    if term.without.shape[0] < 3:  # without one of two members there is no variance left
        return Estimate(float(np.mean(term.full)), None, None, level)
    return with_quantile(_spread(term, examples), level, positive=positive)


# -- refusals --------------------------------------------------------------------------------------------


def _ensemble(probabilities: ArrayLike, name: str, loss: Loss) -> np.ndarray:
    """Validated rows as they are read, p/Σp in float64."""
    if loss not in ("brier", "kl"):
        raise ValueError(f"loss is {loss!r}; it is 'brier' or 'kl'")
    shape = np.shape(probabilities)
    if len(shape) != 3 or 0 in shape:
        raise ValueError(f"{name} has shape {shape}; it is [members, examples, classes]")
    values = distributions(probabilities, name)
    if shape[0] == 1:
        raise ValueError(
            f"{name} holds one member, which has no variance and hides its bias: retrain on at least 2 "
            "resamples of the training data (intervals need 3, decisions more)"
        )
    if loss == "kl":
        # XLA flushes subnormals to 0: they have no logarithm either.
        zero = values < np.finfo(np.float64).tiny
        refuse(
            zero.any(-1),
            name,
            lambda i: (
                f"member {i[0]} gives class {int(np.argmax(zero[i]))} of example {i[1]} probability 0, so "
                "the geometric mean q̄ of the members is not defined there. Use loss='brier', or students "
                "with full support (log-softmax in float64)."
            ),
        )
    return values


def _reference(
    probabilities: np.ndarray,
    truth: ArrayLike | None,
    labels: ArrayLike | None,
    examples: Examples,
    level: float,
) -> tuple[np.ndarray, Literal["truth", "labels"]]:
    """What the students are held against, ``[n, K]``: p⋆, or the labels as one-hot rows."""
    require_level(level)
    if examples not in ("random", "fixed"):
        raise ValueError(f"examples is {examples!r}; it is 'random' or 'fixed'")
    _, n, num_classes = probabilities.shape
    if n < 2 and examples == "random":
        raise ValueError("a sample of one example has no interval: give more, or examples='fixed'")
    if (truth is None) == (labels is None):
        raise ValueError("give either truth, the known p* [n, K], or labels [n]")
    if truth is not None:
        if np.shape(truth) != (n, num_classes):
            raise ValueError(
                f"truth has shape {np.shape(truth)}; for these students it is {(n, num_classes)}"
            )
        return distributions(truth, "truth"), "truth"
    if examples == "fixed":
        raise ValueError(
            "labels are a sample even where the examples are not, so members alone give no interval: leave "
            "examples='random', or give truth"
        )
    drawn = np.asarray(labels)
    if not np.issubdtype(drawn.dtype, np.integer):
        raise TypeError(f"labels has dtype {drawn.dtype}; labels are integers in [0, {num_classes})")
    if drawn.shape != (n,):
        raise ValueError(f"labels has shape {drawn.shape}; for these students it is {(n,)}")
    refuse(
        (drawn < 0) | (drawn >= num_classes), "labels", lambda i: f"is {drawn[i]}, outside [0, {num_classes})"
    )
    return np.eye(num_classes)[drawn], "labels"
