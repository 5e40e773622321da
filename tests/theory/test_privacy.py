"""ε against closed forms, lattices and an optimiser."""

import itertools
import math

import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from sparsekd_jax import operators
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.theory.privacy import local_epsilon, temperature_for
from tests.theory.distributions import largest_gap, spread_rows

POWER, MIXTURE = operators.get("power"), operators.get("mixture")
PROVED = (
    "power",
    "mixture",
    "tsallis(0.5)",
    "tsallis(1.5)",
    "tsallis(3)",
    "entropy-projection",
    "euclidean-entropy-projection",
    "label-smoothing",
    "prior-directed",
    "clamped-power",
)


# -- closed forms, and independent searches ---------------------------------------------------------------


@pytest.mark.parametrize(("num_classes", "temperature"), [(2, 1.5), (3, 2.0), (10, 40.0), (1000, 1.001)])
def test_the_mixture_is_randomised_response(num_classes, temperature):
    found = local_epsilon(MIXTURE, temperature, num_classes)
    assert found.kind == "exact"
    assert found.epsilon == pytest.approx(math.log(1 + num_classes / (temperature - 1)), rel=1e-13)
    q = soften(MIXTURE, np.stack(found.pair), temperature)
    assert largest_gap(q) == pytest.approx(found.epsilon, rel=1e-9)
    assert largest_gap(q) > found.epsilon * (
        1 - 1 / (2 * num_classes)
    )  # log(K/(T − 1)), without the 1, fails


def test_the_number_of_theory_md():
    assert local_epsilon(MIXTURE, 2.0, 3).epsilon == pytest.approx(1.386, abs=5e-4)


def searched_epsilon(beta, num_classes, floor, seed):
    """Power's ε by L-BFGS on p = δ + (1 − Kδ)·softmax(z), from many starts: no use of extreme points."""
    rng = np.random.default_rng(seed)

    def log_first(z, sign):
        e = np.exp(z - z.max())
        log_p = beta * np.log(floor + (1 - num_classes * floor) * e / e.sum())
        return sign * (log_p[0] - np.logaddexp.reduce(log_p))

    box = [(-25, 25)] * num_classes
    best = [
        min(
            optimize.minimize(log_first, rng.normal(0, 6, num_classes), (sign,), bounds=box).fun
            for _ in range(5)
        )
        for sign in (1, -1)
    ]
    return -best[1] - best[0]


@pytest.mark.parametrize(("num_classes", "floor"), [(2, 0.01), (3, 0.1), (5, 0.02)])
@pytest.mark.parametrize("temperature", [3.0, 1.0, 0.4])
def test_clipped_power_against_its_formula_and_an_optimiser(num_classes, floor, temperature):
    k, beta, m = num_classes, 1 / temperature, 1 - (num_classes - 1) * floor
    if beta > 1 or k == 2:
        formula = beta * math.log(m / floor)
    else:
        spread = floor**beta + (k - 1) ** (1 - beta) * (1 - floor) ** beta
        formula = math.log(m**beta * spread / (floor**beta * (m**beta + (k - 1) * floor**beta)))
    found = local_epsilon(POWER, temperature, k, floor=floor)
    assert found.kind == "exact"
    assert found.epsilon == pytest.approx(formula, rel=1e-12)
    assert found.epsilon == pytest.approx(searched_epsilon(beta, k, floor, 0), rel=1e-5)
    assert largest_gap(soften(POWER, np.stack(found.pair), temperature)) == pytest.approx(formula, rel=1e-10)


def test_the_other_formula_of_clipped_power_is_too_small_where_it_does_not_apply():
    """Twin: β log(M/δ) for β < 1 and K ≥ 3 is below what the optimiser finds."""
    assert searched_epsilon(1 / 3, 5, 0.02, 0) > math.log(0.92 / 0.02) / 3 + 0.1


def lattice(floor, num_classes=3, steps=24):
    heads = itertools.product(range(steps + 1), repeat=num_classes - 1)
    points = [(*head, steps - sum(head)) for head in heads if sum(head) <= steps]
    return floor + (1 - num_classes * floor) * np.array(points) / steps


