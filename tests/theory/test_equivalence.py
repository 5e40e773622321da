"""When two operators train the same student: gaps, bounds, teachers made for it, students that prove it."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsekd_jax import operators
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.theory.equivalence import (
    classes,
    compare_students,
    equivalent_teacher,
    gap,
    moment_gap,
    nearest_temperature,
    tangent_features,
)
from sparsekd_jax.theory.equivalence.gaps import pull_back

POWER, MIXTURE = operators.PowerTransform(), operators.ConvexMixture()
FAMILIES = {
    "power": POWER,
    "mixture": MIXTURE,
    "tsallis(0.5)": operators.TsallisSoftening(alpha=0.5),
    "tsallis(1.5)": operators.TsallisSoftening(alpha=1.5),
    "tsallis(3)": operators.TsallisSoftening(alpha=3.0),
    "entropy projection": operators.EntropyProjection(),
    "Euclidean entropy projection": operators.EuclideanEntropyProjection(),
}
N, D, K = 6, 3, 3

seeds = st.integers(0, 2**32 - 1)


def problem(seed, n=N, d=D, k=K):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.full(k, 0.7), n) + 1e-6
    return p / p.sum(-1, keepdims=True), rng.normal(size=(n, d)) * np.exp(rng.normal())


# -- the gap -----------------------------------------------------------------------------------------


@given(seeds, st.floats(1, 10), st.floats(1, 10))
def test_the_gap_is_the_difference_of_the_gradients(seed, t, s):
    """At any weights the two losses' gradients differ by Xᵀ(F(P) − G(P))/N: the reference is AD."""
    p, x = problem(seed)
    found = gap(POWER, MIXTURE, p, x, (t, s))
    by_sum = gap(POWER, MIXTURE, p, x, (t, s), reduction="sum")
    with jax.enable_x64(True):
        w = jnp.asarray(np.random.default_rng(seed + 1).normal(size=(D, K)))

        def loss(w, targets):
            return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(jnp.asarray(x) @ w, axis=-1), axis=-1))

        slopes = [
            np.asarray(jax.grad(loss)(w, op(jnp.asarray(p), at))) for op, at in ((POWER, t), (MIXTURE, s))
        ]
    assert found.value == pytest.approx(np.linalg.norm(slopes[0] - slopes[1]), rel=1e-9, abs=1e-13)
    assert by_sum.value == pytest.approx(N * found.value, rel=1e-12)


@given(seeds, st.integers(1, 4), st.floats(1.1, 10))
def test_independent_rows_let_no_difference_pass(seed, n, t):
    """Full row rank: ‖F(P) − G(P)‖ ≤ gap·distance_per_gap, so a gap of 0 forces F(P) = G(P)."""
    p, _ = problem(seed, n=n)
    x = np.random.default_rng(seed).normal(size=(n, 5))
    found = gap(POWER, MIXTURE, p, x, t)
    assert found.full_rank
    assert found.rank == n
    assert found.target_distance <= found.value * found.distance_per_gap * (1 + 1e-9)
    by_sum = gap(POWER, MIXTURE, p, x, t, reduction="sum")
    assert by_sum.distance_per_gap * n == pytest.approx(found.distance_per_gap)


def test_the_bound_on_the_targets_is_sharp_and_an_unrestricted_class_sees_everything():
    p, _ = problem(0)
    found = gap(POWER, MIXTURE, p, np.eye(N), 2.0)  # one weight vector a row: every student there is
    assert found.value * found.distance_per_gap == pytest.approx(found.target_distance)
    assert found.value * found.distance_per_gap * 0.99 < found.target_distance  # the twin


def test_dependent_rows_and_columns_are_flagged():
    p, x = problem(0)
    full, wide = gap(POWER, MIXTURE, p, x, 2.0), gap(POWER, MIXTURE, p, np.c_[x, x], 2.0)
    assert (full.rank, full.full_rank, full.distance_per_gap) == (3, False, math.inf)
    assert (wide.rank, wide.full_rank) == (3, False)
    assert gap(POWER, MIXTURE, p, np.zeros((N, 2)), 2.0).rank == 0


def test_float32_teachers_and_the_setting_of_the_process_make_no_difference():
    p, x = problem(0)
    single = gap(POWER, MIXTURE, jnp.asarray(p, jnp.float32), x, 2.0)
    assert single.value == pytest.approx(gap(POWER, MIXTURE, p, x, 2.0).value, rel=1e-5)
    assert not jax.config.jax_enable_x64


