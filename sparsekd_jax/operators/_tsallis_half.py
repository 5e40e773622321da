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

MAX_STEPS = 100
"""Newton steps for T < 1; about eight are taken."""


@jax.custom_jvp
def from_centred(centred: Array, temperature: Array, r: Array) -> tuple[Array, Array]:
    """q and whether it was found, from ``log p − max log p``; r = α − 1 is 1/2, and differentiable."""
    del r
    u = jnp.exp(0.5 * centred)
    v, scale, found = _solve(u, lambda: -expm1(0.5 * _finite(centred), u), temperature)
    return jnp.square(v / scale), found


@jax.custom_jvp
def log_from_centred(centred: Array, temperature: Array, r: Array) -> tuple[Array, Array]:
    """log q, and whether it was found."""
    del r
    u = jnp.exp(0.5 * centred)
    v, scale, found = _solve(u, lambda: -expm1(0.5 * _finite(centred), u), temperature)
    return 2 * jnp.log(v / scale), found


@jax.custom_jvp
def from_probabilities(p: Array, temperature: Array, r: Array) -> tuple[Array, Array]:
    """q, and whether it was found, from p itself: no logarithm, no exponential."""
    del r
    top = jnp.max(p, axis=-1, keepdims=True)
    u = jnp.sqrt(p / top)
    v, scale, found = _solve(u, lambda: (top - p) / (top * (1 + u)), temperature)
    return jnp.square(v / scale), found


def _finite(centred: Array) -> Array:
    return jnp.maximum(centred, -1e4)  # e^(−5000) is 0 in every dtype


def _solve(u: Array, gap: Callable[[], Array], temperature: Array) -> tuple[Array, Array, Array]:
    """v, T√S and whether v was found; ``gap()`` is 1 − u, accurate relative to itself."""
    square = row_sum(u * u)
    scale = temperature * jnp.sqrt(square)
    warm = temperature >= 1

    def all_warm() -> tuple[Array, Array]:
        return u + _shift(u, square, temperature), jnp.ones_like(warm)

    def mixed() -> tuple[Array, Array]:
        g = gap()
        # The top class alone has (1 + E)² ≤ T²S; and E ≤ 0.
        start = jnp.minimum(1, scale)

        def unfinished(state: tuple[Array, Array, Array]) -> Array:
            _, done, steps = state
            return (steps < MAX_STEPS) & ~done.all()

        def advance(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            x, done, steps = state
            v = jnp.maximum(x - g, 0)
            norm = jnp.sqrt(row_sum(v * v))
            step = (norm - scale) * norm / row_sum(v)
            fine = jnp.finfo(x.dtype).eps ** 0.6
            settled = jnp.abs(step) <= fine * x
            return jnp.where(done, x, x - step), done | settled, steps + 1

        x, found, _ = jax.lax.while_loop(unfinished, advance, (start, warm, jnp.asarray(0)))
        cold = jnp.maximum(x - g, 0)
        return jnp.where(warm, u + _shift(u, square, jnp.maximum(temperature, 1)), cold), found

    v, found = jax.lax.cond(warm.all(), all_warm, mixed)
    return v, scale, found


def _shift(u: Array, square: Array, temperature: Array) -> Array:
    """E ≥ 0 with ``Σ(u + E)² = T²S``, without cancellation as T → 1."""
    total = row_sum(u)
    missing = square * (temperature - 1) * (temperature + 1)
    return missing / (total + jnp.sqrt(total * total + u.shape[-1] * missing))


# -- derivatives: from T q^r = p^r + d on the classes with mass, given that q sums to 1 --------------------


def _log_tangent(
    log_p: Array, q: Array, temperature: Array, r: Array, moved: Any, warmed: Any, turned: Any
) -> Array:
    """d log q where q > 0 (0 elsewhere), for tangents of log p (up to a constant), T and r."""
    on, has_p = q > 0, ~jnp.isneginf(log_p)
    safe_log_p, safe_q = jnp.where(has_p, log_p, 0), jnp.where(on, q, 1)
    p = jnp.where(has_p, jnp.exp(safe_log_p), 0)
    root = _known_power(jnp.sqrt(safe_q), jnp.log(safe_q), r)
    kept = jnp.where(has_p, _known_power(jnp.sqrt(p), safe_log_p, r), 0)  # p^r; T q^r is its sum with d
    force = jnp.zeros_like(q)
    if not isinstance(moved, SymbolicZero):
        dc = jnp.where(has_p, moved, 0)
        force += kept * r * (dc - row_sum(p * dc))
    if not isinstance(turned, SymbolicZero):
        force += (kept * safe_log_p - temperature * root * jnp.log(safe_q)) * turned
    if not isinstance(warmed, SymbolicZero):
        force -= root * warmed
    weight = jnp.where(on, safe_q / root, 0)
    shift = row_sum(weight * force) / row_sum(weight)
    return jnp.where(on, (force - shift) / (temperature * r * root), 0)


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


def _from_centred_jvp(primals: tuple, tangents: tuple, *, log: bool) -> tuple:
    centred, temperature, r = primals
    primal, found = (log_from_centred if log else from_centred)(*primals)
    q = jnp.exp(primal) if log else primal
    log_p = centred - jnp.log(row_sum(jnp.exp(centred)))
    slope = _log_tangent(log_p, q, temperature, r, *tangents)
    return (primal, found), (slope if log else q * slope, no_tangent(found))


from_centred.defjvp(
    lambda primals, tangents: _from_centred_jvp(primals, tangents, log=False), symbolic_zeros=True
)
log_from_centred.defjvp(
    lambda primals, tangents: _from_centred_jvp(primals, tangents, log=True), symbolic_zeros=True
)


def _from_probabilities_jvp(primals: tuple, tangents: tuple) -> tuple:
    p, temperature, r = primals
    moved, warmed, turned = tangents
    q, found = from_probabilities(*primals)
    positive = p > 0
    safe = jnp.where(positive, p, 1)
    log_p = jnp.where(positive, jnp.log(safe / row_sum(p)), -jnp.inf)
    if not isinstance(moved, SymbolicZero):
        moved = jnp.where(positive, moved / safe, 0)  # at a zero the derivative on the face
    slope = _log_tangent(log_p, q, temperature, r, moved, warmed, turned)
    return (q, found), (q * slope, no_tangent(found))


from_probabilities.defjvp(_from_probabilities_jvp, symbolic_zeros=True)
