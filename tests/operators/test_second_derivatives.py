"""Derivatives of two orders, which gradients of a variance need, against differences in 50 digits.

Those of Tsallis softening, in α too and form by form, are in `test_tsallis`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import operators
from sparsekd_jax.operators.base import apply_unchecked
from tests.operators import reference
from tests.operators.reference import ROWS, WEIGHTS

pytestmark = pytest.mark.usefixtures("x64")

# At T = 1 the mixture changes its formula, and the range of others ends: no difference reaches across.
FAMILIES = {
    "power": (reference.power, (0.8, 1.0, 1.7, 5.0)),
    "mixture": (reference.mixture, (0.3, 0.8, 1.7, 5.0)),
    "entropy-projection": (reference.entropy_projection, (1.3, 5.0)),
    "euclidean-entropy-projection": (reference.euclidean_entropy_projection, (1.3, 5.0)),
}
CASES = [
    (name, row, t)
    for name, (_, temperatures) in FAMILIES.items()
    for row in ROWS
    for t in temperatures
    if row == "interior" or operators.get(name).claims.domain == "simplex"
]


def slopes_of(soften):
    """The gradient and the Hessian of a weighted sum of ``soften(x, T)``, compiled once."""

    def value(at):
        found = soften(at[None, :4], at[4:])[0]
        return jnp.sum(jnp.where(found > -jnp.inf, WEIGHTS * found, 0))

    return jax.jit(lambda at: (jax.grad(value)(at), jax.hessian(value)(at)))


@functools.cache
def slopes(name, entry):
    def soften(x, temperature):
        # Off the simplex the slope from p is not that of normalised rows, and need not be.
        x = x / jnp.sum(x) if entry == "probabilities" else x
        return apply_unchecked(entry, operators.get(name), x, temperature)

    return slopes_of(soften)


@pytest.mark.parametrize(("name", "row", "temperature"), CASES)
@pytest.mark.parametrize("entry", ["probabilities", "log"])
def test_slopes_of_two_orders(name, row, temperature, entry):
    p = ROWS[row]
    with np.errstate(divide="ignore"):
        at = np.append(np.log(p) if entry == "log" else p, temperature)
    guess = np.asarray(operators.get(name)(p, temperature))
    gradient, hessian = map(np.asarray, slopes(name, entry)(at))
    exact = lambda at: reference.weighted_sum(FAMILIES[name][0], entry, at[:4], at[4], guess)  # noqa: E731
    free = [*np.flatnonzero(p), 4]
    wanted, wanted_bent = reference.slopes(exact, at, free)
    np.testing.assert_allclose(gradient[free], wanted[free], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(
        hessian[np.ix_(free, free)], wanted_bent[np.ix_(free, free)], rtol=1e-7, atol=1e-7
    )
    assert np.abs(wanted_bent[4]).max() > 1e-3, "nothing depends on T: a constant would pass"


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("power", lambda t: 1 / t),
        ("mixture", lambda t: 1 / t),
        ("entropy-projection", lambda t: t**-0.5),
        ("euclidean-entropy-projection", lambda t: t**-0.5),
    ],
)
def test_at_a_uniform_row_the_slope_in_p_moves_with_t_as_that_of_its_neighbours(name, rate):
    """F_T(u + εv) = u + ε rate(T) v to first order in ε, for any v that sums to 0."""
    v = jnp.array([1.0, -2.0, 0.5, 0.5])
    soften = lambda p, t: operators.get(name)(p[None], t)[0]  # noqa: E731
    by_p = lambda t: jax.jvp(lambda p: soften(p, t), (jnp.full(4, 0.25),), (v,))[1]  # noqa: E731
    found, moved = jax.jit(lambda t: jax.jvp(by_p, (t,), (jnp.ones(()),)))(jnp.asarray(2.5))
    np.testing.assert_allclose(found, rate(2.5) * v, atol=1e-9)
    np.testing.assert_allclose(moved, jax.grad(rate)(2.5) * v, atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.jacrev(by_p))(2.5), moved, atol=1e-12)


def test_a_zero_of_p_does_not_move_in_the_euclidean_projection_at_one():
    """Its log q is −inf, with tangent 0."""
    log_p = jnp.log(ROWS["with a zero"])[None]
    soften = functools.partial(apply_unchecked, "log", operators.get("euclidean-entropy-projection"))
    log_q, moved = jax.jvp(soften, (log_p, jnp.ones(1)), (jnp.array([[1.0, 1.0, -1.0, 2.0]]), jnp.ones(1)))
    assert float(log_q[0, 1]) == -np.inf
    assert float(moved[0, 1]) == 0
    assert np.abs(moved[0, [0, 2, 3]]).min() > 0.1


def test_a_rule_with_a_frozen_slope_is_seen():
    """The broken twin: first derivatives in order, second ones lost."""

    def frozen(p, temperature):
        still = jax.lax.stop_gradient(temperature)
        slope = jax.lax.stop_gradient(jax.jacfwd(operators.get("power"), 1)(p, still)[..., 0])
        return operators.get("power")(p, still) + slope * (temperature - still)[:, None]

    at = np.append(ROWS["interior"], 2.0)
    found, bent = slopes_of(frozen)(at)
    right, right_bent = slopes_of(operators.get("power"))(at)
    np.testing.assert_allclose(found[4], right[4])
    assert np.abs(bent - right_bent).max() > 1e-2
