"""Entropies against mpmath and scipy, at every order."""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.spatial
import scipy.special
import scipy.stats

from sparsekd_jax import simplex
from tests.simplex.harness import (
    CLASSES,
    DTYPES,
    EPS,
    FINITE,
    ONE,
    ORDERS,
    TOLERANCE,
    P,
    cast,
    exact,
    floats,
    jit,
    jitted,
    mp,
    mp_bregman,
    mp_renyi,
    mp_shannon,
    mp_tsallis,
    relative_error,
    seen,
    values,
)


def bregman_points(dtype):
    smallest = {"float64": -150, "float32": -18}[dtype]
    sizes = 10.0 ** np.arange(smallest, 6.5, 0.5)
    seams = [0.1, 0.0999999, 0.1000001, -0.1, -0.0999999, -0.1000001, -0.5, -0.999, -1 + 2.0**-24, 1e6]
    t = np.concatenate([sizes, -sizes[sizes < 1], seams]).astype(dtype)
    return t[t > -1]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bregman_entropy_keeps_relative_accuracy(dtype, x64):
    t = bregman_points(dtype)
    value = np.asarray(jitted(simplex.bregman_entropy)(cast(t, dtype)))
    assert value.dtype == dtype
    reference = [mp_bregman(v) for v in t]
    assert relative_error(value, reference) < 100 * EPS[dtype]
    with np.errstate(all="ignore"):
        twin = (1 + t) * np.log1p(t) - t
    assert relative_error(twin, reference) > 0.5


def test_bregman_entropy_at_its_ends(x64):
    value = simplex.bregman_entropy(jnp.array([-1.0, 0.0, -1.5, jnp.nan]))
    np.testing.assert_array_equal(value, [1.0, 0.0, np.nan, np.nan])
    t = bregman_points("float64")
    slope = jitted(jax.vmap(jax.grad(simplex.bregman_entropy)))(jnp.asarray(t))
    np.testing.assert_allclose(slope, np.log1p(t), rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_entropy_at_every_order(dtype, x64):
    value, numbers = values(P, dtype=dtype), exact(cast(P, dtype))
    orders = seen(ORDERS, dtype)
    want = {
        "entropy": floats(map(mp_shannon, numbers)),
        "min_entropy": floats(-mpmath.log(max(r)) for r in numbers),
        "entropy_deficit": floats(mpmath.log(CLASSES) - mp_shannon(r) for r in numbers),
        "renyi": np.array([floats(mp_renyi(r, a) for r in numbers) for a in orders]),
        "tsallis": np.array([floats(mp_tsallis(r, a) for r in numbers) for a in orders[:FINITE]]),
    }
    for name in ONE:
        np.testing.assert_allclose(
            value[name], want[name], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], err_msg=name
        )
    assert (value["entropy_deficit"] >= 0).all()


def test_shannon_agrees_with_scipy(x64):
    np.testing.assert_allclose(values(P)["entropy"], scipy.stats.entropy(P, axis=-1), atol=1e-15)


def test_the_textbook_formulas_fail_next_to_order_1():
    p, order = P[0], 1 + 1e-13
    want = float(mp_renyi(exact(P)[0], order))
    assert abs(np.log(np.sum(p**order)) / (1 - order) - want) > 1e-4
    assert abs((1 - np.sum(p**order)) / (order - 1) - float(mp_tsallis(exact(P)[0], order))) > 1e-4


def test_a_python_order_is_the_traced_one(x64):
    table = values(P)
    renyi, tsallis = jit(lambda p: (simplex.renyi_entropy(p, 1), simplex.tsallis_entropy(p, 0)))(
        jnp.asarray(P)
    )
    np.testing.assert_allclose(renyi, table["renyi"][ORDERS.index(1)], atol=1e-14)
    np.testing.assert_allclose(tsallis, table["tsallis"][ORDERS.index(0)], atol=1e-14)


