"""For each law an operator that breaks it and nothing else it claims; and lawful oddities that break none.

All are `SofteningOperator`s, so that positions of defects are traced leaves: moving one compiles nothing.
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sparsekd_jax.operators import (
    Claims,
    ConvexMixture,
    EuclideanEntropyProjection,
    PowerTransform,
    SofteningOperator,
    TemperatureRange,
)
from sparsekd_jax.operators.base import claim
from sparsekd_jax.operators.lawless import ClampedPower

AXIOMS = "closure equivariance A1 A2 A3 A4 A5h"
WARM = TemperatureRange(1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Twin(SofteningOperator):
    """An operator from a kernel ``(p, T, parameter) -> q``, claiming what it is told to."""

    parameter: Any
    kernel: Any = dataclasses.field(metadata={"static": True})
    laws: str = dataclasses.field(default=AXIOMS, metadata={"static": True})
    domain: Any = dataclasses.field(default="interior", metadata={"static": True})
    temperatures: TemperatureRange = dataclasses.field(default=WARM, metadata={"static": True})
    family: ClassVar[str] = "twin"

    @property
    def name(self) -> str:
        return self.kernel.__name__

    @property
    def claims(self) -> Claims:
        return Claims(self.temperatures, claim(self.laws, self.domain, self.temperatures))

    def _from_probabilities(self, p: Array, temperature: Array) -> tuple[Array, None]:
        return self.kernel(p, temperature, self.parameter), None

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, None]:
        q, _ = self._from_probabilities(jax.nn.softmax(centred, axis=-1), temperature)
        return jnp.log(q), None


def power(p: Array, t: Array) -> Array:
    return PowerTransform()._from_probabilities(p, t)[0]


# -- one twin a law ----------------------------------------------------------------------------------------


def sum_off(p: Array, t: Array, size: Array) -> Array:
    """Closure: mass is lost in between T = 1 and T = ∞."""
    return power(p, t) * (1 - size * (t - 1) / t**2)


def first_class_warmer(p: Array, t: Array, size: Array) -> Array:
    """Equivariance: the first class sets the temperature."""
    return power(p, 1 + (t - 1) * (1 + size * p[..., :1]))


def crossing(p: Array, t: Array, size: Array) -> Array:
    """A1: a non-monotone map of the centred logs, under a fast decay that keeps the entropy rising."""
    logs = jnp.log(jnp.where(p > 0, p, 1e-300))
    x = logs - jnp.mean(logs, axis=-1, keepdims=True)
    bend = size * jnp.minimum((t - 1) * 0.1, 1)
    y = (x - bend * jnp.sin(x)) / t**8
    return jax.nn.softmax(y, axis=-1)


def jumping(p: Array, t: Array, at: Array) -> Array:
    """A2: the temperature jumps where the largest class passes a threshold."""
    return power(p, jnp.where(jnp.max(p, axis=-1, keepdims=True) > at, t**2, t))


def cooling_band(p: Array, t: Array, start: Array) -> Array:
    """A3: a smooth dip of the temperature somewhere in the range."""
    inside = jnp.clip((t - start) / 0.2, 0, 1)
    return power(p, t - 0.4 * jnp.sin(jnp.pi * inside) ** 2)


def never_identity(p: Array, t: Array, size: Array) -> Array:
    """A4: a little warmer than told, at T = 1 as well."""
    return power(p, t * (1 + size))


def saturating(p: Array, t: Array, limit: Array) -> Array:
    """A5h: a strictly rising temperature that never passes a limit."""
    return power(p, limit - (limit - 1) / t)


def never_cold(p: Array, t: Array, size: Array) -> Array:
    """A5c: the temperature stops above 0."""
    return power(p, (t + size) / (1 + size))


def rising_top(p: Array, t: Array, size: Array) -> Array:
    """Majorization: the rest is evened, and the largest class gains a little from it; the entropy rises.

    With m the top's mass and H_r the entropy of the rest, H = h(m) + (1 − m) H_r; the gain m(1 − m) size ΔH_r
    costs at most size·m·|log((1 − m)/m) − H_r| of what the rest brings, less than 1 for size = 0.01.
    """
    top = jax.nn.one_hot(jnp.argmax(p, axis=-1), p.shape[-1], dtype=bool)
    m = jnp.max(p, axis=-1, keepdims=True)

    def entropy(x: Array) -> Array:
        return -jnp.sum(jnp.where(x > 0, x * jnp.log(jnp.where(x > 0, x, 1)), 0), axis=-1, keepdims=True)

    rest = jnp.where(top, 0, p) / jnp.sum(jnp.where(top, 0, p), axis=-1, keepdims=True)
    evened = power(rest, t)
    grown = m + size * m * (1 - m) * (entropy(evened) - entropy(rest))
    return jnp.where(top, grown, (1 - grown) * evened)


def twin(kernel: Any, parameter: float, **options: Any) -> Twin:
    return Twin(parameter, kernel, **options)


@dataclasses.dataclass(frozen=True, eq=False)
class Overclaiming(SofteningOperator):
    """A real operator that also claims a law it does not have."""

    inner: SofteningOperator
    also: str = dataclasses.field(metadata={"static": True})
    domain: Any = dataclasses.field(default="simplex", metadata={"static": True})
    temperatures: TemperatureRange = dataclasses.field(default=WARM, metadata={"static": True})
    family: ClassVar[str] = "overclaiming"

    @property
    def name(self) -> str:
        return f"{self.inner.name}-claims-{self.also}"

    @property
    def claims(self) -> Claims:
        inner = self.inner.claims
        extra = claim(self.also, self.domain, self.temperatures)
        return Claims(self.temperatures, {**inner.laws, **extra})

    def _from_probabilities(self, p: Array, temperature: Array) -> tuple[Array, Any]:
        return self.inner._from_probabilities(p, temperature)

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, Any]:
        return self.inner._log_kernel(centred, temperature)


COLD = TemperatureRange(0.0, 1.0)

TWINS: dict[str, SofteningOperator] = {
    "closure": twin(sum_off, 1e-3, laws="closure equivariance A1 A2 A4 A5h"),
    "equivariance": twin(first_class_warmer, 1.0),
    "A1": twin(crossing, 3.0),
    "A1s": Overclaiming(ConvexMixture(), "A1s", temperatures=COLD),
    "A2": twin(jumping, 0.5),
    "A3": twin(cooling_band, 7.3),
    "A3s": Overclaiming(ClampedPower(), "A3s"),
    "A4": twin(never_identity, 1e-4),
    "A5h": twin(saturating, 10.0),
    "A5f": Overclaiming(ConvexMixture(), "A5f"),
    "A5c": twin(
        never_cold, 0.1, laws="closure equivariance A1 A2 A3 A4 A5c", temperatures=TemperatureRange()
    ),
    "majorization": twin(rising_top, 0.01, laws="closure A3 A4 majorization"),
    "semigroup": Overclaiming(EuclideanEntropyProjection(), "semigroup"),
    "affine": Overclaiming(PowerTransform(), "affine"),
    "L1": Overclaiming(PowerTransform(), "L1"),
    "L2": Overclaiming(PowerTransform(), "L2"),
    "support": Overclaiming(ConvexMixture(), "support"),
    "gradients": Overclaiming(PowerTransform(), "gradients"),
}


# -- defects that are hard to find -------------------------------------------------------------------------


def window(p: Array, t: Array, start: Array) -> Array:
    """Colder by 0.3 in a window of width 0.2."""
    return power(p, jnp.where((t > start) & (t < start + 0.2), jnp.maximum(t - 0.3, 1.0), t))


def many_classes(p: Array, t: Array, size: Array) -> Array:
    """No identity when K ≥ 8."""
    return power(p, t * (1 + (size if p.shape[-1] >= 8 else 0.0)))


def even_classes(p: Array, t: Array, size: Array) -> Array:
    """No identity when K is even."""
    return power(p, t * (1 + (size if p.shape[-1] % 2 == 0 else 0.0)))


def one_coordinate(p: Array, t: Array, size: Array) -> Array:
    """One class, the third where there is one, is favoured away from T = 1."""
    k = p.shape[-1]
    favoured = (jnp.arange(k) == min(2, k - 1)).reshape((1,) * (p.ndim - 1) + (-1,))
    q = power(p, t) * jnp.where(favoured, 1 + size * (t - 1) / t**2, 1.0)
    return q / q.sum(-1, keepdims=True)


def confident_only(p: Array, t: Array, at: Array) -> Array:
    """No identity where the largest class has more than ``at``."""
    return power(p, jnp.where(jnp.max(p, axis=-1, keepdims=True) > at, t * 1.05, t))


def at_one_only(p: Array, t: Array, size: Array) -> Array:
    """A defect of size 1e-4 at T = 1 exactly, and nowhere else."""
    nudge = jnp.where(jnp.arange(p.shape[-1]) == 0, size, -size / (p.shape[-1] - 1))
    return power(p, t) + jnp.where(t == 1, 1.0, 0.0) * nudge.reshape((1,) * (p.ndim - 1) + (-1,))


# -- lawful oddities ---------------------------------------------------------------------------------------


def average(p: Array, t: Array, weight: Array) -> Array:
    return weight * power(p, t) + (1 - weight) * (p / t + (1 - 1 / t) / p.shape[-1])


def composition(p: Array, t: Array, share: Array) -> Array:
    """Mixture after power, the temperature split between them."""
    q = power(p, t**share)
    s = t ** (1 - share)
    return q / s + (1 - 1 / s) / p.shape[-1]


def warped(p: Array, t: Array, exponent: Array) -> Array:
    return power(p, t**exponent)


def slowly_warped(p: Array, t: Array, rate: Array) -> Array:
    return power(p, 1 + rate * jnp.log(t))


def quadratic_schedule(t: Array) -> Array:
    return 1 - 1 / t**2


def slow_schedule(t: Array) -> Array:
    return 1 - 1 / (1 + jnp.log(t))


def exponential_schedule(t: Array) -> Array:
    return 1 - jnp.exp(1 - t)


LAWFUL: tuple[SofteningOperator, ...] = (
    twin(average, 0.5),
    twin(average, 0.05),
    twin(composition, 0.5),
    twin(warped, 0.3),
    twin(warped, 3.0),
    twin(slowly_warped, 1.0),
    ConvexMixture(quadratic_schedule),
    ConvexMixture(slow_schedule),
    ConvexMixture(exponential_schedule),
)