def tsallis_by_bisection(p, alpha, temperature):
    """``q_i^r = max((p_i^r + d)/T, 0)``, d by bisection, row by row at once."""
    r = alpha - 1
    powers = p**r

    def q_of(d):
        with np.errstate(divide="ignore", over="ignore"):
            return np.maximum((powers + d[:, None]) / temperature, 0) ** (1 / r)

    low, high = np.full(len(p), -powers.max()), np.full(len(p), temperature * 5 ** abs(r) * powers.max() + 1)
    for _ in range(110):
        middle = (low + high) / 2
        too_much = (q_of(middle).sum(-1) > 1) if r > 0 else (q_of(middle).sum(-1) < 1)
        low, high = np.where(too_much, low, middle), np.where(too_much, middle, high)
    return q_of((low + high) / 2)


@pytest.mark.parametrize("alpha", [0.5, 1.5, 2.0, 3.5])
@pytest.mark.parametrize(("temperature", "floor"), [(0.9, 0.1), (1.5, 0.1), (4.0, 0.01), (4.0, 0.0)])
def test_tsallis_against_all_points_of_a_lattice(alpha, temperature, floor):
    """The corners and the even points are on it, so its largest gap is ε; the other low point is not."""
    found = local_epsilon(operators.TsallisSoftening(alpha), temperature, 5, floor=floor)
    if floor == 0 and alpha < 1:
        assert found.kind == "none"
        return
    q = tsallis_by_bisection(lattice(floor, 5, 8), alpha, temperature)
    assert found.kind == "exact"
    assert found.epsilon == pytest.approx(largest_gap(q), rel=1e-9)
    if alpha != 2:  # twin: the rest on one class where it should be even, and the other way round
        high, low = found.pair
        even, heaped = np.full(5, (1 - floor) / 4), np.full(5, floor)
        even[0], heaped[1] = floor, 1 - 4 * floor
        other = even if low[1] != low[2] else heaped
        wrong = largest_gap(tsallis_by_bisection(np.stack([high, other]), alpha, temperature))
        assert wrong < found.epsilon * (1 - 1e-4)


def test_truncation_ends_privacy_exactly_where_it_begins():
    """Mixture below T = 1 is a projection: a label gets probability 0 iff Kδ ≤ 1 − T."""
    assert local_epsilon(MIXTURE, 0.7, 3, floor=0.0999).kind == "none"
    found = local_epsilon(MIXTURE, 0.7, 3, floor=0.1001)
    assert found.kind == "exact"
    assert found.epsilon == pytest.approx(math.log((1 - 2 * 0.1001 - 0.1) / (0.1001 - 0.1)), rel=1e-10)
    assert largest_gap(soften(MIXTURE, lattice(0.1001), 0.7)) == pytest.approx(found.epsilon, rel=1e-9)
    assert np.isinf(largest_gap(soften(MIXTURE, lattice(0.0999), 0.7)))


@pytest.mark.parametrize(
    ("name", "temperature"),
    [
        ("power", 2.0),
        ("tsallis(0.5)", 2.0),
        ("tsallis(1.5)", 0.5),
        ("mixture", 1.0),
        ("mixture", 0.5),
        ("top-k", 2.0),
        ("argmax", 2.0),
        ("prior-directed", 2.0),
        ("euclidean-entropy-projection", 1.0),
    ],
)
def test_none_comes_with_a_pair_that_gives_a_label_away(name, temperature):
    op = operators.parse(name)
    found = local_epsilon(op, temperature, 5)
    assert (found.kind, found.epsilon) == ("none", math.inf)
    p, other = soften(op, np.stack(found.pair), temperature)
    assert ((p > 0) & (other == 0)).any()


# -- certified for random distributions ------------------------------------------------------------------


@pytest.mark.parametrize("name", PROVED)
@settings(max_examples=30)
@given(data=st.data())
def test_no_pair_exceeds_a_certified_epsilon(name, data):
    op = operators.parse(name)
    coldest = 1.0 if op.claims.temperatures.low == 1 else 0.3
    temperature = data.draw(st.floats(coldest, 30), "temperature")
    num_classes = 5
    floor = data.draw(st.sampled_from([0.0, 1e-3, 0.05, 0.19]), "floor")
    found = local_epsilon(op, temperature, num_classes, floor=floor)
    least = floor or (1e-9 if op.claims.domain == "interior" else 0.0)
    q = soften(op, spread_rows(data.draw(st.integers(0, 10**6), "seed"), num_classes, least), temperature)
    gap = largest_gap(q)
    assert gap <= found.epsilon * (1 + 1e-9) + 1e-12
    if found.kind == "exact" and found.pair is not None:
        pair_gap = largest_gap(soften(op, np.stack(found.pair), temperature))
        assert pair_gap == pytest.approx(found.epsilon, rel=1e-8, abs=1e-12)
        assert pair_gap > found.epsilon / 2  # twin: half of it does not hold


