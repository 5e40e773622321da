"""Bounds of softened top-k teachers: full distributions, softened by the operator itself, stay inside.

The reference is the real operator in float64 on whole distributions (tested against 50 digits in
tests/operators); the twins at the end are the mistakes that the bounds must not make.
"""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import operators, targets
from sparsekd_jax.operators import ConvergenceError
from sparsekd_jax.targets import Dense, Samples, TopK, soften

V, K = 24, 4
CERTIFIED = ("power", "mixture", "tsallis(0.5)", "tsallis(1.5)", "tsallis(2)", "tsallis(3)")
BELOW_ONE = {"power": 0.4}


@pytest.fixture(autouse=True)
def _float64(x64):
    """All here in float64, but for what says float32."""


def certified(op, target, temperature, **options):
    """`soften`, its arrays in numpy's float64."""
    softened = soften(op, target, temperature, **options)
    return jax.tree.map(lambda x: np.asarray(x, np.float64 if x.dtype.kind == "f" else None), softened)


def capped(shares, r, cap):
    """Tails ``[n, m]`` of mass r, each at most ``cap``: what exceeds it is shared among the others."""
    x = r * shares
    for _ in range(200):
        over = np.maximum(x - cap, 0).sum(-1, keepdims=True)
        x = np.minimum(x, cap)
        room = (x < cap) * (x + 1e-12)
        x = x + over * room / np.maximum(room.sum(-1, keepdims=True), 1e-300)
    assert np.abs(x.sum(-1) - r).max() < 1e-12, "the tails do not hold the mass"
    return np.minimum(x, cap)


HEADS = np.array([[0.3, 0.25, 0.1, 0.06], [0.5, 0.2, 0.2, 0.04], [0.1, 0.07, 0.06, 0.05]])
"""Observed entries; the tails have .29, .06 and .72, of tokens of at most .06, .04 and .05."""


def full_distributions(head, count=1000):
    """Random tails of every concentration, then the flat one and the most concentrated one."""
    rng = np.random.default_rng(0)
    m, r, cap = V - K, 1 - head.sum(), head[-1]
    concentrations = np.geomspace(1e-2, 30, count)
    shares = rng.gamma(np.repeat(concentrations[:, None], m, -1)) + 1e-300
    tails = capped(shares / shares.sum(-1, keepdims=True), r, cap)
    j = int(r / cap + 1e-9)
    most = np.zeros(m)
    most[:j] = cap
    most[j : j + 1] = max(r - j * cap, 0)
    tails = np.concatenate([tails, np.full((1, m), r / m), most[None]])
    return np.concatenate([np.broadcast_to(head, (len(tails), K)), tails], -1)


def softened_truth(op, head, temperature):
    p = full_distributions(head)
    return np.asarray(op(jnp.asarray(p / p.sum(-1, keepdims=True)), temperature))


def temperatures(name):
    return [2.0, 7.0, *([BELOW_ONE[name]] if name in BELOW_ONE else [])]


@pytest.mark.parametrize("name", CERTIFIED)
def test_every_tail_is_inside_and_both_extremes_are_attained(name):
    op = operators.parse(name)
    seen = TopK.observed(np.tile(np.arange(K), (3, 1)), np.log(HEADS), V)
    for temperature in temperatures(name):
        soft = certified(op, seen, temperature)
        for i, head in enumerate(HEADS):
            q = softened_truth(op, head, temperature)
            observed, tail = q[:, :K], q[:, K:].sum(-1)
            assert (observed >= soft.lower[i]).all()
            assert (observed <= soft.upper[i]).all()
            assert (tail >= soft.tail_lower[i]).all()
            assert (tail <= soft.tail_upper[i]).all()
            ends = observed[-2:]
            np.testing.assert_allclose(soft.lower[i], ends.min(0), rtol=1e-10)
            np.testing.assert_allclose(soft.upper[i], ends.max(0), rtol=1e-10)
            np.testing.assert_allclose(soft.tail_lower[i], tail[-2:].min(), rtol=1e-10)
            np.testing.assert_allclose(soft.tail_upper[i], tail[-2:].max(), rtol=1e-10)
            np.testing.assert_allclose(np.exp(soft.log_probs[i]), observed[-2], rtol=1e-10)
            np.testing.assert_allclose(soft.tail_mass[i], tail[-2], rtol=1e-10)
            spread = observed.max(0) - observed.min(0)
            assert (spread.max() > 1e-5) == (name not in ("mixture", "tsallis(2)")), "the tails do not matter"