def test_plain_functions_are_operators_too():
    p, x = problem(0)

    def numpy_mixture(row, temperature):
        return np.asarray(row) / temperature + (1 - 1 / temperature) / len(row)

    def jax_mixture(row, temperature):
        assert row.ndim == 1
        return row / temperature + (1 - 1 / temperature) / row.shape[0]

    for plain in (numpy_mixture, jax_mixture):
        assert gap(plain, MIXTURE, p, x, 2.0).value < 1e-15
    with pytest.raises(ValueError, match="must return"):
        gap(lambda row, t: row[:1], MIXTURE, p, x, 2.0)


# -- ridge students ----------------------------------------------------------------------------------


@given(seeds, st.floats(1, 10), st.floats(1, 10), st.floats(-5, 3))
def test_ridge_students_differ_by_at_most_gap_over_mu(seed, t, s, log_mu):
    p, x = problem(seed)
    found = compare_students(POWER, MIXTURE, p, x, (t, s), math.exp(log_mu))
    assert found.bound == found.gap.value / math.exp(log_mu)
    assert found.uncertainty < 1e-8
    assert found.weights <= found.bound + found.uncertainty


def test_the_twin_of_the_bound_is_exceeded():
    """As μ grows the distance tends to gap/μ: half of it, or the sum's gap for the mean's μ, are wrong."""
    p, x = problem(0)
    found = compare_students(POWER, MIXTURE, p, x, 3.0, 1e3)
    assert found.weights > 0.99 * found.bound
    assert found.weights > found.bound / 2
    # The mean's gap taken for a student of the summed loss, whose ridge is μ/N a row, is exceeded as well.
    summed = compare_students(POWER, MIXTURE, p, x, 3.0, 1e3 / N)
    assert summed.weights > found.gap.value / 1e3
    assert summed.weights <= gap(POWER, MIXTURE, p, x, 3.0, reduction="sum").student_bound(1e3)


def test_the_students_are_those_of_scipy():
    p, x = problem(2)
    found = compare_students(POWER, MIXTURE, p, x, 2.0, 0.3)
    for op, student in zip((POWER, MIXTURE), found.students, strict=True):
        target = soften(op, p, 2.0)

        def objective(w, target=target):
            logits = x @ w.reshape(D, K)
            log_q = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
            return -np.mean(np.sum(target * log_q, axis=1)) + 0.15 * np.sum(w**2)

        best = scipy.optimize.minimize(objective, np.zeros(D * K), tol=1e-10)
        np.testing.assert_allclose(np.asarray(student.weights).ravel(), best.x, atol=1e-5)


# -- constructed teachers ----------------------------------------------------------------------------


@settings(max_examples=30)
@given(seeds, st.sampled_from([("power", 2.0, 2), ("power", 2.0, 5), ("tsallis(1.5)", 3.0, 3)]))
def test_a_teacher_on_which_two_operators_agree(seed, second):
    rng = np.random.default_rng(seed)
    x = np.c_[np.ones(N), rng.normal(size=(N, 2))]
    name, s, num_classes = second
    teacher = equivalent_teacher(MIXTURE, FAMILIES[name], x, num_classes, (2.0, s), seed=seed)
    p = teacher.probabilities
    difference = soften(MIXTURE, p, 2.0) - soften(FAMILIES[name], p, s)
    assert (p > 0).all()
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-14)
    assert np.abs(x.T @ difference).max() < 1e-12 * np.abs(x).max()  # in the null space, to rounding
    assert np.abs(difference).max() > 1e-3
    # Broken twin: another teacher of the same kind is told apart.
    other = np.roll(p, 1, axis=0)
    assert np.abs(x.T @ (soften(MIXTURE, other, 2.0) - soften(FAMILIES[name], other, s))).max() > 1e-6


@pytest.mark.parametrize("mu", [0.0, 0.2])
def test_the_students_of_a_constructed_teacher_coincide(mu):
    """The trained proof: different targets, one student; on another teacher, two."""
    rng = np.random.default_rng(1)
    x = np.c_[np.ones(8), rng.normal(size=(8, 2))]
    x = np.c_[x, x[:, 1] + x[:, 2]]  # null(X) too
    teacher = equivalent_teacher(POWER, MIXTURE, x, K, 2.0)
    found = compare_students(POWER, MIXTURE, teacher.probabilities, x, 2.0, mu)
    assert teacher.gap.target_distance > 0.01
    assert found.predictions < 1e-12
    assert found.weights < 1e-6
    p, _ = problem(3, n=8)
    other = compare_students(POWER, MIXTURE, p, x, 2.0, mu)
    assert other.predictions > 1e-3
    if mu:
        assert 0 < other.weights <= other.bound + other.uncertainty
    else:
        assert other.bound == other.uncertainty == math.inf
        with pytest.raises(ValueError, match="needs a ridge mu > 0"):
            other.gap.student_bound(mu)


