"""Divergences and distances against mpmath and scipy."""

import functools
import itertools
import math

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
    LEFT,
    RIGHT,
    ROWS,
    TOLERANCE,
    TWO,
    WEIGHTS,
    P,
    cast,
    exact,
    floats,
    jit,
    mp,
    mp_fisher_rao,
    mp_hellinger,
    mp_js,
    mp_kl,
    relative_error,
    seen,
    slopes,
    values,
)


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
