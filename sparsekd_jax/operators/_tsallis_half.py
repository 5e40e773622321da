"""Tsallis softening at α = 3/2: square roots in place of powers, and a closed form from T = 1 up.

With ``u_i = √(p_i/p_top)`` and ``S = Σu²`` it is ``q_i = w_i²``, where ``w_i = max(u_i + E, 0)/(T√S)`` and
``Σ w² = 1``. For T ≥ 1 nothing is truncated and E solves a quadratic. For T < 1 the norm of
``w = (y − (1 − u)/(T√S))₊`` is convex in y = (1 + E)/(T√S), so Newton's method from the right never
overshoots.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from sparsekd_jax._numerics import expm1, quotient, row_sum
from sparsekd_jax.operators._blocks import in_blocks
from sparsekd_jax.operators._roots import no_tangent
from sparsekd_jax.operators._rows import centred_logits, log_normalizer

MAX_STEPS = 100
"""Newton steps for T < 1; about eight are taken."""


@jax.custom_jvp
def from_logs(logs: Array, temperature: Array, r: Array) -> tuple[Array, Array]:
    """q and whether it was found, from log p up to a constant; r = α − 1 is 1/2, and differentiable."""
    del r
    return _softened(_square_roots_of_logs, jnp.square, logs, temperature)


@jax.custom_jvp
def log_from_logs(logs: Array, temperature: Array, r: Array) -> tuple[Array, Array]:
    """log q, and whether it was found."""
    del r
    log_q, found = _softened(_square_roots_of_logs, lambda w: 2 * jnp.log(w), logs, temperature)
    # At T = 1 no class is lifted, and √p of the smallest may underflow.
    centred = centred_logits(logs)
    return jnp.where(temperature == 1, centred - log_normalizer(centred), log_q), found


@jax.custom_jvp
def from_probabilities(p: Array, temperature: Array, r: Array) -> tuple[Array, Array]:
    """q, and whether it was found, from p itself: no logarithm, no exponential."""
    del r
    return _softened(_square_roots, jnp.square, p, temperature)


_Gap = Callable[[], Array]
"""1 − u, accurate relative to itself; for T < 1 only."""


def _square_roots_of_logs(logs: Array) -> tuple[Array, _Gap]:
    centred = centred_logits(logs)
    # Behind the barrier XLA keeps the exponentials; it would take them anew for every sum over them.
    u = jax.lax.optimization_barrier(jnp.exp(0.5 * centred))
    finite = jnp.maximum(centred, -1e4)  # e^(−5000) is 0 in every dtype
    return u, lambda: -expm1(0.5 * finite, u)


def _square_roots(p: Array) -> tuple[Array, _Gap]:
    top = jnp.max(p, axis=-1, keepdims=True)
    u = jnp.sqrt(p / top)
    return u, lambda: (top - p) / (top * (1 + u))


def _softened(
    square_roots: Callable[[Array], tuple[Array, _Gap]],
    of_root: Callable[[Array], Array],
    x: Array,
    temperature: Array,
) -> tuple[Array, Array]:
    """``of_root`` of w = √q, and whether that was found; only a search goes block by block."""

    def closed() -> tuple[Array, Array]:
        u, _ = square_roots(x)
        return of_root(_lifted(u, row_sum(u * u), temperature)), jnp.ones_like(temperature, bool)

    def searched(x: Array, temperature: Array) -> tuple[Array, Array]:
        u, gap = square_roots(x)
        square = row_sum(u * u)
        warm = temperature >= 1
        w, found = _search(gap(), temperature * jnp.sqrt(square), warm)
        return of_root(jnp.where(warm, _lifted(u, square, jnp.maximum(temperature, 1)), w)), found

    return jax.lax.cond((temperature >= 1).all(), closed, lambda: in_blocks(searched, x, temperature))


def _lifted(u: Array, square: Array, temperature: Array) -> Array:
    """w for T ≥ 1: E/T ≥ 0 from ``Σ(u + E)² = T²S``, without cancellation as T → 1 nor overflow as T → ∞."""
    total = row_sum(u) / temperature
    missing = square * ((temperature - 1) / temperature) * ((temperature + 1) / temperature)
    shift = missing / (total + jnp.sqrt(total * total + u.shape[-1] * missing))
    return (u / temperature + shift) / jnp.sqrt(square)


def _search(gap: Array, scale: Array, done: Array) -> tuple[Array, Array]:
    """w for T < 1, scale = T√S, and whether it was found; rows that are ``done`` are left alone."""
    gap = gap / scale
    # The top class alone has y ≤ 1; and E ≤ 0.
    start = jnp.minimum(1, 1 / scale)

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        _, done, steps = state
        return (steps < MAX_STEPS) & ~done.all()

    def advance(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        y, done, steps = state
        w = jnp.maximum(y - gap, 0)
        norm = jnp.sqrt(row_sum(w * w))
        step = (norm - 1) * norm / row_sum(w)
        fine = jnp.finfo(y.dtype).eps ** 0.6
        settled = jnp.abs(step) <= fine * y
        return jnp.where(done, y, y - step), done | settled, steps + 1

    y, found, _ = jax.lax.while_loop(unfinished, advance, (start, done, jnp.asarray(0)))
    return jnp.maximum(y - gap, 0), found


# -- derivatives: from T q^r = p^r + d on the classes with mass, given that q sums to 1 --------------------
#
# Where only the argument moves, XLA drops every logarithm below: they serve r, and second derivatives.


class _Argument(NamedTuple):
    """p, up to a factor a row, and how it moves."""

    p: Array
    root: Array  # √p
    log: Array  # log p, 0 where p is
    along: Callable[[Array], Array] | None  # x ↦ x d log p, that up to a constant; None where p stays


def _tangent(
    argument: _Argument,
    root_q: Array,
    log_q: Array,
    temperature: Array,
    r: Array,
    temperature_dot: Any,
    r_dot: Any,
    *,
    divided: bool = False,
) -> Array:
    """``T r q^r d log q``. ``log_q`` is 0 where q is; ``divided``: the result will be divided by q^r."""
    p, root_p, log_p, along = argument
    total = row_sum(p)
    log_total = jnp.log(total)
    kept = _known_power(root_p / jnp.sqrt(total), log_p - log_total, r)
    root, weight = (_known_power(root_q, log_q, power) for power in (r, 1 - r))
    weights = row_sum(weight)
    force = jnp.zeros_like(root_q)  # of p^r, for T q^r is its sum with d
    if not isinstance(r_dot, SymbolicZero):
        force += (kept * (log_p - log_total) - temperature * root * log_q) * r_dot
    if not isinstance(temperature_dot, SymbolicZero):
        force -= root * temperature_dot
    if along is None:
        return force - row_sum(weight * force) / weights
    mean = row_sum(along(p)) / total
    own = r * (along(kept) - kept * mean)
    if not divided:  # a product with √q, where the plain sum is accurate and one pass cheaper
        force += own
        return force - row_sum(weight * force) / weights
    # Σ p (d log p − mean) is 0, so d moves by what weight·p^r has beside p: at T = 1 only rounding, which a
    # division by q^r would blow up. Its derivatives stay.
    drift = weight * kept - p / total
    drift -= jax.lax.stop_gradient(jnp.where(temperature == 1, drift, 0))
    shift = r * row_sum(along(drift) - drift * mean)
    return force + own - (row_sum(weight * force) + shift) / weights


@jax.custom_jvp
def _known_power(power: Array, log_base: Array, r: Array) -> Array:
    """``base^r``, known to be ``power``: its derivatives are in the base and in r, of every order."""
    del log_base, r
    return power


@_known_power.defjvp
def _known_power_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    _, log_base, r = primals
    _, log_base_dot, r_dot = tangents
    power = _known_power(*primals)
    return power, power * (r * log_base_dot + log_base * r_dot)


def _of_logs(logs: Array, logs_dot: Any) -> _Argument:
    positive = ~jnp.isneginf(logs)
    centred = jnp.where(positive, centred_logits(logs), 0)
    root_p = jnp.where(positive, jnp.exp(0.5 * centred), 0)
    along = None
    if not isinstance(logs_dot, SymbolicZero):
        flow = jnp.where(positive, logs_dot, 0)
        along = lambda x: x * flow  # noqa: E731
    return _Argument(root_p * root_p, root_p, centred, along)


def _from_logs_jvp(primals: tuple, tangents: tuple) -> tuple:
    (logs, temperature, r), (logs_dot, *rest) = primals, tangents
    q, found = from_logs(*primals)
    log_q = jnp.log(jnp.where(q > 0, q, 1))
    force = _tangent(_of_logs(logs, logs_dot), jnp.sqrt(q), log_q, temperature, r, *rest)
    return (q, found), (
        _known_power(jnp.sqrt(q), log_q, 1 - r) * force / (temperature * r),
        no_tangent(found),
    )


def _log_from_logs_jvp(primals: tuple, tangents: tuple) -> tuple:
    (logs, temperature, r), (logs_dot, *rest) = primals, tangents
    log_q, found = log_from_logs(*primals)
    on = ~jnp.isneginf(log_q)
    safe = jnp.where(on, log_q, 0)
    root_q = jnp.where(on, jnp.exp(0.5 * safe), 0)
    argument = _of_logs(logs, logs_dot)
    force = _tangent(argument, root_q, safe, temperature, r, *rest, divided=True)
    # √q underflows at T = 1 only. What moves with T is beyond the dtype there: cut, never infinite.
    lost = on & (root_q == 0)
    limit = math.log(float(jnp.finfo(safe.dtype).max)) - 20
    over = _known_power(jnp.exp(jnp.where(lost, limit, -0.5 * safe)), safe, -r)
    log_q_dot = over * force / (temperature * r)
    if argument.along is not None:
        mean = row_sum(argument.along(argument.p)) / row_sum(argument.p)
        log_q_dot += jnp.where(lost, argument.along(jnp.ones_like(safe)) - mean, 0)
    return (log_q, found), (jnp.where(on, log_q_dot, 0), no_tangent(found))


def _from_probabilities_jvp(primals: tuple, tangents: tuple) -> tuple:
    (p, temperature, r), (p_dot, *rest) = primals, tangents
    q, found = from_probabilities(*primals)
    # At a zero the derivatives are those on the face, of every order.
    positive = p > 0
    safe, p = jnp.where(positive, p, 1), jnp.where(positive, p, 0)
    along = None
    if not isinstance(p_dot, SymbolicZero):
        flow = jnp.where(positive, p_dot, 0)
        along = lambda x: quotient(x, safe) * flow  # noqa: E731
    log_q = jnp.log(jnp.where(q > 0, q, 1))
    argument = _Argument(p, jnp.sqrt(p), jnp.log(safe), along)
    force = _tangent(argument, jnp.sqrt(q), log_q, temperature, r, *rest)
    return (q, found), (
        _known_power(jnp.sqrt(q), log_q, 1 - r) * force / (temperature * r),
        no_tangent(found),
    )


from_logs.defjvp(_from_logs_jvp, symbolic_zeros=True)
log_from_logs.defjvp(_log_from_logs_jvp, symbolic_zeros=True)
from_probabilities.defjvp(_from_probabilities_jvp, symbolic_zeros=True)
