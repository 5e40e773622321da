"""The decompositions against plain loops, exact students, and their own theorems."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from sparsekd_jax.theory import intervals, ridge
from sparsekd_jax.theory.bias_variance import compare, decompose
from tests.theory import testbed
from tests.theory.testbed import BEDS

LOSSES = ("brier", "kl")


def distributions(seed, *shape, spread=1.0):
    """Interior rows, more or less concentrated."""
    return special.softmax(spread * np.random.default_rng(seed).normal(size=shape), axis=-1)


def kl(p, q):
    return special.rel_entr(p, q).sum(-1)


def plug_in(probs, truth, loss):
    """Bias², variance and risk with the members as the whole population, by the definitions: [n] each."""
    if loss == "brier":
        centre = probs.mean(axis=0)
        distance = ((centre - truth) ** 2).sum(-1)
        return distance, ((probs - centre) ** 2).sum(-1).mean(0), ((probs - truth) ** 2).sum(-1).mean(0)
    centre = special.softmax(np.log(probs).mean(axis=0), axis=-1)
    return kl(truth, centre), kl(centre, probs).mean(0), kl(truth, probs).mean(0)


def corrected(probs, truth, loss):
    m = len(probs)
    bias, variance, risk = plug_in(probs, truth, loss)
    return bias - variance / (m - 1), m / (m - 1) * variance, risk


seeds, spreads = st.integers(0, 10**6), st.floats(0.01, 6)
sizes = st.sampled_from([(2, 2, 3), (3, 1, 2), (6, 3, 4)])  # few, as each is a compilation


# -- the theorems ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@given(sizes, seeds, spreads)
def test_risk_is_bias_plus_variance(loss, size, seed, spread):
    m, n, k = size
    probs, truth = distributions(seed, m, n, k, spread=spread), distributions(seed + 1, n, k, spread=spread)
    result = decompose(probs, truth=truth, loss=loss, examples="fixed")
    bias, variance, risk = (x.mean() for x in plug_in(probs, truth, loss))
    tight = {"rel": 1e-9, "abs": 1e-13}
    assert result.risk.value == pytest.approx(risk, **tight)
    assert result.plug_in_variance == pytest.approx(variance, **tight)
    assert result.plug_in_bias_squared == pytest.approx(bias, **tight)  # risk − variance: the identity
    assert result.bias_squared.value + result.variance.value == pytest.approx(result.risk.value, rel=1e-12)


def test_the_identities_fail_with_the_other_centre():
    """Broken twins: the arithmetic mean for KL, the geometric mean for Brier."""
    probs, truth = distributions(0, 4, 3, 3), distributions(1, 3, 3)
    mean, geometric = probs.mean(axis=0), special.softmax(np.log(probs).mean(axis=0), axis=-1)
    risk = kl(truth, probs).mean(0)
    assert np.abs(kl(truth, mean) + kl(mean, probs).mean(0) - risk).max() > 0.01
    terms = ((geometric - truth) ** 2).sum(-1) + ((probs - geometric) ** 2).sum(-1).mean(0)
    assert np.abs(terms - ((probs - truth) ** 2).sum(-1).mean(0)).max() > 0.01


def expected_over_ensembles(population, truth, m, value):
    """Mean of a statistic over all ensembles of m members drawn with replacement from a finite population."""
    index = np.stack(np.meshgrid(*[np.arange(len(population))] * m), axis=-1).reshape(-1, m)
    return np.mean([value(population[i], truth) for i in index], axis=0)


@given(st.integers(2, 3), st.integers(2, 4), seeds, spreads)
def test_the_corrected_brier_terms_are_unbiased(m, size, seed, spread):
    population, truth = distributions(seed, size, 1, 3, spread=spread), distributions(seed + 1, 1, 3)
    true_bias, true_variance, _ = plug_in(population, truth, "brier")

    def ours(probs, p):
        result = decompose(probs, truth=p, examples="fixed")
        return result.bias_squared.value, result.variance.value

    bias, variance = expected_over_ensembles(population, truth, m, ours)
    assert bias == pytest.approx(true_bias[0], abs=1e-12)
    assert variance == pytest.approx(true_variance[0], abs=1e-12)
    # Broken twin: the plug-in terms, biased by Var/m in opposite directions.
    twin_bias, twin_variance, _ = expected_over_ensembles(
        population, truth, m, lambda probs, p: plug_in(probs, p, "brier")
    )
    np.testing.assert_allclose(twin_bias - true_bias, true_variance / m, atol=1e-12)
    np.testing.assert_allclose(true_variance - twin_variance, true_variance / m, atol=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("against", ["truth", "labels"])
@given(sizes, seeds, spreads)
def test_the_advantage_is_the_gain_less_the_cost_and_the_difference_of_risks(
    loss, against, size, seed, spread
):
    m, n, k = size[0], max(size[1], 2), size[2]
    sparse, dense = distributions(seed, 2, m, n, k, spread=spread)
    truth = distributions(seed + 1, n, k)
    labels = np.random.default_rng(seed).integers(0, k, n)
    given_reference = {"truth": truth} if against == "truth" else {"labels": labels}
    result = compare(sparse, dense, loss=loss, **given_reference)
    reference = truth if against == "truth" else np.eye(k)[labels]
    (bias_s, var_s, risk_s), (bias_d, var_d, risk_d) = (
        corrected(q, reference, loss) for q in (sparse, dense)
    )
    tight = {"rel": 1e-9, "abs": 1e-12}
    assert result.advantage.value == pytest.approx((risk_d - risk_s).mean(), **tight)
    assert result.delta_variance.value == pytest.approx((var_d - var_s).mean(), **tight)
    assert result.delta_bias_squared.value == pytest.approx((bias_s - bias_d).mean(), **tight)
    gain, cost = result.delta_variance.value, result.delta_bias_squared.value
    assert gain - cost == pytest.approx(result.advantage.value, **tight)
    # Broken twin: Bias²_dense − Bias²_sparse as the cost.
    if abs(cost) > 1e-6:
        assert gain + cost != pytest.approx(result.advantage.value, rel=1e-9, abs=1e-9)


# -- against plain loops and exact students --------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_intervals_are_those_of_ensembles_with_a_member_left_out(loss):
    sparse, dense = distributions(5, 2, 5, 12, 4)
    truth = distributions(6, 12, 4)

    def advantage(keep):
        pairs = [corrected(q[keep], truth, loss) for q in (sparse, dense)]
        (bias_s, var_s, risk_s), (bias_d, var_d, risk_d) = pairs
        return {
            "delta_variance": var_d - var_s,
            "delta_bias_squared": bias_s - bias_d,
            "advantage": risk_d - risk_s,
        }

    full = advantage(np.arange(5))
    left_out = [advantage(np.delete(np.arange(5), i)) for i in range(5)]
    for examples in ("random", "fixed"):
        result = compare(sparse, dense, truth=truth, loss=loss, examples=examples, level=0.9)
        for name, whole in full.items():
            if name == "delta_variance":  # skewed: its interval has tests of its own
                continue
            without = np.array([row[name] for row in left_out])
            if examples == "random":
                want = intervals.two_way_jackknife_t(whole, without, level=0.9)
            else:
                want = intervals.jackknife_t(whole.mean(), without.mean(axis=1), level=0.9)
            ours = getattr(result, name)
            assert (ours.value, ours.low, ours.high) == pytest.approx(
                (want.value, want.low, want.high), rel=1e-8
            )


@pytest.mark.parametrize("loss", LOSSES)
def test_maps_add_up_to_the_terms(loss):
    probs, truth = distributions(2, 4, 7, 3), distributions(3, 7, 3)
    result = decompose(probs, truth=truth, loss=loss)
    bias, variance, _ = corrected(probs, truth, loss)
    np.testing.assert_allclose(result.variance_per_example, variance, rtol=1e-10)
    np.testing.assert_allclose(result.bias_squared_per_example, bias, rtol=1e-10, atol=1e-14)
    assert result.variance_per_class.sum() == pytest.approx(result.variance.value)
    assert result.bias_squared_per_class.sum() == pytest.approx(result.bias_squared.value)
    if loss == "brier":
        np.testing.assert_allclose(result.variance_map, probs.var(axis=0, ddof=1), rtol=1e-12)


def test_a_truth_with_zeros_has_a_finite_divergence():
    probs, truth = distributions(2, 4, 2, 3), np.array([[1.0, 0, 0], [0, 0.5, 0.5]])
    result = decompose(probs, truth=truth, loss="kl")
    bias, _, risk = corrected(probs, truth, "kl")
    assert result.risk.value == pytest.approx(risk.mean())
    np.testing.assert_allclose(result.bias_squared_per_example, bias, rtol=1e-10)


def ridge_case(signal=0.1):
    """Interior p*: with small Gaussian noise along the simplex ridge predictions are distributions."""
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(40, 4)), rng.normal(size=(25, 4))
    weights = signal * rng.normal(size=(4, 3))
    p, truth = (
        special.softmax(x @ weights + signal / 2 * np.sin(3 * x[:, :3]), axis=-1) for x in (train, test)
    )
    return tuple(jnp.asarray(x) for x in (train, test, p, truth))


def test_the_estimator_meets_the_exact_ridge_student(x64):
    train, test, p, truth = ridge_case()
    scale, m = 0.04, 3000
    covariance = jnp.broadcast_to(scale**2 * (jnp.eye(3) - 1 / 3), (40, 3, 3))
    targets = ridge.gaussian_targets(jax.random.key(0), p, m, scale)
    # The sparse student sees two of the four features, and more penalty.
    dense = ridge.ridge(train, test, 0.01)
    sparse = ridge.ridge(train[:, :2], test[:, :2], 0.1)
    (exact_d, exact_s) = (student.exact(p, covariance, truth) for student in (dense, sparse))
    result = decompose(dense.predict(targets), truth=truth, examples="fixed")
    for name in ("bias_squared", "variance", "risk"):
        estimate, exact = getattr(result, name), float(getattr(exact_d, name).mean())
        assert estimate.value == pytest.approx(exact, rel=0.03)
        assert estimate.low - 1e-5 <= exact <= estimate.high + 1e-5, name
    np.testing.assert_allclose(result.variance_per_example, exact_d.variance, rtol=0.15)
    pair = compare(sparse.predict(targets), dense.predict(targets), truth=truth, examples="fixed")
    gain = float((exact_d.variance - exact_s.variance).mean())
    cost = float((exact_s.bias_squared - exact_d.bias_squared).mean())
    assert pair.delta_variance.low <= gain <= pair.delta_variance.high
    assert pair.delta_bias_squared.low <= cost <= pair.delta_bias_squared.high
    assert pair.verdict == ("sparse wins" if gain > cost else "dense wins")


def test_kernel_ridge_is_ridge_in_its_dual(x64):
    train, test, p, _ = ridge_case()
    primal = ridge.ridge(train, test, 0.1, intercept=False)
    dual = ridge.kernel_ridge(train @ train.T, test @ train.T, 0.1)
    np.testing.assert_allclose(primal.smoother, dual.smoother, atol=1e-12)
    # … and least squares with a penalty, by rows added to the data.
    rows = np.vstack([train, np.sqrt(40 * 0.1) * np.eye(4)])
    weights = np.linalg.lstsq(rows, np.vstack([p, np.zeros((4, 3))]))[0]
    np.testing.assert_allclose(primal.predict(p), test @ weights, atol=1e-12)
    centred = ridge.ridge(train, test, 0.1)
    np.testing.assert_allclose(centred.smoother.sum(axis=1), 1, atol=1e-12)


def test_lower_variance_in_a_sparse_student_wins_or_loses_by_the_noise(x64):
    """Both verdicts, and 'undecided' between them: the same students with more and less noise."""
    train, test, p, truth = ridge_case(0.03)
    dense, sparse = ridge.ridge(train, test, 0.001), ridge.ridge(train, test, 1.0)
    verdicts = []
    for scale in (0.002, 0.03, 0.08):
        targets = ridge.gaussian_targets(jax.random.key(1), p, 10, scale)
        pair = compare(sparse.predict(targets), dense.predict(targets), truth=truth)
        verdicts.append(pair.verdict)
        assert str(pair).startswith(pair.verdict)
    assert verdicts == ["dense wins", "undecided", "sparse wins"]


MEAN, SCALE = 1.25, 1.5
"""Of the log-odds of students whose KL variance is .183, .119 if taken from three."""


def logit_normal_members(key, count, m):
    """Students of two classes whose log-odds are N(1.25, 1.5²): [count, m, 1, 2]."""
    odds = MEAN + SCALE * jax.random.normal(key, (count, m, 1))
    return jax.nn.softmax(jnp.stack([odds, jnp.zeros_like(odds)], axis=-1), axis=-1)


def test_the_kl_variance_is_biased_low_and_the_factor_mends_most_of_it(x64):
    """Theory.md: m = 3 gives .119 where the truth is .183. Both numbers here are by Gauss–Hermite quadrature.

    Of two classes E KL(q̄‖q) = E softplus(z) − softplus(E z), z the log-odds; that of the mean of m members is
    N(1.25, 1.5²/m), so the expected plug-in needs no sampling either.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def softplus(deviation):
        return (weights / weights.sum()) @ np.logaddexp(0, MEAN + deviation * nodes)

    true = softplus(SCALE) - softplus(0)
    expected = softplus(SCALE) - softplus(SCALE / math.sqrt(3))
    assert (true, expected) == pytest.approx((0.183, 0.119), abs=5e-4)
    assert true - 1.5 * expected == pytest.approx(0.0045, abs=5e-5)  # what m/(m − 1) does not mend
    members = np.asarray(logit_normal_members(jax.random.key(0), 20_000, 3))
    # Ensembles side by side as examples: members [3, 20000, 2].
    result = decompose(np.moveaxis(members[:, :, 0], 0, 1), truth=np.full((20_000, 2), 0.5), loss="kl")
    error = 2 / 3 * result.variance_per_example.std() / math.sqrt(20_000)
    assert result.plug_in_variance == pytest.approx(expected, abs=4 * error)
    assert result.variance.value == pytest.approx(1.5 * expected, abs=6 * error)
    # Broken twins: the plug-in, or the factor m, for the variance.
    assert abs(result.plug_in_variance - true) > 20 * error
    assert abs(3 * result.plug_in_variance - true) > 20 * error


