"""What text alone can teach: biases against scipy, the affine theorem both ways, and advice that is kept."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sparsekd_jax import operators
from sparsekd_jax.theory.text_only import bias, expected_error, least_bias, samples_needed
from sparsekd_jax.theory.variance.samples import compositions, outcomes_of

POWER, MIXTURE = operators.get("power"), operators.get("mixture")
TSALLIS = {alpha: operators.get("tsallis", alpha=alpha) for alpha in (0.5, 1.5, 3.0)}
RARE = np.array([0.001, 0.999])


@st.composite
def distributions(draw, num_classes=3):
    weights = np.array(draw(st.lists(st.integers(0, 50), min_size=num_classes, max_size=num_classes)))
    weights = weights + (weights.sum() == 0)
    return weights / weights.sum()


# -- biases ------------------------------------------------------------------------------------------------


def test_the_known_biases():
    """Theory.md: p = .001, N = 100, T = 2: F = .031, plug-in −.022, jackknife −.017."""
    truth = np.sqrt(0.001) / (np.sqrt(0.001) + np.sqrt(0.999))
    assert truth == pytest.approx(0.031, abs=5e-4)
    counts = np.arange(101)
    chances = stats.binom.pmf(counts, 100, 0.001)

    def soften(x):
        return np.sqrt(x) / (np.sqrt(x) + np.sqrt(1 - x))

    plug_in = soften(counts / 100)
    rest = (
        counts * soften(np.maximum(counts - 1, 0) / 99) + (100 - counts) * soften(np.minimum(counts, 99) / 99)
    ) / 100
    by_hand = {"plug-in": plug_in, "jackknife": 100 * plug_in - 99 * rest}
    for estimator, known in (("plug-in", -0.022), ("jackknife", -0.017)):
        found = bias(POWER, RARE, 2.0, 100, estimator=estimator)
        assert found.value[0] == pytest.approx(known, abs=5e-4)
        assert found.value[0] == pytest.approx(chances @ by_hand[estimator] - truth, abs=1e-12)
        assert found.value.sum() == pytest.approx(0, abs=1e-12)


def test_bias_is_the_sum_over_all_sequences():
    """Against label by label, K^N of them, for a batch with a zero."""
    rows = np.array([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0]])
    found = bias(POWER, rows, 2.0, 4)
    sequences = np.array(list(itertools.product(range(3), repeat=4)))
    roots = np.sqrt(np.stack([(sequences == k).mean(-1) for k in range(3)], 1))
    softened = roots / roots.sum(-1, keepdims=True)
    for p, ours in zip(rows, found.value, strict=True):
        expected = p[sequences].prod(-1) @ softened - np.sqrt(p) / np.sqrt(p).sum()
        np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_monte_carlo_agrees_within_its_error():
    rows = np.array([[0.5, 0.3, 0.2], [0.05, 0.05, 0.9]])
    for estimator in ("plug-in", "jackknife"):
        exact = bias(POWER, rows, 2.0, 12, estimator=estimator)
        drawn = bias(POWER, rows, 2.0, 12, estimator=estimator, key=jax.random.key(0), draws=4000)
        assert (np.abs(drawn.value - exact.value) < 4.5 * drawn.standard_error).all()
        assert (drawn.standard_error < 0.01).all()
        assert np.abs(exact.value / drawn.standard_error).max() > 3  # large enough to be seen, were it absent


def test_orders_in_n():
    """Doubling N halves the plug-in's bias and quarters the jackknife's, at a fixed interior p."""
    p = [0.5, 0.3, 0.2]
    worst = {
        e: [bias(POWER, p, 2.0, n, estimator=e).worst for n in (80, 160)] for e in ("plug-in", "jackknife")
    }
    assert worst["plug-in"][0] / worst["plug-in"][1] == pytest.approx(2, rel=0.05)
    assert worst["jackknife"][0] / worst["jackknife"][1] == pytest.approx(4, rel=0.2)
    assert worst["jackknife"][1] < worst["plug-in"][1] / 20


# -- E F(p̂) = F(p) for all p iff F is affine -----------------------------------------------------------------


@given(distributions(), st.floats(1, 20), st.integers(1, 7))
def test_the_mixture_is_unbiased(p, temperature, n):
    assert bias(MIXTURE, p, temperature, n).worst < 1e-12


def test_so_is_label_smoothing():
    assert bias(operators.parse("label-smoothing(0.2)"), [0.7, 0.2, 0.1], 2.0, 5).worst < 1e-12


@pytest.mark.parametrize("n", [1, 2, 6])
@pytest.mark.parametrize(
    "operator",
    [POWER, *TSALLIS.values(), operators.get("euclidean-entropy-projection")],
    ids=lambda op: op.name,
)
def test_no_other_family_is(operator, n):
    """The witness, and the broken twin of the test above."""
    assert bias(operator, [0.6, 0.3, 0.1], 2.0, n).worst > 1e-3


@pytest.mark.parametrize(("n", "k"), [(2, 2), (7, 2), (4, 3), (3, 4)])
def test_averaging_over_samples_fixes_affine_functions_alone(n, k):
    """The converse at any N: on the points c/N, f ↦ E f(p̂) has the eigenvalue 1 exactly K times."""
    points = compositions(n, k) / n
    counts, chances = outcomes_of(points, n)
    assert len(counts) == len(points)
    np.testing.assert_allclose(chances @ (counts / n), points, atol=1e-12)  # K of them: the coordinates
    sizes = np.sort(np.abs(np.linalg.eigvals(chances)))[::-1]
    np.testing.assert_allclose(sizes[:k], 1, atol=1e-9)
    assert sizes[k] == pytest.approx(1 - 1 / n, abs=1e-9)


# -- no estimator whatever -----------------------------------------------------------------------------------


def polynomial_error(estimates, n, points):
    """``E g(count) − F_T(p)_1`` for power, T = 2, by scipy's binomial."""
    chances = stats.binom.pmf(np.arange(n + 1)[None], n, points[:, None])
    return chances @ estimates - np.sqrt(points) / (np.sqrt(points) + np.sqrt(1 - points))


