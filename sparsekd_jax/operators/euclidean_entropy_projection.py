"""Euclidean entropy projection: the nearest distribution whose entropy is raised by a set share."""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sparsekd_jax._numerics import entropy_density, expm1, row_sum
from sparsekd_jax.operators._roots import MAX_STEPS, no_tangent
from sparsekd_jax.operators._rows import is_uniform, log_normalizer, stand_in
from sparsekd_jax.operators.base import Claims, SofteningOperator, TemperatureRange, claim


@dataclasses.dataclass(frozen=True, eq=False)
class EuclideanEntropyProjection(SofteningOperator):
    """Euclidean projection ``argmin_q ½‖q − p‖²  s.t.  H(q) = H(p) + (1 − 1/T)(log K − H(p))``.

    Optimality is ``q + a·log q = p − c`` with multipliers a ≥ 0 and c. T in [1, ∞), p on the whole simplex:
    for T > 1 every class receives mass. Gradients at zeros of p are infinite in truth and are reported as
    those of the face.

    Given a and the gain log(q_max/p_max), each q_i is a·ω(·) with Wright's omega function; the two scalars
    are found by Newton's method along the rows that sum to 1, inside a bracket of log a. Derivatives by the
    implicit function theorem. Tolerance (1e-10 in float64, T next to 1 included) and errors: see
    `SofteningOperator`. Passes over the row: the entropy of p, and one a step of the search, which solves for
    every q_i anew (a CPU makes them block by block).

    At a uniform row a second derivative in p does not exist, T > 1: AD gives that of the strength held. Above
    T = 1e10 in float32 (1e50 in float64), where q has long been uniform to rounding, a root may not be found.

    Reference: theory.md section 2, φ = ½x², ψ = Shannon, target form.

    >>> from sparsekd_jax.simplex import entropy_deficit
    >>> q = EuclideanEntropyProjection()(jnp.array([0.7, 0.3, 0.0]), 2.0)
    >>> bool(q.min() > 0), round(float(entropy_deficit(q)), 4)
    (True, 0.2439)
    """

    family: ClassVar[str] = "euclidean-entropy-projection"
    sweeps: ClassVar[bool] = True

    @property
    def claims(self) -> Claims:
        """All axioms and majorization on the whole simplex; support and gradients on its interior."""
        warm = TemperatureRange(1.0)
        laws = claim("closure equivariance A1 A1s A2 A3 A3s A4 A5h majorization", temperatures=warm)
        return Claims(warm, laws | claim("support gradients", "interior", warm))

    def _log_kernel(self, centred: Array, temperature: Array) -> tuple[Array, Array]:
        log_q, _, converged = _solve(centred, temperature)
        return log_q, converged


class _Row(NamedTuple):
    """What a row asks for: p in forms that are each accurate where the others cancel, and the target."""

    p: Array
    centred: Array  # log(p/p_top), 0 where off
    off: Array
    gap: Array  # p_top − p
    log_top: Array  # log p_top
    least_gain: Array  # −log(K p_top)
    small_step: Array  # T < 2: the target is an entropy gain, otherwise a deficit
    target: Array


class _Point(NamedTuple):
    """Everything at one (log a, gain); the state of the search."""

    log_a: Array
    gain: Array  # log(q_top/p_top)
    rho: Array  # log(q/q_top)
    low: Array  # bracket of log a
    high: Array
    last_step: Array  # of log a
    done: Array


