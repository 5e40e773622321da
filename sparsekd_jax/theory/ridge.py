"""Students that are linear in their targets, whose bias and variance are known in closed form.

A student ``q(x) = Σ_a s_a(x) y_a`` is a smoother matrix S times the training targets: ridge regression,
kernel ridge regression, a kernel average. With independent training rows of mean ȳ and covariance Σ_a its
mean is S ȳ and its covariance at an example ``Σ_a S_ja² Σ_a``: estimators can be held against the truth.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sparsekd_jax import simplex


@dataclasses.dataclass(frozen=True)
class ExactTerms:
    """The Brier terms of a linear student, with no sampling in them; ``risk = bias_squared + variance``.

    Attributes:
        bias_squared: ``[n]``, ``‖S ȳ − p*‖²`` of each example.
        variance: ``[n]``, ``tr Cov q = Σ_a S_ja² tr Σ_a``.
        covariance: ``[n, K, K]``, ``Cov q = S Σ Sᵀ`` within each example.
    """

    bias_squared: Float[Array, " n"]
    variance: Float[Array, " n"]
    covariance: Float[Array, "n K K"]

    @property
    def risk(self) -> Float[Array, " n"]:
        """``[n]``, ``E‖q − p*‖²``."""
        return self.bias_squared + self.variance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
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
            truth: ``[n, K]``, p* at the examples.

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
        penalty: scalar > 0.
        intercept: fit a constant; predictions then sum to 1 as the targets do.

    Returns:
        The student.

    >>> x = jnp.array([[-1.0], [0.0], [1.0]])
    >>> ridge(x, x, 1.0).smoother.sum(axis=1).round(5).tolist()
    [1.0, 1.0, 1.0]
    """
    centre = jnp.mean(train, axis=0, keepdims=True) if intercept else jnp.zeros_like(train[:1])
    x, z = train - centre, test - centre
    gram = x.T @ x + train.shape[0] * penalty * jnp.eye(train.shape[1], dtype=train.dtype)
    smoother = z @ jnp.linalg.solve(gram, x.T)
    return LinearStudent(smoother + 1 / train.shape[0] if intercept else smoother)


def kernel_ridge(
    kernel: Float[Array, "N N"], cross: Float[Array, "n N"], penalty: float | Array
) -> LinearStudent:
    """Kernel ridge regression, ``S = k(test, train) (K + N·penalty·I)⁻¹``.

    Args:
        kernel: ``[N, N]``, the kernel between training rows.
        cross: ``[n, N]``, the kernel between examples and training rows.
        penalty: scalar > 0.

    Returns:
        The student; with ``kernel = XXᵀ`` that of `ridge` without intercept.
    """
    size = kernel.shape[0]
    regular = kernel + size * penalty * jnp.eye(size, dtype=kernel.dtype)
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
    """
    distance = jnp.sum((test[:, None] - train[None]) ** 2, axis=-1)
    return LinearStudent(jax.nn.softmax(-distance / (2 * bandwidth**2), axis=-1))


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