@pytest.mark.parametrize("n", [1, 4, 12])
def test_for_power_the_least_bias_is_positive(n):
    """The optimum alternates at N + 2 points, so by de la Vallée-Poussin no polynomial does better."""
    found = least_bias(POWER, 2.0, n)
    assert found.value > 0.14 / n * (n / (n + 1))
    points = np.sin(np.linspace(0, np.pi / 2, 301)) ** 2
    errors = polynomial_error(found.estimates, n, points)
    assert np.abs(errors).max() == pytest.approx(found.value, abs=1e-6)
    extreme = errors[np.abs(errors) > found.value - 1e-5]
    assert 1 + int((np.diff(np.sign(extreme)) != 0).sum()) >= n + 2
    finer = np.linspace(0, 1, 20_001)
    assert np.abs(polynomial_error(found.estimates, n, finer)).max() < 1.02 * found.value


def test_the_least_bias_falls_like_one_over_n_and_is_undercut_by_none():
    values = [least_bias(POWER, 2.0, n).value for n in (8, 16)]
    assert values[0] / values[1] == pytest.approx(2, rel=0.1)
    grid = np.sin(np.linspace(0, np.pi / 2, 301)) ** 2
    rows = np.stack([grid, 1 - grid], 1)
    for estimator in ("plug-in", "jackknife"):
        assert bias(POWER, rows, 2.0, 8, estimator=estimator).worst > values[0]


def test_an_affine_operator_has_an_estimator():
    """The twin: the same program finds one where there is one, also for Tsallis 3, affine for two classes."""
    for operator in (MIXTURE, TSALLIS[3.0]):
        found = least_bias(operator, 2.0, 6)
        assert found.value < 1e-7
        np.testing.assert_allclose(found.estimates, 0.25 + np.arange(7) / 12, atol=1e-5)


def test_below_one_the_least_bias_is_small_and_not_zero():
    values = [least_bias(POWER, 0.5, n).value for n in (2, 4, 8)]
    assert values == pytest.approx([0.1036, 0.01777, 5.23e-4], rel=0.01)


# -- labels needed -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "error"), [(MIXTURE, "tv"), (MIXTURE, "rmse"), (TSALLIS[0.5], "tv"), (TSALLIS[3.0], "rmse")]
)
def test_a_bound_is_kept_at_every_p(operator, error):
    epsilon = 0.6 if operator is TSALLIS[0.5] else 0.09
    advice = samples_needed(operator, 2.0, epsilon, num_classes=3, error=error)
    assert advice.method == "bound"
    assert advice.worst_case
    errors = []
    for p in ([1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0], [0.98, 0.01, 0.01], [0.6, 0.3, 0.1]):
        at_p = (
            samples_needed(operator, 2.0, epsilon, p=p, error=error)
            if operator is MIXTURE or min(p)
            else advice
        )
        assert at_p.num_draws <= advice.num_draws
        errors.append(expected_error(operator, p, 2.0, advice.num_draws, error=error))
        assert errors[-1] <= epsilon
        assert expected_error(operator, p, 2.0, at_p.num_draws, error=error) <= epsilon
    if operator is MIXTURE:
        assert max(errors) > 0.7 * epsilon  # and is not idle