@pytest.mark.parametrize("name", ["entropy-projection", "euclidean-entropy-projection"])
@pytest.mark.parametrize(("temperature", "floor"), [(1.3, 0.01), (2.0, 0.05), (8.0, 0.01)])
def test_the_bounds_are_within_a_factor_of_what_a_search_finds(name, temperature, floor):
    op = operators.parse(name)
    found = local_epsilon(op, temperature, 5, floor=floor)
    gap = max(largest_gap(soften(op, spread_rows(seed, 5, floor), temperature)) for seed in range(30))
    assert found.kind == "bound"
    assert found.epsilon / 2.5 < gap <= found.epsilon  # so ε/2.5 is no bound


@pytest.mark.parametrize("name", ["entropy-projection", "euclidean-entropy-projection"])
def test_two_classes_are_exact_for_entropy_targets(name):
    op = operators.parse(name)
    found = local_epsilon(op, 1.7, 2, floor=0.02)
    assert found.kind == "exact"
    assert largest_gap(soften(op, lattice_of_two(0.02), 1.7)) == pytest.approx(found.epsilon, rel=1e-8)


def epsilon_of_deficit(radius, num_classes):
    """log of the largest over the least entry of (x, the rest even) with log K − H = radius, in mpmath."""
    k = mpmath.mpf(num_classes)

    def excess(x):
        rest = 1 - x
        return mpmath.log(k) + x * mpmath.log(x) + rest * mpmath.log(rest / (k - 1)) - radius

    ends = []
    for log_outside, log_even, entry in (
        (mpmath.mpf(-200), mpmath.log1p(-1 / k), lambda s: -mpmath.expm1(s)),
        (mpmath.mpf(-200), -mpmath.log(k), mpmath.exp),
    ):
        for _ in range(160):
            middle = (log_outside + log_even) / 2
            if excess(entry(middle)) > 0:
                log_outside = middle
            else:
                log_even = middle
        ends.append(mpmath.log(entry(log_outside)))
    return ends[0] - ends[1]


@pytest.mark.parametrize("name", ["entropy-projection", "euclidean-entropy-projection"])
@pytest.mark.parametrize("floor", [0.0, 1e-12, 1e-6, 0.01])
@pytest.mark.parametrize("excess", [1e-12, 1e-9, 1e-6, 1e-3, 1.0, 1e6, 1e9])
def test_two_classes_of_entropy_targets_to_nine_digits(name, floor, excess):
    """Rounded outwards by 1e-10 the entropy of (1 − y, y) loses all digits of y as T → 1, and then y > 0."""
    op, temperature = operators.parse(name), 1 + excess
    found = local_epsilon(op, temperature, 2, floor=floor)
    with mpmath.workdps(60):
        y = mpmath.mpf(floor)
        entropy = -y * mpmath.log(y) - (1 - y) * mpmath.log(1 - y) if floor else 0
        exact = float(epsilon_of_deficit((mpmath.log(2) - entropy) / mpmath.mpf(temperature), 2))
    assert found.kind == "exact"
    # The interior has no pair to evaluate, and T = 1 is its threshold.
    at_threshold = name == "entropy-projection" and floor == 0 and excess < 1e-8
    assert found.epsilon == pytest.approx(exact, rel=1e-6 if at_threshold else 1e-9)


@pytest.mark.parametrize("num_classes", [3, 10, 1000, 100_000])
@pytest.mark.parametrize("over", [1 + 1e-6, 1.001, 2.0, 1e3, 1e7])
def test_the_entropy_projection_on_the_interior_to_nine_digits(num_classes, over):
    threshold = math.log(num_classes) / -math.log1p(-1 / num_classes)
    found = local_epsilon(operators.get("entropy-projection"), over * threshold, num_classes)
    with mpmath.workdps(60):
        exact = epsilon_of_deficit(mpmath.log(num_classes) / mpmath.mpf(over * threshold), num_classes)
    assert found.epsilon == pytest.approx(float(exact), rel=1e-9)


