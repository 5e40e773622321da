"""Deliberate counterexamples: plausible softeners, each breaking laws that theory.md names.

They are what the axiom checker must catch, and what people do use. Each claims only what it keeps.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sparsekd_jax import simplex
from sparsekd_jax._refusals import is_traced
from sparsekd_jax.operators._parameters import COUNT, FRACTION, POSITIVE, require_parameters
from sparsekd_jax.operators._rows import log_normalizer
from sparsekd_jax.operators.base import Claims, SofteningOperator, TemperatureRange, claim
from sparsekd_jax.operators.power import PowerTransform

_ANY_TEMPERATURE = TemperatureRange()


@dataclasses.dataclass(frozen=True, eq=False)
class LabelSmoothing(SofteningOperator):
    """Label smoothing ``q = (1 − ε) p + ε u`` whatever T: no identity at T = 1, no limits.

    Args:
      epsilon: scalar in [0, 1), a differentiable leaf; 0 is the identity.

    >>> [round(x, 3) for x in LabelSmoothing(0.1)(jnp.array([0.8, 0.2]), 3.0).tolist()]
    [0.77, 0.23]
    """

    epsilon: ArrayLike = dataclasses.field(default=0.1, metadata={"domain": FRACTION})
    family: ClassVar[str] = "label-smoothing"

    @property
    def claims(self) -> Claims:
        """Everything that a constant affine map keeps."""
        require_parameters(self)
        laws = claim("closure equivariance A1 A1s A2 A3 majorization affine L1 L2 gradients")
        return Claims(_ANY_TEMPERATURE, laws | claim("support", "interior"))

    def _from_probabilities(self, p: Array, temperature: Array) -> tuple[Array, None]:
        epsilon = jnp.asarray(self.epsilon, p.dtype)
        return (1 - epsilon) * p + epsilon / p.shape[-1], None

    def _kernel(self, centred: Array, temperature: Array) -> tuple[Array, None]:
        return self._from_probabilities(jax.nn.softmax(centred, axis=-1), temperature)

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, None]:
        return simplex.safe_log(self._kernel(centred, temperature)[0]), None


@dataclasses.dataclass(frozen=True, eq=False)
class TopKRenormalized(SofteningOperator):
    """Keep the k largest classes and renormalise, whatever T; ties are broken by index.

    What a served model's top-k list invites one to do. Discontinuous, blind outside the list.

    Args:
      k: number of classes kept; at most K − 1 are, so that something is always dropped. Static.

    >>> [round(x, 3) for x in TopKRenormalized(2)(jnp.array([0.5, 0.3, 0.2]), 3.0).tolist()]
    [0.625, 0.375, 0.0]
    """

    k: int = dataclasses.field(default=2, metadata={"static": True, "domain": COUNT})
    family: ClassVar[str] = "top-k"

    @property
    def claims(self) -> Claims:
        """It does not depend on T, and it is idempotent."""
        return Claims(_ANY_TEMPERATURE, claim("closure A3 majorization semigroup"))

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, None]:
        num_classes = centred.shape[-1]
        _, kept = jax.lax.top_k(centred, min(self.k, num_classes - 1))
        keep = jax.nn.one_hot(kept, num_classes, dtype=bool, axis=-1).any(axis=-2)
        masked = jnp.where(keep, centred, -jnp.inf)
        return masked - log_normalizer(masked), None


@dataclasses.dataclass(frozen=True, eq=False)
class PriorDirected(SofteningOperator):
    """Softening towards a prior, ``q ∝ p^(1/T) π^(1 − 1/T)``: a geodesic to π instead of to u.

    Args:
      prior: π with positive entries, ``[K]``, or None for the rising weights 1, 9, 17, …, 1 + 8(K − 1).

    >>> [round(x, 3) for x in PriorDirected(jnp.array([0.1, 0.9]))(jnp.array([0.6, 0.4]), 2.0).tolist()]
    [0.29, 0.71]
    """

    prior: Float[Array, " K"] | None = None
    family: ClassVar[str] = "prior-directed"

    def __post_init__(self) -> None:
        if self.prior is None or is_traced(self.prior):
            return
        simplex.require_probabilities(self.prior, "prior")
        if not (np.asarray(self.prior) > 0).all():
            raise ValueError("prior has a zero entry; every class of a prior has some mass")

    @property
    def claims(self) -> Claims:
        """A continuous semigroup through the identity that keeps the support; nothing else."""
        laws = claim("closure A2 A4 semigroup support") | claim("gradients", "interior")
        return Claims(_ANY_TEMPERATURE, laws)

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, None]:
        if self.prior is None:
            # Steep enough to overrule p, and against the order that examples usually have.
            weights = 1.0 + 8.0 * jnp.arange(centred.shape[-1], dtype=centred.dtype)
        else:
            weights = jnp.asarray(self.prior, centred.dtype)
            if weights.shape != centred.shape[-1:]:
                raise ValueError(f"prior has shape {weights.shape}; of {centred.shape[-1]} classes it is [K]")
        log_prior = jnp.log(weights).reshape((1,) * (centred.ndim - 1) + (-1,))
        off = jnp.isneginf(centred)
        mixed = jnp.where(off, 0, centred) / temperature + log_prior * ((temperature - 1) / temperature)
        mixed = jnp.where(off, -jnp.inf, mixed)
        mixed = mixed - jax.lax.stop_gradient(jnp.max(mixed, axis=-1, keepdims=True))
        return mixed - log_normalizer(mixed), None


@dataclasses.dataclass(frozen=True, eq=False)
class ClampedPower(SofteningOperator):
    """The power transform with T clamped at a limit, ``F_min(T, limit)``: it never reaches u.

    Args:
      limit: the highest temperature that has an effect, a differentiable leaf.

    >>> ClampedPower()(jnp.array([0.9, 0.1]), 50.0) == ClampedPower()(jnp.array([0.9, 0.1]), 5.0)
    Array([ True,  True], dtype=bool)
    """

    limit: ArrayLike = dataclasses.field(default=5.0, metadata={"domain": POSITIVE})
    family: ClassVar[str] = "clamped-power"

    @property
    def claims(self) -> Claims:
        """What power keeps, but for strictness, the hot limit and the semigroup."""
        require_parameters(self)
        laws = claim("closure equivariance A1 A1s A2 A3 A4 A5c majorization support")
        return Claims(_ANY_TEMPERATURE, laws | claim("gradients", "interior"))

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, None]:
        limit = jnp.asarray(self.limit, centred.dtype)
        return PowerTransform()._log_kernel(centred, jnp.minimum(temperature, limit))


@dataclasses.dataclass(frozen=True, eq=False)
class Argmax(SofteningOperator):
    """All mass on the largest class, whatever T; exact ties share it.

    >>> Argmax()(jnp.array([0.4, 0.4, 0.2]), 2.0)
    Array([0.5, 0.5, 0. ], dtype=float32)
    """

    family: ClassVar[str] = "argmax"

    @property
    def claims(self) -> Claims:
        """The cold limit taken at every T."""
        return Claims(_ANY_TEMPERATURE, claim("closure equivariance A1 A3 A5c majorization semigroup"))

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, None]:
        top = centred == 0
        count = jnp.sum(top, axis=-1, keepdims=True).astype(centred.dtype)
        log_q = jnp.where(top, -jnp.log(count), -jnp.inf)
        return jnp.where(jnp.isnan(centred), jnp.nan, log_q), None