# -- labels ----------------------------------------------------------------------------------------------


def test_labels_put_the_noise_of_the_labels_in_place_of_the_bias(x64):
    """Theory.md: truth .0016, labels .344. Of these students: truth .0002, labels .412, the noise 1 − Σp².

    Both by quadrature over the line; the estimates are those of 400 members at 2,000 labels.
    """
    bed = BEDS["brier"]
    line = jnp.linspace(0, 1, 4001)[:, None]
    p = np.asarray(bed.truth_at(line))
    noise = np.trapezoid(1 - (p**2).sum(-1), dx=1 / 4000)
    bias = testbed.population(bed)["bias_squared"]
    assert (bias, bias + noise) == pytest.approx((0.00022, 0.4124), abs=5e-5)
    x, labels, dense, _ = (np.asarray(a) for a in bed.draw(jax.random.key(0), 400, 2000))
    truth = np.asarray(bed.truth_at(jnp.asarray(x)))
    by_truth, by_labels = decompose(dense, truth=truth), decompose(dense, labels=labels)
    apparent = by_labels.risk.value - by_labels.variance.value  # what passes for the bias
    at_labels = (1 - (truth**2).sum(-1)).mean()
    error = (1 - 2 * np.take_along_axis(truth, labels[:, None], -1)).std() / math.sqrt(2000)
    assert by_truth.bias_squared.value == pytest.approx(bias, abs=1.5e-4)
    assert apparent == pytest.approx(by_truth.bias_squared.value + at_labels, abs=4 * error)
    assert apparent == pytest.approx(0.412, abs=0.02)
    assert apparent > 1000 * by_truth.bias_squared.value > 0


