"""Estimators from counts against plain loops, and intervals against exact coverage."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsekd_jax import operators
from sparsekd_jax.targets import Samples, sample, text_only
from sparsekd_jax.theory.variance.samples import compositions, outcomes_of

POWER, MIXTURE = operators.get("power"), operators.get("mixture")
TSALLIS = operators.get("tsallis", alpha=1.5)


def power_of(p, temperature):
    weights = np.where(p > 0, p, 0) ** (1 / temperature)
    return weights / weights.sum()


def left_out_one_by_one(counts, temperature):
    """All N softened samples of N − 1 labels, label by label."""
    labels = np.repeat(np.arange(len(counts)), counts)
    for i in range(len(labels)):
        rest = np.bincount(np.delete(labels, i), minlength=len(counts))
        yield power_of(rest / rest.sum(), temperature)


@st.composite
def tables(draw, low=2):
    rows = draw(st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=4), min_size=1, max_size=5))
    return np.array([row if sum(row) >= low else [low, 0, 0, 0] for row in rows])


# -- estimators --------------------------------------------------------------------------------------------


@given(tables(low=1), st.floats(0.3, 6))
def test_plug_in_softens_the_empirical_distribution(counts, temperature):
    found = text_only.plug_in(POWER, counts, temperature)
    assert found.dtype == np.float64
    for row, ours in zip(counts, found, strict=True):
        np.testing.assert_allclose(ours, power_of(row / row.sum(), temperature), atol=1e-12)


@given(tables(), st.floats(0.3, 6))
def test_jackknife_is_that_of_all_refits(counts, temperature):
    found = text_only.jackknife(POWER, counts, temperature)
    _, variances = text_only._jackknife(POWER, counts, temperature)
    for row, ours, variance in zip(counts, found, variances, strict=True):
        n, refits = row.sum(), np.array(list(left_out_one_by_one(row, temperature)))
        slow = n * power_of(row / n, temperature) - (n - 1) * refits.mean(0)
        np.testing.assert_allclose(ours, slow, atol=1e-11)
        np.testing.assert_allclose(variance, (n - 1) * refits.var(0), atol=1e-11)
        assert ours.sum() == pytest.approx(1, abs=1e-11)


def test_chunks_do_not_show(monkeypatch):
    counts = np.random.default_rng(0).multinomial(7, [0.5, 0.3, 0.1, 0.1], size=(4, 5))
    whole = text_only.jackknife(POWER, counts, 2.0)
    for size in (1, 3, 10):
        monkeypatch.setattr(text_only, "_CHUNK", size)
        np.testing.assert_array_equal(text_only.jackknife(POWER, counts, 2.0), whole)


def test_jackknife_can_leave_the_simplex_and_is_not_cut():
    assert text_only.jackknife(POWER, np.array([3, 1]), 0.5) == pytest.approx([1.05, -0.05])


@given(tables(), st.floats(1, 6))
def test_of_the_mixture_all_estimators_are_one(counts, temperature):
    plug_in, unbiased, jackknife = (
        estimator(MIXTURE, counts, temperature)
        for estimator in (text_only.plug_in, text_only.unbiased, text_only.jackknife)
    )
    np.testing.assert_array_equal(plug_in, unbiased)
    np.testing.assert_allclose(plug_in, jackknife, atol=1e-12)


@pytest.mark.parametrize(
    ("operator", "temperature"), [(POWER, 2.0), (TSALLIS, 2.0), (MIXTURE, 0.5), (power_of, 2.0)]
)
def test_unbiased_is_refused_where_it_is_not(operator, temperature):
    with pytest.raises(ValueError, match=r"does not claim to be affine at T = .*soften before sampling"):
        text_only.unbiased(operator, np.array([3, 1]), temperature)


def test_a_plain_function_gives_what_the_operator_gives():
    counts = np.array([[3, 1, 0], [2, 2, 5]])
    np.testing.assert_allclose(
        text_only.jackknife(power_of, counts, 2.0), text_only.jackknife(POWER, counts, 2.0), atol=1e-12
    )


# -- counts ------------------------------------------------------------------------------------------------


def test_samples_are_read_as_counts():
    rows = jnp.log(jnp.array([[0.5, 0.3, 0.1, 0.1], [0.97, 0.01, 0.01, 0.01]]))
    seen = sample(jax.random.key(0), POWER, rows, 1.0, 9)
    counts = text_only.counts_of(seen)
    assert counts.sum(-1).tolist() == [9, 9]
    for i in range(2):
        for token, weight in zip(np.asarray(seen.ids[i]), np.asarray(seen.weights[i]), strict=True):
            assert token < 0 or counts[i, token] == round(9 * float(weight))
    np.testing.assert_array_equal(text_only.counts_of(Samples.from_counts(counts)), counts)
    np.testing.assert_array_equal(text_only.plug_in(POWER, seen, 2.0), text_only.plug_in(POWER, counts, 2.0))


def test_importance_weights_are_no_counts():
    rows = jnp.log(jnp.array([[0.5, 0.3, 0.1, 0.1]] * 2))
    seen = sample(jax.random.key(0), POWER, rows, 2.0, 9, proposal=0.3)
    with pytest.raises(ValueError, match=r"importance weights are an estimate of the target already"):
        text_only.plug_in(POWER, seen, 2.0)


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        (np.array([0.5, 0.5]), TypeError, "counts has dtype float64"),
        (np.array([[1, 2], [3, -1]]), ValueError, "counts, row 1: holds -1"),
        (np.array([[1, 2], [0, 0]]), ValueError, "counts, row 1: no draw at all"),
        (np.array([3]), ValueError, r"counts has shape \(1,\)"),
    ],
)
def test_bad_counts(counts, error, message):
    with pytest.raises(error, match=message):
        text_only.plug_in(POWER, counts, 2.0)


def test_what_the_jackknife_and_the_interior_refuse():
    with pytest.raises(ValueError, match="counts, row 1: one draw"):
        text_only.jackknife(POWER, np.array([[2, 0], [1, 0]]), 2.0)
    projection = operators.get("entropy-projection")
    with pytest.raises(ValueError, match=r"counts, row 0: class 1 has no draw .* is not defined there"):
        text_only.plug_in(projection, np.array([[2, 0]]), 2.0)
    with pytest.raises(ValueError, match="level must lie in"):
        text_only.interval(POWER, np.array([2, 1]), 2.0, level=1.0)


# -- intervals ---------------------------------------------------------------------------------------------


def test_clopper_pearson_is_scipys():
    counts = compositions(12, 3)
    low, high = text_only.clopper_pearson(counts, 0.9)
    for i, row in enumerate(counts.tolist()):
        for j, count in enumerate(row):
            theirs = stats.binomtest(count, 12).proportion_ci(0.9, method="exact")
            assert (low[i, j], high[i, j]) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def coverage(operator, p, n, find=text_only.interval):
    """Of each class's interval, all samples summed."""
    p = np.asarray(p)
    counts, chances = outcomes_of(p[None], n)
    found = find(operator, counts, 2.0)
    truth = np.asarray(text_only._soften(operator, p[None], 2.0))
    return chances[0] @ ((found.low <= truth + 1e-12) & (truth <= found.high + 1e-12))


