"""Jacobians against closed forms and differences, Lipschitz constants against brute force and theorems."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsekd_jax import operators
from sparsekd_jax.theory import variance

POWER, MIXTURE = operators.get("power"), operators.get("mixture")
POINTS = np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3], [0.001, 0.009, 0.99]])
ALONG = np.eye(3) - 1 / 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 7.0])
def test_the_jacobian_of_power_and_mixture_in_closed_form(temperature):
    q = POINTS ** (1 / temperature)
    q /= q.sum(-1, keepdims=True)
    want = [
        (np.diag(a) - np.outer(a, a)) @ np.diag(1 / p) / temperature for a, p in zip(q, POINTS, strict=True)
    ]
    np.testing.assert_allclose(
        variance.jacobian(POWER, POINTS, temperature), want @ ALONG, rtol=1e-9, atol=1e-9
    )
    if temperature >= 1:
        mixed = variance.jacobian(MIXTURE, POINTS, temperature)
        np.testing.assert_allclose(mixed, np.broadcast_to(ALONG / temperature, (3, 3, 3)), atol=1e-14)


def power(p, temperature):
    weights = p ** (1 / temperature)
    return weights / weights.sum()


def mixture(p, temperature):
    return p / temperature + (1 - 1 / temperature) / p.shape[-1]


@pytest.mark.parametrize(("function", "family"), [(power, POWER), (mixture, MIXTURE)])
def test_a_plain_function_has_the_jacobian_of_its_operator(function, family):
    ours, theirs = (variance.jacobian(f, POINTS, 3.0) for f in (function, family))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "operator",
    [operators.get("tsallis", alpha=1.5), operators.get("entropy-projection")],
    ids=lambda operator: operator.name,
)
def test_the_jacobian_is_the_slope_of_differences(operator, x64):
    p, step = POINTS[0], 1e-5
    at_p = variance.jacobian(operator, p, 2.0)
    moves = np.array([[1, -1, 0], [0, 1, -1], [1, 1, -2]]) * step
    above, below = np.asarray(operator(jnp.asarray(p + np.stack([moves, -moves])), 2.0))
    np.testing.assert_allclose(at_p @ moves.T / step, (above - below).T / (2 * step), atol=1e-8)
    np.testing.assert_allclose(at_p.sum(axis=0), 0, atol=1e-9)  # Σq stays 1
    np.testing.assert_allclose(at_p.sum(axis=1), 0, atol=1e-9)  # J·1 = 0


def test_zeros_are_refused_where_ad_does_not_see_the_whole_slope():
    edge = [[0.5, 0.3, 0.2], [0.5, 0.5, 0.0]]
    with pytest.raises(
        ValueError, match="p, row 1: class 2 has probability 0, where AD sees the slope of power"
    ):
        variance.jacobian(POWER, edge, 2.0)
    with pytest.raises(ValueError, match="p: class 1 has probability 0"):
        variance.lipschitz(POWER, 2.0, [1.0, 0.0])
    # Regression: finite there, and still not what AD gives.
    with pytest.raises(ValueError, match=r"the slope of tsallis\(2.5\) only along the face"):
        variance.jacobian(operators.get("tsallis", alpha=2.5), edge, 2.0)
    with pytest.raises(ValueError, match="row 1: the derivative of power is not finite"):
        variance.jacobian(power, edge, 2.0)
    for affine in (MIXTURE, mixture):
        np.testing.assert_allclose(variance.jacobian(affine, edge, 2.0)[1], ALONG / 2, atol=1e-15)


# -- local constants -------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("p", POINTS.tolist())
def test_the_local_constant_is_the_greatest_ratio_over_directions(p, norm):
    at_p = variance.jacobian(POWER, p, 2.0)
    directions = np.random.default_rng(0).normal(size=(20_000, 3))
    moves = np.array([np.eye(3)[i] - np.eye(3)[j] for i, j in itertools.permutations(range(3), 2)])
    directions = np.vstack([directions - directions.mean(axis=1, keepdims=True), moves])
    ratios = np.linalg.norm(directions @ at_p.T, norm, axis=1) / np.linalg.norm(directions, norm, axis=1)
    constant = variance.lipschitz(POWER, 2.0, p, norm=norm)
    assert constant.value >= ratios.max() * (1 - 1e-12)
    assert constant.value == pytest.approx(ratios.max(), rel=1e-12 if norm == 1 else 1e-4)
    assert constant.kind == "local"
    # Broken twin: the norm over all directions, those off the simplex included.
    twin = np.linalg.norm(np.asarray(at_p), norm)
    assert twin >= constant.value * (1 - 1e-12)
    if norm == 1:
        assert twin == pytest.approx(np.abs(at_p).sum(axis=0).max())


# -- the trichotomy --------------------------------------------------------------------------------------

ALPHAS = (0.2, 0.5, 0.8, 2.0, 2.5, 3.0, 5.0)


@jax.jit
def soften_pairs(alpha, p, q, temperature):
    tsallis = operators.TsallisSoftening(alpha)
    return tsallis(p, temperature), tsallis(q, temperature)


def pairs(seed, count=256, num_classes=4):
    """Pairs near one another and far, near the boundary and on it."""
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.choice([0.5, 3, 8], (count, 1)) * rng.normal(size=(count, num_classes)))
    weights[rng.random(weights.shape) < 0.15] = 0
    weights[:, 0] += weights.sum(-1) == 0
    p = weights / weights.sum(-1, keepdims=True)
    return p, np.where(rng.random((count, 1)) < 0.5, p[rng.permutation(count)], 0.99 * p + 0.01 * p[::-1])


def greatest_ratio(alpha, temperature, seed):
    p, q = pairs(seed)
    with jax.enable_x64(True):
        arguments = (jnp.asarray(alpha), jnp.asarray(p), jnp.asarray(q), jnp.asarray(temperature))
        ours, theirs = (np.asarray(x) for x in soften_pairs(*arguments))
    apart = np.abs(p - q).sum(-1)
    far = apart > 1e-4
    return (np.abs(ours - theirs).sum(-1)[far] / apart[far]).max()


@given(st.sampled_from(ALPHAS), st.floats(1, 20), st.integers(0, 10**6))
def test_no_pair_moves_further_apart_than_the_trichotomy_says(alpha, temperature, seed):
    assert greatest_ratio(alpha, temperature, seed) <= variance.trichotomy(alpha, temperature) * (1 + 1e-8)


def test_smaller_constants_are_exceeded():
    """Broken twins: one power of T less for α < 1; 1/T, the constant of the mixture, for α > 2."""
    assert greatest_ratio(0.5, 2.0, 0) > 2.0 ** (1 / (1 - 0.5) - 1)
    assert greatest_ratio(3.0, 2.0, 0) > 1 / 2


@pytest.mark.parametrize("temperature", [1.2, 2.0])
@pytest.mark.parametrize(
    ("alpha", "share"), [(0.2, 0.999), (0.5, 0.999), (2.0, 0.999), (5.0, 0.999), (2.5, 0.85)]
)
def test_the_search_comes_near_the_certified_constant_from_below(alpha, share, temperature):
    """At K = 3 the constant of α = 2.5 is smaller: theirs is the least for every K."""
    found = variance.lipschitz(operators.get("tsallis", alpha=alpha), temperature)
    assert found.kind == "lower bound"
    assert found.certified == variance.trichotomy(alpha, temperature)
    assert share * found.certified <= found.value <= found.certified * (1 + 1e-6)


def test_between_one_and_two_the_slope_grows_without_bound_towards_zeros():
    for alpha in (1.0, 1.5):
        operator = operators.get("tsallis", alpha=alpha)
        near = [variance.lipschitz(operator, 2.0, [1 - e, e / 2, e / 2]).value for e in (1e-2, 1e-4, 1e-6)]
        assert near[0] < near[1] < near[2]
        assert near[2] > 10
        assert variance.trichotomy(alpha, 2.0) == math.inf
        assert variance.trichotomy(alpha, 1.0) == 1


def test_a_constant_beyond_float64_is_infinite():
    """α a little below 1, near power: T^(1/(1 − α)) was an OverflowError."""
    assert variance.trichotomy(0.999, 2.0) == pytest.approx(2.0**1000, rel=1e-12)
    assert variance.trichotomy(0.9995, 2.0) == math.inf
    assert variance.certified_lipschitz(operators.get("tsallis", alpha=0.9995), 2.0, 1) == math.inf


@pytest.mark.parametrize(
    ("operator", "temperature", "norm", "certified"),
    [
        (POWER, 2.0, 1, math.inf),
        (POWER, 2.0, 2, math.inf),  # norms on a finite space are equivalent
        (POWER, 0.5, 1, None),
        (MIXTURE, 4.0, 1, 0.25),
        (MIXTURE, 4.0, 2, 0.25),
        (operators.ConvexMixture(lambda t: 1 - t**-2.0), 4.0, 1, None),
        (operators.get("clamped-power"), 2.0, 1, None),
        (mixture, 4.0, 2, None),
    ],
)
def test_what_is_certified(operator, temperature, norm, certified):
    found = variance.lipschitz(operator, temperature, norm=norm)
    assert found.certified == certified
    assert found.value <= (math.inf if certified is None else certified) + 1e-9
    assert ("certified" if certified is not None else "not known") in str(found)
    if operator in (MIXTURE, mixture):
        assert found.value == pytest.approx(0.25)


def test_in_l2_alpha_above_two_can_expand_near_t_1(x64):
    """Theory.md: α = 2.5, T = 1.001, (.49935, .49935, .0013, 0): 1.022. At the zero itself it is 1.0241."""
    operator, p = operators.get("tsallis", alpha=2.5), np.array([0.49935, 0.49935, 0.0013, 0.0])
    near = (p + np.array([0, 0, 0, 1e-6])) / (p.sum() + 1e-6)
    local = variance.lipschitz(operator, 1.001, near, norm=2)
    assert local.value == pytest.approx(1.022, abs=5e-4)
    assert local.certified is None
    # By one-sided differences at the zero, in an orthonormal basis of the directions.
    moves = np.array([[1, -1, 0, 0], [0.5, 0.5, -1, 0], [-1 / 3, -1 / 3, -1 / 3, 1]]).T
    start, *ends = np.asarray(operator(jnp.asarray([p, *(p + 1e-8 * moves.T)]), 1.001))
    at_zero = np.linalg.norm(
        (np.stack(ends, axis=1) - start[:, None]) / 1e-8 @ np.linalg.inv(np.linalg.qr(moves)[1]), 2
    )
    assert at_zero == pytest.approx(1.0241, abs=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: variance.trichotomy(0.0, 2.0), "alpha is 0"),
        (lambda: variance.trichotomy(2.0, 0.5), "temperature is 0.5; the trichotomy"),
        (lambda: variance.lipschitz(POWER, 2.0, norm=3), "norm is 3"),
        (lambda: variance.certified_lipschitz(MIXTURE, 2.0, 7), "norm is 7"),
        (lambda: variance.jacobian(POWER, [0.5, 0.5], [2.0, 3.0]), "here it is one finite number"),
        (lambda: variance.lipschitz(POWER, 2.0, POINTS), r"p has shape \(3, 3\)"),
        (lambda: variance.lipschitz(operators.get("entropy-projection"), 0.5), r"takes T in \[1, ∞\)"),
        (lambda: variance.jacobian(POWER, [0.5, 0.6], 2.0), "sums to 1.1"),
    ],
)
def test_refusals_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def numpy_code(p, temperature):
    w = np.power(p, 1 / temperature)
    return w / w.sum()


def conditional(p, temperature):
    return p if temperature == 1 else power(p, temperature)


@pytest.mark.parametrize("function", [numpy_code, conditional])
@pytest.mark.parametrize(
    "slope",
    [
        lambda f: variance.jacobian(f, [0.2, 0.8], 2.0),
        lambda f: variance.lipschitz(f, 2.0),
        lambda f: variance.variance_amplification(f, [0.2, 0.8], 2.0, 5),
        lambda f: variance.amplification_map(f, 2.0, resolution=4),
    ],
)
def test_a_function_that_jax_cannot_trace_has_no_slope(slope, function):
    with pytest.raises(TypeError, match=f"operator: jax cannot trace {function.__name__}, .* in jax.numpy"):
        slope(function)
    by_sum = variance.variance_amplification(function, [0.2, 0.8], 2.0, 5, method="exact")
    want = variance.variance_amplification(POWER, [0.2, 0.8], 2.0, 5, method="exact")
    np.testing.assert_allclose(by_sum.exact.per_class, want.exact.per_class, rtol=1e-12)