def test_labels_identify_the_difference_of_biases_and_not_the_bias(x64):
    x, labels, dense, sparse = (np.asarray(a) for a in BEDS["brier"].draw(jax.random.key(0), 20, 1000))
    truth = np.asarray(BEDS["brier"].truth_at(jnp.asarray(x)))
    by_truth = decompose(dense, truth=truth)
    by_labels = decompose(dense, labels=labels)
    assert by_labels.bias_squared is by_labels.bias_squared_map is by_labels.plug_in_bias_squared is None
    assert by_labels.bias_squared_per_example is by_labels.bias_squared_per_class is None
    assert by_labels.variance.value == by_truth.variance.value
    assert "not identified" in str(by_labels)
    with_truth = compare(sparse, dense, truth=truth)
    with_labels = compare(sparse, dense, labels=labels)
    assert with_labels.delta_bias_squared.low <= testbed.population(BEDS["brier"])["delta_bias_squared"]
    assert with_labels.delta_bias_squared.high >= testbed.population(BEDS["brier"])["delta_bias_squared"]
    assert with_labels.delta_bias_squared.value == pytest.approx(
        with_truth.delta_bias_squared.value, abs=0.015
    )
    assert with_labels.delta_variance.value == with_truth.delta_variance.value
    assert with_labels.delta_bias_squared_per_example.shape == (1000,)
    score = ((dense - np.eye(3)[labels]) ** 2).sum(-1).mean()
    assert by_labels.risk.value == pytest.approx(score)
    nll = decompose(dense + 0.0, labels=labels, loss="kl").risk.value
    assert nll == pytest.approx(-np.log(np.take_along_axis(dense, labels[None, :, None], -1)).mean())