@pytest.mark.parametrize("name", [*CERTIFIED, "tsallis(5)"])
def test_float32_rounds_outward(name):
    """Lists rounded to float32, softened in float32: the float64 truth stays inside, tightly."""
    op = operators.parse(name)
    for temperature in temperatures(name):
        truth = [softened_truth(op, head, temperature) for head in HEADS]
        with jax.enable_x64(False):
            seen = TopK.observed(np.tile(np.arange(K), (3, 1)), np.log(HEADS).astype(np.float32), V)
            soft = certified(op, seen, temperature)
        for i, q in enumerate(truth):
            observed, tail = q[:, :K], q[:, K:].sum(-1)
            assert (observed >= soft.lower[i]).all()
            assert (observed <= soft.upper[i]).all()
            assert (tail >= soft.tail_lower[i]).all()
            assert (tail <= soft.tail_upper[i]).all()
            np.testing.assert_allclose(soft.lower[i], observed.min(0), rtol=5e-4)
            np.testing.assert_allclose(soft.upper[i], observed.max(0), rtol=5e-4)


def test_next_to_one_the_rounding_of_t_is_allowed_for():
    """Float32 holds T − 1 to 2⁻²⁴/(T − 1) of itself, all that the mixture gives to a rare token."""
    p = np.full(12, 1e-7)
    p[0] = 1 - p[1:].sum()
    seen = TopK.observed(np.array([0, 1]), np.log(p[:2]).astype(np.float32), 12)
    drawn = Samples.from_counts(np.array([5, 0] + [0] * 10))
    for t in (1.00001, 1.0001, 1.001, 1.1):
        q = p / t + (1 - 1 / t) / 12
        soft = soften(operators.get("mixture"), seen, t)
        for truth, low, high in (
            *zip(q[:2], soft.lower.tolist(), soft.upper.tolist(), strict=True),
            (q[2:].sum(), float(soft.tail_lower), float(soft.tail_upper)),
        ):
            assert low <= truth <= high
        assert float(soft.upper[1] - soft.lower[1]) < 1e-7 + 1e-4 * q[1]
        floor = (1 - 1 / t) / 12
        assert (soften(operators.get("mixture"), drawn, t).lower <= floor).all()


def test_a_multiple_of_the_cap_in_float32():
    """r = p_k exactly, where float32 has r = .20000003: the rest token must not become real (S = 1.028)."""
    head = np.array([0.6, 0.2], np.float32)
    with jax.enable_x64(False):
        noisy = jnp.float32(0.2) + jnp.float32(3e-8)
        seen = TopK(jnp.arange(2), jnp.log(jnp.asarray(head)), noisy, jnp.int32(2), 12)
        soft = certified(operators.get("power"), seen, 10.0)
        lower, upper = float(soft.tail_lower), float(soft.upper[0])
    observed = (0.6**0.1, 0.2**0.1)
    least = 0.2**0.1
    true_upper = observed[0] / (sum(observed) + least)
    assert lower <= least / (sum(observed) + least) < lower + 1e-4
    assert upper - 1e-4 < true_upper <= upper
    naive = least + (float(noisy) - 0.2) ** 0.1  # not rounded outward: the truth is outside
    assert naive > 1.02
    assert naive / (sum(observed) + naive) > least / (sum(observed) + least) + 0.02


def test_a_rest_below_zero_is_none():
    """r − j·p_k comes out at −1.8e-15 here, and a power of it would be NaN."""
    p_k = 0.1 / 3
    r = 17 * p_k - 1.8e-15
    head = np.array([1 - r - p_k, p_k])
    seen = TopK.observed(np.arange(2), np.log(head), 40)
    soft = certified(operators.get("power"), seen, 3.0)
    s = 17 * p_k ** (1 / 3)
    np.testing.assert_allclose(soft.tail_lower, s / (s + (head ** (1 / 3)).sum()), rtol=1e-9)


