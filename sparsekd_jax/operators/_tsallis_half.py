"""Tsallis softening at α = 3/2: square roots in place of powers, and a closed form from T = 1 up.

With ``u_i = √(p_i/p_top)`` and ``S = Σu²`` it is ``q_i = v_i²/(T²S)``, where ``v_i = max(u_i + E, 0)`` and
``Σ v² = T²S``. For T ≥ 1 nothing is truncated and E solves a quadratic. For T < 1 the norm of
``v = (1 + E − (1 − u))₊`` is convex in 1 + E, so Newton's method from the right never overshoots.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from sparsekd_jax._numerics import expm1, row_sum
from sparsekd_jax.operators._roots import no_tangent
from sparsekd_jax.operators.base import centred_logits, in_blocks

MAX_STEPS = 100
"""Newton steps for T < 1; about eight are taken."""


@jax.custom_jvp
def from_logs(logs: Array, temperature: Array, r: Array) -> tuple[Array, Array]:
    """q and whether it was found, from log p up to a constant; r = α − 1 is 1/2, and differentiable."""
    del r
    return _solved(_roots_of_logs, lambda v, scale: jnp.square(v / scale), logs, temperature)


@jax.custom_jvp
def log_from_logs(logs: Array, temperature: Array, r: Array) -> tuple[Array, Array]:
    """log q, and whether it was found."""
    del r
    return _solved(_roots_of_logs, lambda v, scale: 2 * jnp.log(v / scale), logs, temperature)


@jax.custom_jvp
def from_probabilities(p: Array, temperature: Array, r: Array) -> tuple[Array, Array]:
    """q, and whether it was found, from p itself: no logarithm, no exponential."""
    del r
    return _solved(_roots_of, lambda v, scale: jnp.square(v / scale), p, temperature)


_Gap = Callable[[], Array]
"""1 − u, accurate relative to itself; for T < 1 only."""


def _roots_of_logs(logs: Array) -> tuple[Array, _Gap]:
    centred = centred_logits(logs)
    # Behind the barrier XLA keeps the exponentials; it would take them anew for every sum over them.
    u = jax.lax.optimization_barrier(jnp.exp(0.5 * centred))
    finite = jnp.maximum(centred, -1e4)  # e^(−5000) is 0 in every dtype
    return u, lambda: -expm1(0.5 * finite, u)


def _roots_of(p: Array) -> tuple[Array, _Gap]:
    top = jnp.max(p, axis=-1, keepdims=True)
    u = jnp.sqrt(p / top)
    return u, lambda: (top - p) / (top * (1 + u))


def _solved(
    roots: Callable[[Array], tuple[Array, _Gap]],
    softened: Callable[[Array, Array], Array],
    x: Array,
    temperature: Array,
) -> tuple[Array, Array]:
    """What ``softened`` makes of v and T√S, and whether v was found; only a search goes block by block."""

    def closed() -> tuple[Array, Array]:
        u, _ = roots(x)
        square = row_sum(u * u)
        q = softened(u + _shift(u, square, temperature), temperature * jnp.sqrt(square))
        return q, jnp.ones_like(temperature, bool)

    def searched(x: Array, temperature: Array) -> tuple[Array, Array]:
        u, gap = roots(x)
        square = row_sum(u * u)
        scale = temperature * jnp.sqrt(square)
        v, found = _search(gap(), scale, temperature >= 1)
        warm = u + _shift(u, square, jnp.maximum(temperature, 1))
        return softened(jnp.where(temperature >= 1, warm, v), scale), found

    return jax.lax.cond((temperature >= 1).all(), closed, lambda: in_blocks(searched, x, temperature))


def _search(gap: Array, scale: Array, done: Array) -> tuple[Array, Array]:
    """v for T < 1, and whether it was found; rows that are ``done`` are left alone."""
    # The top class alone has (1 + E)² ≤ T²S; and E ≤ 0.
    start = jnp.minimum(1, scale)

    def unfinished(state: tuple[Array, Array, Array]) -> Array:
        _, done, steps = state
        return (steps < MAX_STEPS) & ~done.all()

    def advance(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        x, done, steps = state
        v = jnp.maximum(x - gap, 0)
        norm = jnp.sqrt(row_sum(v * v))
        step = (norm - scale) * norm / row_sum(v)
        fine = jnp.finfo(x.dtype).eps ** 0.6
        settled = jnp.abs(step) <= fine * x
        return jnp.where(done, x, x - step), done | settled, steps + 1

    x, found, _ = jax.lax.while_loop(unfinished, advance, (start, done, jnp.asarray(0)))
    return jnp.maximum(x - gap, 0), found


def _shift(u: Array, square: Array, temperature: Array) -> Array:
    """E ≥ 0 with ``Σ(u + E)² = T²S``, without cancellation as T → 1."""
    total = row_sum(u)
    missing = square * (temperature - 1) * (temperature + 1)
    return missing / (total + jnp.sqrt(total * total + u.shape[-1] * missing))


# -- derivatives: from T q^r = p^r + d on the classes with mass, given that q sums to 1 --------------------


def _tangent(
    p: Array, log_p: Array, q: Array, temperature: Array, r: Array, tangents: tuple[Any, Any, Any]
) -> tuple[Array, Array]:
    """``q^(1−r)`` and x, whose product is dq. p is up to a factor a row, and so may it move.

    Tangents are of log p, T and r; ``log_p`` is 0 where p is.
    """
    moved, warmed, turned = tangents
    log_q = jnp.log(jnp.where(q > 0, q, 1))
    root, weight = (_known_power(jnp.sqrt(q), log_q, power) for power in (r, 1 - r))
    total = row_sum(p)
    log_total = jnp.log(total)
    kept = _known_power(jnp.sqrt(p / total), log_p - log_total, r)
    force = jnp.zeros_like(q)  # of p^r, for T q^r is its sum with d
    if not isinstance(moved, SymbolicZero):
        force += kept * r * (moved - row_sum(p * moved) / total)
    if not isinstance(turned, SymbolicZero):
        force += (kept * (log_p - log_total) - temperature * root * log_q) * turned
    if not isinstance(warmed, SymbolicZero):
        force -= root * warmed
    shift = row_sum(weight * force) / row_sum(weight)
    return weight, (force - shift) / (temperature * r)


@jax.custom_jvp
def _known_power(power: Array, log_base: Array, r: Array) -> Array:
    """``base^r``, known to be ``power``: its derivatives are in the base and in r, of every order."""
    del log_base, r
    return power


@_known_power.defjvp
def _known_power_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    _, log_base, r = primals
    _, moved, turned = tangents
    power = _known_power(*primals)
    return power, power * (r * moved + log_base * turned)


# Where only the argument moves, XLA drops every logarithm below: they serve r, and second derivatives.


def _from_logs_tangent(
    logs: Array, q: Array, temperature: Array, r: Array, tangents: tuple[Any, Any, Any]
) -> tuple[Array, Array]:
    moved, *rest = tangents
    positive = ~jnp.isneginf(logs)
    centred = centred_logits(logs)
    if not isinstance(moved, SymbolicZero):
        moved = jnp.where(positive, moved, 0)
    ratio, log_ratio = jnp.exp(centred), jnp.where(positive, centred, 0)
    return _tangent(ratio, log_ratio, q, temperature, r, (moved, *rest))


def _from_logs_jvp(primals: tuple, tangents: tuple) -> tuple:
    q, found = from_logs(*primals)
    logs, temperature, r = primals
    weight, x = _from_logs_tangent(logs, q, temperature, r, tangents)
    return (q, found), (weight * x, no_tangent(found))


def _log_from_logs_jvp(primals: tuple, tangents: tuple) -> tuple:
    log_q, found = log_from_logs(*primals)
    logs, temperature, r = primals
    q = jnp.exp(log_q)
    weight, x = _from_logs_tangent(logs, q, temperature, r, tangents)
    return (log_q, found), (weight * x / jnp.where(q > 0, q, 1), no_tangent(found))


def _from_probabilities_jvp(primals: tuple, tangents: tuple) -> tuple:
    q, found = from_probabilities(*primals)
    (p, temperature, r), (moved, *rest) = primals, tangents
    positive = p > 0
    safe = jnp.where(positive, p, 1)
    if not isinstance(moved, SymbolicZero):
        moved = jnp.where(positive, moved / safe, 0)  # at a zero the derivative on the face
    weight, x = _tangent(p, jnp.log(safe), q, temperature, r, (moved, *rest))
    return (q, found), (weight * x, no_tangent(found))


from_logs.defjvp(_from_logs_jvp, symbolic_zeros=True)
log_from_logs.defjvp(_log_from_logs_jvp, symbolic_zeros=True)
from_probabilities.defjvp(_from_probabilities_jvp, symbolic_zeros=True)
