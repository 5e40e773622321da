"""Projection, majorization, normalisation, and the transformations of jax."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsekd_jax import simplex
from tests.simplex.harness import (
    CLASSES,
    DTYPES,
    LEFT,
    ORDERS,
    RIGHT,
    WEIGHTS,
    P,
    Q,
    cast,
    jit,
    jitted,
    seen,
    values,
)


def project_by_bisection(row):
    """The threshold τ with Σ max(x − τ, 0) = 1, by halving."""
    low, high = row.max() - 1, row.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(row - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(row - low, 0)


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 100, 7), (0, 7)])
def test_project_is_row_by_row_for_any_batch_shape(shape, x64):
    rng = np.random.default_rng(7)
    for scale in (1e-6, 0.3, 3.0, 100.0):
        x = scale * rng.normal(size=shape)
        q = jitted(simplex.project)(jnp.asarray(x))
        assert q.shape == shape
        want = np.array([project_by_bisection(row) for row in x.reshape(-1, shape[-1])]).reshape(shape)
        np.testing.assert_allclose(q, want, rtol=0, atol=2e-15 * max(1, scale))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_project_returns_is_a_distribution_in_a_narrow_dtype_too(dtype):
    """Sums in bfloat16 left rows of 1,000 that summed to 138,000, and in float16 rows of infinities."""
    for num_classes in (2, 10, 1000):
        rng = np.random.default_rng(0)
        even, wide = (
            rng.uniform(size=(50, num_classes)) / num_classes,
            100 * rng.normal(size=(50, num_classes)),
        )
        for x in (2 * even, wide, np.full((1, num_classes), 10.0) - 9e3 * np.eye(1, num_classes)):
            x = cast(x, dtype)
            q = simplex.project(x)
            assert q.dtype == x.dtype
            simplex.require_probabilities(q)
            want = np.array([project_by_bisection(row) for row in np.asarray(x, float)])
            eps = float(jnp.finfo(dtype).eps)
            np.testing.assert_allclose(np.asarray(q, float), want, rtol=eps, atol=1e-5)
            slope = jax.grad(lambda x: simplex.project(x)[..., 0].astype(jnp.float32).sum())(x)
            assert slope.dtype == x.dtype
            assert jnp.isfinite(slope).all()


def test_project_is_optimal(x64):
    """The conditions of the quadratic programme: on the support x − q is constant, and largest there."""
    x = np.random.default_rng(8).normal(size=(2, 100, 7)) * 0.7
    q = np.asarray(jitted(simplex.project)(jnp.asarray(x)))
    gap = x - q
    tau = np.where(q > 0, gap, -np.inf).max(-1, keepdims=True)
    np.testing.assert_allclose(np.where(q > 0, gap, tau), np.broadcast_to(tau, x.shape), atol=1e-15)
    assert (gap <= tau + 1e-15).all()
    assert (q == 0).any(-1).mean() > 0.5


def test_project_does_not_ravel_a_batch_into_one_simplex(x64):
    """optax's projection takes the array as one vector: a batch of rows then shares one unit of mass."""
    x = jnp.array([[0.9, 0.5, -0.2], [2.0, 0.0, 0.0]])
    q = jitted(simplex.project)(x)
    np.testing.assert_allclose(q, [[0.7, 0.3, 0.0], [1.0, 0.0, 0.0]], atol=1e-15)
    with jax.numpy_dtype_promotion("standard"), jax.enable_x64(False):
        twin = jitted(optax.projections.projection_simplex)
        x = cast(x, "float32")
        assert float(twin(x).sum()) == pytest.approx(1)
        for row, want in zip(x, np.asarray(q), strict=True):
            np.testing.assert_allclose(twin(row), want, atol=1e-6)


@pytest.mark.parametrize(("dtype", "num_classes"), [("float64", 1000), ("float32", 1000), ("bfloat16", 10)])
def test_project_in_every_dtype(dtype, num_classes, x64):
    rng = np.random.default_rng(9)
    for scale, offset in ((1e-3, 0.0), (0.3, 0.0), (1.0, 8.0)):
        x = cast(rng.normal(size=(4, num_classes)) * scale + offset, dtype)
        q = jitted(simplex.project)(x)
        assert q.dtype == x.dtype
        q = np.asarray(q, float)
        want = np.array([project_by_bisection(row) for row in np.asarray(x, float)])
        unit = {"float64": 1e-13, "float32": 1e-6, "bfloat16": 1e-2}[dtype]
        np.testing.assert_allclose(q, want, rtol=0, atol=unit)
        assert (q >= 0).all()


def test_project_of_large_inputs_and_ties(x64):
    x = [[1e300] * 4, [1e300, -1e300, 0.0, 0.0], [2.0**40, 2.0**40 - 0.5, 0.0, 0.0], [5.0, 4.0, 4.0, -9.0]]
    want = [[0.25] * 4, [1.0, 0, 0, 0], [0.75, 0.25, 0, 0], [1.0, 0, 0, 0]]
    np.testing.assert_array_equal(jitted(simplex.project)(jnp.array(x)), want)