# -- coverage --------------------------------------------------------------------------------------------


WIDEST = {"brier": 0.075, "brier-wide": 0.1, "kl": 0.07, "kl-wide": 0.115}


@pytest.mark.parametrize("m", [5, 10, 20])
@pytest.mark.parametrize("name", BEDS)
def test_intervals_cover(name, m, x64, record_property):
    """95 % intervals cover at least .92 of 600 repetitions; the advantage's median width is bounded."""
    bed = BEDS[name]
    spreads = testbed.repetitions(bed, m, 100, 600)
    for against in ("truth", "labels"):
        names = testbed.STATISTICS + (testbed.SINGLE if against == "truth" else ())
        found = testbed.coverage(bed, spreads, "two_way", against, names)
        for statistic, (covered, width) in found.items():
            record_property(f"{against} {statistic}", f"covers {covered:.3f}, median width {width:.4f}")
            assert covered >= 0.92, (against, statistic, covered, width)
        assert found["advantage"][1] < WIDEST[name]
        # Broken twin: an interval that divides by the wrong n.
        broken = testbed.coverage(bed, spreads, "wrong_count", against)
        assert max(covered for covered, _ in broken.values()) < 0.85


def test_students_interval_of_the_gain_in_variance_forgets_that_it_is_skewed(x64):
    """Broken twin of `of_difference`, with students that move together."""
    spreads = testbed.repetitions(BEDS["kl-wide"], 10, 100, 600)
    value, variance, dof = spreads["two_way", "truth", "delta_variance"]
    true = testbed.population(BEDS["kl-wide"])["delta_variance"]
    assert np.mean(np.abs(value - true) <= special.stdtrit(dof, 0.975) * np.sqrt(variance)) < 0.92


