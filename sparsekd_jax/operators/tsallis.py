"""Tsallis-α softening: the family that runs from power (α → 1) to the mixture (α = 2) and beyond."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from sparsekd_jax._numerics import expm1_ratio, log1p_ratio, row_sum
from sparsekd_jax._refusals import is_traced
from sparsekd_jax.operators import _tsallis_half
from sparsekd_jax.operators._blocks import in_blocks
from sparsekd_jax.operators._parameters import POSITIVE, require_parameters
from sparsekd_jax.operators._roots import increasing_root
from sparsekd_jax.operators._rows import centred_log, centred_logits, log_normalizer
from sparsekd_jax.operators.base import Claims, SofteningOperator, TemperatureRange, claim

NEAR_SHANNON = {"float64": 0.01, "float32": 0.6}
"""|α − 1| below which the expm1 form is used. Relative errors of small q grow in it with |α − 1|, which the
absolute contract of float32 allows; those of the other form grow with log T/|α − 1|."""


@dataclasses.dataclass(frozen=True, eq=False)
class TsallisSoftening(SofteningOperator):
    """Tsallis-α softening ``q_i^(α−1) = max((p_i^(α−1) + d)/T, 0)``, d such that q sums to 1.

    It minimises ``D_φ(q‖p) + (T − 1) Φ(q)`` over the simplex for the Tsallis-α entropy φ: α → 1 is the power
    transform, α = 2 the convex mixture, and T·α-entmax in general. T in (0, ∞). For α > 1 and T < 1 it
    truncates to exact zeros; for α ≤ 1 zeros stay zero; for α > 1 and T > 1 they become positive.

    Args:
      alpha: scalar α > 0, a differentiable leaf (vmap over a family by an array of them).

    d is found by bracketed Newton on a logarithmic unknown, derivatives by the implicit function theorem; at
    α = 3/2 it has a closed form for T ≥ 1, and for T < 1 Newton's method descends to it monotonically.
    Tolerance and errors: see `SofteningOperator`; a root that is not found raises `ConvergenceError`. With
    T < 1 and α ≥ 4 in float32, α ≥ 8 in float64, Σq − 1 may reach eps^(1/(α − 1)), from classes next to the
    threshold, and the checker finds the laws broken by as much.
    Passes over the row: at α = 3/2, T ≥ 1 the maximum, two sums and the result; else one a step of the search
    beside these (a CPU makes them block by block), about eight at α = 3/2.

    Reference: theory.md section 2; Peters, Niculae & Martins (2019) for α-entmax.

    >>> [round(x, 3) for x in TsallisSoftening(1.5)(jnp.array([0.7, 0.2, 0.1]), 2.0).tolist()]
    [0.516, 0.274, 0.21]
    """

    alpha: ArrayLike = dataclasses.field(metadata={"domain": POSITIVE})
    family: ClassVar[str] = "tsallis"

    @property
    def claims(self) -> Claims:
        """All axioms on the whole simplex; which further laws hold depends on α (theory.md section 2)."""
        if is_traced(self.alpha):
            raise TypeError("the claims of TsallisSoftening depend on alpha, which is traced here")
        if np.ndim(self.alpha):
            raise ValueError(
                f"alpha has shape {np.shape(self.alpha)}; a family of operators is called by "
                "jax.vmap(lambda op: op(p, T))(family)"
            )
        require_parameters(self)
        alpha = float(self.alpha)  # type: ignore[arg-type]
        laws = claim("closure equivariance A1 A2 A3 A4 A5c majorization")
        if alpha <= 1:
            # For α < 1 the slope is at most T^(1/(1−α)), even at zeros; for α = 1 it is infinite there.
            laws |= claim("A1s A3s A5f semigroup support") | claim("A5h", "interior")
            laws |= claim("gradients", "simplex" if alpha < 1 else "interior")
            return Claims(TemperatureRange(), laws)
        warm = TemperatureRange(1.0)
        laws |= claim("A1s A3s A5h semigroup", temperatures=warm)
        laws |= claim("support", "interior", warm)
        laws |= claim("gradients", "simplex" if alpha >= 2 else "interior", warm)
        if alpha >= 2:
            laws |= claim("L1", temperatures=warm)
        if alpha == 2:
            laws |= claim("affine L2", temperatures=warm)
        return Claims(TemperatureRange(), laws)

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, Array]:
        return self._at_half(_tsallis_half.log_from_logs, self._log_counted, centred, temperature)

    def _from_logits(self, logits: Array, temperature: Array) -> tuple[Array, Array]:
        def general(x: Array, t: Array) -> tuple[Array, Array]:
            return self._general(centred_logits(x), t)

        return self._at_half(_tsallis_half.from_logs, general, logits, temperature)

    def _from_probabilities(self, p: Array, temperature: Array) -> tuple[Array, Array]:
        def general(x: Array, t: Array) -> tuple[Array, Array]:
            return self._general(centred_log(x), t)

        return self._at_half(_tsallis_half.from_probabilities, general, p, temperature)

    def _at_half(
        self,
        half: Callable[[Array, Array, Array], tuple[Array, Array]],
        general: Callable[[Array, Array], tuple[Array, Array]],
        x: Array,
        temperature: Array,
    ) -> tuple[Array, Array]:
        """The square-root form where α = 3/2, the general one elsewhere."""
        r = jnp.asarray(self.alpha, x.dtype) - 1
        return _either(
            self._is_half(r),
            lambda: half(x, temperature, r),
            lambda: in_blocks(general, x, temperature),
        )

    def _is_half(self, r: Array) -> Array | bool:
        return r == 0.5

    def _is_near_shannon(self, r: Array) -> Array | bool:
        return jnp.abs(r) < NEAR_SHANNON[r.dtype.name]

    def to_compile(self, dtype: Any) -> SofteningOperator:
        """The form that a known α takes in ``dtype``."""
        if is_traced(self.alpha) or np.ndim(self.alpha):
            return self
        r = np.asarray(self.alpha, dtype) - np.asarray(1, dtype)
        half, near_shannon = bool(r == 0.5), bool(abs(r) < NEAR_SHANNON[r.dtype.name])
        return _TsallisOfOneForm(self.alpha, half=half, near_shannon=near_shannon)

    def log_counted(self, log_p: Array, temperature: Array, counts: Array) -> tuple[Array, Array]:
        """As `PowerTransform.log_counted`."""
        return self._log_counted(centred_logits(log_p), temperature, counts)

    def _general(self, centred: Array, temperature: Array) -> tuple[Array, Array]:
        r, log_ref = jnp.asarray(self.alpha, centred.dtype) - 1, -log_normalizer(centred)
        log_q, converged = self._searched(centred, temperature, log_ref, None, r)
        identity = _identity(centred, temperature, log_ref, r)
        return jnp.where(temperature == 1, identity, jnp.exp(log_q)), converged

    def _log_counted(
        self, centred: Array, temperature: Array, counts: Array | None = None
    ) -> tuple[Array, Array]:
        r = jnp.asarray(self.alpha, centred.dtype) - 1
        if counts is None:
            log_ref = -log_normalizer(centred)
        else:
            log_ref = -jax.nn.logsumexp(centred, axis=-1, keepdims=True, b=counts)
        log_q, converged = self._searched(centred, temperature, log_ref, counts, r)
        identity = _log_identity(centred, temperature, log_ref, counts, r)
        return jnp.where(temperature == 1, identity, log_q), converged

    def _searched(
        self, centred: Array, temperature: Array, log_ref: Array, counts: Array | None, r: Array
    ) -> tuple[Array, Array]:
        """log q of T ≠ 1; T = 1 is the identity, exactly, with its derivatives in closed form."""
        shannon = self._is_near_shannon(r)
        args = (centred, jnp.where(temperature == 1, 2, temperature), log_ref, counts)
        return _either(
            shannon,
            lambda: _expm1_form(*args, jnp.where(shannon, r, 0)),
            lambda: _shifted_powers(*args, jnp.where(shannon, 1, r)),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _TsallisOfOneForm(TsallisSoftening):
    """For a call with a known α: the form it takes is no branch of the program, which is a third as large.

    Which α it is stays an argument of the program: all of one form share it.
    """

    half: bool = dataclasses.field(metadata={"static": True})
    near_shannon: bool = dataclasses.field(metadata={"static": True})

    def _is_half(self, r: Array) -> bool:
        return self.half

    def _is_near_shannon(self, r: Array) -> bool:
        return self.near_shannon


def _either(first: Array | bool, one: Callable[[], Any], other: Callable[[], Any]) -> Any:
    if isinstance(first, bool):
        return one() if first else other()
    return jax.lax.cond(first, one, other)


# Both forms describe q through a reference point, the one with centred log-probability c = 0: its p is
# p_ref = exp(log_ref) (the largest), its q is q_ref, and T q_ref^r = p_ref^r (1 + E) with d = p_ref^r E and
# r = α − 1. Nothing requires the reference to be an actual coordinate, so the derivative with respect to
# every coordinate is that of the formula. The sign of E is that of T − 1.


def _total(x: Array, counts: Array | None) -> Array:
    """Σ over the classes, ``[..., 1]``."""
    return row_sum(x if counts is None else counts * x)


def _num_classes(centred: Array, counts: Array | None) -> Array:
    return jnp.asarray(centred.shape[-1], centred.dtype) if counts is None else row_sum(counts)


class _AtOne(NamedTuple):
    """p at T = 1, and how it leaves: ``s_i = ∂ log q_i/∂T = (d' p_i^(−r) − 1)/r``, d' = 1/Σ p^(1−r)."""

    log_p: Array  # some number where p is 0
    p: Array
    off: Array  # where that is
    slope: Array  # s, cut where it would overflow
    gain: Array  # p s, which is bounded


def _at_one(centred: Array, log_ref: Array, counts: Array | None, r: Array) -> _AtOne:
    off = jnp.isneginf(centred)
    log_p = jnp.where(off, 0, centred) + log_ref
    p = jnp.where(off, 0, jnp.exp(log_p))
    limit = math.log(jnp.finfo(log_p.dtype).max) - 10  # what is above it is cut, never infinite
    # Far from α = 1 in logs, as p^(−r) may overflow; near it with a_i = (p_i^(−r) − 1)/r, which has a limit.
    log_shares = jnp.where(off, -jnp.inf, (1 - r) * log_p)
    log_slope = jax.nn.logsumexp(log_shares, axis=-1, keepdims=True, b=counts)
    far = jnp.expm1(jnp.minimum(-r * log_p - log_slope, limit)) / jnp.where(r == 0, 1, r)
    near = jnp.where(jnp.abs(r) < 0.1, -r * log_p, 0)
    by_ratio = near < 1
    a = jnp.expm1(jnp.minimum(jnp.where(by_ratio, 0, near), limit)) / jnp.where(r == 0, 1, r)
    a = jnp.where(by_ratio, -log_p * expm1_ratio(jnp.where(by_ratio, near, 0)), a)
    mean = _total(p * a, counts)
    slope = jnp.where(jnp.abs(r) < 0.1, (a - mean) / (1 + r * mean), far)
    # Where p underflows its gain need not: for α = 2 all classes gain 1/K, less what they have.
    share = jnp.exp(log_shares - log_slope)
    steep = (share > 2 * p) & (r >= 0.1)
    gain = jnp.where(steep, (share - p) / jnp.where(steep, r, 1), p * slope)
    return _AtOne(log_p, p, off, jnp.where(off, 0, slope), gain)


def _step_from_one(temperature: Array) -> Array:
    """0, with the derivative 1 in T: it comes first in every product, as a square of s may overflow."""
    return temperature - jax.lax.stop_gradient(temperature)


def _identity(centred: Array, temperature: Array, log_ref: Array, r: Array) -> Array:
    """p, with two derivatives in T at T = 1.

    The first is ``p_i s_i``; s differentiated along itself gives the second,
    ``(1 − r) p_i s_i² − 2 p_i s_i − (1 − r) (p_i + r p_i s_i) Σ p s²``. A third is not given.
    """
    at, step = _at_one(centred, log_ref, None, r), _step_from_one(temperature)
    once = step * at.gain
    squared = (1 - r) * (once * (step * at.slope))
    return at.p + once + 0.5 * (squared - 2 * (step * once) - row_sum(squared) * (at.p + r * at.gain))


def _log_identity(
    centred: Array, temperature: Array, log_ref: Array, counts: Array | None, r: Array
) -> Array:
    """log p, with two derivatives in T at T = 1 on the support.

    The first is s; the second is ``−(1 + r s_i)(s_i + (1 − r) Σ p s²) − s_i``. A third is not given.
    """
    at, step = _at_one(centred, log_ref, counts, r), _step_from_one(temperature)
    once = step * at.slope
    twice = step * once + (1 - r) * _total((at.p * once) * once, counts)
    moved = once - 0.5 * ((1 + r * at.slope) * twice + step * once)
    return jnp.where(at.off, -jnp.inf, at.log_p + moved)


class _Softened(NamedTuple):
    """q at a trial root, in the logs that stay accurate, and how fast it moves with the unknown."""

    log_ratio: Array  # log(q/p)
    log_q: Array  # of its own: log p + log(q/p) has no digits left where logits are thousands apart
    at_zeros: Array  # log q where p is 0, or so small that q does not depend on it
    off: Array  # where that is
    rate: Array  # ∂ log q/∂ unknown, where q > 0


def _excess_mass(q: _Softened, centred: Array, log_ref: Array, counts: Array | None) -> tuple[Array, Array]:
    """``Σ (q − p)``, term by term, so that it is accurate relative to itself as q → p; and its slope."""
    off = q.off
    log_p = jnp.where(off, 0, centred) + log_ref
    alive = q.log_ratio > -jnp.inf
    close = alive & (q.log_ratio < 1)
    p = jnp.exp(log_p)
    grown = jnp.where(alive & ~close, jnp.exp(jnp.where(alive & ~close, q.log_q, 0)), 0) - p
    kept = jnp.where(close, p * jnp.expm1(jnp.where(close, q.log_ratio, 0)), grown)
    filled = jnp.where(off & (q.at_zeros > -jnp.inf), jnp.exp(jnp.minimum(q.at_zeros, 1)), 0)
    slope = jnp.where(off, filled, jnp.where(alive, p + kept, 0)) * q.rate
    gained = filled - jnp.exp(jnp.where(off, centred + log_ref, 0))
    return _total(jnp.where(off, gained, kept), counts), _total(slope, counts)


def _log_q(q: _Softened) -> Array:
    return jnp.where(q.off, q.at_zeros, q.log_q)


# -- |α − 1| not small -----------------------------------------------------------------------------------


def _shifted_powers(
    centred: Array, temperature: Array, log_ref: Array, counts: Array | None, r: Array
) -> tuple[Array, Array]:
    """The unknown is log E for T > 1 and logit(−E) for T < 1: relative accuracy of E, and of 1 + E.

    Next to a truncation threshold with α > 2, q moves much for one ulp of that unknown. So it is refined: E
    (below T = 1, 1 + E) times 1 + δ, where δ → 0 has all the resolution there is. Derivatives come from δ.
    """
    warm = temperature > 1
    # The root finder wants residuals that increase; E raises q for r > 0 and lowers it for r < 0.
    up = jnp.sign(r)
    sign = jnp.where(warm, up, -up)
    row = jax.lax.stop_gradient((centred, temperature, log_ref, counts, r))
    low, high = _bracket(temperature, log_ref, r, _num_classes(centred, counts))
    low, high = jnp.where(sign < 0, -high, low), jnp.where(sign < 0, -low, high)
    x, found = increasing_root(_coarse_residual, *jax.lax.stop_gradient((low, high)), (sign, *row))
    coarse = jax.lax.stop_gradient(sign * x)
    eps = float(jnp.finfo(x.dtype).eps)
    reach = jnp.full_like(x, eps**0.4)
    args = (up, coarse, centred, temperature, log_ref, counts, r)
    steep = ~warm & (r > 1)  # elsewhere one Newton step is all that there is to gain
    unit = jnp.where(steep, eps**2, 1)
    delta, refined = increasing_root(_refined_residual, -reach, reach, args, unit)
    q = _shifted_powers_at(up * delta, coarse, centred, temperature, log_ref, r)
    return _log_q(q), found & refined


def _bracket(temperature: Array, log_ref: Array, r: Array, num_classes: Array) -> tuple[Array, Array]:
    """Bounds of the unknown, from 1/K ≤ q_ref ≤ p_ref for T > 1 and p_ref ≤ q_ref ≤ 1 for T < 1."""
    warm = temperature > 1
    log_t = jnp.log(temperature)
    log_gap = jnp.log(jnp.abs(temperature - 1))
    log_spread = jnp.log(num_classes) + log_ref  # log(K p_ref) ≥ 0
    # |E| is |T − 1| for a uniform row, less elsewhere for r > 0 and more for r < 0. For r > 0 conservation of
    # mass bounds it from below, by Minkowski's inequality for r ≤ 1 and by (a + b)^(1/r) ≤ a^(1/r) + b^(1/r)
    # for r ≥ 1.
    steep = jnp.maximum(r, 1)
    least = steep * jnp.log(jnp.abs(jnp.expm1(log_t / steep))) - r * log_spread
    least = jnp.minimum(least, log_gap)
    # For r < 0, 1 + E is at most T (K p_ref)^(−r) for T > 1 and at least T p_ref^(−r) for T < 1.
    gain = jnp.where(warm, log_t - jnp.minimum(r, 0) * log_spread, 1)
    most_warm = gain + jnp.log(-jnp.expm1(-gain))
    shrunk = jnp.where(warm, -1, log_t - jnp.minimum(r, 0) * log_ref)
    most_cold = jnp.log(-jnp.expm1(shrunk)) - shrunk
    # For T < 1 the unknown is log(−E) − log(1 + E).
    low = jnp.where(warm, least, least - jnp.log(-jnp.expm1(jnp.where(warm, -1, least))))
    high = jnp.where(warm, most_warm, most_cold)
    pad = 1e-6 * (1 + jnp.abs(low) + jnp.abs(high))  # against the rounding of the ends
    return low - pad, high + pad


def _shifted_powers_at(
    delta: ArrayLike, unknown: Array, centred: Array, temperature: Array, log_ref: Array, r: Array
) -> _Softened:
    """q at ``unknown`` and δ; its rate is that in δ."""
    warm = temperature > 1
    log_size = jnp.where(warm, unknown, jax.nn.log_sigmoid(unknown))  # log |E|
    # A class far below takes its q from E as a zero does: the digits of its own log p end at eps·|log p|.
    zero = jnp.isneginf(centred)
    rc = r * jnp.where(zero, 0, centred)
    # Deeper than this e^{rc} is lost beside E, and beside the 1 of the reference.
    depth = 1 - math.log(jnp.finfo(rc.dtype).eps)
    off = zero | (warm & (rc < jnp.minimum(log_size, 0) - depth))
    rc = jnp.where(off, 0, rc)
    shift = jnp.where(warm, jnp.exp(log_size), -jax.nn.sigmoid(unknown))  # E
    log_rest = jax.nn.log_sigmoid(-jnp.where(warm, 0, unknown))  # log(1 + E) for T < 1
    # log(1 + E e^(−rc)), in the form that does not cancel:
    limit = math.log(jnp.finfo(rc.dtype).max) - 60
    # e^(−rc) may overflow: for E > 0, where it need not dominate, E e^(−rc) is formed in logs
    far = -rc > limit
    swamped = jnp.where(warm, log_size - rc > limit, far)  # it dominates for E > 0, truncates for E < 0
    weight = jnp.exp(jnp.where(far, 0, -rc))
    in_logs = jnp.exp(jnp.where(far & ~swamped, log_size - rc, 0))
    shifted = jnp.where(far, in_logs, shift * weight)  # E e^(−rc)
    # … next to the reference with E near −1, log(1 + E) + log(1 + (e^{rc} − 1)/(1 + E)) − rc
    by_rest = ~warm & (shift < -0.5) & (rc < 1)
    inner = jnp.where(by_rest, jnp.exp(-log_rest) * jnp.expm1(jnp.where(by_rest, rc, 0)), shifted)
    # What δ adds to it: E δ e^(−rc) for T > 1, and (1 + E) δ e^(−rc) below.
    fine = delta * jnp.where(by_rest, 1, jnp.where(warm, shifted, jnp.exp(log_rest) * weight))
    rest = (1 + inner) + fine  # near a threshold the first sum is exact, so δ keeps its digits
    alive = (rest > 0) & ~(swamped & ~warm)
    small = rest < 0.9
    grown = jnp.where(
        small, jnp.log(jnp.where(alive & small, rest, 1)), jnp.log1p(jnp.where(small, 0, inner + fine))
    )
    grown += jnp.where(by_rest, log_rest - rc, 0)
    unrefined, log_size = log_size, log_size + jnp.log1p(delta)
    grown = jnp.where(swamped, log_size - rc, grown)
    log_t = jnp.log(temperature)
    log_ratio = jnp.where(alive, (grown - log_t) / r, -jnp.inf)
    log_q = jnp.where(zero, 0, centred) + log_ref + log_ratio
    at_zeros = jnp.where(warm & (r > 0), log_ref + (log_size - log_t) / r, -jnp.inf)
    # T q^r = p_ref^r (e^{rc} + E), where dE is E_0 dδ above T = 1 and (1 + E_0) dδ below, E_0 the E at δ = 0:
    # the rate at every δ, since second derivatives differentiate it.
    lever = jnp.where(warm, unrefined, log_rest) - rc - jnp.where(alive, grown, 0)
    rate = jnp.where(off, 1 / (1 + delta), jnp.exp(jnp.where(alive, lever, 0))) / r
    return _Softened(log_ratio, log_q, jnp.broadcast_to(at_zeros, centred.shape), off, rate)


def _coarse_residual(x: Array, sign: Array, *row: Any) -> tuple[Array, Array]:
    centred, temperature, log_ref, counts, r = row
    q = _shifted_powers_at(0, sign * x, centred, temperature, log_ref, r)
    value, slope = _excess_mass(q, centred, log_ref, counts)
    # d log E = dx above T = 1, d log(1 + E) = E dx below, for x = log E and x = logit(−E).
    by_x = jnp.where(temperature > 1, 1, -jax.nn.sigmoid(sign * x))
    return value, sign * by_x * slope


def _refined_residual(delta: Array, up: Array, coarse: Array, *row: Any) -> tuple[Array, Array]:
    centred, temperature, log_ref, counts, r = row
    q = _shifted_powers_at(up * delta, coarse, centred, temperature, log_ref, r)
    value, slope = _excess_mass(q, centred, log_ref, counts)
    # Below its rounding it is zero, with its derivatives kept: the search ends there.
    rounding = 2 * jnp.finfo(centred.dtype).eps * jnp.abs(jnp.log(temperature) / r)
    value -= jax.lax.stop_gradient(jnp.where(jnp.abs(value) <= rounding, value, 0))
    return value, up * slope


# -- α next to 1, and 1 itself ---------------------------------------------------------------------------


def _expm1_form(
    centred: Array, temperature: Array, log_ref: Array, counts: Array | None, r: Array
) -> tuple[Array, Array]:
    """The unknown is v = log(q_ref/p_ref)."""
    warm = temperature > 1
    log_k = jnp.log(_num_classes(centred, counts))
    low, high = jnp.where(warm, -log_k - log_ref, 0), jnp.where(warm, 0, -log_ref)
    args = (centred, temperature, log_ref, counts, r)
    v, converged = increasing_root(_expm1_residual, *jax.lax.stop_gradient((low, high)), args)
    return _log_q(_expm1_form_at(v, centred, temperature, log_ref, r)), converged


def _expm1_form_at(v: Array, centred: Array, temperature: Array, log_ref: Array, r: Array) -> _Softened:
    # (q_i/q_ref)^r = 1 + (1 − ω)(e^{rc} − 1) = e^{rc}(1 + ω(e^{−rc} − 1)), ω = 1 − 1/(T e^{rv}).
    # The second keeps accuracy where ω is small (T near 1, and below 1), the first where it is near 1.
    off = jnp.isneginf(centred)
    c = jnp.where(off, 0, centred)
    y = jnp.log(temperature) + r * v
    omega = -jnp.expm1(-y)
    direct = omega >= 0.5
    # No exponential may overflow. For r < 0 it is taken out of the logarithm of the first form, rc − y +
    # log(1 + (e^y − 1)e^{−rc}); for r > 0 so small a class is near a zero, or gone for T < 1, however near 1.
    far = direct & (r * c > 20)
    sunk = (r * c < -20) & (omega > 0)
    gone = (r * c < -60) & (omega < 0)
    decay = jnp.exp(-jnp.abs(jnp.where(far | sunk, r * c, 1)))
    safe_r = jnp.where(r == 0, 1, r)
    at_far = (r * c - y + jnp.log1p(jnp.where(far, jnp.expm1(y) * decay, 0))) / safe_r
    far_c, c = c, jnp.where(far | sunk | gone, 0, c)
    # Both divided by r through functions that are smooth at 0: r = 0 is no special case, nor is ∂/∂r there.
    one, other = jnp.where(direct, c, 0), jnp.where(direct, 0, c)  # neither may overflow for the other
    m = jnp.where(direct, jnp.exp(-y) * one * expm1_ratio(r * one), -omega * other * expm1_ratio(-r * other))
    alive = (r * m > -1) & ~gone
    m = jnp.where(alive, m, 0)
    g = jnp.where(alive, m * log1p_ratio(r * m), -jnp.inf)
    g, c = jnp.where(far, at_far, g), jnp.where(far, far_c, c)
    log_ratio = v + jnp.where(direct, -c, 0) + g
    log_q = log_ref + v + jnp.where(direct, 0, c) + g
    # A zero of p: e^{rc} = 0 for r > 0, so q^r = ω q_ref^r where ω > 0, and 0 otherwise.
    lifted = (r > 0) & (omega > 0)
    lift = omega + jnp.where(sunk, (1 - omega) * decay, 0)
    # Its logarithm is divided by r: where ω is next to 1, from 1 − ω = e^(−y).
    missing = jnp.exp(-jnp.where(direct, y, 1)) * jnp.where(sunk, decay - 1, -1)
    log_lift = jnp.where(direct, jnp.log1p(missing), jnp.log(jnp.where(lifted & ~direct, lift, 1)))
    at_zeros = log_lift / jnp.where(r > 0, r, 1)
    at_zeros = jnp.where(lifted, log_ref + v + at_zeros, -jnp.inf)
    # d log q/dv = (q_ref/q)^r.
    shrunk = jnp.exp(jnp.where(alive, -r * (jnp.where(direct, 0, c) + jnp.where(alive, g, 0)), 0))
    rate = jnp.where(off | sunk, 1 / jnp.where(lifted, lift, 1), shrunk)
    return _Softened(log_ratio, log_q, jnp.broadcast_to(at_zeros, centred.shape), off | sunk, rate)


def _expm1_residual(
    v: Array, centred: Array, temperature: Array, log_ref: Array, counts: Array | None, r: Array
) -> tuple[Array, Array]:
    q = _expm1_form_at(v, centred, temperature, log_ref, r)
    return _excess_mass(q, centred, log_ref, counts)
