"""`sparsekd_jax.simplex` against references that share no code with it: mpmath, scipy, brute force.

A reference is always given the very numbers the function saw (after the cast to its dtype), at 50 digits or
more. Where a formula that looks right is wrong, the wrong one is kept beside the test as a *twin*, and the
test shows that it catches it.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
import scipy.spatial
import scipy.special
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from sparsekd_jax import simplex

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7}
TOLERANCE = {"float64": 3e-14, "float32": 3e-6, "bfloat16": 6e-2}
"""Absolute, for quantities of order 1 on K = 6, the sum of the cast row included."""
DTYPES = list(TOLERANCE)
ORDERS = [0.0, 0.25, 0.4999, 0.5, 0.5001, 0.999, 1 - 1e-9, 1 - 1e-13, 1.0, 1 + 1e-13, 1 + 1e-6, 1.4]
ORDERS += [1.4999, 1.5, 1.5001, 2.0, 3.0, 50.0, math.inf]
FINITE = len(ORDERS) - 1
WEIGHTS = [0.0, 0.125, 0.5, 0.75, 1.0]
ROWS, CLASSES = 128, 6


def mp(value):
    return mpmath.mpf(float(value))


@pytest.fixture(autouse=True)
def fifty_digits():
    with mpmath.workdps(50):
        yield


# Compilation is most of the time: one program a dtype for all values, one for all gradients, both of a fixed
# shape, and LLVM told not to polish code that runs for microseconds.
def jit(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


jitted = functools.cache(jit)


def over(function, values, argument, count):
    axes = [None] * count
    axes[argument] = 0
    return lambda *a: jax.vmap(function, axes)(*a, values)


def functions(dtype):
    """Everything that turns rows into numbers; of p alone, and of p and q."""
    orders, weights = jnp.asarray(ORDERS, dtype), jnp.asarray(WEIGHTS, dtype)
    one = {
        "entropy": simplex.entropy,
        "entropy_deficit": simplex.entropy_deficit,
        "min_entropy": simplex.min_entropy,
        "renyi": over(simplex.renyi_entropy, orders, 1, 2),
        "tsallis": over(simplex.tsallis_entropy, orders[:FINITE], 1, 2),
    }
    two = {
        "kl": simplex.kl_divergence,
        "reverse_kl": simplex.reverse_kl_divergence,
        "js": over(simplex.jensen_shannon_divergence, weights, 2, 3),
        "tv": simplex.total_variation,
        "hellinger": simplex.hellinger_distance,
        "fisher_rao": simplex.fisher_rao_distance,
    }
    return one, two


ONE, TWO = (list(group) for group in functions("float32"))


@jit
def _values(p, q):
    one, two = functions(p.dtype)
    return {
        **{name: f(p) for name, f in one.items()},
        **{name: f(p, q) for name, f in two.items()},
        "margin": simplex.majorization_margin(p, q),
    }


@jit
def _slopes(p, q):
    """``[..., row, K]`` gradients, by p and for divergences by q."""
    one, two = functions(p.dtype)

    def rows_first(jacobian):
        return jnp.moveaxis(jacobian, 0, -2)

    return {name: rows_first(jax.vmap(jax.jacrev(f))(p)) for name, f in one.items()} | {
        name: jax.tree.map(rows_first, jax.vmap(jax.jacrev(f, (0, 1)))(p, q))
        for name, f in two.items()
        if name != "reverse_kl"
    }


def padded(x, dtype):
    x = np.reshape(x, (-1, CLASSES))
    rows = np.full((ROWS, CLASSES), 1 / CLASSES, x.dtype if x.dtype.kind == "f" else float)
    rows[: len(x)] = x
    return jnp.asarray(rows, dtype)


def evaluate(program, p, q=None, dtype=None):
    """A program on up to 128 rows of 6 classes; float64 arrays of its results, ``[..., row]``."""
    q = p if q is None else q
    dtype = dtype or np.asarray(p).dtype.name
    count, axis = np.asarray(p).size // CLASSES, -1 if program is _values else -2
    out = program(padded(p, dtype), padded(q, dtype))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(out))
    return jax.tree.map(lambda leaf: np.asarray(leaf, float).take(range(count), axis), out)


def values(p, q=None, dtype=None):
    return evaluate(_values, p, q, dtype)


def slopes(p, q=None, dtype=None):
    return evaluate(_slopes, p, q, dtype)


def rows() -> np.ndarray:
    """Interior rows, faces, a vertex, ties, tiny entries, next to a vertex, next to the uniform. [10, 6]"""
    rng = np.random.default_rng(0)
    weights = np.concatenate(
        [
            rng.dirichlet(np.ones(6), size=4),
            [
                [0.5, 0.0, 0.25, 0.0, 0.25, 0.0],
                [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
                [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
                [0.6, 1e-30, 0.4, 1e-12, 1e-3, 0.0],
                [1e-9, 1e-9, 1 - 4e-9, 1e-9, 1e-9, 0.0],
                [1 + 1e-7, 1 - 1e-7, 1, 1, 1 + 3e-7, 1 - 3e-7],
            ],
        ]
    )
    return weights / weights.sum(-1, keepdims=True)


P = rows()
Q = np.roll(P, 3, axis=0)[:, [1, 2, 3, 4, 5, 0]]
PAIRS = [(p, q) for p in P for q in Q]
LEFT, RIGHT = (np.array(x) for x in zip(*PAIRS, strict=True))


def cast(x, dtype):
    return jnp.asarray(np.asarray(x), dtype)


def seen(x, dtype):
    """The numbers as the dtype has them, in float64."""
    return np.asarray(cast(x, dtype), float)


def exact(x):
    """The numbers of an array, exactly, as lists of mpf normalised to sum 1."""
    out = []
    for row in np.asarray(x).astype(np.float64):
        numbers = [mp(v) for v in row]
        total = mpmath.fsum(numbers)
        out.append([v / total for v in numbers])
    return out


# -- references ----------------------------------------------------------------------------------------


def mp_shannon(p):
    return -mpmath.fsum(v * mpmath.log(v) for v in p if v > 0)


def mp_tsallis(p, order):
    order = mp(order)
    if order == 1:
        return mp_shannon(p)
    return (1 - mpmath.fsum(v**order for v in p if v > 0)) / (order - 1)


def mp_renyi(p, order):
    if math.isinf(order):
        return -mpmath.log(max(p))
    order = mp(order)
    if order == 1:
        return mp_shannon(p)
    return mpmath.log(mpmath.fsum(v**order for v in p if v > 0)) / (1 - order)


def mp_kl(p, q):
    """The Bregman sum: it equals Σ p log(p/q) for equal sums and is what is accurate for p ≈ q."""
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return mpmath.inf
    return mpmath.fsum((a * mpmath.log(a / b) if a > 0 else 0) - a + b for a, b in zip(p, q, strict=True))


def mp_js(p, q, weight):
    w = mp(weight)
    m = [w * a + (1 - w) * b for a, b in zip(p, q, strict=True)]
    return (w * mp_kl(p, m) if w > 0 else 0) + ((1 - w) * mp_kl(q, m) if w < 1 else 0)


def mp_hellinger(p, q):
    gaps = (mpmath.sqrt(a) - mpmath.sqrt(b) for a, b in zip(p, q, strict=True))
    return mpmath.sqrt(mpmath.fsum(g**2 for g in gaps) / 2)


def mp_fisher_rao(p, q):
    return 2 * mpmath.acos(min(mpmath.fsum(mpmath.sqrt(a * b) for a, b in zip(p, q, strict=True)), 1))


def mp_bregman(t):
    t = mp(t)
    if abs(t) < 1e-10:
        return mpmath.fsum((-1) ** k * t**k / (k * (k - 1)) for k in range(2, 8))
    return (1 + t) * mpmath.log(1 + t) - t if t > -1 else mpmath.mpf(1)


def floats(values):
    return np.array([float(v) for v in values])


def relative_error(value, reference):
    return max(float(abs(mp(v) - r) / r) for v, r in zip(np.ravel(value), reference, strict=True))


# -- bregman_entropy ------------------------------------------------------------------------------------


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


# -- entropies ------------------------------------------------------------------------------------------


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


# -- divergences ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_divergence(dtype, x64):
    value = values(LEFT, RIGHT, dtype)
    numbers = list(zip(exact(cast(LEFT, dtype)), exact(cast(RIGHT, dtype)), strict=True))
    weights = seen(WEIGHTS, dtype)
    events = np.array(list(itertools.product([0.0, 1.0], repeat=CLASSES)))
    want = {
        "kl": floats(mp_kl(p, q) for p, q in numbers),
        "reverse_kl": floats(mp_kl(q, p) for p, q in numbers),
        "js": np.array([floats(mp_js(p, q, w) for p, q in numbers) for w in weights]),
        "tv": abs((seen(LEFT, dtype) - seen(RIGHT, dtype)) @ events.T).max(-1),  # over all events
        "hellinger": floats(mp_hellinger(p, q) for p, q in numbers),
        "fisher_rao": floats(mp_fisher_rao(p, q) for p, q in numbers),
    }
    for name in ("kl", "reverse_kl"):
        assert 10 < np.isinf(want[name]).sum() < 90
        np.testing.assert_array_equal(np.isinf(value[name]), np.isinf(want[name]))
    for name in TWO:
        # A gap of 1e-30 or of one rounding moves a root by more than its own size, and the arc fourfold.
        scale = {"hellinger": 2, "fisher_rao": 8}.get(name, 1)
        unit = scale * TOLERANCE[dtype]
        np.testing.assert_allclose(value[name], want[name], rtol=unit, atol=unit, err_msg=name)
        assert (value[name] >= 0).all()
    np.testing.assert_array_equal(value["js"][[0, -1]], 0)
    bounds = scipy.stats.entropy([weights, 1 - weights])
    assert (value["js"].max(-1) <= bounds + TOLERANCE[dtype]).all()


def test_divergences_agree_with_scipy(x64):
    value = values(LEFT, RIGHT)
    np.testing.assert_allclose(value["kl"], scipy.special.rel_entr(LEFT, RIGHT).sum(-1), atol=1e-14)
    js = scipy.spatial.distance.jensenshannon(LEFT, RIGHT, axis=-1) ** 2
    np.testing.assert_allclose(value["js"][WEIGHTS.index(0.5)], js, atol=1e-14)


def test_reverse_kl_is_not_kl(x64):
    value = values([[0.5, 0.5, 0, 0, 0, 0]], [[0.2, 0.3, 0.5, 0, 0, 0]], "float64")
    assert np.isfinite(value["kl"])
    assert np.isposinf(value["reverse_kl"])


def near_pairs(dtype):
    """Pairs that differ by δ relative, δ from 0.3 down to a few ulp: [N, 6] each."""
    rng = np.random.default_rng(5)
    sizes = 10.0 ** -np.arange(0.5, {"float64": 14, "float32": 5.6}[dtype])
    base = np.concatenate([np.tile(P[0], (len(sizes), 1)), np.tile(P[7] + 1e-9, (len(sizes), 1))])
    direction = rng.uniform(-1, 1, size=base.shape)
    direction -= (direction * base).sum(-1, keepdims=True) / base.sum(-1, keepdims=True)
    return base.astype(dtype), (base * (1 + np.tile(sizes, 2)[:, None] * direction)).astype(dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_nearly_equal_distributions_keep_relative_accuracy(dtype, x64):
    """All four, with the formulas that lose it as twins; the input as it is, not renormalised."""
    p, q = near_pairs(dtype)
    numbers = [[list(map(mp, row)) for row in x] for x in (p, q)]
    kl, js, hellinger = (
        list(itertools.starmap(f, zip(*numbers, strict=True)))
        for f in (mp_kl, functools.partial(mp_js, weight=0.125), mp_hellinger)
    )
    # The arc of the same chord; the inner product would see the sums' rounding.
    arc = [4 * mpmath.asin(h / mpmath.sqrt(2)) for h in hellinger]
    value, bound = values(p, q, dtype), 100 * EPS[dtype]
    assert relative_error(value["kl"], kl) < bound
    assert relative_error(value["hellinger"], hellinger) < bound
    assert relative_error(value["fisher_rao"], arc) < bound
    # The mixture m is rounded: a difference of n ulp is known to 1/n².
    coarse = np.abs(p / q - 1).max(-1) > 1e3 * EPS[dtype]
    js_value = value["js"][WEIGHTS.index(0.125)]
    assert relative_error(js_value[coarse], itertools.compress(js, coarse)) < 1e-4

    with np.errstate(all="ignore"):
        assert relative_error(np.sum(p * np.log(p / q), -1), kl) > 0.5
        cosine = np.minimum(np.sum(np.sqrt(p * q), -1), 1)
        assert relative_error(2 * np.arccos(cosine), arc) > 0.5
        roots = np.sqrt(0.5 * np.sum((np.sqrt(p) - np.sqrt(q)) ** 2, -1))
    assert relative_error(roots, hellinger) > 1000 * EPS[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_distributions_are_at_distance_0(dtype, x64):
    value = values(P, P, dtype)
    for name in TWO:
        # w·p + (1 − w)·p may differ from p by a rounding, and the divergence by its square.
        np.testing.assert_allclose(value[name], 0, atol=EPS[dtype] ** 2 if name == "js" else 0, err_msg=name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_divergences_are_never_negative(dtype, x64):
    """Close pairs, where rounding shows: Σ p log(p/q), the twin, goes below 0 in every dtype."""
    rng = np.random.default_rng(6)
    base = rng.dirichlet(np.ones(CLASSES), size=ROWS)
    close = base * (1 + 4 * EPS[dtype] * rng.uniform(-1, 1, base.shape))
    tiny = 10.0 ** rng.uniform(-37, 0, base.shape)
    for a, b in ((base, close), (tiny, tiny[::-1]), (tiny, tiny * 2 ** rng.uniform(-1.5, 1.5, base.shape))):
        value = values(a, b, dtype)
        for name in TWO:
            assert (value[name] >= 0).all(), name
    p, q = cast(base, dtype), cast(close, dtype)
    twin = jnp.sum(p * (jnp.log(p) - jnp.log(q)), axis=-1)
    assert (np.asarray(twin, float) < 0).any()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_kl_over_the_whole_range_of_the_dtype(dtype, x64):
    tiny = {"float64": 1e-300, "float32": 1e-36}[dtype]
    pairs = [
        ([1.0, tiny], [0.5, 0.5]),
        ([0.5, 0.5], [1.0, tiny]),
        ([0.5, 0.5], [1.0, 1e-20]),
        ([tiny, 1.0], [2 * tiny, 1.0]),
        ([tiny, 1.0], [1.1 * tiny, 1.0]),
        ([1e-20, 1.0], [0.5, 0.5]),
    ]
    p, q = (np.pad(seen([pair[i] for pair in pairs], dtype), ((0, 0), (0, 4))) for i in (0, 1))
    numbers = [[list(map(mp, row)) for row in x] for x in (p, q)]
    want = floats(itertools.starmap(mp_kl, zip(*numbers, strict=True)))
    np.testing.assert_allclose(
        values(p, q, dtype)["kl"], want, rtol=20 * EPS[dtype], atol=np.finfo(dtype).tiny
    )
    # Regressions: NaN from the square of q in the derivative of a quotient; −1 for log(1e-20/0.5).
    by_p, by_q = (x[:, :2] for x in slopes(p, q, dtype)["kl"])
    p, q = p[:, :2], q[:, :2]
    ratios = [
        [float(mpmath.log(mp(a) / mp(b))) for a, b in zip(*r, strict=True)] for r in zip(p, q, strict=True)
    ]
    np.testing.assert_allclose(by_p, ratios, rtol=20 * EPS[dtype])
    np.testing.assert_allclose(by_q, 1 - p / q, rtol=20 * EPS[dtype])


def test_jensen_shannon_weight_belongs_to_p(x64):
    p, q, w = np.array([0.9, 0.1, 0, 0, 0, 0]), np.array([0.2, 0.8, 0, 0, 0, 0]), 0.125
    m = w * p + (1 - w) * q
    want = w * scipy.stats.entropy(p, m) + (1 - w) * scipy.stats.entropy(q, m)
    index = WEIGHTS.index(w)
    assert values(p, q)["js"][index] == pytest.approx(want, rel=1e-13)
    assert values(q, p)["js"][index] != pytest.approx(want, rel=1e-2)
    python = jit(functools.partial(simplex.jensen_shannon_divergence, weight=w))(
        jnp.asarray(p), jnp.asarray(q)
    )
    assert float(python) == pytest.approx(want, rel=1e-13)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_jensen_shannon_of_disjoint_supports_and_of_vanishing_mass(dtype, x64):
    tiny = float(np.finfo(dtype).tiny)
    p = [[1, 0, 0, 0, 0, 0], [1, tiny, 0, 0, 0, 0]]
    q = [[0, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0]]
    js = values(p, q, dtype)["js"]
    assert js[WEIGHTS.index(0.5), 0] == pytest.approx(math.log(2), rel=2 * EPS[dtype])
    # Regression: w·p underflows to 0, and KL(p‖m) was inf.
    assert ((js[:, 1] >= 0) & (js[:, 1] < 1e-30)).all()


@pytest.mark.parametrize("weight", [-0.1, 1.5, math.nan])
def test_jensen_shannon_refuses_a_weight_that_is_no_share(weight):
    with pytest.raises(ValueError, match=f"weight is {weight}; it is the share of p in the mixture"):
        simplex.jensen_shannon_divergence(jnp.array([0.5, 0.5]), jnp.array([0.5, 0.5]), weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_orthogonal_distributions_are_furthest_apart(dtype, x64):
    value = values([[0.25, 0.75, 0, 0, 0, 0]], [[0, 0, 0.5, 0.5, 0, 0]], dtype)
    assert value["hellinger"] == pytest.approx(1, abs=EPS[dtype])
    assert value["fisher_rao"] == pytest.approx(math.pi, abs=4 * EPS[dtype])
    assert value["tv"] == 1
    assert value["kl"] == value["reverse_kl"] == math.inf


def test_fisher_rao_slope_next_to_orthogonal(x64):
    """Regression: jnp.minimum(chord, 1) at its tie halved the slope, beyond it, none was left."""
    p, q = np.array([1.0, 1e-36, 0, 0, 0, 0]), np.array([1e-36, 1.0, 0, 0, 0, 0])
    by_p, _ = slopes(p, q)["fisher_rao"]
    # d 2 arccos(Σ√pq) = −Σ √(q/p)/√(1 − c²) dp.
    assert by_p[0, 1] == pytest.approx(-1e18, rel=1e-9)


# -- gradients ------------------------------------------------------------------------------------------

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


# -- projection -----------------------------------------------------------------------------------------


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


# -- majorization ---------------------------------------------------------------------------------------


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


# -- normalize, safe_log --------------------------------------------------------------------------------


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


def test_safe_log(x64):
    p = jnp.array([0.0, 1e-300, 0.5, 1.0])
    np.testing.assert_array_equal(simplex.safe_log(p)[0], -np.inf)
    np.testing.assert_allclose(simplex.safe_log(p)[1:], np.log(p[1:]), rtol=1e-15)
    jacobian = jit(jax.jacobian(simplex.safe_log))(p)
    np.testing.assert_allclose(jacobian, np.diag([0.0, 1e300, 2.0, 1.0]), rtol=1e-15)


# -- transformations ------------------------------------------------------------------------------------


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


# -- validation -----------------------------------------------------------------------------------------

REQUIRE = {
    "probabilities": (simplex.require_probabilities, [0.5, 0.5], "probabilities"),
    "log": (simplex.require_log_probabilities, [-math.log(2), -math.log(2)], "log-probabilities"),
    "logits": (simplex.require_logits, [3.0, -1.0], "logits"),
}


@pytest.mark.parametrize("kind", REQUIRE)
@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_what_is_right_passes(kind, dtype, x64):
    require, good, _ = REQUIRE[kind]
    for shape in ((2,), (3, 2), (2, 3, 2), (0, 2)):
        assert require(cast(np.broadcast_to(good, shape), dtype)) is None
    assert require(np.broadcast_to(good, (3, 2))) is None


def test_zeros_pass_as_zeros_and_as_minus_infinity():
    simplex.require_probabilities(jnp.array([0.0, 1.0, -0.0]))
    simplex.require_log_probabilities(jnp.array([-jnp.inf, 0.0]))
    simplex.require_logits(jnp.array([-jnp.inf, 5.0]))


@pytest.mark.parametrize("kind", REQUIRE)
@pytest.mark.parametrize("dtype", ["int32", "bool", "float8_e4m3fn"])
def test_a_dtype_that_is_no_probability_is_a_type_error(kind, dtype):
    require, _, noun = REQUIRE[kind]
    with pytest.raises(TypeError, match=rf"^teacher has dtype {dtype}; {noun} are .*teacher\.astype\(jnp\.f"):
        require(jnp.array([[1, 0]]).astype(dtype), "teacher")


@pytest.mark.parametrize("kind", REQUIRE)
@pytest.mark.parametrize("x", [np.ones((3, 1)), np.ones((2, 0)), np.float64(1.0)])
def test_fewer_than_two_classes_are_refused(kind, x):
    require = REQUIRE[kind][0]
    with pytest.raises(ValueError, match=r"^teacher has shape .* needs K ≥ 2 .* pass the pair \[1 − p, p\]"):
        require(x, "teacher")


@pytest.mark.parametrize(
    ("kind", "bad", "says"),
    [
        ("probabilities", [math.nan, 1.0], "contains nan; find its origin"),
        ("probabilities", [math.inf, 0.0], "contains inf; find its origin"),
        (
            "probabilities",
            [-0.25, 1.25],
            r"contains the negative entry -0\.25\. .*op\.from_logits.*op\.log\(",
        ),
        ("probabilities", [0.5, 0.625], r"sums to 1\.125, off by 0\.125 .*simplex\.normalize\(teacher\)"),
        ("probabilities", [0.25, 0.25], r"sums to 0\.5, off by 0\.5 .*op\.from_logits"),
        ("log", [math.nan, 0.0], "contains nan; log-probabilities are ≤ 0, −inf allowed"),
        ("log", [math.inf, 0.0], "contains inf; log-probabilities are ≤ 0"),
        ("log", [0.0, 0.0], r"sums to 2 after exp, off by 1 .*jax\.nn\.log_softmax\(teacher\)"),
        ("log", [-math.inf, -math.inf], "sums to 0 after exp"),
        ("log", [5000.0, 0.0], "sums to inf after exp"),
        ("logits", [math.nan, 0.0], "contains nan; logits are finite, or −inf for an impossible class"),
        ("logits", [0.0, math.inf], "contains inf; logits are finite"),
        ("logits", [-math.inf, -math.inf], "every logit is −inf; at least one class must be possible"),
    ],
)
def test_a_bad_row_is_named_with_its_argument_and_a_remedy(kind, bad, says):
    require, good, _ = REQUIRE[kind]
    with pytest.raises(ValueError, match=rf"^teacher, {says}"):
        require(jnp.array(bad), "teacher")
    with pytest.raises(ValueError, match=rf"^teacher, row 2: {says}"):
        require(jnp.array([good, good, bad, bad]), "teacher")
    with pytest.raises(ValueError, match=rf"^teacher, row \(1, 0\): {says}"):
        require(jnp.array([[good, good], [bad, bad]]), "teacher")


@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_the_tolerance_of_the_sum_is_that_of_the_dtype(dtype, x64):
    tolerance = simplex.SUM_TOLERANCE[dtype]
    step = 2 * float(jnp.finfo(dtype).eps)
    for factor, accepted in ((0.5, True), (2 * 1.0 + step / tolerance, False)):
        p = cast([0.5, 0.5 + factor * tolerance], dtype)
        off = abs(float(np.asarray(p, float).sum()) - 1)
        assert (off <= tolerance) == accepted
        if accepted:
            simplex.require_probabilities(p)
        else:
            with pytest.raises(ValueError, match=f"tolerance {tolerance:g} in {dtype}"):
                simplex.require_probabilities(p)


def test_defaults_name_the_argument():
    for require, name in (
        (simplex.require_probabilities, "p"),
        (simplex.require_log_probabilities, "log_p"),
        (simplex.require_logits, "logits"),
    ):
        with pytest.raises(ValueError, match=f"^{name}, contains nan"):
            require(jnp.array([jnp.nan, 1.0]))


@pytest.mark.parametrize("kind", REQUIRE)
def test_traced_values_pass_but_their_shape_and_dtype_do_not(kind):
    require, good, _ = REQUIRE[kind]

    def checked(x):
        require(x, "teacher")
        return jnp.sum(x)

    bad = jnp.array([jnp.nan, jnp.inf])
    jax.eval_shape(checked, bad)
    jax.vmap(checked)(jnp.stack([bad, bad]))
    jax.grad(checked)(jnp.array(good))
    with pytest.raises(ValueError, match="needs K ≥ 2"):
        jax.eval_shape(checked, bad[:1])
    with pytest.raises(TypeError, match="teacher has dtype int32"):
        jax.eval_shape(checked, jnp.array([1, 0]))


def test_is_traced():
    assert not simplex.is_traced(1.0, jnp.ones(2), {"a": np.ones(2)}, None)
    seen = []
    jax.eval_shape(lambda x: seen.append(simplex.is_traced({"a": [1.0, x]})), jnp.ones(2))
    assert seen == [True]


# -- properties -----------------------------------------------------------------------------------------


@st.composite
def distributions(draw, num_classes=CLASSES):
    """Mass over many orders of magnitude, exact zeros and ties."""
    entry = st.one_of(
        st.integers(0, 4).map(float),
        st.floats(-30, 0).map(lambda e: 10.0**e),
        st.floats(0, 1).filter(lambda v: v == 0 or v > 1e-200),
    )
    weights = np.array(draw(st.lists(entry, min_size=num_classes, max_size=num_classes)))
    if weights.sum() == 0:
        weights[draw(st.integers(0, num_classes - 1))] = 1.0
    return weights / weights.sum()


def in_float64(p, q=None):
    """Rows stacked, so that one call serves an example."""
    with jax.enable_x64(True):
        return values(np.array(p), None if q is None else np.array(q), "float64")


@given(distributions(), distributions())
def test_divergences_are_positive_ordered_and_bounded(p, q):
    value = in_float64([p, q], [q, p])
    kl, tv, chord, arc = (value[name][0] for name in ("kl", "tv", "hellinger", "fisher_rao"))
    js, swapped = value["js"][WEIGHTS.index(0.5)]
    assert kl >= 0
    assert kl >= 2 * tv**2 - 1e-14  # Pinsker
    assert 2 * chord**2 <= kl + 1e-14
    assert chord**2 - 1e-14 <= tv <= math.sqrt(2) * chord + 1e-14  # Le Cam
    assert 0 <= js <= math.log(2) * tv + 1e-14
    assert 2 * math.sqrt(2) * chord <= arc * (1 + 1e-14)
    assert arc <= math.pi * (1 + 1e-15)
    assert js == pytest.approx(swapped, abs=1e-15)
    assert value["reverse_kl"][0] == value["kl"][1]


@given(p=distributions(), q=distributions(), r=distributions())
def test_triangle_inequality(p, q, r):
    value = in_float64([p, r, p, q], [r, p, q, r])
    for name in ("hellinger", "fisher_rao", "tv"):
        long, back, first, second = value[name]
        assert long <= first + second + 1e-14
        assert long == back


def test_kl_has_no_triangle_inequality(x64):
    p, q, r = (np.array([x, 1 - x, 0, 0, 0, 0]) for x in (0.99, 0.9, 0.5))
    assert values(p, r)["kl"] > values(p, q)["kl"] + values(q, r)["kl"] + 0.1


@given(
    st.lists(st.floats(-3, 3), min_size=CLASSES, max_size=CLASSES).map(np.array),
    distributions(),
    st.floats(-100, 100),
)
def test_projection_is_idempotent_closest_and_blind_to_a_shift(x, other, shift):
    with jax.enable_x64(True):
        q = np.asarray(jitted(simplex.project)(jnp.asarray(x)))
        again = np.asarray(jitted(simplex.project)(jnp.asarray(q)))
        shifted = np.asarray(jitted(simplex.project)(jnp.asarray(x + shift)))
    assert (q >= 0).all()
    assert abs(q.sum() - 1) <= simplex.SUM_TOLERANCE["float64"]
    np.testing.assert_allclose(again, q, rtol=0, atol=1e-15)
    np.testing.assert_allclose(shifted, q, rtol=0, atol=1e-13)
    assert np.linalg.norm(q - x) <= np.linalg.norm(other - x) + 1e-14
    assert (x - q) @ (
        other - q
    ) <= 1e-13  # the variational inequality, which only the closest point satisfies


def entropies(value, orders=slice(None)):
    return np.array([value["entropy"], *value["renyi"][orders], *value["tsallis"][orders]])


@given(distributions(), st.data())
def test_majorization_orders_every_entropy(p, data):
    """q from p by averaging pairs of coordinates, so p ≻ q by the theorem of Muirhead."""
    q = p.copy()
    for _ in range(data.draw(st.integers(1, 4))):
        i, j = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
        share = data.draw(st.floats(0, 1))
        q[i], q[j] = share * q[i] + (1 - share) * q[j], share * q[j] + (1 - share) * q[i]
    value = in_float64([p, q], [q, p])
    assert value["margin"][0] >= -1e-15
    of_p, of_q = entropies(value).T
    assert (of_p <= of_q + 1e-12).all()


@given(distributions(), distributions())
def test_entropies_agree_with_the_margin_of_any_pair(p, q):
    value = in_float64([p, q], [q, p])
    # Below order 1 a mass of 1e-16 counts that the rounded partial sums do not see.
    of_p, of_q = entropies(value, slice(ORDERS.index(1.0), None)).T
    if value["margin"][0] >= 0:
        assert (of_p <= of_q + 1e-12).all()
    if value["margin"][1] >= 0:
        assert (of_q <= of_p + 1e-12).all()


@given(distributions())
def test_renyi_entropy_is_non_increasing_in_the_order(p):
    renyi = in_float64(p)["renyi"][:, 0]
    assert (np.diff(renyi) <= 1e-13).all()
    assert renyi[-1] >= 0
    assert renyi[0] <= math.log(CLASSES) + 1e-15