def test_members_alone_forget_that_the_test_set_is_a_sample(x64):
    """Theory.md: at m = 50 with 450 labels students alone cover .81, two-way .96."""
    bed = BEDS["brier"]
    spreads = testbed.repetitions(bed, 50, 450, 300)
    two_way = testbed.coverage(bed, spreads, "two_way", "labels")
    alone = testbed.coverage(bed, spreads, "members_only", "labels")
    assert min(covered for covered, _ in two_way.values()) >= 0.92
    assert alone["advantage"][0] < 0.82
    assert alone["delta_bias_squared"][0] < 0.7


# -- refusals and edges ----------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
def test_two_members_have_values_and_no_intervals(loss):
    probs, truth = distributions(0, 2, 5, 3), distributions(1, 5, 3)
    result = decompose(probs, truth=truth, loss=loss)
    assert result.variance.low is result.variance.high is None
    pair = compare(probs, probs[::-1].copy(), truth=truth, loss=loss)
    assert pair.verdict == "undecided"


def test_a_student_against_itself_is_undecided():
    probs = distributions(0, 4, 5, 3)
    pair = compare(probs, probs, labels=np.zeros(5, np.int64))
    assert (pair.advantage.low, pair.advantage.high) == pytest.approx((0, 0), abs=1e-15)
    assert pair.verdict == "undecided"  # even where rounding puts both bounds on one side of 0