def lattice_of_two(floor, steps=63):
    x = floor + (1 - 2 * floor) * np.arange(steps + 1) / steps
    return np.stack([x, 1 - x], axis=-1)


def escort_preimage(q, temperature):
    """log p with ``D(p) = T·D(q)`` and ``p ∝ q^s``, by bisection on log s."""
    log_q = np.log(q)

    def log_p_at(s):
        return s * log_q - np.logaddexp.reduce(s * log_q)

    def deficit(log_p):
        return math.log(len(q)) + np.sum(np.exp(log_p) * log_p)

    wanted = temperature * deficit(log_q)
    low, high = 0.0, 30.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if deficit(log_p_at(math.exp(middle))) < wanted else (low, middle)
    return log_p_at(math.exp(low))


def test_the_entropy_projection_on_the_interior(x64):
    """Finite from T = log K/log(K/(K − 1)) up: approached by p that run into the boundary; none below."""
    op, threshold = operators.get("entropy-projection"), math.log(3) / math.log(1.5)
    found = local_epsilon(op, threshold + 0.3, 3)
    assert (found.kind, found.pair) == ("exact", None)
    gaps = []
    for shortfall in (0.1, 1e-2, 1e-3):
        temperature = threshold + 0.3
        radius = math.log(3) / temperature * (1 - shortfall)
        high, low = (
            optimize.brentq(lambda x, r=radius: deficit_of(x) - r, *ends)
            for ends in ((1 / 3, 1), (1e-12, 1 / 3))
        )
        tilt = 1e-3 * (1 - low)  # one class must lead: p runs to that vertex
        images = []
        for q in (
            np.array([high, (1 - high) / 2, (1 - high) / 2]),
            np.array([low, (1 - low) / 2 + tilt, (1 - low) / 2 - tilt]),
        ):
            image = op.log(jnp.asarray(escort_preimage(q, temperature)), temperature)
            np.testing.assert_allclose(np.exp(image), q, rtol=1e-6)
            images.append(np.exp(image))
        gaps.append(largest_gap(np.stack(images)))
    assert gaps == sorted(gaps)
    assert found.epsilon * 0.98 < gaps[-1] < found.epsilon
    below = local_epsilon(op, threshold - 0.1, 3)
    assert (below.kind, below.epsilon) == ("none", math.inf)


def deficit_of(x):
    return math.log(3) + x * math.log(x) + ((1 - x) * math.log((1 - x) / 2) if x < 1 else 0.0)


def test_the_entropy_projection_below_its_threshold_gives_a_label_away(x64):
    op, rare = operators.get("entropy-projection"), []
    for y in (1e-2, 1e-4, 1e-8):
        q = np.array([0.8, 0.2 - y, y])  # D = .598 + …, below log 3/1.7 = .646
        image = op.log(jnp.asarray(escort_preimage(q, 1.7)), 1.7)
        np.testing.assert_allclose(np.exp(image), q, rtol=1e-6)
        rare.append(float(image[2]))
    assert rare[-1] < -18


def test_the_euclidean_projection_keeps_a_label_possible_at_every_temperature_above_1():
    """On closed Δ: a finite bound, and the weight at a zero falls like T − 1, not exponentially."""
    op = operators.get("euclidean-entropy-projection")
    rows = np.array([[0.7, 0.3, 0.0, 0, 0], [1.0, 0.0, 0.0, 0, 0], [0.5, 0.5, 0.0, 0, 0]])
    for excess in (1e-1, 1e-3, 1e-6, 1e-9):
        q = soften(op, rows, 1 + excess)
        found = local_epsilon(op, 1 + excess, 5)
        assert found.kind == "bound"
        assert largest_gap(q) <= found.epsilon
        assert found.epsilon < math.log(1 / excess) + 8
        assert 1e-3 * excess < q.min() < excess


# -- what else an operator may be ---------------------------------------------------------------------------


def square(x, params):
    return 0.5 * x**2


def shannon(x, params):
    return x * jnp.log(x)


