"""The one definition behind every family: a Bregman step towards evenness."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sparsekd_jax._refusals import is_traced
from sparsekd_jax.operators._entropy_target import EntropyTarget, entropy_target, sharpness_residual
from sparsekd_jax.operators._roots import increasing_root, with_slope
from sparsekd_jax.operators._rows import is_uniform, log_normalizer, stand_in
from sparsekd_jax.operators.base import Claims, SofteningOperator, TemperatureRange, claim

Potential = Callable[[Array, Any], Array]
Strength = Literal["multiplier", "target"]


@dataclasses.dataclass(frozen=True, eq=False)
class Variational(SofteningOperator):
    """``F_T(p) = argmin_{q ∈ Δ} D_φ(q‖p) + a·Σ ψ(q_i)``, D_φ the Bregman divergence of φ.

    The strength a comes from T in one of two ways: "multiplier", a = T − 1; "target", a such that
    ``H(q) = H(p) + (1 − 1/T)(log K − H(p))``. Optimality, solved as it stands, coordinate by coordinate:
    ``φ'(q_i) + a ψ'(q_i) = φ'(p_i) − c`` on the support of q.

    T in [1, ∞); with φ and ψ the same function object and the multiplier, T in (0, ∞). Zeros of p stay zero
    where φ'(0) = −∞.

    Make one with `variational`. Nested bracketed roots, general and slow: the named families solve their
    special case directly, faster and to more digits. Here ``|Δ log q| ≤ 1e-8·max(1, |log q|)`` in float64,
    down to q = 1e-30, plus what rounding φ'(max p) moves: ``ε·|φ'(max p)|/(q φ''(q))``. For φ = ½x² that is
    ε/q, so that next to a vertex and to T = 1 a q of 1e-12 has four digits. A row that
    this takes from Σq = 1 by more than ε^0.4 is refused as not found.

    Reference: theory.md section 2.
    """

    params: Any
    phi: Potential = dataclasses.field(metadata={"static": True})
    psi: Potential = dataclasses.field(metadata={"static": True})
    strength: Strength = dataclasses.field(default="multiplier", metadata={"static": True})
    family: ClassVar[str] = "variational"
    sweeps: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The family, its potentials by their function names, and the strength."""
        names = ", ".join(getattr(f, "__name__", "φ") for f in (self.phi, self.psi))
        return f"{self.family}({names}, {self.strength})"

    @property
    def claims(self) -> Claims:
        """What theory.md section 2 proves of every strictly convex pair."""
        warm = TemperatureRange(1.0)
        laws = claim("closure equivariance A1 A1s A2 A3 A3s A4 A5h majorization", "interior", warm)
        if self.strength == "target":
            return Claims(warm, laws, domain="interior")
        laws |= claim("closure equivariance A1 A2 A3 A4 majorization", temperatures=warm)
        return Claims(TemperatureRange() if self.phi is self.psi else warm, laws)

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, Array]:
        row = centred - log_normalizer(centred)
        if self.strength == "multiplier":
            return self._solve_mass(temperature - 1, row)
        # A uniform row has no root. At T = 1 it is a = 0, the end of the bracket, and gives the slope alone.
        uniform = is_uniform(centred)
        safe = stand_in(uniform, centred)
        safe_row = safe - log_normalizer(safe)
        wide = jnp.full_like(temperature, 60.0)
        target = entropy_target(safe, temperature)
        x, converged = increasing_root(_target_residual, -wide, wide, (self, safe_row, target))
        log_q, found = self._solve_mass(jnp.exp(-x), safe_row)
        # Next to the uniform distribution q − u = (p − u)/√T, whatever the potentials.
        slope = jnp.where(uniform, jax.lax.rsqrt(temperature) * _zero(row), log_q)
        change = slope - row
        # Infinite where log q was truncated, which the log p that is given at T = 1 is not.
        exact = row + _zero(jnp.where(jnp.isfinite(change), change, 0))
        known = uniform | (temperature == 1)
        return jnp.where(known, exact, log_q), known | (converged & found)

    def _slope(self, potential: Potential, log_x: Array) -> Array:
        x = jnp.exp(log_x)
        return jax.jvp(lambda x: potential(x, self.params), (x,), (jnp.ones_like(x),))[1]

    def _force(self, log_q: Array, a: Array) -> Array:
        """``φ'(q) + a ψ'(q)``, increasing in q."""
        if self.phi is self.psi:
            return (1 + a) * self._slope(self.phi, log_q)
        return self._slope(self.phi, log_q) + a * self._slope(self.psi, log_q)

    def _solve_mass(self, a: Array, log_p: Array) -> tuple[Array, Array]:
        """The q of strength a: the unknown is log q of the largest coordinate, from −log K to 0."""
        high = jnp.full_like(a, 1e-9)
        low = -jnp.log(jnp.asarray(log_p.shape[-1], a.dtype)) - high
        log_top, converged = increasing_root(_mass_residual, low, high, (self, a, log_p))
        log_q, found = self._solve_coordinates(log_top, a, log_p)
        # Where φ' rounds away the pull of small coordinates, the bracket closes on a jump of the mass.
        excess = jnp.sum(jnp.exp(log_q), axis=-1, keepdims=True) - 1
        sums = jnp.abs(excess) < float(jnp.finfo(log_p.dtype).eps) ** 0.4
        return log_q, converged & found & sums

    def _solve_coordinates(self, log_top: Array, a: Array, log_p: Array) -> tuple[Array, Array]:
        lowest = jnp.asarray(-700.0 if log_p.dtype == jnp.float64 else -85.0, log_p.dtype)
        off = log_p < lowest
        at_zero = self._slope(self.phi, jnp.full_like(a, -jnp.inf))
        sticky = off & ~jnp.isfinite(at_zero)  # φ'(0) = −∞: zeros stay zero
        inside = self._slope(self.phi, jnp.maximum(log_p, lowest))
        pull = jnp.where(off, jnp.where(jnp.isfinite(at_zero), at_zero, 0), inside)
        top = self._slope(self.phi, jnp.max(log_p, axis=-1, keepdims=True))
        wanted = self._force(log_top, a) - (top - pull)
        # Below the floor the coordinate is truncated to an exact zero.
        floor = jnp.broadcast_to(lowest, log_p.shape)
        gone = sticky | (self._force(floor, a) >= wanted)
        wanted = jnp.where(gone, self._force(log_top, a), wanted)
        strength = jnp.broadcast_to(a, log_p.shape)
        ceiling = jnp.broadcast_to(log_top + 1e-9, log_p.shape)
        log_q, converged = increasing_root(_force_residual, floor, ceiling, (self, strength, wanted))
        return jnp.where(gone, -jnp.inf, log_q), converged.all(axis=-1, keepdims=True)