def test_probabilities_of_any_dtype_are_read_in_float64():
    probs, truth = distributions(0, 4, 5, 3), distributions(1, 5, 3)
    wide = decompose(probs, truth=truth, loss="kl")
    narrow = decompose(probs.astype(np.float32), truth=jnp.asarray(truth, jnp.float32), loss="kl")
    assert narrow.variance.value == pytest.approx(wide.variance.value, rel=1e-5)
    assert isinstance(narrow.variance_map, np.ndarray)
    assert narrow.variance_map.dtype == np.float64


def test_lists_are_read_as_arrays_of_float64():
    probs, truth = distributions(0, 4, 5, 3), distributions(1, 5, 3)
    assert str(decompose(probs.tolist(), truth=truth.tolist())) == str(decompose(probs, truth=truth))
    assert str(compare(probs.tolist(), probs[::-1].tolist(), truth=truth.tolist())) == str(
        compare(probs, probs[::-1], truth=truth)
    )


UNIFORM, LABELS = np.full((3, 4, 2), 0.5), np.zeros(4, np.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: decompose(UNIFORM[:1], labels=LABELS), "one member.*retrain on at least 2"),
        (lambda: decompose(UNIFORM[0], labels=LABELS), r"probabilities has shape \(4, 2\)"),
        (lambda: decompose(UNIFORM[:, :0], labels=LABELS[:0]), r"probabilities has shape \(3, 0, 2\)"),
        (lambda: decompose(UNIFORM * 2, labels=LABELS), r"probabilities, row \(0, 0\): sums to 2"),
        (lambda: decompose(UNIFORM), "either truth"),
        (lambda: decompose(UNIFORM, truth=UNIFORM[0], labels=LABELS), "either truth"),
        (lambda: decompose(UNIFORM, truth=UNIFORM), "truth has shape"),
        (lambda: decompose(UNIFORM, truth=UNIFORM[0] * 2), "truth, row 0: sums to 2"),
        (lambda: decompose(UNIFORM, labels=LABELS[:2]), r"labels has shape \(2,\)"),
        (
            lambda: decompose(UNIFORM, labels=np.array([0, 0, 2, 0])),
            r"labels, row 2: is 2, outside",
        ),
        (lambda: decompose(UNIFORM, labels=LABELS - 1), "row 0: is -1"),
        (lambda: decompose(UNIFORM, labels=LABELS, examples="fixed"), "labels are a sample"),
        (lambda: decompose(UNIFORM[:, :1], labels=LABELS[:1]), "one example has no interval"),
        (lambda: decompose(UNIFORM, labels=LABELS, loss="mse"), "'brier' or 'kl'"),
        (lambda: decompose(UNIFORM, labels=LABELS, examples="some"), "'random' or 'fixed'"),
        (lambda: decompose(UNIFORM, labels=LABELS, level=95), "level"),
        (
            lambda: compare(UNIFORM, UNIFORM[:2], labels=LABELS),
            "member i of both is one resample",
        ),
    ],
)
def test_refusals_name_the_argument_and_the_remedy(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_labels_are_integers():
    with pytest.raises(TypeError, match="labels has dtype float64"):
        decompose(UNIFORM, labels=LABELS.astype(float))


@pytest.mark.parametrize("zero", [0.0, 1e-310], ids=["zero", "subnormal"])
def test_students_without_a_common_support_have_no_geometric_mean(zero):
    """Theory.md: (1, 0) and (0, 1) have no q̄."""
    probs = UNIFORM.copy()
    probs[1, 2], probs[2, 2] = (zero, 1.0 - zero), (1.0 - zero, zero)
    with pytest.raises(ValueError, match=r"member 1 gives class 0 of example 2 probability 0.*loss='brier'"):
        decompose(probs, labels=LABELS, loss="kl")
    with pytest.raises(ValueError, match="dense, row"):
        compare(UNIFORM, probs, labels=LABELS, loss="kl")
    assert decompose(probs, labels=LABELS).variance.value > 0
