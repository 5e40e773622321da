"""Accuracy against 50-digit arithmetic, in the measure and to the tolerances that the docstrings state."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from sparsekd_jax.operators import (
    ConvexMixture,
    EntropyProjection,
    EuclideanEntropyProjection,
    PowerTransform,
    TsallisSoftening,
)
from sparsekd_jax.operators.base import apply_unchecked
from tests.operators import reference

FAMILIES = {
    "power": (PowerTransform(), reference.power, 1e-12),
    "mixture": (ConvexMixture(), reference.mixture, 1e-12),
    "entropy-projection": (EntropyProjection(), reference.entropy_projection, 1e-10),
    "euclidean": (EuclideanEntropyProjection(), reference.euclidean_entropy_projection, 1e-10),
}
FAMILIES |= {
    f"tsallis({alpha:g})": (TsallisSoftening(alpha), reference.tsallis(alpha), 1e-12)
    for alpha in (0.1, 0.5, 0.999, 1.0, 1.003, 1.02, 1.5, 2.5, 3.0)
}
KINDS = ("dirichlet", "tiny", "zeros", "near-tie", "dominant", "near-uniform", "uniform", "vertex")
TEMPERATURES = (1e-3, 0.3, 0.9, 1.0, 1.001, 2.0, 37.0, 1e6)
LARGE = (0.3, 2.0, 1e3)


def row(kind, k, seed=0):
    rng = np.random.default_rng([seed, k])
    p = rng.dirichlet(np.full(k, 0.5)) + 1e-12
    if kind == "tiny":
        p = 10.0 ** rng.uniform(-30, 0, k)
    elif kind == "zeros":
        p[1::3] = 0
    elif kind == "near-tie":
        p[0] = p[1] * (1 + 1e-9)
    elif kind == "dominant":
        p = np.where(np.arange(k) == 0, 1e9 * k, p)
    elif kind == "near-uniform":
        p = 1 + 1e-8 * rng.normal(size=k)
    elif kind == "uniform":
        p = np.ones(k)
    elif kind == "vertex":
        p = np.eye(k)[0]
    p = p / p.sum()
    return p / p.sum()


def usable(operator, kind, t):
    if t not in operator.claims.temperatures:
        return False
    return operator.claims.domain == "simplex" or kind not in ("zeros", "vertex")


def error(name, t, q, wanted, log=False):
    """The contract's measure; next to a truncation threshold, its absolute rule.

    Families that truncate (α > 1, T < 1) promise a coordinate at the threshold only to a few ulp before the
    power 1/(α − 1): such coordinates pass by ``|Δ q^(α−1)| ≤ 1e-14`` and leave the relative measure.
    """
    r = 1.0 if name == "mixture" else getattr(FAMILIES[name][0], "alpha", 1.0) - 1
    if t >= 1 or r <= 0:
        return reference.log_error(q, wanted, log)
    values = np.exp(q) if log else np.asarray(q)
    exact = np.array([float(x) for x in wanted])
    far = np.abs(values**r - exact**r) > 1e-14
    return reference.log_error(q[far], [x for x, keep in zip(wanted, far, strict=True) if keep], log)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("k", [2, pytest.param(5, marks=pytest.mark.nightly), 24])
def test_float64_from_p_log_p_and_logits(name, k, x64):
    operator, soften, tolerance = FAMILIES[name]
    for kind in KINDS:
        p = row(kind, k)
        with np.errstate(divide="ignore"):
            log_p = np.log(p)
        logits = log_p + 3.7
        for t in TEMPERATURES if k < 10 else LARGE:
            if not usable(operator, kind, t):
                continue
            q = np.asarray(operator(p, t))
            log_q = np.asarray(operator.log(log_p, t))
            from_logits = np.asarray(operator.from_logits(logits, t))
            exact_t = mp.mpf(t)
            guess = np.maximum(q, 1e-300) if operator.claims.domain == "interior" else q
            where = f"{kind}, T = {t}"
            assert error(name, t, q, soften(reference.exact(p), exact_t, guess)) <= tolerance, where
            wanted = soften(reference.exact(log_p, log=True), exact_t, guess)
            assert error(name, t, log_q, wanted, log=True) <= tolerance, where
            wanted = soften(reference.exact(logits, log=True), exact_t, guess)
            assert error(name, t, from_logits, wanted) <= tolerance, where
            assert abs(q.sum() - 1) <= 1e-12, where


@pytest.mark.parametrize("name", ["power", "mixture", "tsallis(0.5)", "tsallis(1.5)", "tsallis(3)"])
def test_float64_with_a_thousand_classes(name, x64):
    operator, soften, tolerance = FAMILIES[name]
    for kind in ("tiny", "dominant"):
        p = row(kind, 1000)
        for t in (0.3, 2.0):
            q = np.asarray(operator(p, t))
            assert error(name, t, q, soften(reference.exact(p), mp.mpf(t), q)) <= tolerance, (
                f"{kind}, T = {t}"
            )


@pytest.mark.parametrize("name", ["entropy-projection", "euclidean"])
def test_target_forms_with_a_hundred_classes(name, x64):
    operator, soften, tolerance = FAMILIES[name]
    p = row("tiny", 100)
    q = np.asarray(operator(p, 3.0))
    assert reference.log_error(q, soften(reference.exact(p), mp.mpf(3), q)) <= tolerance


FLOAT32_KINDS = ("dirichlet", "tiny", "near-tie", "dominant", "near-uniform", "uniform")


FLOAT32_OPERATORS = {name: family[0] for name, family in FAMILIES.items()}
FLOAT32_OPERATORS |= {f"tsallis({a:g})": TsallisSoftening(a) for a in (0.39, 0.7, 1.1, 1.3, 1.61, 4.0)}


@pytest.mark.parametrize("name", FLOAT32_OPERATORS)
def test_float32_within_two_millionths(name):
    """Against the library's own float64 answer for the same float32 row, itself tested above."""
    operator = FLOAT32_OPERATORS[name]
    rng = np.random.default_rng(5)
    rows = [row(rng.choice(FLOAT32_KINDS), 20, seed) for seed in range(400)]
    p = np.asarray(rows, np.float32)
    temperatures = 10.0 ** rng.uniform(-3, 4, 400)
    temperatures = np.asarray(
        temperatures if operator.claims.temperatures.low == 0 else 1 + temperatures, np.float32
    )
    q = np.asarray(operator(p, temperatures))
    assert q.dtype == np.float32
    with jax.enable_x64(True):
        exact = p.astype(np.float64)
        exact /= exact.sum(-1, keepdims=True)
        wanted = np.asarray(operator(exact, temperatures.astype(np.float64)))
    misses = np.abs(q - wanted)
    r = getattr(operator, "alpha", 1.0) - 1
    if r > 1:  # truncates with an infinite slope: the threshold's rule, as in `error` above
        at_threshold = np.abs(q.astype(np.float64) ** r - wanted**r) <= 8 * np.finfo(np.float32).eps
        misses = np.where((temperatures < 1)[:, None] & at_threshold, 0, misses)
    assert misses.max() <= 2e-6
    assert np.abs(q.astype(np.float64).sum(-1) - 1).max() <= 1e-5
    # A batch without T < 1 may take a shorter way.
    warm = temperatures >= 1
    assert np.abs(np.asarray(operator(p[warm], temperatures[warm])) - wanted[warm]).max() <= 2e-6


