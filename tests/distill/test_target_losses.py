"""Losses against a teacher seen in part: brute force for every policy, differences for every gradient."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from sparsekd_jax import distill, operators, targets
from sparsekd_jax.distill import renormalization_error, target_divergence
from sparsekd_jax.distill.target_losses import _draw
from sparsekd_jax.targets import Dense, Samples, TopK, soften

V, K, ROWS = 12, 3, 5
POWER = operators.get("power")
POLICIES = ("bounds", "uniform", "bucket", "renormalized-top-k")


@pytest.fixture(autouse=True)
def _float64(x64):
    """References here are in float64, but for what says float32."""


def teacher(seed=0, concentration=0.7):
    p = np.random.default_rng(seed).dirichlet(np.full(V, concentration), ROWS)
    return p, targets.top_k(jnp.log(jnp.asarray(p)), K)


def student(seed=1, scale=2.0):
    return np.random.default_rng(seed).normal(size=(ROWS, V)) * scale


def kl(p, q):
    return (scipy.special.xlogy(p, p) - scipy.special.xlogy(p, q)).sum(-1)


def coarse(soft, z):
    """The two distributions on k + 1 outcomes, in numpy."""
    s = scipy.special.softmax(z, -1)
    q = np.exp(np.asarray(soft.log_probs))
    seen = np.take_along_axis(s, np.asarray(soft.ids), -1)
    return q, seen, 1 - seen.sum(-1)


LOSSES = {
    tail: jax.jit(jax.value_and_grad(lambda z, soft, tail=tail: target_divergence(z, soft, tail).sum()))
    for tail in POLICIES
}
ROWWISE = {tail: jax.jit(lambda z, soft, tail=tail: target_divergence(z, soft, tail)) for tail in POLICIES}


def brute_force(tail, soft, z):
    q, seen, rest = coarse(soft, z)
    t = np.asarray(soft.tail_mass)
    if tail == "uniform":
        full = np.repeat((t / np.asarray(soft.num_unseen))[:, None], V, -1)
        np.put_along_axis(full, np.asarray(soft.ids), q, -1)
        return kl(full, scipy.special.softmax(z, -1))
    if tail == "bucket":
        return kl(np.c_[q, t], np.c_[seen, rest])
    c = q / q.sum(-1, keepdims=True)
    if tail == "renormalized-top-k":
        return kl(c, seen / seen.sum(-1, keepdims=True))
    found = []
    for i in range(len(z)):
        low, high = float(soft.tail_lower[i]), float(soft.tail_upper[i])
        loss = lambda t, i=i: kl(np.r_[(1 - t) * c[i], t], np.r_[seen[i], rest[i]])  # noqa: E731
        inner = scipy.optimize.minimize_scalar(
            loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}
        )
        found.append(min(inner.fun, loss(low), loss(high)))
    return np.array(found)


@pytest.mark.parametrize("tail", POLICIES)
def test_every_policy_is_its_definition(tail):
    p, seen = teacher()
    inside = clipped = 0
    for operator, temperature, size in itertools.product(("power", "mixture"), (1.0, 2.5), (0.2, 1.0)):
        soft = soften(operators.get(operator), seen, temperature)
        z = np.log(p) / temperature + size * student()
        value = ROWWISE[tail](jnp.asarray(z), soft)
        np.testing.assert_allclose(value, brute_force(tail, soft, z), rtol=1e-8, atol=1e-10)
        q, s, rest = coarse(soft, z)
        c, sc = q / q.sum(-1, keepdims=True), s / s.sum(-1, keepdims=True)
        free = scipy.special.expit(np.log(rest) - np.log1p(-rest) + kl(c, sc))
        between = (free > np.asarray(soft.tail_lower)) & (free < np.asarray(soft.tail_upper))
        inside, clipped = inside + between.sum(), clipped + (~between).sum()
    assert inside > 0
    assert clipped > 0


@pytest.mark.parametrize("tail", POLICIES)
def test_gradients_are_those_of_differences(tail):
    _, seen = teacher()
    soft, z = soften(POWER, seen, 2.0), student()
    _, gradient = LOSSES[tail](jnp.asarray(z), soft)
    step = 1e-6
    for v in range(V):
        up, down = z.copy(), z.copy()
        up[:, v] += step
        down[:, v] -= step
        difference = (ROWWISE[tail](jnp.asarray(up), soft) - ROWWISE[tail](jnp.asarray(down), soft)) / (
            2 * step
        )
        np.testing.assert_allclose(gradient[:, v], difference, atol=2e-9)
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-12)  # a shift of all logits changes nothing


def test_uniform_has_the_gradient_s_minus_q():
    _, seen = teacher()
    soft, z = soften(POWER, seen, 2.0), student()
    full = np.repeat((np.asarray(soft.tail_mass) / (V - K))[:, None], V, -1)
    np.put_along_axis(full, np.asarray(soft.ids), np.exp(soft.log_probs), -1)
    _, gradient = LOSSES["uniform"](jnp.asarray(z), soft)
    np.testing.assert_allclose(gradient, scipy.special.softmax(z, -1) - full, atol=1e-12)


def test_bounds_is_zero_on_possible_teachers_and_never_above_the_true_divergence():
    for seed in range(4):
        p, seen = teacher(seed, concentration=10.0 ** (seed - 2))
        soft = soften(POWER, seen, 2.0)
        q = np.asarray(POWER(jnp.asarray(p), 2.0))
        np.testing.assert_allclose(ROWWISE["bounds"](jnp.log(jnp.asarray(q)), soft), 0, atol=1e-12)
        z = student(seed + 10)
        lowest = np.asarray(ROWWISE["bounds"](jnp.asarray(z), soft))
        assert (lowest <= kl(q, scipy.special.softmax(z, -1)) + 1e-12).all()
        assert (lowest <= np.asarray(ROWWISE["bucket"](jnp.asarray(z), soft)) + 1e-12).all()


# -- the blind one ---------------------------------------------------------------------------------------


def blind_case(dtype):
    """V = 8, k = 2: a student that is all on a token which the list excludes, the other two in proportion."""
    p = np.array([0.6, 0.39, *[0.01 / 6] * 6])
    s = np.full(8, 1e-9)
    s[:2] = 1e-7 * p[:2] / p[:2].sum()
    s[7] = 1 - s.sum() + s[7]
    with jax.enable_x64(dtype == np.float64):
        seen = TopK.observed(np.arange(2), np.log(p[:2]).astype(dtype), 8)
        return p, s, soften(POWER, seen, 1.0), jnp.asarray(np.log(s).astype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mass_on_an_excluded_token_is_seen_and_by_the_renormalised_twin_it_is_not(dtype):
    p, s, soft, z = blind_case(dtype)
    with jax.enable_x64(dtype == np.float64):
        for tail in ("bounds", "uniform", "bucket"):
            value, gradient = LOSSES[tail](z, soft)
            assert float(value) > 15
            np.testing.assert_allclose(gradient[:2], s[:2] - p[:2], atol=2e-6)
            assert float(gradient[7]) > 0.98
        np.testing.assert_allclose(LOSSES["uniform"](z, soft)[0], kl(p, s), rtol=1e-4)
        value, gradient = LOSSES["renormalized-top-k"](z, soft)
        assert abs(float(value)) < 2e-6
        assert np.abs(gradient).max() < 1e-6
        missed = jax.jit(renormalization_error)(z, soft)
        np.testing.assert_allclose(
            missed, kl(np.array([0.6, 0.39, 0.01]), np.r_[s[:2], s[2:].sum()]), rtol=1e-4
        )


def test_a_small_tail_of_the_student_is_no_rounding_noise():
    """s_tail = 4e-11 in float32, where 1 − Σ over the observed is 0 or 1e-7."""
    with jax.enable_x64(False):
        seen = TopK.observed(np.arange(2), np.log(np.array([0.6, 0.39], np.float32)), 8)
        soft = soften(POWER, seen, 1.0)
        z = jnp.array([1.0, 0.5, *[-23.0] * 6], jnp.float32)
        value, gradient = LOSSES["bucket"](z, soft)
    assert np.asarray(gradient)[2:].sum() == pytest.approx(-0.01, rel=1e-4)
    s = scipy.special.softmax(np.asarray(z, np.float64))
    expected = kl(np.array([0.6, 0.39, 0.01]), np.r_[s[:2], s[2:].sum()])
    assert float(value) == pytest.approx(expected, rel=1e-5)


# -- sampled ---------------------------------------------------------------------------------------------


def test_draws_are_uniform_over_unseen_tokens():
    ids = jnp.array([[0, 5, 11, -1], [3, 4, 6, 5], [2, -1, -1, -1]])
    log_p = jnp.where(ids < 0, -jnp.inf, jnp.log(0.05))
    seen = TopK.observed(np.asarray(ids), np.asarray(log_p), V, num_ranked=0)
    drawn = np.asarray(_draw(soften(POWER, seen, 2.0), jax.random.key(0), 40_000))
    for row, observed in zip(drawn, np.asarray(ids), strict=True):
        unseen = sorted(set(range(V)) - set(observed.tolist()))
        found, counts = np.unique(row, return_counts=True)
        assert found.tolist() == unseen
        expected = 40_000 / len(unseen)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_sampled_has_the_expectation_of_uniform_in_value_and_gradient():
    """The mean over every token that one draw can take, exactly; then a mean over keys within its error."""
    _, seen = teacher()
    soft, z = soften(POWER, seen, 2.0), jnp.asarray(student())

    @jax.jit
    @jax.vmap
    def one(key):
        def total(z):
            return target_divergence(z, soft, "sampled", key=key, num_sampled=4).sum()

        return jax.value_and_grad(total)(z)

    values, gradients = one(jax.random.split(jax.random.key(1), 4000))
    value, gradient = LOSSES["uniform"](z, soft)
    assert abs(values.mean() - value) < 5 * values.std() / math.sqrt(4000)
    errors = np.abs(np.asarray(gradients.mean(0) - gradient))
    assert (errors < 5 * np.asarray(gradients.std(0)) / math.sqrt(4000) + 1e-12).all()
    assert float(values.std()) > 0.01, "nothing was sampled"


# -- other targets, masks, errors ------------------------------------------------------------------------


def test_dense_targets_have_one_divergence():
    p, _ = teacher()
    soft = soften(POWER, Dense(jnp.log(jnp.asarray(p))), 2.0)
    q = np.asarray(POWER(jnp.asarray(p), 2.0))
    for tail in POLICIES:
        value = ROWWISE[tail](jnp.asarray(student()), soft)
        np.testing.assert_allclose(value, kl(q, scipy.special.softmax(student(), -1)), rtol=1e-10)


def test_samples_give_an_unbiased_gradient():
    """All samples of 3 labels over 3 of V classes, summed: the mean gradient is s − F(p)."""
    p = np.array([0.6, 0.3, 0.1])
    counts = np.array([c for c in itertools.product(range(4), repeat=3) if sum(c) == 3])
    chance = np.array([6 / math.prod(map(math.factorial, c)) for c in counts.tolist()]) * np.prod(
        p**counts, -1
    )
    ids = np.where(counts > 0, np.arange(3), -1)
    order = np.argsort(ids < 0, axis=-1, kind="stable")
    ids, weights = np.take_along_axis(ids, order, -1), np.take_along_axis(counts / 3, order, -1)
    draws = jnp.full(len(counts), 3, jnp.int32)
    soft = soften(operators.get("mixture"), Samples(jnp.asarray(ids), jnp.asarray(weights), draws, V), 2.0)
    z = student()[0]
    many = jnp.broadcast_to(jnp.asarray(z), (len(counts), V))
    _, gradient = LOSSES["uniform"](many, soft)
    truth = np.r_[p, np.zeros(V - 3)] / 2 + 0.5 / V
    np.testing.assert_allclose(chance @ gradient, scipy.special.softmax(z) - truth, atol=1e-12)
    with pytest.raises(ValueError, match="take tail='uniform'"):
        target_divergence(many, soft, "bounds")


@pytest.mark.parametrize(
    ("tail", "fields"),
    [
        ("uniform", ("tail_mass",)),
        ("bucket", ("tail_mass",)),
        ("sampled", ("tail_mass",)),
        ("bounds", ("tail_lower", "tail_upper")),
    ],
)
def test_a_tail_that_is_nan_is_no_tail_of_0(tail, fields):
    """As a tail of 0 it would leave a divergence below 0, of a target that does not sum to 1."""
    _, seen = teacher()
    soft = soften(POWER, seen, 2.0)
    broken = dataclasses.replace(soft, **{name: getattr(soft, name).at[3].set(jnp.nan) for name in fields})
    value = target_divergence(jnp.asarray(student()), broken, tail, key=jax.random.key(0))
    assert np.isnan(value).tolist() == [False, False, False, True, False]


@pytest.mark.parametrize("tail", POLICIES)
def test_masked_rows_reach_no_value_and_no_gradient(tail):
    _, seen = teacher()
    soft, z = soften(POWER, seen, 2.0), student()
    mask = np.array([True, False, True, False, True])
    z[1] = np.nan
    broken = jax.tree.map(lambda x: x.at[3].set(jnp.nan) if x.dtype.kind == "f" else x, soft)

    @jax.jit
    def loss(z):
        losses = target_divergence(z, broken, tail, mask=jnp.asarray(mask))
        return losses.sum(), losses

    gradient, value = jax.grad(loss, has_aux=True)(jnp.asarray(z))
    assert not np.asarray(value)[~mask].any()
    assert not np.asarray(gradient)[~mask].any()
    np.testing.assert_allclose(value[mask], ROWWISE[tail](jnp.asarray(student()), soft)[mask], rtol=1e-12)
    assert np.isfinite(gradient).all()


OFF = -np.inf


@pytest.mark.parametrize("tail", POLICIES)
@pytest.mark.parametrize(
    ("head", "vocab_size", "students"),
    [
        ([0.5, 0.3, 0.2], 3, [[1.0, 0.0, -1.0], [1.0, 0.0, OFF], [0.0, 0.0, 0.0]]),
        (
            [0.5, 0.3, 0.1],
            5,
            [[0.0, 0.0, 1.0, OFF, OFF], [1.0, 0.0, OFF, OFF, 0.0], [OFF, OFF, OFF, 0.0, OFF]],
        ),
    ],
)
def test_zeros_of_either_side_are_never_nan(tail, head, vocab_size, students):
    """A list of all tokens, and one with an unseen two of which the student excludes some, or all."""
    rows = len(students)
    seen = TopK.observed(np.tile(np.arange(3), (rows, 1)), np.tile(np.log(head), (rows, 1)), vocab_size)
    z = np.array(students)
    value = ROWWISE[tail](jnp.asarray(z), soften(POWER, seen, 2.0))
    _, gradient = LOSSES[tail](jnp.asarray(z), soften(POWER, seen, 2.0))
    off = np.isneginf(z)
    impossible = off[:, :3].any(-1)
    if tail == "uniform":
        impossible |= off[:, 3:].any(-1)
    if tail in ("bucket", "bounds") and vocab_size > 3:
        impossible |= off[:, 3:].all(-1)
    np.testing.assert_array_equal(np.isposinf(value), impossible)
    assert not np.isnan(value).any()
    assert not np.isnan(gradient).any()


def test_half_precision_logits_are_computed_in_float32():
    _, seen = teacher()
    soft = soften(POWER, seen, 2.0)
    rounded = jnp.asarray(student()).astype(jnp.bfloat16)
    wide = {tail: ROWWISE[tail](rounded.astype(jnp.float64), soft) for tail in POLICIES}
    with jax.enable_x64(False):
        narrow = jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype.kind == "f" else x, soft)
        for tail in POLICIES:
            value = ROWWISE[tail](rounded, narrow)
            assert value.dtype == jnp.float32
            np.testing.assert_allclose(value, wide[tail], rtol=1e-5, atol=2e-6)


def test_bad_arguments_are_named():
    _, seen = teacher()
    soft, z = soften(POWER, seen, 2.0), jnp.asarray(student())
    with pytest.raises(ValueError, match="unknown tail policy 'bound'; did you mean 'bounds'"):
        target_divergence(z, soft, "bound")
    with pytest.raises(ValueError, match="needs a key"):
        target_divergence(z, soft, "sampled")
    with pytest.raises(ValueError, match="num_sampled"):
        target_divergence(z, soft, "sampled", key=jax.random.key(0), num_sampled=0)
    with pytest.raises(ValueError, match=r"the target's rows need \(5, 12\)"):
        target_divergence(z[:, :-1], soft, "uniform")
    with pytest.raises(ValueError, match="ratios of observed tokens are uncertain"):
        target_divergence(z, dataclasses.replace(soft, ratios_known=False), "bounds")
    assert set(distill.TAIL_POLICIES) == {*POLICIES, "sampled"}