@pytest.mark.parametrize("name", ["power", pytest.param("tsallis(1.5)", marks=pytest.mark.nightly)])
def test_large_vocabularies_cost_k_and_agree_with_the_operator(name):
    """V = 50,000, k = 50: equal tokens are counted, and the flat tail is the operator's own answer."""
    op = operators.parse(name)
    head = 0.8 * 0.9 ** np.arange(50) * 0.1 / (1 - 0.9**50)
    seen = TopK.observed(np.arange(50), np.log(head), 50_000)
    p = np.concatenate([head, np.full(49_950, 0.2 / 49_950)])
    q = np.asarray(op(jnp.asarray(p / p.sum()), 2.0))
    soft = certified(op, seen, 2.0)
    np.testing.assert_allclose(np.exp(soft.log_probs), q[:50], rtol=1e-10)
    np.testing.assert_allclose(soft.tail_mass, q[50:].sum(), rtol=1e-10)
    sizes = [
        x.aval.size for eqn in jax.make_jaxpr(lambda s: soften(op, s, 2.0))(seen).eqns for x in eqn.outvars
    ]
    assert max(sizes) < 1000


def test_the_mixture_is_exact_on_observed_tokens():
    p = np.random.default_rng(1).dirichlet(np.full(V, 0.3), 50)
    seen = targets.top_k(jnp.log(jnp.asarray(p)), K)
    soft = certified(operators.get("mixture"), seen, 3.0)
    exact = np.take_along_axis(p, np.asarray(seen.ids), -1) / 3 + (2 / 3) / V
    np.testing.assert_allclose(soft.lower, exact, rtol=1e-13)
    np.testing.assert_allclose(soft.upper, exact, rtol=1e-13)
    assert (soft.lower <= exact).all()
    assert (exact <= soft.upper).all()


def test_an_appended_token_bounds_nothing():
    """(.4, .2, .15, .12, .1, .03), top-2 and the sampled .03 appended, T = 4: S is 1.77, not above 5.31."""
    p = np.array([0.4, 0.2, 0.15, 0.12, 0.1, 0.03])
    q = np.asarray(operators.get("power")(jnp.asarray(p), 4.0))
    ids, log_probs = np.array([0, 1, 5]), np.log(p[[0, 1, 5]])
    good = certified(operators.get("power"), TopK.observed(ids, log_probs, 6, num_ranked=2), 4.0)
    assert (good.lower <= q[ids]).all()
    assert (q[ids] <= good.upper).all()
    # The twin believes that every unseen token has at most .03, and cannot even hold the mass.
    with pytest.raises(ValueError, match=r"appended entry counted in num_ranked"):
        TopK.observed(ids, log_probs, 6)
    # Where it can (V = 60) the bound is wrong, without a sign of it: S ≥ 5.31.
    p = np.concatenate([p, np.zeros(54)])
    q = np.asarray(operators.get("power")(jnp.asarray(p), 4.0))
    wrong = certified(operators.get("power"), TopK.observed(ids, log_probs, 60, num_ranked=3), 4.0)
    right = certified(operators.get("power"), TopK.observed(ids, log_probs, 60, num_ranked=2), 4.0)
    assert (q[ids] > wrong.upper * 1.05).all()
    assert (q[ids] <= right.upper).all()
    unnormalised = float(wrong.tail_lower / (1 - wrong.tail_lower)) * (p[ids] ** 0.25).sum()
    assert unnormalised == pytest.approx(5.31, abs=0.01)
    assert (p[[2, 3, 4]] ** 0.25).sum() == pytest.approx(1.77, abs=0.01)


def test_the_interval_swaps_below_one():
    """β > 1: the concentrated tail has the larger sum. The twin that does not swap has an empty interval."""
    head, r, m, beta = np.array([0.5, 0.2]), 0.3, 10, 3.0
    concentrated, flat = 0.2**beta + 0.1**beta, m ** (1 - beta) * r**beta
    assert flat < concentrated
    soft = certified(operators.get("power"), TopK.observed(np.arange(2), np.log(head), 12), 1 / beta)
    total = (head**beta).sum()
    np.testing.assert_allclose(soft.lower, head**beta / (total + concentrated), rtol=1e-12)
    np.testing.assert_allclose(soft.upper, head**beta / (total + flat), rtol=1e-12)