def _make_row(centred: Array, temperature: Array) -> tuple[_Row, Array, Array, Array]:
    """The row, a first guess of log a and of the gain, and an upper bound of log a."""
    num_classes = centred.shape[-1]
    off = jnp.isneginf(centred)
    c = jnp.where(off, 0, centred)
    ratio = jnp.where(off, 0, jnp.exp(c))
    lifted = jnp.where(off, -1, expm1(c, ratio))
    scale = row_sum(ratio) / num_classes  # 1/(K p_top)
    # K p − 1: by differences next to the uniform distribution; on a peaked row they would all be next to −1.
    mean = row_sum(lifted) / num_classes
    excess = jnp.where(scale > 0.5, (lifted - mean) / scale, ratio / scale - 1)
    log_top = -log_normalizer(centred)
    top = jnp.exp(log_top)
    log_k = math.log(num_classes)
    density = entropy_density(jnp.log1p(jnp.where(excess > -1, excess, 0)), 1 + excess)
    deficit = row_sum(jnp.where(excess > -1, density, 1)) / num_classes
    small_step = temperature < 2
    lost = (temperature - 1) / temperature
    target = deficit * jnp.where(small_step, lost, 1 / temperature)
    least_gain = -jnp.log1p(jnp.max(excess, axis=-1, keepdims=True))
    row = _Row(ratio * top, c, off, -top * lifted, log_top, least_gain, small_step, target)
    # First guess: q as a mixture κp + (1 − κ)u whose deficit is about right, and a from a·K·Var(log q), which
    # is the entropy gain of a small step, or from regressing p − q on log q, otherwise.
    square = row_sum(excess**2) / num_classes
    mixed = jnp.where(
        small_step,
        0.3 * lost * deficit / log_k,
        1 - jnp.minimum(1, jnp.sqrt(2 * deficit / (temperature * square))),
    )
    # log K q, whose floor 1 − κ rounding could miss.
    log_q = jnp.log1p(jnp.maximum((1 - mixed) * excess, -1))
    log_q = jnp.maximum(log_q, jnp.where(mixed > 0, jnp.log(mixed), log_q))
    spread = log_q - row_sum(log_q) / num_classes
    force = jnp.where(small_step, target, mixed / num_classes * row_sum(excess * spread))
    log_a = jnp.log(force / row_sum(spread**2))
    below_top = row_sum(log_q - jnp.max(log_q, axis=-1, keepdims=True)) / num_classes
    drop = jnp.where(small_step, jnp.exp(log_a) * below_top, mixed * (1 / num_classes - top))
    gain = jnp.log1p(jnp.maximum(drop / top, -0.9))
    # a·D(q_a) ≤ ½‖p − u‖².
    high = jnp.log(0.5 * square / num_classes * temperature / deficit) + 0.1
    return row, log_a, gain, high


@jax.custom_jvp
def _solve(centred: Array, temperature: Array) -> tuple[Array, Array, Array]:
    """log q, the strength a, and whether they were found."""
    uniform = is_uniform(centred)
    skip = uniform | (temperature == 1)
    # Rows that need no search are replaced by one that has an easy one.
    row, log_a, gain, high = _make_row(stand_in(skip, centred), jnp.where(skip, 2, temperature))
    low = jnp.minimum(jnp.log(row.target) - 40, high - 1)
    no_step = jnp.full_like(low, jnp.inf)
    point = _Point(log_a, gain, jnp.zeros_like(centred), low, high, no_step, jnp.zeros_like(skip))

    def unfinished(state: tuple[_Point, Array, Array]) -> Array:
        _, solved, steps = state
        return (steps < MAX_STEPS) & ~solved.all()

    def advance(state: tuple[_Point, Array, Array]) -> tuple[_Point, Array, Array]:
        # A row that was done before this step has just been evaluated where it ended.
        point, _, steps = state
        return _newton_step(row, point), point.done, steps + 1

    point, solved, _ = jax.lax.while_loop(unfinished, advance, (point, jnp.zeros_like(skip), jnp.asarray(0)))
    log_q = point.rho - log_normalizer(point.rho)
    identity = centred - log_normalizer(centred)
    # Next to the uniform distribution q − u = (p − u)/√T = (p − u)/(1 + aK).
    a_uniform = (jnp.sqrt(temperature) - 1) / centred.shape[-1]
    a = jnp.where(uniform, a_uniform, jnp.where(skip, 0, jnp.exp(point.log_a)))
    return jnp.where(skip, identity, log_q), a, skip | solved


