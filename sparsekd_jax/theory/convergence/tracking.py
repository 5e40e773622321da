"""The tracking theorem: how far n stages of gradient descent stay behind a moving minimiser."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax._refusals import is_traced, real, whole

_MOST_STAGES = 2**1000


def tracking_error(
    stages: ArrayLike, *, mu: ArrayLike, eta: ArrayLike, m: ArrayLike, P: ArrayLike, e0: ArrayLike = 0.0
) -> np.ndarray:
    """Bound on the distance to the minimiser, ``e_n = ρⁿe_0 + (P/n)·ρ(1 − ρⁿ)/(1 − ρ)``, ``ρ = (1 − ημ)^m``.

    Args:
        stages: n ≥ 1.
        mu: strong convexity μ > 0.
        eta: step size η, in (0, 2/(μ + L)].
        m: gradient steps a stage.
        P: Lipschitz constant of the path of minimisers, distance per unit of λ.
        e0: distance to the minimiser at λ = 0. All arguments broadcast, so one call serves many problems.

    Returns:
        numpy float64 array, in the unit of P, non-increasing in n; a jax array to differentiate if any
        argument is one.

    The arguments are taken as they are: `TrackingBound` validates. Relative accuracy in float64 1e-13, also
    for ρ → 1.

    Reference: theory.md section 4, tracking theorem.

    >>> round(float(tracking_error(2, mu=1.0, eta=0.5, m=1, P=1.0)), 6)
    0.375
    >>> jax.grad(lambda speed: tracking_error(2, mu=1.0, eta=0.5, m=1, P=speed))(1.0).round(6)
    Array(0.375, dtype=float32, weak_type=True)
    """
    given = (stages, mu, eta, m, P, e0)
    if any(isinstance(x, jax.Array) for x in given):
        return _tracking_error(jnp, *map(jnp.asarray, given))
    with np.errstate(divide="ignore"):  # ημ = 1 contracts to the minimiser at once: log ρ = −inf
        return _tracking_error(np, *(np.asarray(x, np.float64) for x in given))


def _tracking_error(xnp: Any, n: Any, mu: Any, eta: Any, m: Any, speed: Any, start: Any) -> Any:
    log_rho = m * xnp.log1p(-xnp.minimum(eta * mu, 1.0))
    geometric = xnp.expm1(n * log_rho) / xnp.expm1(log_rho)
    return xnp.exp(n * log_rho) * start + speed / n * xnp.exp(log_rho) * geometric


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrackingBound:
    """``ℓ(S_n) ≤ floor + G·e_n``, ``e_n = ρⁿe_0 + (P/n)·ρ(1 − ρⁿ)/(1 − ρ)``, ``ρ = (1 − ημ)^m``.

    A theorem for f_λ μ-strongly convex and L-smooth in θ for every λ in [0, 1], whose minimisers satisfy
    ‖θ⋆(λ) − θ⋆(λ')‖ ≤ P|λ − λ'|; n stages at λ = 1/n, …, 1, each of m full gradient steps; ℓ G-Lipschitz.
    It says nothing of hard masks (P is infinite: a removed weight jumps by its own size whatever n), of Adam,
    or, without `stochastic_term`, of noisy gradients.

    Attributes:
        mu: strong convexity μ > 0.
        L: smoothness, ≥ μ.
        P: Lipschitz constant of the path of minimisers, distance per unit of λ.
        G: Lipschitz constant of ℓ, nats per unit of distance.
        m: gradient steps a stage, ≥ 1.
        eta: step size η, in (0, 2/(μ + L)].
        e0: distance of the start to θ⋆(0).
        floor: ℓ(θ⋆(1)) in nats, or ℓ(θ⋆(1)) − ℓ(teacher) for a bound on the excess; no n removes it, and it
            may be negative.

    Raises:
        ValueError: a constant outside its range, with the remedy; TypeError where m is not an integer.

    Reference: theory.md section 4; arXiv 2601.03195, the O(1/n) convergence of multi-stage pruning.

    >>> bound = TrackingBound(mu=1.0, L=1.0, P=1.0, G=2.0, m=1, eta=0.5)
    >>> bound.rho, bound.bound(4), bound.required_stages(0.1)
    (0.5, 0.46875, 20)
    """

    mu: float
    L: float
    P: float
    G: float
    m: int
    eta: float
    e0: float = 0.0
    floor: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            convert = whole if field.name == "m" else real
            object.__setattr__(self, field.name, convert(field.name, getattr(self, field.name)))
        _require(
            self.mu > 0,
            f"mu is {self.mu}: a singular Hessian certifies no rate. Add a ridge "
            "(μ/2)‖w‖², or restrict θ to the range of the Hessian",
        )
        _require(self.mu <= self.L < math.inf, f"L is {self.L}, mu {self.mu}; needs mu ≤ L < ∞")
        _require(
            not math.isinf(self.P),
            "P is inf: the path of minimisers jumps, as it does under hard masks, "
            "and no 1/n follows. Anneal a penalty or the mask continuously in λ",
        )
        for name in ("P", "G", "e0"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"{name} is {value}; it is a finite length or slope, ≥ 0")
        largest = 2 / (self.mu + self.L)
        _require(
            0 < self.eta <= largest and self.eta * self.mu > 0,
            f"eta is {self.eta}; the theorem needs 0 < eta ≤ 2/(mu + L) = {largest:.6g}",
        )
        _require(math.isfinite(self.floor), f"floor is {self.floor}; it is the loss at θ*(1), in nats")

    @property
    def rho(self) -> float:
        """Contraction of a stage, ``(1 − ημ)^m``, in [0, 1)."""
        return float(max(1 - self.eta * self.mu, 0.0) ** self.m)

    def error(self, n: ArrayLike) -> Any:
        """``e_n``, distance to θ⋆(1) after n stages: a float, or an array for an array of n."""
        stages = np.asarray(n)
        _require(bool(np.all(stages >= 1)), f"n is {n}; a path has at least one stage")
        value = tracking_error(stages, mu=self.mu, eta=self.eta, m=self.m, P=self.P, e0=self.e0)
        return value if value.ndim else float(value)

    def bound(self, n: ArrayLike) -> Any:
        """``floor + G·e_n`` in nats: a float, or an array for an array of n."""
        return self.floor + self.G * self.error(n)

    def required_stages(self, epsilon: float) -> int | None:
        """The smallest n with ``G·e_n ≤ ε``; None where no n has it (ε < 0, or ε = 0 with anything to track).

        Args:
            epsilon: allowed excess over the floor, in nats.

        Raises:
            ValueError: epsilon NaN. OverflowError: more than 2^1000 stages.
        """
        _require(not math.isnan(epsilon), "epsilon is nan; give the allowed excess over the floor in nats")
        if epsilon <= 0:
            nothing = self.G == 0 or self.rho == 0 or (self.P == 0 and self.e0 == 0)
            return 1 if epsilon == 0 and nothing else None
        high = 1
        while self.G * self.error(float(high)) > epsilon:
            high *= 2
            if high > _MOST_STAGES:
                raise OverflowError(f"epsilon is {epsilon}: it takes more than 2^1000 stages")
        low = high // 2  # e_n does not rise with n, so one n separates
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.G * self.error(float(middle)) > epsilon else (low, middle)
        return high

    def error_at_total(self, n: int, total_steps: int) -> float:
        """``e_n`` where n stages share M = ``total_steps`` gradient steps: m = M/n, whatever the field says.

        It is smallest at n = 1: with x = −(M/n) log(1 − ημ) its path term is proportional to
        x/(eˣ − 1), which falls in x. That orders bounds, not runs: a bent path or a flat end turns
        it round (theory.md section 4).

        Raises:
            ValueError: n does not divide total_steps.
        """
        _require(
            n >= 1 and total_steps >= 1 and total_steps % n == 0,
            f"n is {n}, total_steps {total_steps}; stages of equal length need an n that divides total_steps",
        )
        steps = whole("total_steps", total_steps) // whole("n", n)
        return float(dataclasses.replace(self, m=steps).error(n))

    def best_stages(self, total_steps: int) -> int:
        """The divisor n of ``total_steps`` with the smallest `error_at_total`, the fewest stages at a tie.

        Raises:
            ValueError: total_steps < 1. TypeError where it is not an integer.
        """
        total_steps = whole("total_steps", total_steps)
        divisors = [n for n in range(1, total_steps + 1) if total_steps % n == 0]
        return min(divisors, key=lambda n: self.error_at_total(n, total_steps))

    def stochastic_term(self, sigma: float) -> float:
        """What noise adds at most to the RMS of e_n: ``σ√(η/(μ(2 − ημ)))``.

        Args:
            sigma: σ ≥ 0, with E‖g − ∇f‖² ≤ σ² for unbiased gradients g, independent from step to step.

        >>> round(TrackingBound(mu=2.0, L=2.0, P=0.0, G=1.0, m=1, eta=0.2).stochastic_term(0.5), 12)
        0.125
        """
        _require(0 <= sigma < math.inf, f"sigma is {sigma}; it is the RMS norm of the gradient noise, ≥ 0")
        return sigma * math.sqrt(self.eta / (self.mu * (2 - self.eta * self.mu)))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def path_speed(minimisers: ArrayLike, lambdas: ArrayLike | None = None) -> float:
    """Fastest chord of a path of minimisers, ``max_k ‖θ_k − θ_{k−1}‖/(λ_k − λ_{k−1})``.

    Args:
        minimisers: θ⋆(λ_0), …, θ⋆(λ_n), ``[n+1, ...]``; the norm is Euclidean over the rest.
        lambdas: increasing λ_k, ``[n+1]``; by default k/n.

    Returns:
        A lower bound on P, and all of the P that n stages at these λ see: `TrackingBound` holds with it for
        them. Where it grows with n, as under hard masks, the path has no finite P.

    Raises:
        ValueError: fewer than two points, λ not increasing, values that are not finite.

    Reference: theory.md section 4.

    >>> path_speed([[0.0, 0.0], [0.5, 0.0], [0.5, 2.0]])
    4.0
    """
    points = np.asarray(minimisers, np.float64)
    _require(points.ndim >= 1 and len(points) >= 2, "minimisers: a path needs at least two points")
    grid = np.linspace(0, 1, len(points)) if lambdas is None else np.asarray(lambdas, np.float64)
    _require(
        grid.shape == (len(points),) and bool((np.diff(grid) > 0).all() and np.isfinite(grid).all()),
        f"lambdas has shape {grid.shape}; it needs one finite, increasing value for each of the "
        f"{len(points)} points",
    )
    _require(bool(np.isfinite(points).all()), "minimisers holds values that are not finite")
    steps = np.linalg.norm(np.diff(points, axis=0).reshape(len(points) - 1, -1), axis=1)
    return float(np.max(steps / np.diff(grid)))


@dataclasses.dataclass(frozen=True)
class SampledConstants:
    """Constants seen at a finite set of points: estimates for `TrackingBound`, not certificates.

    Attributes:
        mu: smallest eigenvalue of the Hessian over the points, 0 where it is rounding; the true μ may be
            smaller.
        L: largest eigenvalue; the true L may be larger.
        G: largest gradient norm of the loss; the true G may be larger.
    """

    mu: float
    L: float
    G: float


def sampled_constants(
    objective: Callable[[Array], Array],
    points: Float[ArrayLike, "S d"],
    loss: Callable[[Array], Array] | None = None,
) -> SampledConstants:
    """μ, L and G of an objective at given points, for students whose constants no theorem gives.

    Args:
        objective: θ ``[d]`` to a scalar, twice differentiable; the d×d Hessian is formed, so for small d.
        points: where to look, ``[S, d]``, such as the iterates of `follow`.
        loss: ℓ, whose slope is G; by default the objective.

    Returns:
        `SampledConstants`. Where the objective is not convex, or flat, mu ≤ 0, which `TrackingBound` refuses.

    Raises:
        ValueError: no points, or a Hessian that is not finite.

    Reference: theory.md section 4.

    >>> sampled_constants(lambda w: w[0] ** 2 + 0.25 * w[1] ** 2, jnp.ones((1, 2))).mu
    0.5
    """
    x = jnp.asarray(points)
    _require(x.ndim == 2 and len(x) > 0, f"points has shape {x.shape}; need [S, d] with S ≥ 1")
    hessians = np.asarray(jax.jit(jax.vmap(jax.hessian(objective)))(x), np.float64)
    slopes = np.asarray(jax.jit(jax.vmap(jax.grad(loss or objective)))(x), np.float64)
    finite = bool(np.isfinite(hessians).all() and np.isfinite(slopes).all())
    _require(finite, "points: the objective has derivatives there that are not finite")
    eigenvalues = np.linalg.eigvalsh(hessians)
    smallest, largest = float(eigenvalues.min()), float(eigenvalues.max())
    if abs(smallest) <= x.shape[1] * float(jnp.finfo(x.dtype).eps) * largest:
        smallest = 0.0  # rounding, which TrackingBound must not take for a curvature
    return SampledConstants(smallest, largest, float(np.linalg.norm(slopes, axis=-1).max()))


def follow(
    gradient: Callable[[Array, Array], Array],
    start: Float[Array, " ..."],
    lambdas: Float[Array, " n"],
    steps: ArrayLike,
    eta: ArrayLike,
    *,
    sigma: ArrayLike = 0.0,
    key: Array | None = None,
) -> Float[Array, "n1 ..."]:
    """Gradient descent along a path: at each λ_k, ``steps`` times ``θ ← θ − η(∇f_{λ_k}(θ) + noise)``.

    Args:
        gradient: ``(θ, λ) ↦ ∇f_λ(θ)``, traceable.
        start: θ_0, any shape.
        lambdas: λ_1, …, λ_n, ``[n]``, in the dtype of start.
        steps: m, an integer for all stages; it may be traced.
        eta: step size η.
        sigma: RMS norm of Gaussian gradient noise, E‖noise‖² = σ².
        key: PRNG key of the noise; without one there is none, and sigma must be 0.

    Returns:
        θ after 0, 1, …, n stages, ``[n+1, ...]``. Compile and vmap it as you like (the reverse
        derivative needs a static ``steps``).

    Raises:
        ValueError: noise without a key.

    >>> path = follow(lambda x, lam: x - lam, jnp.array(0.0), jnp.array([0.5, 1.0]), 1, 0.5)
    >>> path.tolist()
    [0.0, 0.25, 0.625]
    """
    if key is None and not is_traced(sigma):
        _require(not np.any(sigma), f"sigma is {sigma}, and there is no key to draw its noise with; give one")
    eta, scale = (jnp.asarray(x).astype(start.dtype) for x in (eta, sigma))
    scale = scale / math.sqrt(max(start.size, 1))

    def stage(theta: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        lam, index = at

        def step(t: Array, theta: Array) -> Array:
            slope = gradient(theta, lam)
            if key is not None:
                at_step = jax.random.fold_in(jax.random.fold_in(key, index), t)
                slope = slope + scale * jax.random.normal(at_step, theta.shape, theta.dtype)
            return theta - eta * slope

        theta = jax.lax.fori_loop(0, steps, step, theta)
        return theta, theta

    _, path = jax.lax.scan(stage, start, (lambdas, jnp.arange(len(lambdas))))
    return jnp.concatenate([start[None], path])