def test_order_0_counts_the_support(x64):
    """Regression: 0·log 0 made the Rényi entropy of order 0 NaN wherever a class was off."""
    value, support = values(P), (P > 0).sum(-1)
    np.testing.assert_allclose(value["renyi"][0], np.log(support), rtol=1e-15)
    np.testing.assert_allclose(value["tsallis"][0], support - 1.0, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", ["renyi", "tsallis"])
def test_slope_in_the_order_passes_through_1(name, x64):
    """Regression: a where() at order = 1 exactly gave 0, and a quotient next to it gave noise."""
    function, reference = {
        "renyi": (simplex.renyi_entropy, mp_renyi),
        "tsallis": (simplex.tsallis_entropy, mp_tsallis),
    }[name]
    slope = jit(jax.vmap(jax.grad(function, argnums=1), in_axes=(0, None)))
    p = np.array([P[0], P[4]])
    for order in (0.25, 1 - 1e-15, 1.0, 1 + 1e-12, 1 + 1e-8, 1.01, 1.3, 2.0, 7.0):
        h = mp("1e-12")
        want = [
            (mp_at(reference, r, mp(order) + h) - mp_at(reference, r, mp(order) - h)) / (2 * h)
            for r in exact(p)
        ]
        np.testing.assert_allclose(
            slope(jnp.asarray(p), jnp.asarray(order)), floats(want), rtol=1e-11, err_msg=str(order)
        )


def mp_at(reference, p, order):
    """A reference at an order that is no float: the power sum by hand."""
    total = mpmath.fsum(v**order for v in p if v > 0)
    return mpmath.log(total) / (1 - order) if reference is mp_renyi else (1 - total) / (order - 1)


@pytest.mark.parametrize("function", [simplex.renyi_entropy, simplex.tsallis_entropy])
@pytest.mark.parametrize("order", [-0.5, math.nan])
def test_an_order_below_0_is_refused(function, order):
    with pytest.raises(ValueError, match=f"order is {order}; an entropy order is a number ≥ 0"):
        function(jnp.array([0.5, 0.5]), order)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("num_classes", [3, 49])
def test_entropy_deficit_keeps_relative_accuracy_next_to_uniform(dtype, num_classes, x64):
    sizes = 10.0 ** -np.arange(1, {"float64": 15, "float32": 6}[dtype])
    direction = np.random.default_rng(num_classes).normal(size=num_classes)
    direction -= direction.mean()
    direction /= abs(direction).max()
    p = ((1 + sizes[:, None] * direction) / num_classes).astype(dtype)
    reference = [
        mpmath.fsum(mp_bregman_exact(num_classes * mp(v) - 1) for v in row) / num_classes for row in p
    ]
    value = np.asarray(jitted(simplex.entropy_deficit)(cast(p, dtype)))
    assert value.dtype == dtype
    assert relative_error(value, reference) < 50 * EPS[dtype]
    naive = np.log(p.dtype.type(num_classes)) + np.sum(p * np.log(p), -1)
    assert relative_error(naive, reference) > 0.5
    if num_classes == 49:  # the rounding of K·p: the twin that forms K·p − 1 directly
        rounded = [np.mean([float(mp_bregman(v)) for v in row * p.dtype.type(49) - 1]) for row in p]
        assert relative_error(rounded, reference) > 1000 * EPS[dtype]


def mp_bregman_exact(t):
    return (1 + t) * mpmath.log(1 + t) - t if abs(t) > 1e-10 else t**2 / 2 - t**3 / 6 + t**4 / 12


@pytest.mark.parametrize(
    "measure",
    [
        simplex.entropy,
        simplex.entropy_deficit,
        simplex.min_entropy,
        simplex.safe_log,
        *(functools.partial(simplex.renyi_entropy, order=order) for order in (0.5, 1.0, 3.0, np.inf)),
        *(functools.partial(simplex.tsallis_entropy, order=order) for order in (0.0, 1.0, 2.0)),
        *(
            functools.partial(divergence, q)
            for divergence in (
                simplex.kl_divergence,
                simplex.reverse_kl_divergence,
                simplex.jensen_shannon_divergence,
                simplex.total_variation,
                simplex.hellinger_distance,
                simplex.fisher_rao_distance,
            )
            for q in (np.array([0.5, 0.25, 0.25], np.float32),)
        ),
    ],
)
def test_nan_is_no_zero(measure):
    """A row with a NaN is no distribution: every measure of it says so."""
    for row in ([0.5, np.nan, 0.5], [np.nan] * 3):
        assert np.isnan(measure(jnp.array(row, jnp.float32))).any()
