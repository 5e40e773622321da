"""Staged pruning of softmax regression, a homotopy whose constants are known: the tracking bound tested."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from sparsekd_jax._refusals import is_traced, whole
from sparsekd_jax.theory.convergence.regression import Fit, SoftmaxRegression, softmax_regression
from sparsekd_jax.theory.convergence.tracking import TrackingBound, follow


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class PenaltyPath:
    """From a dense student to a sparse one: kept weights trained, removed ones held at ``(1 − λ)w_D``.

    At λ = 0 the minimiser is the dense student; at λ = 1 the student is exactly sparse. For every λ the
    objective of the kept weights is μ-strongly convex and L-smooth, and its minimisers move at most at
    `speed`, by the implicit function theorem and ‖H_KK⁻¹H_KD‖ ≤ ½(√κ − 1/√κ) for μI ≤ H ≤ LI, κ = L/μ.

    A pytree: vmap over a batch of paths. Build it with `penalty_path`.

    Attributes:
        problem: the ridge softmax regression.
        dense: its minimiser, ``[d, K]``.
        kept: the weights that stay, ``[d, K]``.
        residual: certified bound on the distance of ``dense`` to the true minimiser; it is e_0.
    """

    problem: SoftmaxRegression
    dense: Float[Array, "d K"]
    kept: Bool[Array, "d K"]
    residual: Float[Array, ""]

    @property
    def sparsity(self) -> Float[Array, ""]:
        """Share s of weights removed, in [0, 1]."""
        return 1 - jnp.mean(self.kept.astype(self.dense.dtype))

    @property
    def speed(self) -> Float[Array, ""]:
        """A certified P: ``½(√κ − 1/√κ)‖w_D‖``, w_D the dense values of the removed weights."""
        removed = jnp.where(self.kept, 0, self.dense)
        return self._leverage() * jnp.sqrt(jnp.sum(removed**2))

    @property
    def uniform_speed(self) -> Float[Array, ""]:
        """A P that knows no targets: ``½(√κ − 1/√κ)·√(s·2 log K/μ)``, magnitude pruning at sparsity s."""
        longest = jnp.sqrt(2 * math.log(self.dense.shape[1]) * self.sparsity / self.problem.mu)
        return self._leverage() * longest

    def _leverage(self) -> Float[Array, ""]:
        root = jnp.sqrt(self.problem.smoothness / self.problem.mu)
        return 0.5 * (root - 1 / root)

    def weights(self, theta: Float[Array, "d K"], lam: ArrayLike) -> Float[Array, "d K"]:
        """All weights at λ, from the kept ones of θ."""
        return jnp.where(self.kept, theta, (1 - jnp.asarray(lam).astype(theta.dtype)) * self.dense)

    def gradient(self, theta: Float[Array, "d K"], lam: ArrayLike) -> Float[Array, "d K"]:
        """Gradient of f_λ in the kept weights, 0 elsewhere."""
        return jnp.where(self.kept, self.problem.gradient(self.weights(theta, lam)), 0)

    def minimiser(self, lam: ArrayLike, start: Float[Array, "d K"] | None = None) -> Fit:
        """θ⋆(λ): all weights, the kept ones optimal; its ``distance_bound`` certifies it."""
        first = self.dense if start is None else start
        return self.problem.fit(self.kept, self.weights(first, lam), first)

    def minimisers(self, lambdas: Float[Array, " n"]) -> Fit:
        """θ⋆(λ_1), …, θ⋆(λ_n), each started from the one before: a `Fit` of ``[n, d, K]`` and ``[n]``."""

        def next_one(start: Array, lam: Array) -> tuple[Array, Fit]:
            fit = self.minimiser(lam, start)
            return fit.weights, fit

        return jax.lax.scan(next_one, self.dense, lambdas)[1]

    def tracking_bound(self, m: int, eta: float | None = None, *, uniform: bool = False) -> TrackingBound:
        """The theorem's constants for this path; eager only.

        Args:
            m: gradient steps a stage.
            eta: step size; by default 2/(μ + L).
            uniform: use `uniform_speed`: then nothing but the floor depends on the operator, its temperature
                or the teacher.

        Returns:
            A `TrackingBound` with ℓ the mean cross-entropy to the softened targets, its floor ℓ(θ⋆(1)).
        """
        mu, smoothness = float(self.problem.mu), float(self.problem.smoothness)
        return TrackingBound(
            mu=mu,
            L=smoothness,
            P=float(self.uniform_speed if uniform else self.speed),
            G=float(self.problem.lipschitz),
            m=m,
            eta=2 / (mu + smoothness) if eta is None else eta,
            e0=float(self.residual),
            floor=float(self.problem.loss(self.minimiser(1.0).weights)),
        )


def penalty_path(
    features: Float[ArrayLike, "N d"], targets: Float[ArrayLike, "N K"], mu: ArrayLike, sparsity: ArrayLike
) -> PenaltyPath:
    """Fit the dense student and choose what goes: the ``round(s·dK)`` weights of smallest magnitude.

    Args:
        features: X, ``[N, d]``.
        targets: softened teacher, distributions, ``[N, K]``.
        mu: ridge > 0.
        sparsity: s in [0, 1], the share of weights to remove.

    Returns:
        A `PenaltyPath`, so that ``‖w_D‖ ≤ √s‖w‖ ≤ √(s·2 log K/μ)``. Traceable: vmap it over problems.

    Raises:
        ValueError: mu = 0 (a singular Hessian), sparsity outside [0, 1], what `softmax_regression` refuses.

    Reference: theory.md section 4, uniform over operators.

    >>> path = penalty_path(jnp.eye(2), jnp.array([[0.9, 0.1], [0.4, 0.6]]), 0.5, 0.5)
    >>> path.kept.tolist()
    [[True, True], [False, False]]
    """
    problem = softmax_regression(features, targets, mu)
    if not is_traced(mu) and float(np.asarray(mu)) == 0:
        raise ValueError("mu is 0: the Hessian is singular and no rate is certified; give a ridge mu > 0")
    if not is_traced(sparsity) and not 0 <= float(np.asarray(sparsity)) <= 1:
        raise ValueError(f"sparsity is {sparsity}; it is the share of weights removed, between 0 and 1")
    fit = problem.fit()
    size = fit.weights.size
    rank = jnp.argsort(jnp.argsort(jnp.abs(fit.weights).reshape(-1)))
    count = jnp.round(jnp.asarray(sparsity).astype(fit.weights.dtype) * size)
    kept = (rank.astype(fit.weights.dtype) >= count).reshape(fit.weights.shape)
    return PenaltyPath(problem, fit.weights, kept, fit.distance_bound)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TrackedPath:
    """What n stages of gradient descent did on a `PenaltyPath`, against the exact minimisers.

    Attributes:
        errors: ‖θ_k − θ⋆(λ_k)‖ after k stages, ``[n+1]``; the last is the theorem's e_n.
        losses: mean cross-entropy of the student after k stages in nats, ``[n+1]``.
        floor: ℓ(θ⋆(1)) in nats.
        chords: ``n‖θ⋆(λ_k) − θ⋆(λ_{k−1})‖``, ``[n]``; the theorem holds with their maximum as P.
        uncertainty: certified bound on the error of any of the minimisers, hence of ``errors``.
    """

    errors: Float[Array, " n1"]
    losses: Float[Array, " n1"]
    floor: Float[Array, ""]
    chords: Float[Array, " n"]
    uncertainty: Float[Array, ""]


def track(path: PenaltyPath, num_stages: int, steps: ArrayLike, eta: ArrayLike | None = None) -> TrackedPath:
    """Run n stages of m gradient steps at λ = 1/n, …, 1 and measure how far they stay behind.

    Args:
        path: from `penalty_path`; under vmap one of a batch.
        num_stages: n ≥ 1, static.
        steps: m ≥ 1, gradient steps a stage.
        eta: step size > 0; by default 2/(μ + L).

    Returns:
        A `TrackedPath`.

    Raises:
        ValueError: a number out of its range, where it is not traced.
        TypeError: a number of stages that is not an integer.

    Reference: theory.md section 4.

    >>> path = penalty_path(jnp.eye(2), jnp.array([[0.9, 0.1], [0.4, 0.6]]), 0.5, 0.5)
    >>> tracked = track(path, 4, 3)
    >>> bool(tracked.errors[-1] <= path.tracking_bound(3).error(4))
    True
    """
    num_stages = whole("num_stages", num_stages)
    if not is_traced(steps) and not np.all(np.asarray(steps) >= 1):
        raise ValueError(f"steps is {steps}; a stage needs at least one gradient step")
    if eta is not None and not is_traced(eta) and not np.all(np.asarray(eta) > 0):
        raise ValueError(f"eta is {eta}; a step of descent has a size > 0, by default 2/(mu + L)")
    return _track(path, num_stages, steps, eta)


@functools.partial(jax.jit, static_argnums=1)
def _track(path: PenaltyPath, num_stages: int, steps: ArrayLike, eta: ArrayLike | None) -> TrackedPath:
    dtype, problem = path.dense.dtype, path.problem
    step_size = 2 / (problem.mu + problem.smoothness) if eta is None else eta
    lambdas = jnp.arange(1, num_stages + 1).astype(dtype) / num_stages
    run = follow(path.gradient, path.dense, lambdas, steps, step_size)
    exact = path.minimisers(lambdas)
    optima = jnp.concatenate([path.dense[None], exact.weights])
    weights = jax.vmap(path.weights)(run, jnp.concatenate([jnp.zeros(1, dtype), lambdas]))

    def length(x: Array) -> Array:
        return jnp.sqrt(jnp.sum(x**2, axis=(-2, -1)))

    return TrackedPath(
        errors=length(weights - optima),
        losses=jax.vmap(problem.loss)(weights),
        floor=problem.loss(optima[-1]),
        chords=num_stages * length(jnp.where(path.kept[None], jnp.diff(optima, axis=0), 0)),
        uncertainty=jnp.maximum(path.residual, jnp.max(exact.distance_bound)),
    )