def test_for_the_mixture_the_rmse_needs_exactly_that_many():
    advice = samples_needed(MIXTURE, 2.0, 0.02, num_classes=2, error="rmse")
    assert advice.num_draws == 157  # 1/(4 T² ε²) = 156.25
    # (K − 1)/(4 T² ε²) = 15, which rounding puts above 15.
    assert samples_needed(MIXTURE, 2.0, 0.25, num_classes=16, error="tv").num_draws == 15
    assert expected_error(MIXTURE, [0.5, 0.5], 2.0, 157, error="rmse") <= 0.02
    assert expected_error(MIXTURE, [0.5, 0.5], 2.0, 156, error="rmse") > 0.02
    assert samples_needed(MIXTURE, 2.0, 0.02, p=[0.5, 0.5], error="rmse", method="exact").num_draws == 157


@pytest.mark.parametrize("error", ["tv", "rmse"])
@pytest.mark.parametrize("p", [(0.6, 0.3, 0.1), (0.7, 0.3)])
def test_delta_is_near_the_least(p, error):
    delta, exact = (
        samples_needed(POWER, 2.0, 0.03, p=p, error=error, method=method) for method in ("delta", "exact")
    )
    assert delta.num_draws == pytest.approx(exact.num_draws, rel=0.12)
    assert expected_error(POWER, p, 2.0, exact.num_draws, error=error) <= 0.03
    assert expected_error(POWER, p, 2.0, exact.num_draws - 1, error=error) > 0.03
    assert samples_needed(POWER, 2.0, 0.03, p=p, error=error) == delta


def test_delta_is_refused_next_to_the_boundary_where_it_is_wrong():
    """The witness outside its domain: at p = .001 it would ask for half of what it takes."""
    with pytest.raises(ValueError, match=r"class 0 has probability 0.001; the delta method gives N = 553"):
        samples_needed(POWER, 2.0, 0.02, p=RARE, error="rmse")
    exact = samples_needed(POWER, 2.0, 0.02, p=RARE, error="rmse", method="exact").num_draws
    assert exact > 1.5 * 553


@pytest.mark.parametrize(
    ("operator", "change", "message"),
    [
        (POWER, {"num_classes": 3}, "power at T = 2 has no finite Lipschitz .* take the mixture"),
        (TSALLIS[1.5], {"num_classes": 3}, "infinite at zeros"),
        (operators.get("entropy-projection"), {"num_classes": 3}, "empty class, which every N allows"),
        (POWER, {}, "either p"),
        (POWER, {"num_classes": 3, "p": [0.5, 0.5]}, "either p"),
        (MIXTURE, {"num_classes": 1}, "num_classes is 1"),
        (MIXTURE, {"num_classes": 3, "temperature": -2.0}, "temperature is -2"),
        (MIXTURE, {"num_classes": 3, "temperature": 0.5}, "mixture at T = 0.5 .* below T = 1 none is known"),
        (MIXTURE, {"p": [[0.5, 0.5]]}, r"p has shape \(1, 2\)"),
        (MIXTURE, {"num_classes": 3, "method": "exact"}, "the method 'exact' is for one p"),
        (MIXTURE, {"num_classes": 3, "error": "kl"}, "error is 'kl'"),
        (MIXTURE, {"num_classes": 3, "epsilon": 0.0}, "epsilon is 0"),
    ],
)
def test_no_advice(operator, change, message):
    arguments = {"temperature": 2.0, "epsilon": 0.05, **change}
    with pytest.raises(ValueError, match=message):
        samples_needed(operator, **arguments)


def test_advice_for_a_vocabulary_needs_no_square_matrix():
    """(1/T²)(K − 1)/(4ε²), from two vertices: all K of them would be 122 GiB."""
    found = samples_needed(MIXTURE, 2.0, 0.1, num_classes=128_000)
    assert found.num_draws == pytest.approx(127_999 / 16 / 0.01, abs=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"estimator": "bootstrap"}, "estimator is 'bootstrap'"),
        ({"num_draws": 0}, "num_draws is 0"),
        ({"p": [0.5, 0.6]}, "sums to 1.1"),
        ({"num_draws": 10**6}, "too many to enumerate"),
    ],
)
def test_bad_input(change, message):
    arguments = {"p": [0.5, 0.3, 0.2], "num_draws": 4, **change}
    with pytest.raises(ValueError, match=message):
        bias(POWER, arguments.pop("p"), 2.0, arguments.pop("num_draws"), **arguments)
    with pytest.raises(ValueError, match="num_draws is 31"):
        least_bias(POWER, 2.0, 31)
    with pytest.raises(ValueError, match="points is 0"):
        least_bias(POWER, 2.0, 4, points=0)
    with pytest.raises(ValueError, match=r"p has shape \(1, 2\)"):
        expected_error(POWER, [[0.5, 0.5]], 2.0, 4)