@pytest.mark.parametrize("n", [3, 25])
def test_the_exact_interval_covers_at_every_p(n):
    for p in ((0.5, 0.3, 0.2), (0.99, 0.009, 0.001), (1 / 3, 1 / 3, 1 / 3)):
        assert coverage(MIXTURE, p, n).min() >= 0.95
    for first in np.linspace(0.001, 0.999, 15):
        for operator in (POWER, TSALLIS):
            assert coverage(operator, (first, 1 - first), n).min() >= 0.95


def test_a_normal_interval_would_not():
    """The twin: p̂ ± 2 standard errors, through the same sum."""

    def normal(operator, counts, temperature):
        n = counts.sum(-1, keepdims=True)
        half = 1.96 * np.sqrt(counts / n * (1 - counts / n) / n)
        bounds = [text_only._through(operator, np.clip(counts / n + s * half, 0, 1), 2.0) for s in (-1, 1)]
        return text_only.TargetInterval(counts / n, *bounds, 0.95, "exact")

    assert coverage(MIXTURE, (0.97, 0.02, 0.01), 25, normal).min() < 0.5


@pytest.mark.parametrize(
    ("p", "n", "covered"),
    [((0.6, 0.3, 0.1), 20, 0.948), ((0.6, 0.3, 0.1), 80, 0.959), ((0.9, 0.09, 0.01), 80, 0.871)],
)
def test_coverage_of_the_jackknife_is_as_documented(p, n, covered):
    found = coverage(POWER, p, n)
    assert found.min() == pytest.approx(covered, abs=0.001)