@pytest.mark.parametrize("alpha", [0.5, 1.09, 1.3, 1.5, 3.0])
def test_logits_far_apart_overflow_nothing_in_float32(alpha):
    """Within e^±1000 of the largest: exponentials of r·log p alone would be inf, and their sums NaN."""
    operator = TsallisSoftening(alpha)
    logits = np.array([[0, -s, -s / 2, -1, -0.9 * s] for s in (100.0, 180.0, 1000.0)], np.float32)
    rows = np.concatenate([logits] * 6)
    temperatures = np.repeat(np.array([0.3, 0.9999, 1.0, 1.001, 4.0, 1e4], np.float32), 3)
    q = np.asarray(operator.from_logits(rows, temperatures))
    with jax.enable_x64(True):
        wanted = operator.from_logits(rows.astype(np.float64), temperatures.astype(np.float64))
    np.testing.assert_allclose(q, np.asarray(wanted), rtol=0, atol=2e-6)
    slopes = jax.grad(lambda z: (operator.from_logits(z, temperatures) ** 2).sum())(jnp.asarray(rows))
    assert np.isfinite(slopes).all()


@pytest.mark.parametrize("name", ["tsallis(1.3)", "tsallis(1.5)", "tsallis(2.5)", "tsallis(3)", "tsallis(6)"])
@pytest.mark.parametrize("gap", [100.0, 3000.0, 1e6])
def test_a_class_far_below_has_the_q_of_a_zero_in_float32(name, gap):
    """Its log p has digits to eps·gap only, and none of them matters: q is that of the face."""
    operator = TsallisSoftening(float(name[8:-1]))
    for t in (1.001, 2.0, 20.0, 1e4):
        face = np.array([1.0, 0.0])
        q = np.asarray(operator.log(np.array([0.0, -gap], np.float32), t), np.float64)
        wanted = reference.tsallis(operator.alpha)(
            reference.exact(face), mp.mpf(float(np.float32(t))), np.exp(q)
        )
        assert np.abs(np.exp(q) - np.array([float(x) for x in wanted])).max() <= 2e-6
        assert abs(np.exp(q).sum() - 1) <= 1e-5