def _newton_step(row: _Row, point: _Point) -> _Point:
    """One step along Σq = 1 towards the entropy, where the row sums to 1; otherwise one back to Σq = 1."""
    num_classes = row.p.shape[-1]
    eps = float(jnp.finfo(row.p.dtype).eps)
    x, gain = point.log_a, point.gain
    a = jnp.exp(x)
    log_s = gain + row.log_top
    s = jnp.exp(log_s)  # q_top
    drop = jnp.exp(row.log_top) * jnp.expm1(gain)  # q_top − p_top
    rho, w, lifted = _log_ratio(row, x, log_s, drop)
    q = s * w
    total, sum_rho = row_sum(w), row_sum(rho)
    # Entropy gain a·K·Var(log q) + KL(p‖q): no cancellation as T → 1. Deficit: none as T → ∞.
    mean_ratio = total / num_classes
    log_mean = jnp.where(mean_ratio > 0.5, jnp.log1p(row_sum(lifted) / num_classes), jnp.log(mean_ratio))
    by_deficit = rho - log_mean
    log_ratio = jnp.where(row.small_step, row.centred - rho - gain, by_deficit)
    ratio = jnp.where(row.small_step, row.p / q, num_classes * w / total)
    density = jnp.where(row.small_step & row.off, 1, entropy_density(log_ratio, ratio))
    spread = rho - sum_rho / num_classes
    moved = row_sum(jnp.where(row.small_step, q * density + a * spread**2, density / num_classes))
    # Σ(q − p): either form of a term is rounded by an ulp of its parts, and there are K of them.
    excess = row_sum(jnp.where(q < jnp.abs(drop), q - row.p, drop - a * rho))
    mean_rho = row_sum(w * rho) / total
    # The gain is written for Σq = 1: mended to first order in the excess.
    mended = moved + jnp.where(row.small_step, excess * (mean_rho - sum_rho / num_classes), 0)
    moved = jnp.maximum(mended, 0.1 * moved)
    sign = jnp.where(row.small_step, 1, -1)
    # d log q = ((q_top + a) d gain − aρ d log a)/(q + a); the entropy changes by −Σ q (ρ − mean) d log q.
    weight = q / (q + a)
    weights, first, second = row_sum(weight), row_sum(weight * rho), row_sum(weight * rho**2)
    to_mass = -excess / ((s + a) * weights)
    by_mass = (mean_rho * weights - first) * (s + a) / moved * to_mass
    value = sign * jnp.log(moved / row.target) + by_mass  # increasing in a
    along = a / (s + a) * first / weights
    slope = a * (second - first**2 / weights) / moved
    # The value says something only where the row nearly sums to 1. Of many classes Σq grows as an exponential
    # of the gain, so that a small step of the gain does not tell.
    level = (jnp.abs(by_mass) < 0.3) & (jnp.abs(to_mass) < 0.3 * jnp.abs(gain)) & (jnp.abs(excess) < 0.3)
    sure = level & (jnp.abs(by_mass) < jnp.maximum(0.2 * jnp.abs(value), 100 * eps))
    low = jnp.where(sure & (value < 0), x, point.low)
    high = jnp.where(sure & (value > 0), x, point.high)
    newton = jnp.where(slope > 0, jnp.clip(-value / slope, -3, 3), -jnp.sign(value))
    fine = eps**0.5 / 4  # one step before rounding, by quadratic convergence
    last = level & (jnp.abs(newton) < fine)
    # Any other step is halved where it does not contract, and stays inside the bracket.
    stuck = (jnp.abs(newton) > 0.7 * point.last_step) & (jnp.abs(newton) < 0.01)
    step = jnp.where(stuck, 0.5 * newton, newton)
    step = jnp.where(x + newton >= high, 0.5 * (high - x), step)
    step = jnp.where(x + newton <= low, 0.5 * (low - x), step)
    step = jnp.where(level, jnp.where(last, newton, step), 0)
    last_step = jnp.where(level, jnp.abs(step), point.last_step)
    gain_step = to_mass + along * step
    # 1/K ≤ q_top ≤ p_top; the gain can span many orders of magnitude towards 0.
    next_gain = gain + gain_step
    next_gain = jnp.where(next_gain >= 0, gain / 8, next_gain)
    next_gain = jnp.where(next_gain <= row.least_gain, 0.5 * (gain + row.least_gain), next_gain)
    settled = last & (jnp.abs(gain_step) < 4 * fine * jnp.abs(gain))
    # Where rounding decides the last steps, the bracket closes on the root; elsewhere it is no proof of one.
    closed = high - low <= 4 * eps * jnp.maximum(1, jnp.abs(x))
    settled |= closed & level & (jnp.abs(value) < eps**0.5)
    return _Point(
        jnp.where(point.done, x, x + step),
        jnp.where(point.done, gain, next_gain),
        rho,
        low,
        high,
        last_step,
        point.done | settled,
    )


