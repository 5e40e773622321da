"""Ridge softmax regression, solved by Newton's method: the students whose theory is exact."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from sparsekd_jax import simplex
from sparsekd_jax._refusals import is_traced, refuse

_ITERATIONS = 60


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """A minimiser as found, and how near it is to the true one.

    Attributes:
        weights: ``[d, K]``.
        gradient_norm: Euclidean norm of the gradient there, over the trained weights.
        distance_bound: bound on ‖weights − minimiser‖, ``gradient_norm/μ`` with an allowance of 16 ulp for
            the rounding of the gradient itself; inf for μ = 0.
    """

    weights: Float[Array, "d K"]
    gradient_norm: Float[Array, ""]
    distance_bound: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SoftmaxRegression:
    """``f(w) = mean cross-entropy of softmax(Xw) to the targets + (μ/2)‖w‖²``, the student side unsoftened.

    A pytree: vmap over a batch of problems. Build it with `softmax_regression`, which validates.

    Attributes:
        features: X, ``[N, d]``.
        targets: softened teacher, distributions, ``[N, K]``.
        mu: scalar μ, both the ridge and the strong convexity.
    """

    features: Float[Array, "N d"]
    targets: Float[Array, "N K"]
    mu: Float[Array, ""]

    def loss(self, weights: Float[Array, "d K"]) -> Float[Array, ""]:
        """Mean cross-entropy ``−(1/N) Σ t_ik log q_ik`` in nats, without the ridge."""
        log_q = jax.nn.log_softmax(self.features @ weights, axis=-1)
        return -jnp.mean(jnp.sum(self.targets * log_q, axis=-1))

    def objective(self, weights: Float[Array, "d K"]) -> Float[Array, ""]:
        """``loss + (μ/2)‖w‖²`` in nats."""
        return self.loss(weights) + 0.5 * self.mu * jnp.sum(weights**2)

    def gradient(self, weights: Float[Array, "d K"]) -> Float[Array, "d K"]:
        """``Xᵀ(q − t)/N + μw``."""
        q = jax.nn.softmax(self.features @ weights, axis=-1)
        return self.features.T @ (q - self.targets) / len(q) + self.mu * weights

    def hessian(self, weights: Float[Array, "d K"]) -> Float[Array, "dK dK"]:
        """Second derivative over the flattened weights; between μI and `smoothness`·I."""
        x, q = self.features, jax.nn.softmax(self.features @ weights, axis=-1)
        curvature = q[:, :, None] * (jnp.eye(q.shape[1], dtype=q.dtype)[None] - q[:, None, :])
        blocks = jnp.einsum("na,nb,nkl->akbl", x, x, curvature) / len(q)
        return blocks.reshape(weights.size, weights.size) + self.mu * jnp.eye(weights.size, dtype=q.dtype)

    @property
    def smoothness(self) -> Float[Array, ""]:
        """``L = μ + λ_max(XᵀX/N)/2``, for any targets."""
        return self.mu + 0.5 * self._second_moment()

    @property
    def lipschitz(self) -> Float[Array, ""]:
        """A Lipschitz constant G of `loss`, for any targets: ``√2·min(mean ‖x_i‖, √λ_max(XᵀX/N))``."""
        mean_norm = jnp.mean(jnp.sqrt(jnp.sum(self.features**2, axis=-1)))
        return 2**0.5 * jnp.minimum(mean_norm, jnp.sqrt(self._second_moment()))

    def _second_moment(self) -> Float[Array, ""]:
        return jnp.linalg.eigvalsh(self.features.T @ self.features / len(self.features))[-1]

    def fit(
        self,
        trained: Bool[Array, "d K"] | None = None,
        held: Float[Array, "d K"] | None = None,
        start: Float[Array, "d K"] | None = None,
    ) -> Fit:
        """The minimiser over the trained weights, the others held, by damped Newton steps.

        Args:
            trained: which weights are free; by default all.
            held: values of the others; by default 0.
            start: first guess of the trained ones; by default 0.

        Returns:
            A `Fit`; ``distance_bound`` says how far it can be from the minimiser. With μ = 0 the minimiser is
            not unique: this one has nothing in null(X) and sums to 0 over the classes, up to 1e-8 relative.
            Its derivative in the problem and in ``held``, forward or reverse, is that of the implicit
            function theorem.
        """
        shape = (self.features.shape[1], self.targets.shape[1])
        free = jnp.ones(shape, bool) if trained is None else trained
        fixed = jnp.zeros(shape, self.features.dtype) if held is None else held
        first = jnp.zeros(shape, self.features.dtype) if start is None else start
        return _newton(self, free, jnp.where(free, first, fixed))


@jax.custom_jvp
@jax.jit
def _newton(problem: SoftmaxRegression, free: Bool[Array, "d K"], first: Float[Array, "d K"]) -> Fit:
    """Damped Newton steps on the free weights, until the gradient norm is rounding or falls no further."""
    dtype = first.dtype
    sizes = 0.5 ** jnp.arange(10, dtype=dtype)
    rounding = jnp.finfo(dtype).eps * jnp.sqrt(jnp.mean(jnp.sum(problem.features**2, axis=-1)))

    def slope(weights: Array) -> Array:
        return jnp.where(free, problem.gradient(weights), 0)

    def norm(weights: Array) -> Array:
        return jnp.sqrt(jnp.sum(slope(weights) ** 2))

    def step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        weights, here, _, count = state
        newton = _solve(problem, free, weights, slope(weights))
        # The Newton direction always descends the gradient norm; how far is looked up.
        trials = weights[None] - sizes[:, None, None] * newton[None]
        norms = jax.vmap(norm)(trials)
        best = jnp.argmin(norms)
        better = norms[best] < here
        here = jnp.where(better, norms[best], here)
        return jnp.where(better, trials[best], weights), here, better & (here > rounding), count + 1

    state = (first, norm(first), jnp.array(True), jnp.array(0))
    weights, residual, _, _ = jax.lax.while_loop(lambda s: s[2] & (s[3] < _ITERATIONS), step, state)
    ridge = problem.mu > 0
    at_most = residual + 16 * (rounding + jnp.finfo(dtype).eps * problem.mu * jnp.sqrt(jnp.sum(weights**2)))
    return Fit(weights, residual, jnp.where(ridge, at_most / jnp.where(ridge, problem.mu, 1), jnp.inf))


def _solve(problem: SoftmaxRegression, free: Array, weights: Array, slope: Array) -> Array:
    """H⁻¹ of a slope over the free weights, 0 elsewhere, H the Hessian at the weights."""
    dtype = weights.dtype
    mask = free.reshape(-1).astype(dtype)
    hessian = mask[:, None] * mask[None, :] * problem.hessian(weights)
    # Without a ridge the Hessian is singular along what the loss does not see; the gradient is not.
    eps = jnp.finfo(dtype).eps ** 0.5 * jnp.trace(hessian) / weights.size
    lift = jnp.where(problem.mu > 0, 0, eps)
    full = hessian + jnp.diag(1 - mask + lift * mask)
    return jnp.linalg.solve(full, slope.reshape(-1)).reshape(weights.shape)


@_newton.defjvp
def _implicit(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Fit, Fit]:
    """The minimiser moves by −H⁻¹ of how its gradient does; where the search started has no part in it."""
    problem, free, first = primals
    of_problem, _, of_first = tangents
    fit = _newton(problem, free, first)
    of_held = jnp.where(free, 0, of_first)

    def slope(at: SoftmaxRegression, weights: Array) -> Array:
        return jnp.where(free, at.gradient(weights), 0)

    _, moved = jax.jvp(slope, (problem, fit.weights), (of_problem, of_held))
    of_weights = of_held - _solve(problem, free, fit.weights, moved)
    nothing = jnp.zeros_like(fit.gradient_norm)  # of two bounds on rounding
    return fit, Fit(of_weights, nothing, nothing)


def softmax_regression(
    features: Float[ArrayLike, "N d"], targets: Float[ArrayLike, "N K"], mu: ArrayLike
) -> SoftmaxRegression:
    """A validated `SoftmaxRegression`, in the dtype of the features.

    Args:
        features: X, ``[N, d]``, finite.
        targets: softened teacher, distributions, ``[N, K]``, K ≥ 2.
        mu: ridge ≥ 0; with 0 every target must be positive, else there need not be a minimiser.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, rows that are no distributions,
            mu < 0, mu = 0 with a target of 0. (Traced values pass unseen.)

    Reference: theory.md sections 4 and 5.

    >>> problem = softmax_regression(jnp.eye(2), jnp.array([[0.9, 0.1], [0.5, 0.5]]), 0.1)
    >>> round(float(problem.smoothness), 4)
    0.35
    """
    x = jnp.asarray(features)
    t = jnp.asarray(targets)
    if x.ndim != 2 or t.ndim != 2 or len(x) != len(t) or 0 in x.shape:
        raise ValueError(f"features {x.shape} and targets {t.shape}: need [N, d] and [N, K], N the same")
    if x.dtype not in (jnp.float32, jnp.float64):
        raise TypeError(f"features has dtype {x.dtype}; give float32 or float64: features.astype(np.float32)")
    simplex.require_probabilities(t, "targets")
    if not is_traced(x):
        refuse(~np.isfinite(np.asarray(x)).all(-1), "features", lambda i: "is not finite")
    if not is_traced(mu):
        if not 0 <= float(np.asarray(mu)) < np.inf:
            raise ValueError(f"mu is {mu}; a ridge is a finite number ≥ 0")
        if float(np.asarray(mu)) == 0 and not is_traced(t):
            refuse(
                (np.asarray(t) == 0).any(-1),
                "targets",
                lambda i: (
                    "has a zero, and without a ridge the weights may run off to infinity: "
                    "give mu > 0, or soften with an operator that reaches the interior (ConvexMixture)"
                ),
            )
    return SoftmaxRegression(x, t.astype(x.dtype), jnp.asarray(mu).astype(x.dtype))