@pytest.mark.parametrize("alpha", [0.99, 1.0, 1.001, 1.01])
@pytest.mark.parametrize("gap", [500.0, 1e4, 1e5])
def test_logits_far_apart_next_to_alpha_one_and_hot(gap, alpha):
    """There q is large where log p is −1e5: log p + log(q/p) would have digits to eps·1e5 only."""
    z = np.repeat(np.array([0, -gap / 2, -gap], np.float32), [3, 3, 6])
    for dtype, tolerance, whole in (("float32", 2e-6, 1e-5), ("float64", 1e-12, 1e-12)):
        with jax.enable_x64(dtype == "float64"):
            for t in (100.0, 1e4, 1e6):
                a = np.asarray(alpha, dtype)
                q = np.asarray(TsallisSoftening(a).from_logits(z.astype(dtype), t)).astype(np.float64)
                p = reference.exact(z, log=True)
                wanted = reference.tsallis(float(a))(p, mp.mpf(t), q)
                assert np.abs(q - np.array([float(x) for x in wanted])).max() <= tolerance, (dtype, t)
                assert abs(q.sum() - 1) <= whole, (dtype, t)


@pytest.mark.parametrize("scale", [300.0, 3e4])
@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.5, 3.0])
def test_rows_of_logits_far_apart_sum_to_one_in_float32(alpha, scale):
    """What every class of a thousand is off by adds up."""
    z = scale * np.random.default_rng(0).standard_normal((32, 1000)).astype(np.float32)
    q = np.asarray(TsallisSoftening(alpha).from_logits(z, 20.0), np.float64)
    assert np.abs(q.sum(-1) - 1).max() <= 1e-5


def test_the_entropy_projection_at_one_is_the_identity_where_all_but_one_class_underflow():
    """The entropy to aim at is 0 to rounding there, and a search for it finds nothing."""
    operator = EntropyProjection()
    for gaps in ([0.0, -200.0], [0.0, -200.0, -100.0], [0.0, -1e4, -1e4]):
        log_p = jnp.array(gaps)
        np.testing.assert_array_equal(operator.log(log_p, 1.0), log_p)
        np.testing.assert_array_equal(operator.from_logits(log_p, 1.0), jnp.exp(log_p))
        slopes = jax.jacobian(operator.log, (0, 1))(log_p, 1.0)
        assert all(np.isfinite(s).all() for s in slopes)
        np.testing.assert_allclose(slopes[0][1:, 1:], np.eye(len(gaps) - 1), atol=1e-6)


def test_the_naive_power_formula_misses_the_float32_contract():
    """The twin of the test above: log(p)/T in float32 at T = 1e-3."""
    p = np.asarray([[0.5 + 3e-5, 0.5 - 3e-5]], np.float32)
    naive = jax.nn.softmax(jnp.log(p) / jnp.float32(1e-3), axis=-1)
    with jax.enable_x64(True):
        wanted = np.asarray(PowerTransform()(p.astype(np.float64) / p.astype(np.float64).sum(), 1e-3))
    assert np.abs(np.asarray(naive) - wanted).max() > 2e-6
    assert np.abs(np.asarray(PowerTransform()(p, 1e-3)) - wanted).max() <= 2e-6


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_computed_in_float32(name):
    operator, _, _ = FAMILIES[name]
    p = jnp.asarray(row("dirichlet", 8), jnp.bfloat16)
    q = operator(p, 1.5)
    assert q.dtype == jnp.bfloat16
    wide = operator(p.astype(jnp.float32) / p.astype(jnp.float32).sum(), 1.5)
    np.testing.assert_allclose(np.asarray(q, np.float32), np.asarray(wide), rtol=2**-7, atol=1e-6)
    assert abs(float(np.asarray(q, np.float64).sum()) - 1) <= 4e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_power_at_two_hundred_thousand_classes(dtype):
    with jax.enable_x64(dtype == "float64"):
        z = jnp.asarray(np.random.default_rng(0).normal(size=200_000) * 3, dtype)
        p = jax.nn.softmax(z)
        for t in (1e-3, 0.1, 1.0, 10.0, 1e6):
            q = np.asarray(PowerTransform()(p, t), np.float64)
            assert np.isfinite(q).all()
            assert abs(q.sum() - 1) <= {"float32": 1e-5, "float64": 1e-12}[dtype]


def test_next_to_a_vertex_log_q_keeps_relative_accuracy(x64):
    """From log_p the small mass of the rest decides log q of the top class: −2e-20, not 0."""
    log_p = np.array([-1e-40, np.log(1e-40)])
    log_q = np.asarray(PowerTransform().log(log_p, 2.0))
    assert log_q[0] == pytest.approx(-1e-20, rel=1e-12)
    log_q = np.asarray(ConvexMixture().log(np.array([-1e-20, np.log(1e-20)]), 1.0))
    assert log_q[0] == pytest.approx(-1e-20, rel=1e-12)