def test_variational_operators():
    as_mixture = operators.variational(square, square)
    bound = local_epsilon(as_mixture, 2.0, 4, floor=0.05)
    exact = local_epsilon(MIXTURE, 2.0, 4, floor=0.05)
    assert bound.kind == "bound"
    assert exact.epsilon <= bound.epsilon <= math.log(0.85 / 0.05)
    two = local_epsilon(as_mixture, 2.0, 2, floor=0.05)
    assert two.kind == "exact"
    assert two.epsilon == pytest.approx(local_epsilon(MIXTURE, 2.0, 2, floor=0.05).epsilon, rel=1e-7)
    assert local_epsilon(as_mixture, 2.0, 4).kind == "unknown"
    assert local_epsilon(as_mixture, 1.0, 4, floor=0.1).epsilon == pytest.approx(math.log(0.7 / 0.1))
    target = operators.variational(square, shannon, "target")
    named = local_epsilon(operators.get("euclidean-entropy-projection"), 2.0, 4, floor=0.05)
    assert local_epsilon(target, 2.0, 4, floor=0.05).epsilon >= named.epsilon


def test_of_a_plain_function_nothing_is_proved():
    def warm(p, temperature):
        return p / temperature + (1 - 1 / temperature) / p.shape[-1]

    found = local_epsilon(warm, 2.0, 3)
    assert (found.kind, found.epsilon) == ("unknown", math.inf)
    assert "none known" in str(found)
    assert "warm at T = 2" in str(found)


def test_only_one_distribution_tells_nothing():
    assert local_epsilon(operators.get("argmax"), 2.0, 4, floor=0.25).epsilon == 0


def test_a_schedule_and_a_smoothing_are_mixtures():
    squared = operators.ConvexMixture(lambda t: 1 - 1 / t**2)
    assert local_epsilon(squared, 2.0, 3).epsilon == pytest.approx(local_epsilon(MIXTURE, 4.0, 3).epsilon)
    smooth = local_epsilon(operators.lawless.LabelSmoothing(0.5), 7.0, 3)
    assert smooth.epsilon == pytest.approx(local_epsilon(MIXTURE, 2.0, 3).epsilon)
    assert local_epsilon(operators.lawless.LabelSmoothing(0.0), 7.0, 3).kind == "none"


def test_a_prior_too_uneven_leaves_a_bound():
    prior = operators.lawless.PriorDirected(np.array([0.9, 0.09, 0.01]))
    found = local_epsilon(prior, 2.0, 3, floor=0.1)
    assert found.kind == "bound"
    gap = largest_gap(soften(prior, lattice(0.1), 2.0))
    assert found.epsilon / 2 < gap <= found.epsilon
    assert local_epsilon(prior, 2.0, 3, floor=1e-3).kind == "exact"


@pytest.mark.parametrize("name", ["mixture", "power", "tsallis(1.5)", "euclidean-entropy-projection"])
def test_the_temperature_of_an_epsilon(name):
    op, floor = operators.parse(name), 0.01 if name == "power" else 0.0
    temperature = temperature_for(op, 1.5, 5, floor=floor)
    assert local_epsilon(op, temperature, 5, floor=floor).epsilon <= 1.5
    assert local_epsilon(op, temperature * (1 - 1e-6), 5, floor=floor).epsilon > 1.5
    if name == "mixture":
        assert temperature == pytest.approx(1 + 5 / math.expm1(1.5), rel=1e-8)


def test_what_is_refused():
    with pytest.raises(ValueError, match=r"floor is 0\.4; no distribution of K = 3"):
        local_epsilon(POWER, 2.0, 3, floor=0.4)
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        local_epsilon(POWER, 2.0, 1)
    assert local_epsilon(MIXTURE, 2.0, jnp.asarray(3)).epsilon == local_epsilon(MIXTURE, 2.0, 3).epsilon
    with pytest.raises(ValueError, match="takes T in"):
        local_epsilon(operators.get("entropy-projection"), 0.5, 3)
    with pytest.raises(ValueError, match="one finite number"):
        local_epsilon(POWER, math.inf, 3)
    with pytest.raises(ValueError, match="which no temperature is known to give"):
        temperature_for(POWER, 1.0, 3)
    with pytest.raises(TypeError, match=r"operator is the text 'power'; pass operators\.parse\('power'\)"):
        local_epsilon("power", 2.0, 3)
    with pytest.raises(TypeError, match=r"operator is the function .* of which nothing is proved"):
        temperature_for(lambda p, t: p, 1.0, 3)
    with pytest.raises(ValueError, match="epsilon is 0"):
        temperature_for(MIXTURE, 0.0, 3)
    with pytest.raises(ValueError, match=r"prior of .* has shape"):
        local_epsilon(operators.lawless.PriorDirected(np.array([0.5, 0.5])), 2.0, 3, floor=0.1)
