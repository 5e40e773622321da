"""Euclidean entropy projection: the nearest distribution whose entropy is raised by a set share."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sparsekd_jax.operators._entropy_target import EntropyTarget, deficit, entropy_target, sharpness_residual
from sparsekd_jax.operators._roots import increasing_root
from sparsekd_jax.operators.base import (
    Claims,
    SofteningOperator,
    TemperatureRange,
    claim,
    log_normalizer,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class EuclideanEntropyProjection(SofteningOperator):
    """Euclidean projection ``argmin_q ½‖q − p‖²  s.t.  H(q) = H(p) + (1 − 1/T)(log K − H(p))``.

    Optimality is ``q + a·log q = p − c`` with multipliers a ≥ 0 and c. T in [1, ∞), p on the whole simplex:
    for T > 1 every class receives mass. Gradients at zeros of p are infinite in truth and are reported as
    those of the face.

    Two nested roots: for each a, the c that normalises (in the unknown log(q_max/p_max)); then log a for the
    entropy. Each q_i is a·ω(·) with Wright's omega function. Derivatives by the implicit function theorem.
    Tolerance (1e-10 in float64) and errors: see `SofteningOperator`.

    Reference: theory.md section 2, φ = ½x², ψ = Shannon, target form.

    >>> from sparsekd_jax.simplex import entropy_deficit
    >>> q = EuclideanEntropyProjection()(jnp.array([0.7, 0.3, 0.0]), 2.0)
    >>> bool(q.min() > 0), round(float(entropy_deficit(q)), 4)
    (True, 0.2439)
    """

    family: ClassVar[str] = "euclidean-entropy-projection"

    @property
    def claims(self) -> Claims:
        """All axioms and majorization on the whole simplex; support and gradients on its interior."""
        warm = TemperatureRange(1.0)
        laws = claim("closure equivariance A1 A1s A2 A3 A3s A4 A5h majorization", temperatures=warm)
        return Claims(warm, laws | claim("support gradients", "interior", warm))

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, Array]:
        off = jnp.isneginf(centred)
        uniform = jnp.max(jnp.where(off, 1, -centred), axis=-1, keepdims=True) == 0
        skip = uniform | (temperature == 1)
        # Rows that need no root are replaced by one that has an easy one.
        ramp = -jnp.arange(centred.shape[-1], dtype=centred.dtype).reshape((1,) * (centred.ndim - 1) + (-1,))
        c, t = jnp.where(skip, ramp, centred), jnp.where(skip, 2, temperature)
        row, target = _Row.of(c), entropy_target(c, t)
        # a·D(q_a) ≤ ½‖p − u‖² bounds a above; below, the modulus of continuity of the entropy (τ log K/τ)
        # against ‖q − p‖² ≤ 2a(D(p) − D(q)).
        square = jnp.sum((row.p - 1 / centred.shape[-1]) ** 2, axis=-1, keepdims=True)
        high = jnp.log(0.5 * square / target.deficit) + 0.1
        low = jnp.minimum(jnp.log((t - 1) * target.deficit) - 12, high - 1)
        # Increasing unknown for an increasing residual: −log a sharpens.
        args = (row, target)
        x, converged = increasing_root(_entropy_residual, *jax.lax.stop_gradient((-high, -low)), args)
        log_ratio, gain, normalised = _solve_mass(-x, row)
        solved = jnp.abs(sharpness_residual(log_ratio, target)) < float(jnp.finfo(c.dtype).eps) ** 0.5
        log_q = log_ratio + gain + row.log_top
        identity = _identity(centred, temperature)
        return jnp.where(skip, identity, log_q), skip | (converged & normalised & solved)


class _Row(NamedTuple):
    """p in the forms that the roots need, each accurate where the others cancel."""

    p: Array
    gap: Array  # p_top − p
    log_top: Array  # log p_top

    @classmethod
    def of(cls, centred: Array) -> "_Row":
        off = jnp.isneginf(centred)
        c = jnp.where(off, 0, centred)
        log_top = -log_normalizer(centred)
        top = jnp.exp(log_top)
        gap = jnp.where(off, top, -top * jnp.expm1(c))
        return cls(jnp.where(off, 0, jnp.exp(c + log_top)), gap, log_top)


def _entropy_residual(x: Array, row: _Row, target: EntropyTarget) -> Array:
    return sharpness_residual(_solve_mass(-x, row)[0], target)


def _solve_mass(log_a: Array, row: _Row) -> tuple[Array, Array, Array]:
    """For a strength a: log(q/q_top), gain = log(q_top/p_top) such that Σq = 1, and whether it was found."""
    low = -jnp.log(jnp.asarray(row.p.shape[-1], row.p.dtype)) - row.log_top - 1e-6
    bracket = jax.lax.stop_gradient((low, jnp.zeros_like(low)))
    gain, converged = increasing_root(_mass_residual, *bracket, (log_a, row), 1e-30)
    return _log_ratio(gain, log_a, row), gain, converged


def _mass_residual(gain: Array, log_a: Array, row: _Row) -> Array:
    """``Σ (q − p)/a``; with q − p = −(c + a log q) it is ``K (q_top − p_top)/a − Σ log(q/q_top)``."""
    lost = row.p.shape[-1] * jnp.expm1(gain) * jnp.exp(row.log_top - log_a)
    return lost - jnp.sum(_log_ratio(gain, log_a, row), axis=-1, keepdims=True)


def _log_ratio(gain: Array, log_a: Array, row: _Row) -> Array:
    """ρ = log(q/q_top), the root of ``q_top (e^ρ − 1) + aρ = p − p_top``."""
    log_s = gain + row.log_top
    log_sa = log_s - log_a
    # With η = ρ + log(q_top/a): e^η + η = (p + q_top − p_top)/a + log(q_top/a).
    lowered = row.p + jnp.exp(row.log_top) * jnp.expm1(gain)
    rho = log_wright_omega(lowered * jnp.exp(-log_a) + log_sa) - log_sa
    # Near 0 that difference keeps an absolute accuracy only; one Newton step makes it relative.
    near = rho > -0.5
    start = jnp.minimum(jnp.where(near, rho, 0), 0)
    s, a = jnp.exp(log_s), jnp.exp(log_a)
    polished = start - (s * jnp.expm1(start) + a * start + row.gap) / (s * jnp.exp(start) + a)
    return jnp.where(near, polished, rho)


@jax.custom_jvp
def log_wright_omega(x: Array) -> Array:
    """``η = log ω(x)``, the root of ``η + e^η = x``: Halley's method from a start within 0.3 everywhere.

    >>> round(float(log_wright_omega(jnp.array(1.0))), 6)
    0.0
    """
    large = x > 1
    big, small = jnp.where(large, x, 1), jnp.where(large, 0, x)
    eta = jnp.where(large, jnp.log(big) * big / (1 + big), small - jax.nn.sigmoid(small))
    for _ in range(3):
        omega = jnp.exp(eta)
        gap, slope = eta + omega - x, 1 + omega
        eta = eta - 2 * gap * slope / (2 * slope * slope - gap * omega)
    return eta


@log_wright_omega.defjvp
def _log_wright_omega_jvp(primals: tuple, tangents: tuple) -> tuple:
    eta = log_wright_omega(primals[0])
    return eta, tangents[0] * jax.nn.sigmoid(-eta)


def _identity(centred: Array, temperature: Array) -> Array:
    """log p for T = 1 and for uniform rows, with the derivative in T at T = 1 on the support.

    There ``q ≈ p − a(log p − mean log p)``, and D falls by ``a·Σ (log p − mean)²``, so
    ``da/dT = D(p)/Σ (log p − mean)²``.
    """
    off = jnp.isneginf(centred)
    log_p = jnp.where(off, 0, centred) - log_normalizer(centred)
    count = jnp.sum(jnp.where(off, 0, 1), axis=-1, keepdims=True).astype(log_p.dtype)
    deviation = jnp.where(off, 0, log_p - jnp.sum(jnp.where(off, 0, log_p), axis=-1, keepdims=True) / count)
    square = jnp.sum(deviation**2, axis=-1, keepdims=True)
    rate = jnp.where(square > 0, deficit(centred) / jnp.where(square > 0, square, 1), 0)
    slope = jax.lax.stop_gradient(-rate * deviation * jnp.exp(-jnp.maximum(log_p, -80)))
    moved = (temperature - jax.lax.stop_gradient(temperature)) * slope
    return jnp.where(off, -jnp.inf, log_p + moved)