def test_the_mixture_next_to_a_vertex_and_next_to_one(x64):
    """Log q of the top class is then tiny, which log(1 − tiny) rounds; alone or beside a colder row."""
    p, t = mp.mpf(10) ** -20, 1 + 1e-9
    log_p = np.array([[-1e-20, np.log(1e-20)]] * 2)
    wanted = mp.log1p(-(p / mp.mpf(t) + (1 - 1 / mp.mpf(t)) / 2))
    alone = ConvexMixture().log(log_p, t)
    beside = ConvexMixture().log(log_p, np.array([t, 0.5]))
    for log_q in (alone, beside):
        assert log_q[0, 0] == pytest.approx(float(wanted), rel=1e-12, abs=0)


def test_the_entropy_projection_next_to_a_vertex_and_next_to_one(x64):
    """The entropy it aims at is then small, and a difference of two that are large forgets it."""
    p, t = np.array([1 - 1e-10, 6e-11, 4e-11]), 1 + 1e-9
    p /= p.sum()
    q = np.asarray(EntropyProjection()(p, t))
    wanted = reference.entropy_projection(reference.exact(p), mp.mpf(t), q)
    assert reference.log_error(q, wanted) <= 1e-10


def test_the_entropy_projection_sums_a_small_deficit_finely_though_that_of_p_is_not(x64):
    """Float32, in a batch without a nearly uniform row, which would have all summed finely."""
    p = np.random.default_rng(0).dirichlet(np.full(20, 0.2), 200).astype(np.float32) + np.float32(1e-4)
    p /= p.sum(-1, keepdims=True)
    exact = p.astype(np.float64)
    wanted = EntropyProjection()(exact / exact.sum(-1, keepdims=True), 1e6)
    np.testing.assert_allclose(EntropyProjection()(p, 1e6), wanted, rtol=0, atol=2e-6)


def test_the_mixture_at_one_is_log_p_itself(x64):
    """Where p underflows too; and the slope in T, (1/(K p) − 1), is cut there and not infinite."""
    log_p = jnp.array([0.0, -800.0])
    np.testing.assert_array_equal(ConvexMixture().log(log_p, 1.0), log_p)
    slope = jax.grad(lambda t: ConvexMixture().log(log_p, t)[1])(1.0)
    assert 1e300 < slope < np.inf


def test_minus_infinity_is_an_ordinary_log(x64):
    log_p = np.array([np.log(0.7), np.log(0.3), -np.inf])
    for operator in (PowerTransform(), TsallisSoftening(0.5)):
        assert np.isneginf(np.asarray(operator.log(log_p, 3.0))[2])
    for operator in (ConvexMixture(), TsallisSoftening(1.5), EuclideanEntropyProjection()):
        assert np.isfinite(np.asarray(operator.log(log_p, 3.0))).all()


@pytest.mark.parametrize("alpha", [1 + 2**-20, 1 + 2**-16, 1.004])
def test_a_zero_fills_as_it_should_next_to_alpha_one(alpha):
    """Float32: the log of its q is divided by α − 1, and the rounding of 1 − 1/T^… with it."""
    p, temperatures = np.array([[1.0, 0.0]] * 3, np.float32), np.array([2.0, 50.0, 1e6], np.float32)
    q = TsallisSoftening(alpha)(p, temperatures)
    with jax.enable_x64(True):
        alpha = float(np.float32(alpha))
        wanted = np.asarray(TsallisSoftening(alpha)(p.astype(np.float64), temperatures.astype(np.float64)))
    np.testing.assert_allclose(q, wanted, rtol=0, atol=2e-6)
    assert 0.01 < wanted[2, 1] < 0.5


def test_power_keeps_a_tiny_class_of_a_wide_row():
    """In float32, where its product with the largest probability, itself small, would be 0."""
    p = np.full(200, (1 - 3e-38) / 199, np.float32)
    p[7] = 3e-38
    wanted = p.astype(np.float64) ** (1 / 30)
    found = PowerTransform()(p, 30.0)
    np.testing.assert_allclose(found, wanted / wanted.sum(), rtol=0, atol=2e-6)


def test_power_keeps_what_a_cold_temperature_magnifies():
    """Float32 at T = 1e-3: rounding p/p_top would move q by up to 1.5e-5."""
    p = np.random.default_rng(0).uniform(0.4995, 0.5, (500, 2)).astype(np.float32)
    top = p.max(-1, keepdims=True).astype(np.float64)
    wanted = (p / top) ** 1e3
    found = apply_unchecked(
        "probabilities", PowerTransform(), jnp.asarray(p), jnp.full(500, 1e-3, jnp.float32)
    )
    np.testing.assert_allclose(found, wanted / wanted.sum(-1, keepdims=True), atol=2e-6)