def _log_ratio(row: _Row, log_a: Array, log_s: Array, drop: Array) -> tuple[Array, Array, Array]:
    """ρ = log(q/q_top), e^ρ and e^ρ − 1, from ``q − p − (q_top − p_top) + aρ = 0``, ``q = q_top e^ρ``."""
    # With η = ρ + log(q_top/a): e^η + η = (p + q_top − p_top)/a + log(q_top/a).
    a, s, log_sa = jnp.exp(log_a), jnp.exp(log_s), log_s - log_a
    rho = jnp.minimum(_log_wright_omega((row.p + drop) / a + log_sa) - log_sa, 0)
    # One Newton step makes an absolute accuracy relative: of 1 − e^ρ near the top, else of e^ρ − p/q_top.
    w = jnp.exp(rho)
    lifted = expm1(rho, w)
    near = ~row.off & (row.centred > -0.7)
    residual = jnp.where(near, s * lifted + row.gap, (s * w - row.p) - drop) + a * rho
    step = jnp.minimum(-residual / (s * w + a), -rho)
    growth = step * (1 + 0.5 * step)  # expm1, as the step is below 1e-7
    return rho + step, w + w * growth, lifted + w * growth


def _log_wright_omega(x: Array) -> Array:
    """``η = log ω(x)``, the root of ``η + e^η = x``, to 1e-8: Halley's method from a start within 0.3.

    >>> round(float(_log_wright_omega(jnp.array(1.0))), 6)
    0.0
    """
    large = x > 1
    big, small = jnp.where(large, x, 1), jnp.where(large, 0, x)
    eta = jnp.where(large, jnp.log(big) * big / (1 + big), small - jax.nn.sigmoid(small))
    for _ in range(2):
        omega = jnp.exp(eta)
        gap, slope = eta + omega - x, 1 + omega
        eta = eta - 2 * gap * slope / (2 * slope * slope - gap * omega)
    return eta


@_solve.defjvp
def _solve_jvp(primals: tuple, tangents: tuple) -> tuple:
    """From ``q + a log q = p − c``: ``(q + a) d log q = dp − dc − log q da``, given Σq and the entropy."""
    (centred, temperature), (moved, warmed) = primals, tangents
    log_q, a, converged = _solve(centred, temperature)
    off = jnp.isneginf(centred)
    p = jax.nn.softmax(centred, axis=-1)
    c, dc = jnp.where(off, 0, centred), jnp.where(off, 0, moved)
    flow = dc - row_sum(p * dc)
    dp = p * flow  # it sums to 0
    # d of D(p)/T: −(entropy that q must have).
    deficit = row_sum(p * (c - log_normalizer(centred))) + math.log(c.shape[-1])
    on = ~jnp.isneginf(log_q)
    rho = jnp.where(on, log_q, 0)
    q = jnp.where(on, jnp.exp(rho), 0)
    stiff = jnp.where(on, jnp.maximum(q + a, jnp.finfo(q.dtype).tiny), 1)
    share = jnp.where(on, q / stiff, 0)
    scale = row_sum(share)
    weight = share / scale
    rho = rho - row_sum(weight * rho)
    square = scale * row_sum(weight * rho**2)
    # At T = 1, where a = 0 and q = p, p moves neither a nor c, and no rounding of that may be divided by q.
    at_one = temperature == 1
    pull, push = share * rho - c / temperature, weight
    pull -= jax.lax.stop_gradient(jnp.where(at_one, pull, 0))
    push -= jax.lax.stop_gradient(jnp.where(at_one, push, 0))
    flat = square == 0
    da = row_sum(pull * dp) + deficit / temperature**2 * warmed
    da = jnp.where(flat, 0, da / jnp.where(flat, 1, square))
    # A uniform q is moved by no a, but the slope in p is: 1/(1 + aK) = 1/√T.
    uniform = is_uniform(centred)
    da = jnp.where(uniform, 0.5 * jax.lax.rsqrt(temperature) / c.shape[-1] * warmed, da)
    kept = p / stiff
    kept += jax.lax.stop_gradient(jnp.where(at_one & on, 1 - kept, 0))  # where both underflow too
    # What moves with T is beyond the dtype where q underflows: cut, as 0 times infinity is no derivative.
    least = float(jnp.finfo(q.dtype).tiny) * 1e5 * c.shape[-1]
    stiff = jnp.where(at_one, jnp.maximum(stiff, least), stiff)
    d_log_q = jnp.where(on, kept * flow - (row_sum(push * dp) + rho * da) / stiff, 0)
    return (log_q, a, converged), (d_log_q, da, no_tangent(converged))
