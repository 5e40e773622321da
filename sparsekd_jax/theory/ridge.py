"""Students that are linear in their targets, whose bias and variance are known in closed form.

A student ``q(x) = Σ_a s_a(x) y_a`` is a smoother matrix S times the training targets: ridge regression,
kernel ridge regression, a kernel average. With independent training rows of mean ȳ and covariance Σ_a its
mean is S ȳ and its covariance at an example ``Σ_a S_ja² Σ_a``: estimators can be held against the truth.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax import simplex
from sparsekd_jax._refusals import is_traced, refuse


@dataclasses.dataclass(frozen=True, eq=False)
class ExactTerms:
    """The Brier terms of a linear student, with no sampling in them; ``risk = bias_squared + variance``.

    Attributes:
        bias_squared: ``[n]``, ``‖S ȳ − p⋆‖²`` of each example.
        variance: ``[n]``, ``tr Cov q = Σ_a S_ja² tr Σ_a``.
        covariance: ``[n, K, K]``, ``Cov q = S Σ Sᵀ`` within each example.
    """

    bias_squared: Float[Array, " n"]
    variance: Float[Array, " n"]
    covariance: Float[Array, "n K K"]

    @property
    def risk(self) -> Float[Array, " n"]:
        """``[n]``, ``E‖q − p⋆‖²``."""
        return self.bias_squared + self.variance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LinearStudent:
    """A student that is a fixed matrix times its training targets.

    Attributes:
        smoother: ``[n, N]``, S, the weight of each training row in each prediction. Predictions are
            distributions whatever the targets if every row of S is one.
    """

    smoother: Float[Array, "n N"]

    def predict(self, targets: Float[Array, "*batch N K"]) -> Float[Array, "*batch n K"]:
        """Fit to targets and predict, ``S y``; a leading axis is one of members."""
        return jnp.matmul(self.smoother, targets)

    def exact(
        self, mean: Float[Array, "N K"], covariance: Float[Array, "N K K"], truth: Float[Array, "n K"]
    ) -> ExactTerms:
        """Squared bias and variance under independent training targets.

        Args:
            mean: ``[N, K]``, the expectation of each training target (softened or not).
            covariance: ``[N, K, K]``, its covariance.
            truth: ``[n, K]``, p⋆ at the examples.

        Returns:
            `ExactTerms`.

        Reference: theory.md section 3, Cov = S·Cov F(p̂)·Sᵀ.

        >>> from sparsekd_jax.theory.variance import multinomial_covariance
        >>> student = LinearStudent(jnp.array([[0.5, 0.5]]))
        >>> p = jnp.array([[0.5, 0.5], [0.9, 0.1]])
        >>> terms = student.exact(p, multinomial_covariance(p, 1), jnp.array([[0.9, 0.1]]))
        >>> round(float(terms.bias_squared[0]), 4), round(float(terms.variance[0]), 4)
        (0.08, 0.17)
        """
        spread = jnp.einsum("ja,akl->jkl", self.smoother**2, covariance)
        gap = jnp.sum((self.predict(mean) - truth) ** 2, axis=-1)
        return ExactTerms(gap, jnp.trace(spread, axis1=-2, axis2=-1), spread)


def ridge(
    train: Float[Array, "N d"], test: Float[Array, "n d"], penalty: float | Array, *, intercept: bool = True
) -> LinearStudent:
    """Ridge regression, ``S = X_test (XᵀX + N·penalty·I)⁻¹ Xᵀ``, the intercept (if any) not penalised.

    Args:
        train: ``[N, d]``, training features; fewer columns make a sparser student.
        test: ``[n, d]``, features of the examples.
        penalty: scalar ≥ 0; 0 is least squares, for features of full column rank.
        intercept: fit a constant; predictions then sum to 1 as the targets do.

    Returns:
        The student.

    Raises:
        ValueError: features that are not finite, no training row, a penalty that is no finite number ≥ 0, or
            a system that is singular to rounding. (Traced values pass unseen.)

    >>> x = jnp.array([[-1.0], [0.0], [1.0]])
    >>> ridge(x, x, 1.0).smoother.sum(axis=1).round(5).tolist()
    [1.0, 1.0, 1.0]
    """
    _require_features(train, test)
    _require_penalty(penalty)
    centre = jnp.mean(train, axis=0, keepdims=True) if intercept else jnp.zeros_like(train[:1])
    x, z = train - centre, test - centre
    gram = x.T @ x + train.shape[0] * penalty * jnp.eye(train.shape[1], dtype=train.dtype)
    _require_regular(
        gram,
        lambda: (
            f"train has columns that depend on each other{' or are constant' if intercept else ''}, and with "
            f"penalty {penalty} the weights are not determined: give a larger penalty, or leave columns out"
        ),
        # What centring leaves of a constant column is rounding.
        floor=4 * jnp.finfo(train.dtype).eps * len(train) ** 0.5 * jnp.max(jnp.abs(centre), axis=0),
    )
    smoother = z @ jnp.linalg.solve(gram, x.T)
    return LinearStudent(smoother + 1 / train.shape[0] if intercept else smoother)


def kernel_ridge(
    kernel: Float[Array, "N N"], cross: Float[Array, "n N"], penalty: float | Array
) -> LinearStudent:
    """Kernel ridge regression, ``S = k(test, train) (K + N·penalty·I)⁻¹``.

    Args:
        kernel: ``[N, N]``, the kernel between training rows.
        cross: ``[n, N]``, the kernel between examples and training rows.
        penalty: scalar ≥ 0; 0 interpolates, where the kernel is of full rank.

    Returns:
        The student; with ``kernel = XXᵀ`` that of `ridge` without intercept.

    Raises:
        ValueError: kernels that are not finite or do not fit, a kernel that is not symmetric, a penalty that
            is no finite number ≥ 0, or a system that is not positive definite to rounding. (Traced values
            pass unseen.)

    >>> kernel_ridge(jnp.ones((2, 2)), jnp.ones((1, 2)), 0.0)
    Traceback (most recent call last):
    ValueError: kernel is singular or not positive semidefinite, and with penalty 0.0 ...
    """
    size = kernel.shape[0]
    if kernel.shape != (size, size) or size == 0 or cross.shape[1:] != (size,):
        raise ValueError(f"kernel has shape {kernel.shape}, cross {cross.shape}; need [N, N] and [n, N]")
    _require_penalty(penalty)
    for name, values in (("kernel", kernel), ("cross", cross)):
        _require_finite(name, values)
    if not is_traced(kernel):
        given = np.asarray(kernel, np.float64)
        apart = np.abs(given - given.T).max()
        if apart > 8 * size * float(jnp.finfo(kernel.dtype).eps) * np.abs(given).max():
            raise ValueError(f"kernel is not symmetric, by {apart:.3g}; it is k(x_i, x_j) of training rows")
    regular = kernel + size * penalty * jnp.eye(size, dtype=kernel.dtype)
    _require_regular(
        regular,
        lambda: (
            f"kernel is singular or not positive semidefinite, and with penalty {penalty} the weights are "
            "not determined: give a larger penalty, or leave out rows that repeat"
        ),
    )
    return LinearStudent(jnp.linalg.solve(regular, cross.T).T)


def kernel_average(
    train: Float[Array, "N d"], test: Float[Array, "n d"], bandwidth: float | Array
) -> LinearStudent:
    """Nadaraya–Watson average with a Gaussian kernel: every row of S is a distribution, so predictions are.

    Args:
        train: ``[N, d]``, training features.
        test: ``[n, d]``, features of the examples.
        bandwidth: scalar > 0; wider is smoother, with less variance and more bias.

    Returns:
        The student.

    Raises:
        ValueError: features that are not finite, no training row, a bandwidth that is no finite number > 0,
            or one so narrow that the distances overflow. (Traced values pass unseen.)
    """
    _require_features(train, test)
    if not is_traced(bandwidth) and not 0 < float(np.asarray(bandwidth)) < np.inf:
        raise ValueError(f"bandwidth is {bandwidth}; it is a finite length > 0, in the unit of the features")
    distance = jnp.sum((test[:, None] - train[None]) ** 2, axis=-1)
    exponents = distance / (2 * bandwidth**2)
    if not is_traced(exponents) and not np.isfinite(np.asarray(exponents)).all():
        raise ValueError(
            f"bandwidth is {bandwidth}: distances over it overflow in {exponents.dtype}. Give a wider one"
        )
    return LinearStudent(jax.nn.softmax(-exponents, axis=-1))


def categorical_targets(key: Array, p: Float[Array, "N K"], members: int) -> Float[Array, "m N K"]:
    """One label drawn from each training row, as one-hot rows: mean p, covariance diag p − ppᵀ.

    Args:
        key: a random key.
        p: ``[N, K]``, the distribution of each training row.
        members: m, how many times to draw all of them.

    Returns:
        ``[m, N, K]``, in the dtype of p.
    """
    labels = jax.random.categorical(key, simplex.safe_log(p), axis=-1, shape=(members, p.shape[0]))
    return jax.nn.one_hot(labels, p.shape[1], dtype=p.dtype)


def gaussian_targets(
    key: Array, p: Float[Array, "N K"], members: int, scale: float | Array
) -> Float[Array, "m N K"]:
    """Targets p plus Gaussian noise along the simplex: mean p, covariance ``scale²·(I − 11ᵀ/K)``.

    Args:
        key: a random key.
        p: ``[N, K]``, the distribution of each training row.
        members: m, how many times to draw all of them.
        scale: scalar, the standard deviation before projection; rows keep their sum, not their sign.

    Returns:
        ``[m, N, K]``, in the dtype of p.
    """
    noise = scale * jax.random.normal(key, (members, *p.shape), p.dtype)
    return p[None] + noise - jnp.mean(noise, axis=-1, keepdims=True)


# -- refusals --------------------------------------------------------------------------------------------


def _require_finite(name: str, values: Array) -> None:
    if not is_traced(values):
        refuse(~np.isfinite(np.asarray(values)).all(-1), name, lambda i: "is not finite")


def _require_features(train: Array, test: Array) -> None:
    if train.ndim != 2 or test.ndim != 2 or 0 in train.shape or train.shape[1] != test.shape[1]:
        raise ValueError(f"train has shape {train.shape}, test {test.shape}; need [N, d] and [n, d]")
    _require_finite("train", train)
    _require_finite("test", test)


def _require_penalty(penalty: ArrayLike) -> None:
    if not is_traced(penalty) and not 0 <= float(np.asarray(penalty)) < np.inf:
        raise ValueError(f"penalty is {penalty}; it is a finite number ≥ 0, and > 0 where rank is missing")


def _require_regular(matrix: Array, say: Callable[[], str], floor: ArrayLike = 0.0) -> None:
    """Refuse what is not positive definite to rounding, whatever the units of its rows.

    ``floor``: roots of the diagonal that are no larger are rounding.
    """
    if is_traced(matrix):
        return
    wide = np.asarray(matrix, np.float64)
    scale = np.sqrt(np.diagonal(wide).clip(0))
    if (scale > np.asarray(floor)).all():
        eigenvalues = np.linalg.eigvalsh(wide / np.outer(scale, scale))
        if eigenvalues[0] > len(wide) * float(jnp.finfo(matrix.dtype).eps) * eigenvalues[-1]:
            return
    raise ValueError(say())
