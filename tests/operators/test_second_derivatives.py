"""Second derivatives, which gradients of a variance need: no rule may hold for the first only."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import operators

pytestmark = pytest.mark.usefixtures("x64")

P = np.array([0.5, 0.27, 0.2, 0.03])
WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0])
# (α, T). At T = 1 Tsallis has a form of its own; where a range ends there no difference reaches across.
POINTS = {
    "power": [(0.0, t) for t in (0.8, 1.0, 1.7, 3.0)],
    "mixture": [(0.0, t) for t in (0.8, 1.7, 3.0)],
    "entropy-projection": [(0.0, t) for t in (1.7, 3.0)],
    "euclidean-entropy-projection": [(0.0, t) for t in (1.7, 3.0)],
    "tsallis": [(alpha, t) for alpha in (0.5, 1.003, 1.5, 2.5) for t in (0.8, 1.0, 1.7, 3.0)],
}
STEP = 1e-5


def scalar(operator_of):
    """Of a move (three of p that keep its sum, one of T, one of a hyper-parameter) from (P, T, α)."""

    def value(move, temperature, alpha):
        p = P + jnp.append(move[:3], -jnp.sum(move[:3]))
        q = operator_of(alpha + move[4])(p, temperature + move[3])
        return jnp.sum(WEIGHTS * q)

    return value


def of_slopes(gradient, *at):
    """Central differences of a gradient: a Hessian that differentiates once only."""
    rows = []
    for i in range(5):
        shift = np.zeros(5)
        shift[i] = STEP
        rows.append((gradient(shift, *at) - gradient(-shift, *at)) / (2 * STEP))
    return np.array(rows)


@pytest.mark.parametrize("name", [*POINTS])
def test_they_are_the_differences_of_the_first(name):
    value = scalar(operators.TsallisSoftening if name == "tsallis" else lambda _: operators.get(name))
    gradient, hessian = jax.jit(jax.grad(value)), jax.jit(jax.hessian(value))
    for alpha, temperature in POINTS[name]:
        found = hessian(jnp.zeros(5), temperature, alpha)
        expected = of_slopes(gradient, temperature, alpha)
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(
            found, expected, rtol=1e-5, atol=tolerance, err_msg=f"α {alpha}, T {temperature}"
        )
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

    value = scalar(lambda _: frozen)
    found = jax.hessian(value)(jnp.zeros(5), 2.0, 0.0)
    expected = of_slopes(jax.grad(value), 2.0, 0.0)
    assert np.abs(found - expected).max() > 1e-2