def test_a_class_not_drawn_has_an_interval_that_says_nothing():
    found = text_only.interval(POWER, np.array([[8, 2, 0], [10, 0, 0]]), 2.0)
    assert found.method == "jackknife"
    assert (found.low[0, 2], found.high[0, 2]) == (0, 1)
    assert (found.low[1] == 0).all()
    assert (found.high[1] == 1).all()
    assert (found.low <= found.high).all()
    assert 0 < found.low[0, 0] < found.high[0, 0] <= 1


@pytest.mark.parametrize("operator", [POWER, TSALLIS, operators.get("tsallis", alpha=0.5), MIXTURE])
def test_two_classes_rise_together(operator):
    """What the exact interval of two classes rests on."""
    first = np.linspace(0, 1, 64)
    for temperature in (0.5, 1.5, 4.0):
        q = text_only._soften(operator, np.stack([first, 1 - first], 1), temperature)[:, 0]
        assert (np.diff(q) >= -1e-14).all()


def test_many_draws_are_counts_in_float32():
    """Float32 stores count/N to 6e-8 of itself: of 90,001 draws a hundredth of one is lost."""
    rng = np.random.default_rng(0)
    for draws in (10_000, 100_000, 1_000_000):
        counts = rng.multinomial(draws, rng.dirichlet(np.ones(5)), 50)
        np.testing.assert_array_equal(text_only.counts_of(Samples.from_counts(counts)), counts)


@dataclasses.dataclass(frozen=True, eq=False)
class TowardsPrior(operators.SofteningOperator):
    """``p/T + (1 − 1/T)π``: affine and not equivariant, so that a class's interval is its own."""

    family = "towards-prior"

    @property
    def claims(self):
        warm = operators.TemperatureRange(1.0)
        return operators.Claims(warm, {"affine": operators.Claim("simplex", warm)})

    def _from_probabilities(self, p, temperature):
        prior = jnp.arange(1, p.shape[-1] + 1, dtype=p.dtype)
        return p / temperature + (1 - 1 / temperature) * (prior / prior.sum())[None], None


def test_an_affine_operator_that_tells_classes_apart_has_no_shared_map():
    """Its first class's map would give the last class [.09, .54], and the truth is at .55."""
    assert coverage(TowardsPrior(), (0.3, 0.3, 0.4), 12).min() > 0.85
    found = text_only.interval(TowardsPrior(), np.array([4, 4, 4]), 2.0)
    assert found.method == "jackknife"
    np.testing.assert_allclose(
        text_only.unbiased(TowardsPrior(), np.array([4, 4, 4]), 2.0), [0.25, 1 / 3, 5 / 12]
    )


@pytest.mark.parametrize("name", ["plug_in", "unbiased", "jackknife", "interval", "is_affine"])
def test_a_temperature_a_row_is_refused(name):
    """Rows are padded to 64 and left out one by one: of 64 temperatures any row would get any."""
    counts = () if name == "is_affine" else (np.array([[9, 1], [5, 5]]),)
    with pytest.raises(
        ValueError, match=r"temperature has shape \(64,\); here it is one number for all rows"
    ):
        getattr(text_only, name)(MIXTURE, *counts, np.linspace(1.5, 2.5, 64))


def test_a_level_in_percent_is_refused():
    with pytest.raises(ValueError, match="level must lie in"):
        text_only.clopper_pearson(np.array([3, 7]), 95)
    with pytest.raises(ValueError, match="holds -1; counts are ≥ 0"):
        text_only.clopper_pearson(np.array([-1, 7]))
