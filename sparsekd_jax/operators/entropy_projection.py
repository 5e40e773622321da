"""Entropy projection: the escort of p whose entropy is raised by a set share of the way to log K."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sparsekd_jax._numerics import entropy_density, row_sum
from sparsekd_jax.operators._roots import bracketed_newton, no_tangent
from sparsekd_jax.operators._rows import (
    centred_log,
    centred_softmax,
    is_uniform,
    log_normalizer,
    stand_in,
    sum_beside_top,
)
from sparsekd_jax.operators.base import Claims, SofteningOperator, TemperatureRange, claim


@dataclasses.dataclass(frozen=True, eq=False)
class EntropyProjection(SofteningOperator):
    """Entropy projection ``argmin_q KL(q‖p)  s.t.  H(q) = H(p) + (1 − 1/T)(log K − H(p))``.

    The answer is an escort ``q ∝ p^β`` whose β in (0, 1] depends on p: in terms of the entropy deficit
    ``D = log K − H`` it solves ``D(q_β) = D(p)/T``. T in [1, ∞), p in the interior of the simplex: with zeros
    the target may be out of reach, and where two zeros meet no continuous extension exists.

    β is found by bracketed Newton on log β, derivatives by the implicit function theorem. Deficits are summed
    in a form that keeps relative accuracy next to the uniform distribution. Tolerance (1e-10 in float64) and
    errors: see `SofteningOperator`. Passes over the row: the maximum, the entropy of p, four to six of the
    search (a CPU makes them block by block), and two for q.

    At a uniform row the slope in p is 1/√T times the identity. A second derivative in p does not exist there,
    T > 1: AD gives that of β held at 1/√T.

    Reference: arXiv 2601.03195 (entropy projection); theory.md section 2, φ = ψ = Shannon, target form.

    >>> q = EntropyProjection()(jnp.array([0.7, 0.2, 0.1]), 2.0)
    >>> from sparsekd_jax.simplex import entropy_deficit
    >>> [round(float(entropy_deficit(x)), 4) for x in (jnp.array([0.7, 0.2, 0.1]), q)]
    [0.2968, 0.1484]
    """

    family: ClassVar[str] = "entropy-projection"
    sweeps: ClassVar[bool] = True

    @property
    def claims(self) -> Claims:
        """All axioms, majorization and the semigroup, on the interior."""
        warm = TemperatureRange(1.0)
        laws = claim(
            "closure equivariance A1 A1s A2 A3 A3s A4 A5h majorization semigroup support gradients",
            "interior",
            warm,
        )
        return Claims(warm, laws, domain="interior")

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, Array]:
        scaled, converged = _scaled(centred, temperature)
        return scaled - log_normalizer(scaled), converged

    def _from_probabilities(self, p: Array, temperature: Array) -> tuple[Array, Array]:
        return self._kernel(centred_log(p, sharpened=False), temperature)

    def _kernel(self, centred: Array, temperature: Array) -> tuple[Array, Array]:
        scaled, converged = _scaled(centred, temperature)
        return centred_softmax(scaled), converged


def _scaled(centred: Array, temperature: Array) -> tuple[Array, Array]:
    """``β log(p/p_top)``, and whether β was found."""
    off = jnp.isneginf(centred)
    beta, converged = _escort_order(centred, temperature)
    return jnp.where(off, -jnp.inf, beta * jnp.where(off, 0, centred)), converged


_FINE = 0.25
"""Nats of deficit below which it is summed from terms that keep relative accuracy. Above, log K − H is off by
an ulp or two of log K: some 1e-6 of itself in float32, of which q sees a share."""


class _Escort(NamedTuple):
    """The escort p^β in the scalars of the root, [..., 1]."""

    entropy: Array  # accurate relative to itself next to a vertex
    deficit: Array  # … and next to the uniform distribution
    slope: Array  # −dH/d log β = dD/d log β, the variance of log p^β

    @classmethod
    def of(cls, centred: Array, beta: Array, *, fine: bool = True) -> "_Escort":
        """Of p^β; without ``fine`` the deficit has the accuracy of log K, which is enough away from 0."""
        off = jnp.isneginf(centred)
        c = jnp.where(off, 0, centred)
        weight = jnp.where(off, 0, jnp.exp(beta * c))
        # The largest class weighs exactly 1; apart from it, what is summed is small next to a vertex.
        mass = sum_beside_top(centred, weight)
        weighted = weight * c  # 0 at the largest class
        first, second = row_sum(weighted), row_sum(weighted * c)
        normalizer = jnp.log1p(mass)
        mean = first / (1 + mass)
        entropy, variance = normalizer - beta * mean, second / (1 + mass) - mean * mean
        if not fine:
            return cls(entropy, jnp.log(jnp.asarray(c.shape[-1], c.dtype)) - entropy, beta * beta * variance)
        # log K q; an error of its constant term changes the deficit by that times the deficit only.
        shift = jnp.log(jnp.asarray(c.shape[-1], c.dtype)) - normalizer
        density = entropy_density(beta * c + shift, weight * jnp.exp(shift))
        deficit = row_sum(jnp.where(off, 1, density)) / c.shape[-1]
        return cls(entropy, deficit, beta * beta * variance)


@jax.custom_jvp
def _escort_order(centred: Array, temperature: Array) -> tuple[Array, Array]:
    """β with ``D(p^β) = D(p)/T``, and whether it was found, [..., 1]."""
    # A uniform row is its own answer; any other row stands in for it in the root.
    uniform = is_uniform(centred)
    row = stand_in(uniform, centred)
    one = jnp.ones_like(temperature)
    at_one = _Escort.of(row, one, fine=False)
    low_deficit = (at_one.deficit < _FINE * temperature).any()

    def escort(beta: Array) -> _Escort:
        return jax.lax.cond(
            low_deficit, lambda: _Escort.of(row, beta), lambda: _Escort.of(row, beta, fine=False)
        )

    at_one = jax.lax.cond(low_deficit, lambda: _Escort.of(row, one), lambda: at_one)
    deficit = at_one.deficit / temperature
    entropy = at_one.entropy + (temperature - 1) / temperature * at_one.deficit
    peaked = entropy < deficit  # then the entropy is the finer of the two scales
    # Zeros of p stay zero, so no escort has more entropy than its support allows: such a row is not searched.
    support = row_sum((~jnp.isneginf(row)).astype(row.dtype))
    hopeless = (support < row.shape[-1]) & (deficit <= jnp.log(row.shape[-1] / support))
    # Nor is the identity, where all but one class may underflow, and H(p) be 0.
    identity = (temperature == 1) & (support == row.shape[-1])

    def value_and_slope(log_beta: Array) -> tuple[Array, Array]:
        now = escort(jnp.exp(log_beta))
        value = jnp.where(peaked, jnp.log(entropy / now.entropy), jnp.log(now.deficit / deficit))
        return jnp.where(hopeless | identity, 0, value), now.slope / jnp.where(
            peaked, now.entropy, now.deficit
        )

    # Hoeffding: D(q_β) ≤ (β·spread)²/8, so β is at least √(8 D(p)/T)/spread.
    spread = -jnp.min(jnp.where(jnp.isneginf(row), 0, row), axis=-1, keepdims=True)
    low = jnp.minimum(0.5 * jnp.log(8 * deficit) - jnp.log(jnp.maximum(spread, 1e-30)) - 1, -1e-3)
    start = -0.5 * jnp.log(temperature)  # exact next to the uniform distribution
    log_beta, converged = bracketed_newton(value_and_slope, low, jnp.zeros_like(low), start)
    # The bound is not attained: a search that ends there found nothing.
    solved = (log_beta > low + 1e-3) & ~hopeless
    # Next to uniform rows β tends to 1/√T, the derivative that the uniform row itself takes.
    beta = jnp.where(uniform, jax.lax.rsqrt(temperature), jnp.exp(log_beta))
    return jnp.where(identity, 1, beta), uniform | identity | (converged & solved)


@_escort_order.defjvp
def _escort_order_jvp(primals: tuple, tangents: tuple) -> tuple:
    """``dD(q) = β Cov_q(c, β dc + c dβ)`` against ``d(D(p)/T) = Cov_p(c, dc)/T − D(p) dT/T²``."""
    (centred, temperature), (moved, warmed) = primals, tangents
    beta, converged = _escort_order(centred, temperature)
    uniform, one = is_uniform(centred), jnp.ones_like(beta)
    lowered = _covariance(centred, one, moved) - _deficit(centred) / temperature * warmed
    slope = jnp.where(uniform, 1, beta * _covariance(centred, beta, centred))
    # A row that is a vertex to rounding has no variance at T = 1: its slope in T leaves the dtype and is cut.
    flat = slope == 0
    general = lowered / temperature - beta * beta * _covariance(centred, beta, moved)
    general = jnp.where(flat, 0, general / jnp.where(flat, 1, slope))
    tangent = jnp.where(uniform, -0.5 * beta / temperature * warmed, general)
    return (beta, converged), (tangent, no_tangent(converged))


def _covariance(centred: Array, beta: Array, y: Array) -> Array:
    """``Cov(log p, y)`` under the escort p^β, over the support."""
    off = jnp.isneginf(centred)
    c, y = jnp.where(off, 0, centred), jnp.where(off, 0, y)
    weight = jax.nn.softmax(jnp.where(off, -jnp.inf, beta * c), axis=-1)
    return row_sum(weight * (c - row_sum(weight * c)) * (y - row_sum(weight * y)))


@jax.custom_jvp
def _deficit(centred: Array) -> Array:
    """``D(p) = log K − H(p)``; counting the maxima apart, as its value does, hides one of them from AD."""
    return _Escort.of(centred, jnp.ones_like(centred[..., :1])).deficit


@_deficit.defjvp
def _deficit_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (centred,), (moved,) = primals, tangents
    return _deficit(centred), _covariance(centred, jnp.ones_like(centred[..., :1]), moved)