def test_nothing_ranked_bounds_nothing():
    """One token sampled, of no known rank: any unseen one may have all the rest."""
    seen = TopK.observed(np.array([3]), np.log(np.array([0.1])), 5, num_ranked=0)
    soft = certified(operators.get("power"), seen, 2.0)
    np.testing.assert_allclose(soft.upper[0], 0.1**0.5 / (0.1**0.5 + 0.9**0.5), rtol=1e-9)


def test_rows_without_a_tail_and_with_padding():
    log_p = np.log(np.array([[0.5, 0.3, 0.2], [0.6, 0.4, 1.0]]))
    log_p[1, 2] = -np.inf
    seen = TopK.observed(np.array([[2, 0, 1], [1, 0, -1]]), log_p, 3)
    assert seen.num_ranked.tolist() == [3, 2]
    for name in ("power", "mixture", "tsallis(1.5)"):
        soft = certified(operators.parse(name), seen, 2.0)
        assert soft.tail_upper[0] == soft.tail_mass[0] == 0
        assert soft.upper[1, 2] == soft.lower[1, 2] == 0
        assert np.isneginf(soft.log_probs[1, 2])
        q = np.asarray(operators.parse(name)(jnp.array([0.6, 0.4, 0.0]), 2.0))
        np.testing.assert_allclose(np.exp(soft.log_probs[1, :2]), q[:2], rtol=1e-9)
        np.testing.assert_allclose(soft.tail_mass[1], q[2], atol=1e-12)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (-0.1, "tail_error: is -0.1; how far a mass may be off is ≥ 0"),
        (np.array([0.1, np.nan]), "tail_error, row 1: is nan"),
        (np.zeros((1, 2)), r"tail_error has shape \(1, 2\); give"),
        (np.zeros(3), r"tail_error has shape \(3,\); give a scalar or one a row, \(2,\)"),
    ],
)
def test_a_tail_error_that_is_none_is_refused(error, message):
    """A negative one would give intervals narrower than what is certified."""
    row = np.log(np.array([0.4, 0.2], np.float32))
    seen = TopK.observed(np.array([[0, 1]] * 2), np.stack([row, row]), vocab_size=12)
    with pytest.raises(ValueError, match=message):
        soften(operators.get("power"), seen, 2.0, tail_error=error)


def test_a_tail_error_broadcasts_to_the_rows_as_a_temperature_does():
    log_probs = np.log(np.full((2, 3, 2), 0.3, np.float32))
    seen = TopK.observed(np.broadcast_to([0, 1], (2, 3, 2)), log_probs, vocab_size=12)
    a_row = np.array([[0.0], [0.1]], np.float32)
    wide, full = (
        soften(operators.get("power"), seen, 2.0, tail_error=error)
        for error in (a_row, np.broadcast_to(a_row, (2, 3)))
    )
    np.testing.assert_array_equal(wide.lower, full.lower)
    assert (full.lower[1] < full.lower[0]).all()


def test_tail_error_of_zero_tightens_a_small_tail():
    with jax.enable_x64(False):
        z = jnp.concatenate([jnp.array([20.0, 10.0]), jnp.zeros(998)])
        seen = targets.top_k(jax.nn.log_softmax(z), 2)
        assert float(seen.tail_mass) == pytest.approx(998 / (np.exp(20) + np.exp(10) + 998), rel=1e-4)
        careful, told = (certified(operators.get("power"), seen, 2.0, tail_error=e) for e in (None, 0.0))
        exact = np.asarray(jax.nn.softmax(z / 2))
    for soft in (careful, told):
        assert (soft.lower <= exact[:2]).all()
        assert (exact[:2] <= soft.upper).all()
        assert float(soft.tail_lower) <= exact[2:].sum() <= float(soft.tail_upper)
    assert float(careful.tail_upper) > 1.05 * exact[2:].sum()
    assert float(told.tail_upper) < 1.0001 * exact[2:].sum()


