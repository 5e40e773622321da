"""Entropy projection: the escort of p whose entropy is raised by a set share of the way to log K."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sparsekd_jax.operators._entropy_target import EntropyTarget, entropy_target, sharpness_residual
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
class EntropyProjection(SofteningOperator):
    """Entropy projection ``argmin_q KL(q‖p)  s.t.  H(q) = H(p) + (1 − 1/T)(log K − H(p))``.

    The answer is an escort ``q ∝ p^β`` whose β in (0, 1] depends on p: in terms of the entropy deficit
    ``D = log K − H`` it solves ``D(q_β) = D(p)/T``. T in [1, ∞), p in the interior of the simplex: with zeros
    the target may be out of reach, and where two zeros meet no continuous extension exists.

    β is found by bracketed Newton on log β, derivatives by the implicit function theorem. Deficits are summed
    in a form that keeps relative accuracy next to the uniform distribution. Tolerance (1e-10 in float64) and
    errors: see `SofteningOperator`.

    Reference: arXiv 2601.03195 (entropy projection); theory.md section 2, φ = ψ = Shannon, target form.

    >>> q = EntropyProjection()(jnp.array([0.7, 0.2, 0.1]), 2.0)
    >>> from sparsekd_jax.simplex import entropy_deficit
    >>> [round(float(entropy_deficit(x)), 4) for x in (jnp.array([0.7, 0.2, 0.1]), q)]
    [0.2968, 0.1484]
    """

    family: ClassVar[str] = "entropy-projection"

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
        off = jnp.isneginf(centred)
        # A uniform row is its own answer; any other row stands in for it in the root.
        uniform = jnp.max(jnp.where(off, 1, -centred), axis=-1, keepdims=True) == 0
        ramp = -jnp.arange(centred.shape[-1], dtype=centred.dtype).reshape((1,) * (centred.ndim - 1) + (-1,))
        row = jnp.where(uniform, ramp, centred)
        target = entropy_target(row, temperature)
        spread = -jnp.min(jnp.where(off, 0, row), axis=-1, keepdims=True)
        # Hoeffding: D(q_β) ≤ (β·spread)²/8, so β is at least √(8 D(p)/T)/spread.
        low = jnp.minimum(0.5 * jnp.log(8 * target.deficit) - jnp.log(jnp.maximum(spread, 1e-30)) - 1, -1e-3)
        low, high = jax.lax.stop_gradient((low, jnp.zeros_like(low)))
        log_beta, converged = increasing_root(_escort_residual, low, high, (row, target))
        # An end of the bracket is an answer only if it solves the equation (zeros can put it out of reach).
        residual = _escort_residual(log_beta, row, target)
        solved = jnp.abs(residual) < float(jnp.finfo(centred.dtype).eps) ** 0.5
        # Next to uniform rows β tends to 1/√T, the derivative that the uniform row itself takes.
        beta = jnp.where(uniform, jax.lax.rsqrt(temperature), jnp.exp(log_beta))
        scaled = jnp.where(off, -jnp.inf, beta * jnp.where(off, 0, centred))
        return scaled - log_normalizer(scaled), uniform | (converged & solved)


def _escort_residual(log_beta: Array, centred: Array, target: EntropyTarget) -> Array:
    off = jnp.isneginf(centred)
    escort = jnp.where(off, -jnp.inf, jnp.exp(log_beta) * jnp.where(off, 0, centred))
    return sharpness_residual(escort, target)
