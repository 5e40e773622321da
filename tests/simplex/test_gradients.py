"""Gradients against 50-digit differences, on every face of the simplex."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import simplex
from tests.simplex.harness import EPS, LEFT, ONE, RIGHT, TWO, P, cast, jit, slopes, values

# p and q with the zeros of each kind: none, only p, only q, both, a vertex.
FACES_P = np.array(
    [
        [0.1, 0.2, 0.3, 0.24, 0.06, 0.1],
        [0.3, 0.0, 0.5, 0.0, 0.15, 0.05],
        [0.2, 0.15, 0.26, 0.1, 0.05, 0.24],
        [0.0, 0.2, 0.6, 0.0, 0.0, 0.2],
        [0.0, 0.35, 0.65, 0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
    ]
)
FACES_Q = np.array(
    [
        [0.4, 0.15, 0.1, 0.2, 0.07, 0.08],
        [0.2, 0.15, 0.25, 0.3, 0.06, 0.04],
        [0.6, 0.0, 0.1, 0.0, 0.2, 0.1],
        [0.0, 0.5, 0.1, 0.25, 0.0, 0.15],
        [0.0, 0.55, 0.45, 0.0, 0.0, 0.0],
        [0.3, 0.2, 0.1, 0.1, 0.1, 0.2],
    ]
)
SLOPES_OF_TWO = [name for name in TWO if name != "reverse_kl"]  # that is kl with p and q exchanged
CORNERED = {
    "tv"
}  # piecewise linear: its ordinary slope stays at a zero, and a corner has no difference quotient


def face_directions(x):
    """A direction along the face of each row, Σ = 0; zero at a vertex."""
    on = x > 0
    direction = np.where(on, [1.0, -0.6, 0.7, 0.35, -0.2, 0.4], 0)
    return np.where(on, direction - direction.sum(-1, keepdims=True) / on.sum(-1, keepdims=True), 0)


def differences(name, x, direction, of):
    """Central differences of fourth order: an error of step⁴ and rounding/step."""
    step = 1e-4 * x.max()
    f = [of(x + k * step * direction)[name] for k in (-2, -1, 1, 2)]
    with np.errstate(invalid="ignore"):
        return (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * step)


def check_slope(name, slope, x, value, of):
    assert not np.isnan(slope).any()
    if name not in CORNERED:
        off = np.broadcast_to(x == 0, slope.shape)
        np.testing.assert_allclose(slope[off], 0, atol=1e-16)
    direction = face_directions(x)
    along = (slope * direction).sum(-1)
    want = np.where(np.isfinite(value), differences(name, x, direction, of), along)
    assert np.isfinite(value).any(-1).all()
    np.testing.assert_allclose(along, want, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("name", ONE)
def test_gradient_of_an_entropy_on_every_face(name, x64):
    x = np.concatenate([FACES_P, FACES_Q])
    check_slope(name, slopes(x)[name], x, values(x)[name], values)


@pytest.mark.parametrize("name", SLOPES_OF_TWO)
def test_gradient_of_a_divergence_on_every_face(name, x64):
    p, q = np.concatenate([FACES_P, FACES_Q]), np.concatenate([FACES_Q, FACES_P])
    (by_p, by_q), value = slopes(p, q)[name], values(p, q)[name]
    check_slope(name, by_p, p, value, lambda x: values(x, q))
    check_slope(name, by_q, q, value, lambda x: values(p, x))


@pytest.mark.parametrize("name", SLOPES_OF_TWO)
def test_gradient_where_two_distributions_meet(name, x64):
    """p = q is the minimum: a smooth divergence is flat along the simplex, a corner has no slope."""
    for slope in slopes(FACES_P, FACES_P)[name]:
        along = (slope * face_directions(FACES_P)).sum(-1)
        np.testing.assert_allclose(along, 0, atol=1e-15)
        if name not in CORNERED:
            np.testing.assert_allclose(slope, 0, atol=1e-15)


def test_gradient_in_float32_is_never_nan(x64):
    for name, slope in slopes(LEFT, RIGHT, "float32").items():
        assert not np.isnan(slope).any(), name


def test_gradient_in_bfloat16(x64):
    p, q = cast(P[0], "bfloat16"), cast(P[1], "bfloat16")
    by_p, by_q = jit(jax.grad(simplex.kl_divergence, argnums=(0, 1)))(p, q)
    assert by_p.dtype == by_q.dtype == jnp.bfloat16
    p, q = (np.asarray(x, float) for x in (p, q))
    np.testing.assert_allclose(np.asarray(by_p, float), np.log(p / q), rtol=3 * EPS["bfloat16"])
    np.testing.assert_allclose(np.asarray(by_q, float), 1 - p / q, rtol=3 * EPS["bfloat16"])


def test_the_textbook_entropy_has_a_nan_gradient_at_zero():
    def twin(p):
        return -jnp.sum(jnp.where(p > 0, p * jnp.log(p), 0))

    p = jnp.array([0.5, 0.5, 0.0])
    assert np.isnan(jit(jax.grad(twin))(p)).any()
    assert not np.isnan(jit(jax.grad(simplex.entropy))(p)).any()


def test_distilling_from_a_teacher_with_zeros_has_the_gradient_of_cross_entropy(x64):
    """Regression: the classes the teacher rules out still push: d KL(p‖softmax z)/dz = softmax z − p."""
    p, z = jnp.array([0.5, 0.5, 0.0, 0.0]), jnp.array([0.3, -0.2, 1.0, 0.1])

    def loss(z, divergence):
        return divergence(p, jax.nn.softmax(z))

    def twin(p, q):  # the classes that are off, as constants
        on = p > 0
        kept = jax.scipy.special.kl_div(jnp.where(on, p, 1), q)
        return jnp.sum(jnp.where(on, kept, jax.lax.stop_gradient(q)))

    want = np.exp(z) / np.exp(z).sum() - p
    (value, slope), (same, wrong) = (
        jit(jax.value_and_grad(functools.partial(loss, divergence=d)))(z)
        for d in (simplex.kl_divergence, twin)
    )
    np.testing.assert_allclose(slope, want, atol=1e-15)
    assert float(value) == pytest.approx(float(same), rel=1e-14)
    assert np.abs(wrong - want).max() > 0.1


def test_kl_hessian_is_the_fisher_metric(x64):
    p = jnp.array([0.2, 0.3, 0.5])
    hessian = jit(jax.hessian(simplex.kl_divergence, argnums=(0, 1)))
    (by_pp, _), (_, by_qq) = hessian(p, p)
    np.testing.assert_allclose(by_pp, np.diag(1 / np.asarray(p)), atol=1e-13)
    np.testing.assert_allclose(by_qq, np.diag(1 / np.asarray(p)), atol=1e-13)
    tiny = jnp.array([1.0, 1e-25, 0.0], jnp.float32)
    assert np.isfinite(jax.tree.leaves(hessian(tiny, tiny))).all()


def test_entropy_deficit_slope_at_tiny_entries(x64):
    """Regression: K·p − 1 rounds to −1 there, where the slope is log(K·p), far from −1."""
    p = np.array([1e-20, 1e-5, 0.5, 0.5 - 1e-5, 0.0, 1 / 6])
    want = [*np.log(6 * p[:4]), 0]
    np.testing.assert_allclose(slopes(p)["entropy_deficit"][0, :5], want, rtol=1e-13)