def test_project_has_the_jacobian_of_its_face(x64):
    x = jnp.array([0.9, 0.5, 0.3, -0.4])
    jacobian = jit(jax.jacobian(simplex.project))(x)
    on = np.array([1.0, 1.0, 1.0, 0.0])
    np.testing.assert_allclose(jacobian, np.diag(on) - np.outer(on, on) / 3, atol=1e-15)


def margin_by_brute_force(p, q):
    """The largest sum over k coordinates, over all subsets, for every k."""
    size = len(p)
    gaps = []
    for k in range(1, size):
        subsets = list(itertools.combinations(range(size), k))
        gaps.append(max(math.fsum(p[list(s)]) for s in subsets) - max(math.fsum(q[list(s)]) for s in subsets))
    return min(gaps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_majorization_margin_over_all_k(dtype, x64):
    value = values(LEFT, RIGHT, dtype)["margin"]
    p, q = seen(LEFT, dtype), seen(RIGHT, dtype)
    want = np.array([margin_by_brute_force(a, b) for a, b in zip(p, q, strict=True)])
    np.testing.assert_allclose(
        value, want, rtol=0, atol={"float64": 1e-15, "float32": 1e-6, "bfloat16": 3e-2}[dtype]
    )
    assert want.min() < 0 < want.max()
    unsorted = np.min(np.cumsum(p - q, -1)[:, :-1], -1)
    assert abs(unsorted - want).max() > 0.1


def test_majorization_margin_decides_on_every_k(x64):
    # k = 1 speaks for p, k = 2 against it: neither majorizes the other.
    p, q, permuted = [0.6, 0.2, 0.2, 0, 0, 0], [0.5, 0.45, 0.05, 0, 0, 0], [0, 0.2, 0, 0.6, 0.2, 0]
    margin = values([p, q, p], [q, p, permuted], "float64")["margin"]
    np.testing.assert_allclose(margin, [-0.15, -0.1, 0], atol=1e-15)


@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_normalize(dtype, x64):
    weights = cast(np.random.default_rng(10).integers(0, 9, size=(3, 4, 6)) + np.eye(4, 6), dtype)
    p = simplex.normalize(weights)
    assert p.dtype == weights.dtype
    simplex.require_probabilities(p)
    wide = np.asarray(weights, float)
    np.testing.assert_allclose(
        np.asarray(p, float), wide / wide.sum(-1, keepdims=True), rtol=2 * float(jnp.finfo(dtype).eps)
    )


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_what_normalize_returns_is_a_distribution_in_a_narrow_dtype_too(dtype):
    """Divided by a sum in bfloat16, a row is off by up to .0045; in float16 the last sum is too large."""
    for num_classes in (2, 10, 1000):
        weights = np.exp(2 * np.random.default_rng(0).normal(size=(200, num_classes)))
        simplex.require_probabilities(simplex.normalize(cast(weights, dtype)))
    simplex.require_probabilities(simplex.normalize(cast(np.full(1024, 128), dtype)))


def test_normalize_takes_whole_numbers(x64):
    np.testing.assert_array_equal(simplex.normalize(jnp.array([1, 1, 2])), [0.25, 0.25, 0.5])


def test_safe_log(x64):
    p = jnp.array([0.0, 1e-300, 0.5, 1.0])
    np.testing.assert_array_equal(simplex.safe_log(p)[0], -np.inf)
    np.testing.assert_allclose(simplex.safe_log(p)[1:], np.log(p[1:]), rtol=1e-15)
    jacobian = jit(jax.jacobian(simplex.safe_log))(p)
    np.testing.assert_allclose(jacobian, np.diag([0.0, 1e300, 2.0, 1.0]), rtol=1e-15)


@pytest.mark.parametrize(
    "function",
    [simplex.kl_divergence, simplex.project],
)
def test_any_batch_shape_under_jit_and_vmap(function):
    arguments = [cast(x[:6].reshape(2, 3, CLASSES), "float32") for x in (P, Q)]
    if function is simplex.project:
        arguments = arguments[:1]
    value = jit(function)(*arguments)
    assert value.shape[:2] == (2, 3)
    assert value.dtype == jnp.float32
    mapped = jit(jax.vmap(jax.vmap(function)))(*arguments)
    np.testing.assert_allclose(mapped, value, rtol=3e-6, atol=1e-7)


def test_another_order_or_weight_does_not_compile_again(x64):
    p, q = jnp.asarray(P[:2]), jnp.asarray(Q[:2])
    traced = []

    @jit
    def program(order, weight):
        traced.append(order)
        return simplex.renyi_entropy(p, order), simplex.jensen_shannon_divergence(p, q, weight)

    table = values(P[:2], Q[:2])
    for order, weight in ((0.5, 0.0), (1.0, 0.5), (2.0, 1.0)):
        renyi, js = program(order, weight)
        np.testing.assert_allclose(renyi, table["renyi"][ORDERS.index(order)], rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(js, table["js"][WEIGHTS.index(weight)], rtol=1e-13, atol=1e-15)
    assert len(traced) == 1