def test_no_teacher_where_none_can_be():
    x = np.random.default_rng(0).normal(size=(3, 5))
    with pytest.raises(ValueError, match=r"3 independent rows.*Give more rows"):
        equivalent_teacher(POWER, MIXTURE, x, 3, 2.0)
    tall = np.random.default_rng(0).normal(size=(6, 2))
    with pytest.raises(ValueError, match="agree at these temperatures"):
        equivalent_teacher(MIXTURE, operators.TsallisSoftening(alpha=2.0), tall, 3, 2.0)
    with pytest.raises(ValueError, match="not equivariant"):
        equivalent_teacher(POWER, lambda q, t: q[jnp.array([1, 2, 0])] / t + (1 - 1 / t) / 3, tall, 3, 2.0)
    with pytest.raises(ValueError, match="num_classes is 1"):
        equivalent_teacher(POWER, MIXTURE, tall, 1, 2.0)


# -- exponential families ----------------------------------------------------------------------------


@settings(max_examples=25)
@given(seeds, st.integers(1, 3))
def test_an_exponential_family_sees_the_moments_only(seed, r):
    """Fitted by Newton on the dual: equal AᵀF(p) gives equal students, and only that."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(5, r))
    p = rng.dirichlet(np.ones(5)) + 1e-3
    p /= p.sum()
    # A target that differs along null([A, 1]ᵀ) only.
    null = np.linalg.svd(np.c_[a, np.ones(5)], full_matrices=True)[0][:, -1]
    q = p + 0.5 * null * p.min() / np.abs(null).max()
    shifts = {"same": q, "other": np.roll(p, 1)}

    def fit(target):
        def slope(theta):
            return a.T @ (np.exp(a @ theta - np.logaddexp.reduce(a @ theta)) - target)

        theta = scipy.optimize.minimize(
            lambda th: np.logaddexp.reduce(a @ th) - target @ a @ th, np.zeros(r), jac=slope, tol=1e-12
        ).x
        return np.exp(a @ theta - np.logaddexp.reduce(a @ theta))

    for name, target in shifts.items():
        seen = moment_gap(lambda row, t: row, lambda row, t, target=target: target, p[None], a, 1.0)[0]
        assert seen == pytest.approx(np.linalg.norm(a.T @ (p - target)), abs=1e-15)
        if name == "same":
            assert seen < 1e-14
            assert np.abs(p - target).max() > 1e-5
            np.testing.assert_allclose(fit(p), fit(target), atol=1e-6)
        elif seen > 0.05:
            assert np.abs(fit(p) - fit(target)).max() > 1e-4


def test_moments_of_float32_rows_are_those_of_the_rows_they_represent():
    """(.9, .1) in float32 sums to 1 within the tolerance of float32, not of float64."""
    single = np.array([[0.9, 0.1], [0.3, 0.7]], np.float32)
    a = np.array([[0.0], [1.0]])
    found = moment_gap(POWER, MIXTURE, single, a, 2.0)
    np.testing.assert_allclose(
        found, moment_gap(POWER, MIXTURE, single.astype(float).round(7), a, 2.0), rtol=1e-6
    )
    by_hand = np.abs(np.sqrt([0.1, 0.7]) / (np.sqrt([0.1, 0.7]) + np.sqrt([0.9, 0.3])) - [0.3, 0.6])
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)
    # Exactly: the gap of one row with the identity for features, seen through A.
    one = gap(POWER, MIXTURE, single[:1], np.ones((1, 1)), 2.0).value
    assert moment_gap(POWER, MIXTURE, single[:1], np.eye(2), 2.0)[0] == pytest.approx(one, rel=1e-14)


# -- nearest temperatures and classes ----------------------------------------------------------------


def test_the_nearest_temperature_is_that_of_a_fine_grid():
    p, x = problem(0)
    found = nearest_temperature(POWER, 3.0, MIXTURE, p, x)
    grid = np.linspace(1, 10, 20001)
    centre = p.mean(-1, keepdims=True)
    target = soften(POWER, p, 3.0)
    values = [np.linalg.norm(x.T @ (target - centre - (p - centre) / s)) / N for s in grid]
    assert found.temperature == pytest.approx(grid[np.argmin(values)], abs=1e-3)
    assert found.gap == pytest.approx(min(values), rel=1e-6)
    assert found.gap < found.same == pytest.approx(gap(POWER, MIXTURE, p, x, 3.0).value, rel=1e-12)
    assert found.relative == pytest.approx(found.gap * N / np.linalg.norm(x.T @ (target - 1 / K)))
    assert (found.at_end, found.searched) == (False, (0.05, 1000.0))


def test_a_temperature_beyond_the_range_is_flagged():
    p, x = problem(0)
    found = nearest_temperature(POWER, 0.5, operators.EntropyProjection(), p, x)
    assert (found.at_end, found.same) == (True, None)
    assert found.temperature == pytest.approx(1.0)
    with pytest.raises(ValueError, match="0 < low < high"):
        nearest_temperature(POWER, 2.0, MIXTURE, p, x, temperatures=(3.0, 2.0))


def test_the_same_operator_is_found_again():
    p, x = problem(5)
    for op in (POWER, MIXTURE, FAMILIES["tsallis(1.5)"]):
        found = nearest_temperature(op, 2.5, op, p, x)
        assert found.temperature == pytest.approx(2.5, rel=1e-11)
        assert found.gap < 1e-12


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("blind", [np.ones((2, 1)), np.zeros((2, 3)), np.full((2, 2), 1e9)])
def test_features_that_do_not_see_the_temperature_identify_none(name, blind):
    """A row and its mirror image: a constant feature sees their mean, which is uniform at every S."""
    p = np.array([[0.8, 0.2], [0.2, 0.8]])
    found = nearest_temperature(POWER, 2.0, FAMILIES[name], p, blind)
    assert not found.identified
    assert found.relative == 0
    assert str(found).startswith("not identified: gap ")
    # Broken twin: 'not at an end' was all that was said of it, and is true of features that see as well.
    seen = nearest_temperature(POWER, 2.0, FAMILIES[name], p, np.eye(2))
    assert seen.identified
    assert str(seen).startswith(f"T = {seen.temperature:.6g}: gap ")


def test_a_temperature_of_which_part_of_the_range_is_as_near_is_not_identified():
    """Power with T clamped at 5 is one function from there on; below it the temperature is found."""
    p, x = problem(0)
    clamped = operators.get("clamped-power", limit=5.0)
    assert not nearest_temperature(POWER, 5.0, clamped, p, x).identified
    found = nearest_temperature(POWER, 3.0, clamped, p, x)
    assert found.identified
    assert found.temperature == pytest.approx(3.0, rel=1e-9)


def test_a_gap_that_no_temperature_closes_where_uniform_targets_do():
    """F(P) looks uniform and G, which does not depend on S, never does."""
    p = np.array([[0.8, 0.2], [0.2, 0.8]])
    found = nearest_temperature(POWER, 2.0, lambda row, t: row**2 / jnp.sum(row**2), p[:1], [[1.0]])
    assert (found.identified, 0 < found.relative < math.inf) == (False, True)
    found = nearest_temperature(POWER, 2.0, lambda row, t: jnp.array([0.9, 0.1]), p, np.ones((2, 1)))
    assert (found.identified, found.relative) == (False, math.inf)


@settings(max_examples=30)
@given(seeds, st.floats(1.5, 3))
def test_a_narrow_range_identifies_too(seed, t):
    """However near the 65 temperatures are to each other, the one sought is told from them."""
    p, x = problem(seed)
    found = nearest_temperature(POWER, t, POWER, p, x, temperatures=(t * (1 - 1e-4), t * (1 + 1e-4)))
    assert found.identified
    assert found.temperature == pytest.approx(t, rel=1e-9)


def test_classes_are_single_linkage_and_say_how_wide_they_are():
    p, x = problem(0)
    named = {"power": POWER, "mixture": MIXTURE, "tsallis(2)": operators.TsallisSoftening(alpha=2.0)}
    exact = classes(named, p, x, 2.0, 1e-12)
    assert exact.classes == (("power",), ("mixture", "tsallis(2)"))
    assert exact.gaps[0, 1] == pytest.approx(gap(POWER, MIXTURE, p, x, 2.0).value, rel=1e-12)
    assert exact.diameters[0] == 0
    assert exact.diameters[1] < 1e-14
    escort = lambda p, t: p ** (1 / t) / (p ** (1 / t)).sum()  # noqa: E731
    assert classes([operators.get("power"), escort], p, x, 2.0, 1e-12).classes == (("power", "<lambda>"),)
    assert classes(named, p, x, 2.0, 10.0).classes == (("power", "mixture", "tsallis(2)"),)
    # A chain: neighbours within the tolerance, its ends not.
    chain = {f"T{t}": MIXTURE for t in (2.0, 2.1, 2.2, 5.0)}
    step = gap(MIXTURE, MIXTURE, p, x, (2.0, 2.1)).value
    linked = classes(chain, p, x, [2.0, 2.1, 2.2, 5.0], 1.01 * step)
    assert linked.classes == (("T2.0", "T2.1", "T2.2"), ("T5.0",))
    assert linked.diameters[0] > linked.tolerance


def test_features_that_see_nothing_put_all_operators_in_one_class():
    """Rows and their mirror images: a constant feature sees the mean, which equivariance fixes."""
    p = np.array([[0.8, 0.2], [0.2, 0.8]])
    found = classes(FAMILIES, p, np.ones((2, 1)), 2.0, 1e-10)
    assert found.classes == (tuple(FAMILIES),)
    # Features that tell the rows apart leave two coincidences of K = 2: α = 3 is affine there, since
    # p_1² − p_2² = p_1 − p_2, and the entropy projections meet on the one segment there is.
    apart = classes(FAMILIES, p, np.eye(2), 2.0, 1e-10).classes
    assert [group for group in apart if len(group) > 1] == [
        ("mixture", "tsallis(3)"),
        ("entropy projection", "Euclidean entropy projection"),
    ]


# -- two classes -------------------------------------------------------------------------------------


@given(st.floats(0.01, 0.99), st.floats(1.0, 8.0), st.sampled_from(sorted(FAMILIES)))
def test_two_classes_leave_a_change_of_temperature_that_depends_on_p(a, t, name):
    p = np.array([[a, 1 - a]])
    q = soften(FAMILIES[name], p, t)
    assert min(a, 0.5) - 1e-12 <= q[0, 0] <= max(a, 0.5) + 1e-12  # the segment from p to the centre
    if abs(a - 0.5) < 1e-3 or abs(q[0, 0] - 0.5) < 1e-3:
        return
    # The temperature at which the mixture, and power, are the same, in closed form.
    for other, s in (
        (MIXTURE, (a - 0.5) / (q[0, 0] - 0.5)),
        (POWER, math.log(a / (1 - a)) / math.log(q[0, 0] / q[0, 1])),
    ):
        np.testing.assert_allclose(soften(other, p, max(s, 1.0)), q, atol=1e-9)


def test_the_change_of_temperature_is_found_and_depends_on_p():
    found = [
        nearest_temperature(POWER, 2.0, other, [[a, 1 - a]], [[1.0]])
        for other in (MIXTURE, FAMILIES["entropy projection"])
        for a in (0.6, 0.9)
    ]
    assert max(f.gap for f in found) < 1e-11
    assert found[0].temperature == pytest.approx(
        0.1 / (math.sqrt(0.6) / (math.sqrt(0.6) + math.sqrt(0.4)) - 0.5)
    )
    assert found[0].temperature > found[1].temperature + 0.3
    # So no single temperature serves both rows: the broken twin of 'a change of T'.
    both = nearest_temperature(POWER, 2.0, MIXTURE, [[0.6, 0.4], [0.9, 0.1]], np.eye(2))
    assert both.gap > 1e-3


def test_at_a_vertex_two_classes_are_not_enough():
    """Witness: at (1, 0) power never moves, the mixture at T = 2 gives (.75, .25)."""
    vertex = np.array([[1.0, 0.0]])
    np.testing.assert_allclose(soften(MIXTURE, vertex, 2.0), [[0.75, 0.25]], atol=1e-15)
    np.testing.assert_array_equal(soften(POWER, vertex, 50.0), vertex)
    found = nearest_temperature(MIXTURE, 2.0, POWER, vertex, [[1.0]])
    assert found.gap == pytest.approx(0.25 * math.sqrt(2))
    assert not found.identified


# -- tangent features --------------------------------------------------------------------------------


def test_tangent_features_of_a_linear_model_are_its_features():
    p, x = problem(0)
    with jax.enable_x64(True):
        params = {"w": jnp.zeros((D, K)), "b": jnp.zeros(K)}
        j = tangent_features(lambda q, x: x @ q["w"] + q["b"][None], params, jnp.asarray(x))
    assert j.shape == (N, K, D * K + K)
    linear = np.c_[x, np.ones(N)]
    tangent, plain = gap(POWER, MIXTURE, p, j, 2.0), gap(POWER, MIXTURE, p, linear, 2.0)
    assert tangent.value == pytest.approx(plain.value, rel=1e-12)
    assert (tangent.rank, tangent.full_rank) == ((D + 1) * (K - 1), False)
    assert plain.rank == D + 1


def test_tangent_features_of_a_network():
    """Against finite differences; with enough parameters they pin the targets down."""
    p, x = problem(0)
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        params = (jnp.asarray(rng.normal(size=(D, 16))), jnp.asarray(rng.normal(size=(16, K))))

        def apply(params, x):
            return jnp.tanh(x @ params[0]) @ params[1]

        j = np.asarray(tangent_features(apply, params, jnp.asarray(x)))
        step = (jnp.asarray(rng.normal(size=(D, 16))), jnp.asarray(rng.normal(size=(16, K))))
        ahead, behind = (
            apply(jax.tree.map(lambda a, b, h=h: a + h * b, params, step), jnp.asarray(x))
            for h in (1e-5, -1e-5)
        )
    flat = np.concatenate([np.asarray(s).ravel() for s in step])
    np.testing.assert_allclose(j @ flat, (np.asarray(ahead) - np.asarray(behind)) / 2e-5, atol=1e-6)
    found = gap(POWER, MIXTURE, p, j, 2.0)
    assert (found.rank, found.full_rank) == (N * (K - 1), True)
    assert found.target_distance <= found.value * found.distance_per_gap * (1 + 1e-9)
    # The first gradient step of the two students differs by exactly the gap.
    difference = soften(POWER, p, 2.0) - soften(MIXTURE, p, 2.0)
    assert found.value == pytest.approx(np.linalg.norm(pull_back(j, difference)) / N)


# -- input -------------------------------------------------------------------------------------------

P, X = problem(0)
CALL = functools.partial(gap, POWER, MIXTURE)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CALL(P, X[:5], 2.0), r"probabilities \(6, 3\), features \(5, 3\)"),
        (lambda: CALL(P, np.ones((N, 2, 4)), 2.0), "need"),
        (
            lambda: CALL(P, np.where(np.arange(N)[:, None] == 2, np.inf, X), 2.0),
            "features, row 2: is not finite",
        ),
        (lambda: CALL(2 * P, X, 2.0), "probabilities, row 0: sums to 2"),
        (lambda: CALL(P, X, 0.5 - 1), "temperature is"),
        (lambda: CALL(P, X, (2.0, 3.0, 4.0)), "give one for both, or the pair"),
        (lambda: classes([], P, X, 2.0, 0.1), "operators is empty"),
        (lambda: CALL(P, X, 2.0, reduction="none"), "'mean' or 'sum'"),
        (lambda: CALL(P, X, 2.0).student_bound(0.0), "needs a ridge mu > 0"),
        (lambda: moment_gap(POWER, MIXTURE, P, np.ones((4, 1)), 2.0), "statistic"),
        (lambda: moment_gap(POWER, MIXTURE, P, [[0.0], [math.nan], [1.0]], 2.0), "statistic, row 1: is not"),
        (lambda: moment_gap(POWER, MIXTURE, 2 * P, np.ones((3, 1)), 2.0), "probabilities, row 0: sums to 2"),
        (
            lambda: moment_gap(POWER, MIXTURE, np.where(P > 0, math.nan, P), np.ones((3, 1)), 2.0),
            "contains nan",
        ),
        (lambda: moment_gap(POWER, MIXTURE, P[:0], np.ones((3, 1)), 2.0), r"probabilities \(0, 3\)"),
        (lambda: classes([POWER, POWER], P, X, 2.0, 0.1), "share a name"),
        (lambda: classes([POWER, MIXTURE], P, X, 2.0, -0.1), "tolerance is -0.1"),
        (lambda: classes([POWER, MIXTURE], P, X, [2.0] * 3, 0.1), "temperature"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
