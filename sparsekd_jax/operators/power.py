"""The power transform, softmax with a temperature seen from the probability side."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from sparsekd_jax._numerics import quotient, row_sum
from sparsekd_jax.operators._rows import centred_log, centred_logits, centred_softmax, log_normalizer
from sparsekd_jax.operators.base import Claims, SofteningOperator, TemperatureRange, claim


@dataclasses.dataclass(frozen=True, eq=False)
class PowerTransform(SofteningOperator):
    """Power transform ``q_i ∝ p_i^(1/T)``, the escort distribution of order 1/T; softmax(z/T) from logits.

    T in (0, ∞). Zeros stay zero, so the hot limit is uniform on the support of p.

    Tolerance and errors: see `SofteningOperator`. K = 200,000 and T from 1e-3 to 1e6 give finite, normalised
    rows. Passes over the row: maximum, exponentials and their sum, scaling.

    Reference: arXiv 2601.03195 (power family); theory.md section 2, φ = ψ = Shannon.

    >>> [round(x, 4) for x in PowerTransform()(jnp.array([0.64, 0.32, 0.04]), 2.0).tolist()]
    [0.511, 0.3613, 0.1277]
    """

    family: ClassVar[str] = "power"

    @property
    def claims(self) -> Claims:
        """All axioms on the whole simplex, for every T; the limit u on its interior."""
        return Claims(
            temperatures=TemperatureRange(),
            laws={
                **claim("closure equivariance A1 A1s A2 A3 A3s A4 A5c A5f majorization semigroup support"),
                **claim("A5h gradients", "interior"),
            },
        )

    def _from_probabilities(self, p: Array, temperature: Array) -> tuple[Array, None]:
        return _softened(p, temperature), None

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, None]:
        scaled = tempered(centred, temperature)
        return scaled - log_normalizer(scaled), None

    def log_counted(self, log_p: Array, temperature: Array, counts: Array) -> tuple[Array, Array]:
        """``log F_T`` of rows in which equal classes are one entry.

        Args:
            log_p: ``[..., k]``, log-probability of one class of each entry, −inf where it is 0.
            temperature: ``[..., 1]``, in the dtype of log_p; nothing is validated.
            counts: ``[..., k]``, how many classes an entry stands for; ``Σ counts·p = 1``.

        Returns:
            log q of one class of each entry ``[..., k]``, and whether it was found ``[..., 1]``.

        >>> log_p, counts = jnp.log(jnp.array([0.64, 0.09])), jnp.array([1.0, 4.0])
        >>> log_q, _ = PowerTransform().log_counted(log_p, jnp.array([2.0]), counts)
        >>> jnp.exp(log_q).round(3).tolist(), float((counts * jnp.exp(log_q)).sum())
        ([0.4, 0.15], 1.0)
        """
        scaled = tempered(centred_logits(log_p), temperature)
        total = jax.nn.logsumexp(scaled, axis=-1, keepdims=True, b=counts)
        return scaled - total, jnp.ones(temperature.shape, bool)

    def _kernel(self, centred: Array, temperature: Array) -> tuple[Array, None]:
        return centred_softmax(tempered(centred, temperature)), None


@jax.custom_jvp
def _softened(p: Array, temperature: Array) -> Array:
    """q, by logarithms as accurate as a division by T asks for: from T = 1 up one a class is enough.

    A bare one: no derivative is taken through it, and the care of `centred_log` for zeros would cost up to
    half as much again.
    """

    def plain() -> Array:
        return centred_softmax(jnp.log(p / jnp.max(p, axis=-1, keepdims=True)) / temperature)

    return jax.lax.cond(
        (temperature >= 1).all(), plain, lambda: centred_softmax(centred_log(p) / temperature)
    )


def _softened_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    (p, temperature), (p_dot, temperature_dot) = primals, tangents
    q = _softened(p, temperature)
    positive = p > 0
    safe = jnp.where(positive, p, 1)
    flow = jnp.zeros_like(q)  # q d log q, up to a multiple of q; at a zero the derivative on the face
    if not isinstance(p_dot, SymbolicZero):
        flow += jnp.where(positive, quotient(q, safe) * p_dot, 0)
    if not isinstance(temperature_dot, SymbolicZero):
        logs = jnp.where(positive, centred_log(p), 0)
        flow -= q * logs * (temperature_dot / temperature)
    flow /= temperature
    return q, flow - q * row_sum(flow)


_softened.defjvp(_softened_jvp, symbolic_zeros=True)


@jax.custom_jvp
def tempered(centred: Array, temperature: Array) -> Array:
    """``log(p/p_top)/T``. A zero stays a zero at every T: no derivative passes through −inf/T."""
    return centred / temperature


@tempered.defjvp
def _tempered_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (centred, temperature), (moved, warmed) = primals, tangents
    scaled = tempered(centred, temperature)
    off = jnp.isneginf(centred)
    return scaled, (jnp.where(off, 0, moved) - jnp.where(off, 0, scaled) * warmed) / temperature
