"""Sampled targets: unbiased by exact sums and by z-tests, and what softening after sampling costs."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from sparsekd_jax import operators
from sparsekd_jax.targets import PADDING, Dense, Samples, estimate, expected_distinct, sample, sampling, top_k

POWER, MIXTURE = operators.get("power"), operators.get("mixture")
FAMILIES = (
    POWER,
    MIXTURE,
    operators.get("tsallis", alpha=1.5),
    operators.get("euclidean-entropy-projection"),
)


def log(p):
    with np.errstate(divide="ignore"):
        return np.log(p)


def zipf(vocab_size):
    weights = 1 / np.arange(1, vocab_size + 1)
    return weights / weights.sum()


# -- expectations, summed exactly ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weigh():
    return jax.jit(jax.vmap(sampling._weigh, in_axes=(0, None, None)))


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.7])
@pytest.mark.parametrize("p", [(0.6, 0.3, 0.1, 0.0), (0.97, 0.01, 0.01, 0.01)])
def test_all_draws_sum_to_the_softened_target(weigh, p, tau, x64):
    """Mean and variance over all 4³ draws: q, and (Σ q²/r − q²)/N, whatever the proposal."""
    n, drawn = 3, np.array(list(itertools.product(range(4), repeat=3)), np.int32)
    for op in FAMILIES:
        log_q = op.log(jnp.asarray(log(np.array(p))), 2.0)
        q = np.exp(np.asarray(log_q))
        r = np.where(q > 0, q**tau, 0)
        r /= r.sum()
        log_r = jnp.asarray(log(r))
        possible = (r[drawn] > 0).all(-1)
        ids, weights = weigh(jnp.asarray(drawn[possible]), log_q, log_r)
        dense = np.asarray(estimate(Samples(ids, weights, jnp.full(len(ids), n), 4)))
        chances = r[drawn[possible]].prod(-1)
        mean = chances @ dense
        np.testing.assert_allclose(mean, q, atol=1e-12)
        second = np.where(r > 0, q**2 / np.where(r > 0, r, 1), 0)
        np.testing.assert_allclose(chances @ (dense - q) ** 2, (second - q**2) / n, atol=1e-12)


def test_softening_afterwards_is_biased_on_the_same_sum(weigh, x64):
    """The twin: drawn from p, then softened; only the mixture forgives it."""
    p = np.array([0.6, 0.3, 0.1, 0.0])
    drawn = np.array(list(itertools.product(range(3), repeat=3)), np.int32)
    ids, weights = weigh(jnp.asarray(drawn), jnp.asarray(log(p)), jnp.asarray(log(p)))
    empirical = estimate(Samples(ids, weights, jnp.full(len(ids), 3), 4))
    chances = p[drawn].prod(-1)
    off = {
        op.name: np.abs(chances @ np.asarray(op(empirical, 2.0)) - np.asarray(op(p, 2.0))).max()
        for op in (POWER, MIXTURE)
    }
    assert off["mixture"] < 1e-12
    assert off["power"] > 0.05


# -- the draws ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [2, 7, 1000])
def test_places_are_shared_out_by_mass(vocab_size):
    """Over a fine grid of both places each token has its share, to the spacing of the grid."""
    mass = np.random.default_rng(0).gamma(0.3, size=vocab_size).astype(np.float32)
    mass[::3] = 0
    mass[-1] = 0
    if vocab_size == 2:
        mass[:] = [0.25, 0.75]
    grid = (np.arange(1000) + 0.5) / 1000
    places = np.stack(np.meshgrid(grid, grid), 0).reshape(2, -1).astype(np.float32)
    drawn = np.asarray(jax.jit(sampling._pick)(jnp.asarray(mass), jnp.asarray(places)))
    share = np.bincount(drawn, minlength=vocab_size) / drawn.size
    np.testing.assert_allclose(share, mass / mass.sum(), atol=2e-3 if vocab_size < 1000 else 1e-3)
    assert (share[mass == 0] == 0).all()


def test_a_token_without_mass_is_never_drawn():
    """At either end of either interval, zeros first, last and between; sums in parallel round unevenly."""
    mass = np.random.default_rng(1).gamma(0.1, size=4096).astype(np.float32)
    mass[np.random.default_rng(2).random(4096) < 0.7] = 0
    mass[:70] = mass[-70:] = 0
    ends = np.array([0, np.finfo(np.float32).tiny, 0.5, 1 - 2**-24], np.float32)
    edges = np.unique(np.cumsum(mass.astype(np.float64)) / mass.sum()).astype(np.float32)
    places = np.concatenate([ends, edges[edges < 1]])
    pairs = np.concatenate(
        [np.stack([places, places[::-1]]), np.stack([places, np.zeros_like(places)])], axis=1
    )
    drawn = np.asarray(jax.jit(sampling._pick)(jnp.asarray(mass), jnp.asarray(pairs)))
    assert (mass[drawn] > 0).all()


def test_cumulative_sums_never_fall_and_stay_level_at_zeros():
    """As jnp.cumsum alone does not, of a few thousand tokens."""
    mass = np.random.default_rng(1).dirichlet(np.full(30_000, 0.05)).astype(np.float32)
    mass[::2] = 0
    plain, ours = (np.diff(jax.jit(f)(jnp.asarray(mass))) for f in (jnp.cumsum, sampling._cumulative))
    assert (plain < 0).any()
    assert (ours >= 0).all()
    assert not ours[mass[1:] == 0].any()


def test_tokens_below_the_rounding_of_one_are_drawn_in_their_share():
    """1e-9 each beside a token of nearly 1: a single float32 sum cannot tell them apart, blocks can."""
    mass = np.full(10_000, 1e-9, np.float32)
    mass[0] = 1
    single = np.cumsum(mass, dtype=np.float32)
    assert len(np.unique(single)) < 1_000  # the twin: most tokens could not be reached at all
    block = np.full(50_000, 0.9999999, np.float32)  # the last block, and then evenly inside
    places = np.stack([block, ((np.arange(50_000) + 0.5) / 50_000).astype(np.float32)])
    drawn = np.asarray(jax.jit(sampling._pick)(jnp.asarray(mass), jnp.asarray(places)))
    shares = np.unique(drawn, return_counts=True)[1] / drawn.size
    assert len(shares) == 100
    np.testing.assert_allclose(shares, 0.01, atol=2e-4)


# -- through the front door --------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.6, 1.0, 1.3])
def test_the_mean_of_many_is_the_target(tau):
    """4,000 rows of 8 draws: every coordinate within 5 standard errors."""
    p = np.array([0.5, 0.2, 0.15, 0.1, 0.04, 0.01, 0.0], np.float32)
    rows = Dense(jnp.asarray(np.tile(log(p), (4000, 1))))
    seen = sample(jax.random.key(3), POWER, rows, 2.0, 8, proposal=tau)
    dense = np.asarray(estimate(seen), np.float64)
    q = np.sqrt(p.astype(np.float64))
    q /= q.sum()
    r = np.where(q > 0, q**tau, 0)
    r /= r.sum()
    on = q > 0
    exact = np.sqrt((q[on] ** 2 / r[on] - q[on] ** 2) / 8 / 4000)
    z = (dense.mean(0)[on] - q[on]) / exact
    assert np.abs(z).max() < 5
    assert (dense[:, ~on] == 0).all()
    late = np.asarray(POWER(np.asarray(estimate(sample(jax.random.key(3), POWER, rows, 1.0, 8))), 2.0))
    assert np.abs((late.mean(0)[on] - q[on]) / exact).max() > 20  # the twin: softened after sampling


def test_zipf_softened_before_and_after():
    """Published: V = 1000, N = 50, T = 2: TV bias .32 after, .012 before (which is the noise of the mean)."""
    p, n, rows = zipf(1000), 50, 2000
    target = Dense(jnp.asarray(np.tile(np.log(p), (rows, 1)), jnp.float32))
    q = np.sqrt(p) / np.sqrt(p).sum()
    before = np.asarray(estimate(sample(jax.random.key(0), POWER, target, 2.0, n)), np.float64)
    drawn = estimate(sample(jax.random.key(1), POWER, target, 1.0, n))
    after = np.asarray(POWER(drawn, 2.0), np.float64)
    distance = {
        size: [np.abs(x[:size].mean(0) - q).sum() / 2 for x in (before, after)] for size in (500, rows)
    }
    noise = {size: np.sqrt(2 / np.pi * q * (1 - q) / (n * size)).sum() / 2 for size in distance}
    for size, (unbiased, biased) in distance.items():
        assert unbiased == pytest.approx(noise[size], rel=0.1)  # noise and nothing else: falls like 1/√rows
        assert biased == pytest.approx(0.325, abs=0.01)  # stays


def test_rows_are_merged_and_padded():
    p = np.array([[0.9, 0.1, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]], np.float32)
    seen = sample(jax.random.key(0), MIXTURE, Dense(jnp.asarray(log(p))), jnp.array([1.0, 3.0]), 6)
    assert seen.vocab_size == 4
    assert seen.num_draws.tolist() == [6, 6]
    for ids, weights in zip(np.asarray(seen.ids), np.asarray(seen.weights), strict=True):
        kept = ids[ids != PADDING]
        assert (np.diff(kept) > 0).all()
        assert (ids[len(kept) :] == PADDING).all()
        assert (weights[: len(kept)] > 0).all()
        assert (weights[len(kept) :] == 0).all()
        np.testing.assert_allclose(weights * 6, np.rint(weights * 6), atol=1e-6)
        assert weights.sum() == pytest.approx(1, abs=1e-6)
    assert set(np.asarray(seen.ids[0]).tolist()) <= {0, 1, PADDING}


def test_under_jit_and_vmap_it_is_the_same():
    rows = Dense(jnp.log(jnp.asarray(zipf(30), jnp.float32))[None].repeat(3, 0))
    eager = sample(jax.random.key(5), POWER, rows, 2.0, 7)
    jitted = jax.jit(lambda k, d, t: sample(k, POWER, d, t, 7))(jax.random.key(5), rows, 2.0)
    assert (eager.ids == jitted.ids).all()
    assert (eager.weights == jitted.weights).all()
    mapped = jax.vmap(lambda k: sample(k, POWER, rows, 2.0, 7))(jax.random.key(5)[None])
    assert (mapped.ids[0] == eager.ids).all()
    assert (mapped.weights[0] == eager.weights).all()
    assert not (eager.ids[0] == eager.ids[1]).all()  # rows draw independently


@pytest.mark.parametrize(("dtype", "out"), [("bfloat16", "float32"), ("float32", "float32")])
def test_dtypes(dtype, out):
    log_p = jnp.log(jnp.full((2, 4), 0.25)).astype(dtype)
    assert sample(jax.random.key(0), POWER, log_p, 2.0, 6).weights.dtype == out


def test_float64(x64):
    seen = sample(jax.random.key(0), POWER, jnp.log(jnp.array([0.5, 0.25, 0.25])), 2.0, 4, proposal=0.5)
    assert seen.weights.dtype == jnp.float64


def test_a_plain_function_draws_what_the_operator_draws():
    def power(p, temperature):
        weights = p ** (1 / temperature)
        return weights / weights.sum()

    rows = jnp.log(jnp.asarray(np.random.default_rng(0).dirichlet(np.ones(30), 3), jnp.float32))
    ours, theirs = (sample(jax.random.key(2), op, rows, 2.0, 7) for op in (POWER, power))
    assert (ours.ids == theirs.ids).all()


def test_distinct_tokens():
    q = np.array([0.5, 0.3, 0.2, 0.0])
    all_draws = np.array(list(itertools.product(range(4), repeat=4)))
    exact = sum(q[d].prod() * len(set(d.tolist())) for d in all_draws)
    assert float(expected_distinct(jnp.asarray(q, jnp.float32), 4)) == pytest.approx(exact, rel=1e-6)
    assert float(expected_distinct(jnp.array([1.0, 0.0]), 9)) == 1
    assert float(expected_distinct(jnp.array([0.5, 0.5]), 10**10)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_draws": 0}, "num_draws is 0; at least one"),
        ({"proposal": -1.0}, "proposal is -1; .* τ ≥ 0"),
        ({"proposal": math.nan}, "proposal is nan"),
        ({"target": np.log(np.array([[0.5, 0.5], [0.5, 0.6]], np.float32))}, "target, row 1: sums to 1.1"),
        ({"temperature": 0.0}, "temperature is 0; power takes T in"),
        ({"proposal": np.ones(3)}, r"proposal has shape \(3,\); one τ is for all rows"),
    ],
)
def test_bad_input(change, message):
    arguments = {
        "target": np.log(np.array([0.5, 0.5], np.float32)),
        "temperature": 2.0,
        "num_draws": 3,
        **change,
    }
    with pytest.raises(ValueError, match=message):
        sample(jax.random.key(0), POWER, arguments.pop("target"), **arguments)


def test_bad_kinds_of_input():
    rows = np.log(np.array([0.5, 0.5], np.float32))
    with pytest.raises(TypeError, match=r"num_draws is 2\.0; pass a whole number"):
        sample(jax.random.key(0), POWER, rows, 2.0, 2.0)
    with pytest.raises(TypeError, match="target is TopK; tokens are drawn of a Dense target"):
        sample(jax.random.key(0), POWER, top_k(rows, 1), 2.0, 3)


@pytest.mark.parametrize(
    ("q", "num_draws", "error", "message"),
    [
        ([0.5, 0.5], -1, ValueError, "num_draws is -1; at least one"),
        ([0.5, 0.5], 1.5, TypeError, r"num_draws is 1\.5; pass a whole number"),
        ([2.0, -1.0], 3, ValueError, "q: contains the negative entry -1"),
        ([0.5, 0.6], 3, ValueError, r"q: sums to 1\.1"),
    ],
)
def test_what_cannot_be_drawn_from_has_no_distinct_tokens(q, num_draws, error, message):
    with pytest.raises(error, match=message):
        expected_distinct(jnp.array(q), num_draws)


@pytest.mark.nightly
def test_frequencies_of_a_large_vocabulary():
    """Chi-square of 2·10⁶ draws of a Zipf of 32,000 tokens in float32."""
    q = zipf(32_000)
    rows = jnp.broadcast_to(jnp.log(jnp.asarray(q, jnp.float32)), (1000, 32_000))
    counts = np.asarray(estimate(sample(jax.random.key(0), POWER, rows, 1.0, 2000)), np.float64).sum(0) * 2000
    statistic = ((counts - 2e6 * q) ** 2 / (2e6 * q)).sum()
    assert 1e-4 < special.chdtrc(31_999, statistic) < 1 - 1e-4