def _zero(x: Array) -> Array:
    """0 with the derivatives of x."""
    return x - jax.lax.stop_gradient(x)


@with_slope
def _force_residual(log_q: Array, op: Variational, a: Array, wanted: Array) -> Array:
    return op._force(log_q, a) - wanted


@with_slope
def _mass_residual(log_top: Array, op: Variational, a: Array, log_p: Array) -> Array:
    log_q, _ = op._solve_coordinates(log_top, a, log_p)
    return jnp.sum(jnp.exp(log_q), axis=-1, keepdims=True) - 1


@with_slope
def _target_residual(x: Array, op: Variational, log_p: Array, target: EntropyTarget) -> Array:
    log_q, _ = op._solve_mass(jnp.exp(-x), log_p)
    return sharpness_residual(log_q - jnp.max(log_q, axis=-1, keepdims=True), target)


def _require_convex(name: str, potential: Potential, params: Any) -> None:
    """Refuse a potential whose slope falls or stays on a grid, beyond rounding, where values can be seen."""
    x = jnp.asarray(np.linspace(1 / 32, 1, 32, dtype=np.float32))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(x.dtype), params)  # as for a call in float32
    if jax.eval_shape(potential, x[0], params).shape:  # params of a family
        return
    # Forward, as the operator takes slopes: a potential may hold a while_loop.
    traced = jax.vmap(lambda x: jax.jvp(lambda x: potential(x, params), (x,), (jnp.ones_like(x),))[1])(x)
    if is_traced(traced):  # inside jit all is
        return
    slope = np.asarray(traced, np.float64)
    falls = np.diff(slope) < -1e-5 * np.abs(slope).max()
    if falls.any() or slope[-1] <= slope[0]:
        i = int(np.argmax(falls))
        raise ValueError(
            f"{name} is not strictly convex on (0, 1]: its slope is {slope[i]:.4g} at {float(x[i]):.4g} and "
            f"{slope[i + 1]:.4g} at {float(x[i + 1]):.4g}, and must rise"
        )


def variational(
    phi: Potential, psi: Potential, strength: Strength = "multiplier", params: Any = ()
) -> Variational:
    """A softening operator from two convex potentials: see `Variational`.

    Args:
      phi: ``(x, params) -> [...]`` elementwise, strictly convex and differentiable on (0, 1], finite at 0.
      psi: the same; pass the same object twice for φ = ψ (this is what opens T < 1).
      strength: "multiplier" (a = T − 1) or "target" (a from the entropy).
      params: pytree of real hyper-parameters handed to both; explicit, so that it can be differentiated and
        vmapped (a traced value closed over by phi would break the implicit derivative).

    Raises:
      ValueError: unknown strength; a potential whose slope falls, or is one number, on (0, 1].
      TypeError: a potential that is not callable.

    >>> def square(x, params):
    ...     return 0.5 * x**2
    >>> [round(x, 4) for x in variational(square, square)(jnp.array([0.7, 0.2, 0.1]), 2.0).tolist()]
    [0.5167, 0.2667, 0.2167]
    """
    if strength not in ("multiplier", "target"):
        raise ValueError(f"strength is {strength!r}; it is 'multiplier' (a = T − 1) or 'target'")
    for name, potential in (("phi", phi), ("psi", psi)):
        if not callable(potential):
            raise TypeError(f"{name} is {potential!r}; it is a function (x, params) -> array")
        _require_convex(name, potential, params)
    return Variational(params, phi, psi, strength)