def test_under_jit_and_vmap_and_one_temperature_a_row():
    op = operators.get("power")
    seen = TopK.observed(np.tile(np.arange(K), (3, 1)), np.log(HEADS), V)
    rows = jnp.array([1.5, 2.0, 4.0])
    together = jax.jit(lambda s, t: soften(op, s, t))(seen, rows)
    mapped = jax.vmap(lambda s, t: soften(op, s, t))(seen, rows)
    for i in range(3):
        alone = certified(op, jax.tree.map(lambda x, i=i: x[i], seen), float(rows[i]))
        for a, b, c in zip(*map(jax.tree.leaves, (alone, together, mapped)), strict=True):
            np.testing.assert_allclose(a, b[i], rtol=1e-13)
            np.testing.assert_allclose(a, c[i], rtol=1e-13)


def test_a_family_maps_over_its_parameter():
    seen = TopK.observed(np.tile(np.arange(K), (3, 1)), np.log(HEADS), V)
    many = jax.vmap(lambda alpha: soften(operators.TsallisSoftening(alpha), seen, 2.0))
    assert jax.eval_shape(many, jnp.array([0.5, 1.5])).lower.shape == (2, 3, K)


def test_half_precision_lists_have_bounds_of_their_precision():
    op = operators.get("power")
    with jax.enable_x64(False):
        seen = targets.top_k(
            jnp.log(jnp.asarray(HEADS[0] / HEADS[0].sum(), jnp.float32)).astype(jnp.float16), 3
        )
        soft = certified(op, seen, 2.0)
    q = np.asarray(op(jnp.asarray(HEADS[0] / HEADS[0].sum()), 2.0))
    assert (soft.lower <= q[:3]).all()
    assert (q[:3] <= soft.upper).all()
    np.testing.assert_allclose(soft.upper, q[:3], rtol=3e-2)


def test_dense_is_exact():
    p = np.random.default_rng(2).dirichlet(np.full(V, 0.5), 20)
    for name in ("power", "label-smoothing"):
        op = operators.get(name)
        soft = certified(op, Dense(jnp.log(jnp.asarray(p))), 2.0)
        q = np.asarray(op(jnp.asarray(p), 2.0))
        np.testing.assert_allclose(soft.lower, q, rtol=1e-10)
        np.testing.assert_allclose(soft.upper, q, rtol=1e-10)
        assert not np.asarray(soft.tail_upper).any()
        assert soft.ids is None


def test_samples_through_the_mixture_are_unbiased():
    """All samples of 4 labels over 3 classes, summed: the mean is the softened truth."""
    p = np.array([0.6, 0.3, 0.1])
    counts = np.array([c for c in itertools.product(range(5), repeat=3) if sum(c) == 4])
    ways = np.array([math.factorial(4) / math.prod(map(math.factorial, c)) for c in counts.tolist()])
    chance = ways * np.prod(p**counts, -1)
    seen = Samples.from_counts(counts)
    soft = certified(operators.get("mixture"), seen, 2.0)
    np.testing.assert_allclose(chance @ np.exp(soft.log_probs), p / 2 + 1 / 6, rtol=1e-6)
    assert (soft.lower <= p / 2 + 1 / 6).all()
    assert (p / 2 + 1 / 6 <= soft.upper).all()
    some = Samples(jnp.array([2, -1]), jnp.array([1.0, 0.0]), jnp.int32(3), 10)
    one = certified(operators.get("mixture"), some, 2.0)
    np.testing.assert_allclose(np.exp(one.log_probs), [0.55, 0.0])
    np.testing.assert_allclose(one.tail_mass, 0.45)
    with pytest.raises(TypeError, match=r"biased at every number of draws.*jackknife"):
        certified(operators.get("power"), seen, 2.0)


# -- what is refused -------------------------------------------------------------------------------------


