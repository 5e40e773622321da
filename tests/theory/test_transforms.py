"""The theory under jit, vmap and grad: the same numbers, and derivatives that finite differences confirm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import operators
from sparsekd_jax.theory import bias_variance, convergence, equivalence, homotopy, variance

pytestmark = pytest.mark.usefixtures("x64")


def random_rows(count, num_classes, seed):
    return np.random.default_rng(seed).dirichlet(np.ones(num_classes), size=count) * 0.94 + 0.06 / num_classes


FAMILY = operators.TsallisSoftening
P = random_rows(5, 3, seed=0)
X = np.random.default_rng(1).normal(size=(5, 2))
TEACHER = random_rows(5, 3, seed=2)


def slope_of(function, at, step=1e-5):
    """Central differences of a scalar function of one array, entry by entry."""
    at = np.asarray(at, np.float64)
    out = np.empty(at.shape)
    for index in np.ndindex(at.shape):
        shift = np.zeros(at.shape)
        shift[index] = step
        ends = [float(function(jnp.asarray(at + sign * shift))) for sign in (1, -1)]
        out[index] = (ends[0] - ends[1]) / (2 * step)
    return out


def gap_of_alpha(alpha):
    return equivalence.gap_norm(FAMILY(alpha), operators.get("mixture"), P, X, 2.0)


def gap_of_temperature(t):
    return equivalence.gap_norm(operators.get("power"), operators.get("mixture"), P, X, (2.0, t))


def variance_of_temperature(t):
    return variance.delta_variance(operators.get("power"), P, t).sum()


def variance_of_logits(z):
    return variance.delta_variance(operators.get("power"), jax.nn.softmax(z, axis=-1), 2.0).sum()


def size_of_jacobian(t):
    return (variance.jacobian(operators.get("power"), P, t) ** 2).sum()


def tracking_of(constants):
    mu, eta, speed, start = constants
    return convergence.tracking_error(7, mu=mu, eta=eta, m=3, P=speed, e0=start)


def length_of(points):
    return homotopy.step_lengths(points, "fisher-rao").sum()


def variance_of_members(probs):
    return bias_variance.terms(probs, jnp.asarray(TEACHER), "kl").variance.full.sum()


def bias_of_members(probs):
    return bias_variance.terms(probs, jnp.asarray(TEACHER), "brier").bias.full.sum()


def loss_at_the_minimiser(z):
    problem = convergence.softmax_regression(jnp.asarray(X), jax.nn.softmax(z, axis=-1), 0.3)
    return problem.loss(problem.fit().weights)


def ridge_of_the_minimiser(mu):
    problem = convergence.softmax_regression(jnp.asarray(X), jnp.asarray(TEACHER), mu)
    return (problem.fit().weights ** 2).sum()


def kept_weights_of_the_penalty(lam):
    path = convergence.penalty_path(jnp.asarray(X), jnp.asarray(TEACHER), 0.3, 0.5)
    return (jnp.where(path.kept, path.minimiser(lam).weights, 0) ** 2).sum()


CASES = [
    (gap_of_alpha, 1.7),
    (gap_of_temperature, 3.0),
    (variance_of_temperature, 1.5),
    (variance_of_logits, np.log(P)),
    (size_of_jacobian, 2.0),
    (tracking_of, np.array([0.5, 0.4, 2.0, 0.3])),
    (length_of, np.stack([P, TEACHER, random_rows(5, 3, seed=4)])),
    (variance_of_members, np.stack([random_rows(5, 3, seed=s) for s in range(5, 9)])),
    (bias_of_members, np.stack([random_rows(5, 3, seed=s) for s in range(5, 9)])),
    (loss_at_the_minimiser, np.log(TEACHER)),
    (ridge_of_the_minimiser, 0.3),
    (kept_weights_of_the_penalty, 0.6),
]


@pytest.mark.parametrize(("function", "at"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_both_derivatives_are_those_of_finite_differences(function, at):
    at = jnp.asarray(at, jnp.float64)
    expected = slope_of(function, at)
    assert np.abs(expected).max() > 1e-4, "a constant would pass"
    np.testing.assert_allclose(jax.grad(function)(at), expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(jax.jacfwd(function)(at), expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("function", "at"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_compiled_and_batched_values_are_the_eager_ones(function, at):
    at = jnp.asarray(at, jnp.float64)
    near = jnp.stack([at, at * (1 - 1e-3)])
    expected = [float(function(one)) for one in near]
    np.testing.assert_allclose(jax.jit(jax.vmap(function))(near), expected, rtol=1e-9)


def test_a_minimiser_that_forgets_the_curvature_has_another_derivative():
    """The broken twin: of the implicit function theorem without the inverse Hessian."""

    def moved(mu):
        problem = convergence.softmax_regression(jnp.asarray(X), jnp.asarray(TEACHER), mu)
        weights = jax.lax.stop_gradient(problem.fit().weights)
        slope = problem.gradient(weights)
        return ((weights - (slope - jax.lax.stop_gradient(slope))) ** 2).sum()

    expected = slope_of(ridge_of_the_minimiser, 0.3)
    assert abs(jax.grad(moved)(0.3) / expected - 1) > 0.1


def test_results_hold_the_values_of_their_kernels():
    found = equivalence.gap(operators.get("power"), operators.get("mixture"), P, X, 2.0)
    assert found.value == pytest.approx(float(gap_of_temperature(2.0)), rel=1e-12)
    jacobians = variance.jacobian(operators.get("power"), P, 2.0)
    traced = jax.jit(lambda p: variance.jacobian(operators.get("power"), p, 2.0))(P)
    np.testing.assert_allclose(traced, jacobians, rtol=1e-12, atol=1e-14)
    bound = convergence.TrackingBound(mu=0.5, L=1.0, P=2.0, G=1.0, m=3, eta=0.4, e0=0.3)
    assert bound.error(7) == pytest.approx(float(tracking_of(jnp.array([0.5, 0.4, 2.0, 0.3]))), rel=1e-12)
