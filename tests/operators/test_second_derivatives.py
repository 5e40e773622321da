"""Second derivatives, which gradients of a variance need: no rule may hold for the first only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import operators

pytestmark = pytest.mark.usefixtures("x64")

P = np.array([0.5, 0.27, 0.2, 0.03])
WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0])
# Where the mixture changes its formula, and where a range ends, no difference reaches across.
TEMPERATURES = {
    "power": (0.8, 1.0, 1.7, 3.0),
    "mixture": (0.8, 1.7, 3.0),
    "entropy-projection": (1.7, 3.0),
    "euclidean-entropy-projection": (1.7, 3.0),
}
STEP = 1e-5


def scalar(operator):
    """Of a move (three of p that keep its sum, one of T) from (P, T)."""

    def value(move, temperature):
        p = P + jnp.append(move[:3], -jnp.sum(move[:3]))
        return jnp.sum(WEIGHTS * operator(p, temperature + move[3]))

    return value


def of_slopes(gradient, temperature):
    """Central differences of a gradient: a Hessian that differentiates once only."""
    rows = []
    for i in range(4):
        shift = np.zeros(4)
        shift[i] = STEP
        rows.append((gradient(shift, temperature) - gradient(-shift, temperature)) / (2 * STEP))
    return np.array(rows)


@pytest.mark.parametrize("name", TEMPERATURES)
def test_they_are_the_differences_of_the_first(name):
    """Those of Tsallis softening, in α too, are in `test_tsallis`."""
    value = scalar(operators.get(name))
    gradient, hessian = jax.jit(jax.grad(value)), jax.jit(jax.hessian(value))
    for temperature in TEMPERATURES[name]:
        found = hessian(jnp.zeros(4), temperature)
        expected = of_slopes(gradient, temperature)
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=tolerance, err_msg=f"T = {temperature}")
        assert np.abs(expected[3]).max() > 1e-3, "nothing depends on T: a constant would pass"


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
    by_p = lambda t: jax.jvp(lambda p: operators.get(name)(p, t), (jnp.full(4, 0.25),), (v,))[1]  # noqa: E731
    found, moved = jax.jit(lambda t: jax.jvp(by_p, (t,), (jnp.ones(()),)))(jnp.asarray(2.5))
    np.testing.assert_allclose(found, rate(2.5) * v, atol=1e-9)
    np.testing.assert_allclose(moved, jax.grad(rate)(2.5) * v, atol=1e-9)
    np.testing.assert_allclose(jax.jit(jax.jacrev(by_p))(2.5), moved, atol=1e-12)


def test_a_rule_with_a_frozen_slope_is_seen():
    """The broken twin: first derivatives in order, second ones lost."""

    def frozen(p, temperature):
        q = operators.get("power")(p, temperature)
        slope = jax.lax.stop_gradient(jnp.sum(q * jnp.log(p)))
        return q * jnp.exp(-(temperature - jax.lax.stop_gradient(temperature)) * slope)

    value = scalar(frozen)
    found = jax.hessian(value)(jnp.zeros(4), 2.0)
    expected = of_slopes(jax.grad(value), 2.0)
    assert np.abs(found - expected).max() > 1e-2
