"""The convex mixture with the uniform distribution, and its continuation below T = 1."""

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sparsekd_jax import simplex
from sparsekd_jax._numerics import row_sum
from sparsekd_jax.operators._rows import log_normalizer
from sparsekd_jax.operators.base import Claims, SofteningOperator, TemperatureRange, claim


def reciprocal_schedule(temperature: Array) -> Array:
    """The default weight of the uniform distribution, ``λ(T) = 1 − 1/T``.

    >>> float(reciprocal_schedule(jnp.array(4.0)))
    0.75
    """
    return (temperature - 1) / temperature


@dataclasses.dataclass(frozen=True, eq=False)
class ConvexMixture(SofteningOperator):
    """Convex mixture ``q = (1 − λ(T))·p + λ(T)·u``, u = 1/K, by default λ(T) = 1 − 1/T.

    With the default schedule T in (0, ∞): below 1, where the formula leaves the simplex, the operator is the
    Euclidean projection ``proj_Δ(p/T)``, which truncates (theory.md section 2, φ = ψ = ½x²). With a schedule
    of the user's own T in [1, ∞).

    Args:
      schedule: ``T -> λ``, a pure jax function, with λ(1) = 0, non-decreasing, and tending to 1: this is what
        the claims say, and the axiom checker verifies them. Static: another function is another compilation.

    The only affine, equivariant, rank-preserving softener up to a reparametrised T. Tolerance and errors: see
    `SofteningOperator`. From p, T ≥ 1, one pass over the row.

    Reference: arXiv 2601.03195 (convex mixture); theory.md section 2.

    >>> [round(x, 3) for x in ConvexMixture()(jnp.array([0.7, 0.2, 0.1]), 2.0).tolist()]
    [0.517, 0.267, 0.217]
    >>> [round(x, 3) for x in ConvexMixture()(jnp.array([0.7, 0.2, 0.1]), 0.5).tolist()]
    [1.0, 0.0, 0.0]
    """

    schedule: Callable[[Array], Array] = dataclasses.field(
        default=reciprocal_schedule, metadata={"static": True}
    )
    family: ClassVar[str] = "mixture"

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            raise ValueError(
                f"schedule of operator 'mixture' is {self.schedule!r}; it is a function T -> weight"
            )

    def _require_temperature(self, temperature: np.ndarray) -> None:
        if self._default:
            return
        mixed = np.asarray(self.schedule(jnp.asarray(temperature)))
        if mixed.shape not in ((), temperature.shape):
            raise ValueError(
                f"schedule gives weights of shape {mixed.shape} for T of shape {temperature.shape}; it gives "
                "one weight a temperature"
            )
        mixed = np.broadcast_to(mixed, temperature.shape)
        bad = ~((mixed >= 0) & (mixed <= 1))
        if bad.any():
            raise ValueError(
                f"schedule gives the weight {mixed[bad][0]:g} at T = {temperature[bad][0]:g}; the weight of "
                "the uniform distribution is in [0, 1]: return 0 at T = 1 and rise towards 1"
            )

    @property
    def _default(self) -> bool:
        return self.schedule is reciprocal_schedule

    @property
    def name(self) -> str:
        """The family, and the schedule where it is not the default."""
        shown = getattr(self.schedule, "__name__", type(self.schedule).__name__)  # a partial has no name
        return self.family if self._default else f"{self.family}[{shown}]"

    @property
    def claims(self) -> Claims:
        """All axioms on the whole simplex; strict ones and the linear laws from T = 1 up."""
        warm = TemperatureRange(1.0)
        laws = {
            **claim("closure equivariance A1 A2 A3 A4 majorization"),
            **claim("A1s A3s A5h affine L1 L2 gradients", temperatures=warm),
            **claim("support", "interior", temperatures=warm),
        }
        if not self._default:
            return Claims(warm, {law: dataclasses.replace(c, temperatures=warm) for law, c in laws.items()})
        return Claims(TemperatureRange(), {**laws, **claim("A5c"), **claim("semigroup", temperatures=warm)})

    def _weights(self, temperature: Array) -> tuple[Array, Array]:
        """``(1 − λ, λ)``; with the default schedule both to full relative accuracy."""
        if self._default:
            return 1 / temperature, reciprocal_schedule(temperature)
        mixed = self.schedule(temperature)
        return 1 - mixed, mixed

    def log_counted(self, log_p: Array, temperature: Array, counts: Array) -> tuple[Array, Array]:
        """As `PowerTransform.log_counted`, for T ≥ 1."""
        kept, mixed = self._weights(temperature)
        q = kept * jnp.exp(log_p) + mixed / row_sum(counts)
        return simplex.safe_log(q), jnp.ones(temperature.shape, bool)

    def _from_probabilities(self, p: Array, temperature: Array) -> tuple[Array, None]:
        kept, mixed = self._weights(temperature)

        def warm() -> Array:
            return kept * p + mixed / p.shape[-1]

        if not self._default:
            return warm(), None

        def with_cold() -> Array:
            return jnp.where(temperature >= 1, warm(), _cold(p, temperature))

        # The projection sorts; a batch that is warm throughout does not pay for it.
        return jax.lax.cond((temperature >= 1).all(), warm, with_cold), None

    def _kernel(self, centred: Array, temperature: Array) -> tuple[Array, None]:
        return self._from_probabilities(jax.nn.softmax(centred, axis=-1), temperature)

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, None]:
        num_classes = centred.shape[-1]
        kept, mixed = self._weights(temperature)
        log_p = centred - log_normalizer(centred)
        off = jnp.isneginf(log_p)
        safe_log_p = jnp.where(off, 0, log_p)
        p = jnp.where(off, 0, jnp.exp(safe_log_p))
        # Next to a vertex log q = log1p(−(1 − q)), with 1 − q from 1 − p = −expm1(log p); elsewhere direct.
        rest = -kept * jnp.expm1(jnp.where(off, -1, safe_log_p)) + mixed * (1 - 1 / num_classes)
        near_vertex = ~off & (rest < 0.5)
        value = kept * p + mixed / num_classes
        warm = jnp.where(near_vertex, jnp.log1p(-jnp.where(near_vertex, rest, 0)), simplex.safe_log(value))
        if not self._default:
            return warm, None

        def with_cold() -> Array:
            # Exactly log p at T = 1, with the derivative in T.
            limit = math.log(jnp.finfo(p.dtype).max) - 10
            raised = mixed * (jnp.exp(jnp.minimum(-safe_log_p, limit)) / num_classes - 1)
            at_one = jnp.where(off, log_p, safe_log_p + jnp.log1p(jnp.where(temperature == 1, raised, 0)))
            cold = simplex.safe_log(_cold(p, temperature))
            return jnp.where(temperature == 1, at_one, jnp.where(temperature > 1, warm, cold))

        return jax.lax.cond((temperature > 1).all(), lambda: warm, with_cold), None


def _cold(p: Array, temperature: Array) -> Array:
    """``proj_Δ(p/T)``, which a shift of the row does not move: of the largest class 0/T keeps every digit."""
    return simplex.project((p - jax.lax.stop_gradient(jnp.max(p, axis=-1, keepdims=True))) / temperature)