def test_the_entropy_projection_escapes_both_extremes_and_is_refused():
    tails = (
        np.full(10, 0.04),
        np.r_[0.2, 0.2 - 8e-12, np.full(8, 1e-12)],
        np.r_[np.full(4, 0.095), np.full(6, 0.02 / 6)],
    )
    rows = np.stack([np.r_[0.4, 0.2, tail] for tail in tails])
    second = np.asarray(operators.get("entropy-projection")(jnp.asarray(rows), 2.0))[:, 1]
    assert second[2] == pytest.approx(0.1736, abs=5e-5)
    assert second[0] == pytest.approx(0.1745, abs=5e-5)
    assert second[2] < second[:2].min() - 5e-4
    seen = TopK.observed(np.arange(2), np.log(np.array([0.4, 0.2])), 12)
    for name in ("entropy-projection", "euclidean-entropy-projection", "label-smoothing"):
        with pytest.raises(TypeError, match="no certified bound"):
            certified(operators.parse(name), seen, 2.0)
    with pytest.raises(TypeError, match="operator is the function <lambda>"):
        soften(lambda p, t: p, seen, 2.0)


def test_below_one_only_power_is_known():
    seen = TopK.observed(np.arange(2), np.log(np.array([0.4, 0.2])), 12)
    for name in ("mixture", "tsallis(1.5)"):
        op = operators.parse(name)
        with pytest.raises(ValueError, match=r"temperature.*for T ≥ 1 only"):
            certified(op, seen, 0.5)
        traced = jax.jit(lambda t, op=op: soften(op, seen, t))(jnp.array(0.5))
        assert np.isnan(traced.lower).all()
        assert np.isnan(traced.upper).all()
    with pytest.raises(ValueError, match="temperature is -1"):
        certified(operators.get("power"), seen, -1.0)


@pytest.mark.parametrize("alpha", [3.0, 5.0, 8.0])
@pytest.mark.parametrize("temperature", [1.01, 7.0])
def test_tsallis_keeps_its_float32_promise_on_sharp_rows(alpha, temperature):
    """What the bounds are rounded outward by. e^(−rc) overflows here where E e^(−rc) does not dominate."""
    op = operators.get("tsallis", alpha=alpha)
    z = np.random.default_rng(0).normal(size=(1002, V)) * 8
    p = np.exp(z - z.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True)).astype(np.float32)
    wide = p.astype(np.float64)
    truth = np.asarray(op(jnp.asarray(wide / wide.sum(-1, keepdims=True)), temperature))
    with jax.enable_x64(False):
        assert np.abs(np.asarray(op(jnp.asarray(p), temperature)) - truth).max() < 2e-6


def test_a_root_that_is_not_found_raises_and_is_nan_under_jit(monkeypatch):
    from sparsekd_jax.targets import softening

    def lost(op, target, t, error):
        return _top_k(op, target, t, error)[0], jnp.array(False)

    _top_k = softening._top_k
    monkeypatch.setattr(softening, "_top_k", lost)
    seen = TopK.observed(np.arange(2), np.log(np.array([0.4, 0.2])), 12)
    with pytest.raises(ConvergenceError, match="no root found"):
        soften(operators.get("power"), seen, 2.0)
    assert np.isnan(jax.jit(lambda t: soften(operators.get("power"), seen, t))(2.0).upper).all()


# -- twins -----------------------------------------------------------------------------------------------


def test_the_tail_tempered_as_one_token_is_wrong():
    """V = 1000, k = 20, T = 2, Zipf: one token of mass r has .21, the true tail .88, a uniform one .89."""
    p = 1 / np.arange(1, 1001)
    p /= p.sum()
    seen = targets.top_k(jnp.log(jnp.asarray(p)), 20)
    soft = certified(operators.get("power"), seen, 2.0)
    true = np.sqrt(p[20:]).sum() / np.sqrt(p).sum()
    assert true == pytest.approx(0.877, abs=0.005)
    assert float(soft.tail_mass) == pytest.approx(0.89, abs=0.005)
    assert float(soft.tail_lower) <= true <= float(soft.tail_upper)
    r = p[20:].sum()
    twin = np.sqrt(r) / (np.sqrt(p[:20]).sum() + np.sqrt(r))
    assert twin == pytest.approx(0.21, abs=0.005)
    assert twin < float(soft.tail_lower)
