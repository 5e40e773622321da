"""Roots of increasing scalar functions, one a row: bracketed Newton, and its implicit derivative."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool

MAX_STEPS = 160
"""Above what bisection alone takes: 60 for float64, 135 for the finest root (eps³, `TsallisSoftening`)."""


def bracketed_newton(
    value_and_slope: Callable[[Array], tuple[Array, Array]],
    low: Array,
    high: Array,
    start: Array | None = None,
    unit: ArrayLike = 1.0,
) -> tuple[Array, Bool[Array, "..."]]:
    """The x in [low, high] where an increasing function vanishes, elementwise. Not differentiable.

    Newton's method inside a bracket: a step that leaves the bracket (the first goes to its end), or that
    shrinks too slowly, is replaced by a bisection, so every row ends. A row is converged when a Newton step
    falls below eps^0.6 of max(unit, |x|), one step before rounding by quadratic convergence, or when its
    bracket has closed. The unknown should be such that an error of a few ulp of max(unit, |x|) is harmless
    (for a logarithm, unit 1).

    Args:
      value_and_slope: ``x -> (f, f')``, all ``[..., 1]``.
      low, high: bracket, ``[..., 1]``. A root at an end of the bracket, or outside it by rounding, is found
        as that end.
      start: first guess, by default the middle of the bracket.
      unit: the size of x below which errors are absolute, a scalar or one a row; tiny for a root wanted to
        relative accuracy.

    Returns:
      ``(x, converged)``, both ``[..., 1]``. Where not converged x is the last iterate, to be refused.
    """
    eps = float(jnp.finfo(low.dtype).eps)
    step_tolerance = eps**0.6

    def unfinished(state: tuple[Array, ...]) -> Array:
        *_, done, steps = state
        return (steps < MAX_STEPS) & ~done.all()

    def advance(state: tuple[Array, ...]) -> tuple[Array, ...]:
        x, low, high, last_step, done, steps = state
        value, slope = value_and_slope(x)
        low = jnp.where(value < 0, x, low)
        high = jnp.where(value > 0, x, high)
        newton = -value / slope
        usable = jnp.isfinite(newton) & (jnp.abs(newton) < 0.7 * last_step)
        proposal = x + newton
        # The root may be an end, or next to it: a first step out of the bracket goes to the end, which
        # Newton's method leaves monotonically where f is convex or concave; bisection would take 30 steps.
        proposal = jnp.where(last_step == jnp.inf, jnp.clip(proposal, low, high), proposal)
        usable &= (proposal >= low) & (proposal <= high)
        moved = jnp.where(usable, proposal, 0.5 * (low + high))
        step = jnp.abs(moved - x)
        scale = jnp.maximum(unit, jnp.abs(x))
        closed = (high - low) <= 2 * eps * scale
        settled = (jnp.abs(newton) <= step_tolerance * scale) & jnp.isfinite(newton)
        finished = (value == 0) | closed | settled
        settled_at = jnp.clip(jnp.where(settled, proposal, x), low, high)
        new_x = jnp.where(done, x, jnp.where(finished, settled_at, moved))
        return new_x, low, high, jnp.where(usable, step, high - low), done | finished, steps + 1

    start = 0.5 * (low + high) if start is None else jnp.clip(start, low, high)
    done = jnp.zeros_like(low, bool)  # and not of its shape: in shard_map it varies as the rows do
    state: tuple[Array, ...] = (start, low, high, jnp.full_like(low, jnp.inf), done, jnp.asarray(0))
    x, *_, done, _ = jax.lax.while_loop(unfinished, advance, state)
    return x, done


Residual = Callable[..., tuple[Array, Array]]


def with_slope(residual: Callable[..., Array]) -> Residual:
    """``(x, *args) -> (f, ∂f/∂x)`` from ``(x, *args) -> f``, elementwise in x, by forward differentiation."""

    @wraps(residual)
    def value_and_slope(x: Array, *args: Any) -> tuple[Array, Array]:
        return jax.jvp(lambda x: residual(x, *args), (x,), (jnp.ones_like(x),))

    return value_and_slope


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def increasing_root(
    residual: Residual, low: Array, high: Array, args: Any, unit: ArrayLike = 1.0
) -> tuple[Array, Bool[Array, "..."]]:
    """`bracketed_newton` on ``residual(x, *args)``, with derivatives by the implicit function theorem.

    Args:
      residual: ``(x, *args) -> (f, ∂f/∂x)``, f increasing in x; a pure function that closes over no traced
        value (what it depends on comes in ``args``, so that the implicit derivative sees it).
      low, high: bracket, ``[..., 1]``.
      args: tuple of pytrees of arrays.
      unit: see `bracketed_newton`.

    Returns:
      ``(x, converged)``. Derivatives: ``dx = −(∂f/∂args · dargs)/(∂f/∂x)``, 0 where ∂f/∂x vanishes.
    """
    return bracketed_newton(lambda x: residual(x, *args), low, high, unit=unit)


@increasing_root.defjvp
def _increasing_root_jvp(residual: Residual, primals: tuple, tangents: tuple) -> tuple:
    low, high, args, unit = primals
    x, converged = increasing_root(residual, low, high, args, unit)
    (_, slope), (moved, _) = jax.jvp(lambda args: residual(x, *args), (args,), (tangents[2],))
    flat = slope == 0
    tangent = jnp.where(flat, 0, -moved / jnp.where(flat, 1, slope))
    return (x, converged), (tangent, no_tangent(converged))


def no_tangent(flags: Array) -> Any:
    """The tangent of an array of flags, as a JVP rule must give it."""
    return jax.lax.full_like(flags, False, jax.dtypes.float0)
