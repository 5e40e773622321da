"""Bad input gets an error that names the argument, the first bad row, and the remedy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import operators
from sparsekd_jax.operators import EntropyProjection, PowerTransform, TemperatureRange, TsallisSoftening

GOOD = np.array([[0.5, 0.5], [0.3, 0.7]], np.float32)


def with_row(row):
    return np.array([[0.5, 0.5], row], np.float32)


@pytest.mark.parametrize(
    ("p", "error", "words"),
    [
        (with_row([1.2, -0.2]), ValueError, r"p, row 1: contains the negative entry -0.2.*from_logits"),
        (with_row([np.nan, 0.5]), ValueError, r"p, row 1: contains nan"),
        (with_row([0.5, 0.6]), ValueError, r"p, row 1: sums to 1.1\d*, off by 0.1.*simplex.normalize\(p\)"),
        (np.array([1, 0]), TypeError, r"p has dtype int.*pass p.astype\(jnp.float32\)"),
        (np.ones((3, 1), np.float32), ValueError, r"p has shape \(3, 1\).*K ≥ 2"),
        (np.float32(0.5), ValueError, r"p has shape \(\).*K ≥ 2"),
        (np.array([2.0, -1.0, 3.0], np.float32), ValueError, "op.from_logits"),
    ],
)
def test_bad_distributions(p, error, words):
    with pytest.raises(error, match=words):
        PowerTransform()(p, 2.0)


@pytest.mark.parametrize(
    ("temperature", "words"),
    [
        (0.0, r"temperature is 0; power takes T in \(0, ∞\)"),
        (-1.0, "temperature is -1"),
        (np.nan, "temperature is nan"),
        (np.inf, "temperature is inf.*use the limit"),
        (np.array([1.0, 0.0]), r"temperature \(index \(1,\)\) is 0"),
        (np.ones(3), r"temperature has shape \(3,\), which does not broadcast to the batch shape \(2,\)"),
        (np.ones((2, 2)), "does not broadcast"),
    ],
)
def test_bad_temperatures(temperature, words):
    with pytest.raises(ValueError, match=words):
        PowerTransform()(GOOD, temperature)


def test_a_temperature_outside_the_range():
    with pytest.raises(ValueError, match=r"entropy-projection takes T in \[1, ∞\)"):
        EntropyProjection()(GOOD, 0.5)


def test_zeros_where_the_interior_is_asked_for():
    with pytest.raises(ValueError, match=r"p, row 1: class 1 has probability 0.*smooth p first"):
        EntropyProjection()(with_row([1.0, 0.0]), 2.0)


def test_bad_logs_and_logits():
    with pytest.raises(ValueError, match=r"log_p, row 1: sums to 2 after exp.*from_logits"):
        PowerTransform().log(np.log(with_row([1.0, 1.0])), 2.0)
    with pytest.raises(ValueError, match=r"logits, row 1: contains nan"):
        PowerTransform().from_logits(with_row([np.nan, 0.0]), 2.0)
    with pytest.raises(ValueError, match="every logit is −inf"):
        PowerTransform().from_logits(np.full(3, -np.inf, np.float32), 2.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("powr", {}), "unknown operator 'powr'; did you mean 'power'"),
        (("softmax", {}), "unknown operator 'softmax'; Known: power"),
        (("softmax(2)", {}), r"unknown operator 'softmax\(2\)'; Known: power"),
        (("power", {"alpha": 2}), "operator 'power' has no parameter 'alpha'; it has none"),
        (("tsallis", {"beta": 2}), "has no parameter 'beta'; its parameters are: alpha"),
        (("tsallis", {}), "needs alpha"),
        (("tsallis", {"alpha": -1.0}), "alpha of operator 'tsallis' is -1.0; it is a finite number > 0"),
        (("tsallis", {"alpha": None}), "alpha of operator 'tsallis' is None; it is a finite number > 0"),
        (("tsallis", {"alpha": "half"}), "alpha .* is 'half'"),
        (("tsallis", {"alpha": np.inf}), "alpha .* is inf; it is a finite number > 0"),
        (("label-smoothing", {"epsilon": 1.0}), r"epsilon .* is 1\.0; it is a number from 0 up to 1"),
        (("label-smoothing", {"epsilon": -0.1}), "epsilon"),
        (
            ("clamped-power", {"limit": 0}),
            "limit of operator 'clamped-power' is 0; it is a finite number > 0",
        ),
        (("top-k", {"k": 0}), "k .* is 0; it is a whole number ≥ 1"),
        (("top-k", {"k": 2.0}), r"k .* is 2\.0; it is a whole number ≥ 1"),
        (("prior-directed", {"prior": jnp.array([1.0, 0.0])}), "prior has a zero entry"),
        (("mixture", {"schedule": 3}), "schedule .* is a function T -> weight"),
    ],
)
def test_bad_names_and_parameters(arguments, words):
    name, parameters = arguments
    with pytest.raises(ValueError, match=words):
        operators.get(name, **parameters)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tsallis(x)", r"alpha in 'tsallis\(x\)' is not a number; write tsallis\(1\.5\)"),
        ("tsallis(1.5", r"'tsallis\(1\.5' is not an operator; write tsallis\(alpha\)"),
        ("power(2)", r"'power\(2\)' is not an operator; write power$"),
        ("nothing(2)", "unknown operator 'nothing'"),
        ("top-k(2.5)", r"k of operator 'top-k' is 2\.5; it is a whole number"),
    ],
)
def test_bad_texts(text, words):
    with pytest.raises(ValueError, match=words):
        operators.parse(text)


def test_texts_are_read_as_the_operator_that_they_print():
    for text in (
        "power",
        "tsallis(0.5)",
        "tsallis(2)",
        "top-k(3)",
        "label-smoothing(0.2)",
        "label-smoothing(0)",
    ):
        assert operators.parse(text).name == text
    assert operators.parse(" top-k ").name == "top-k"
    kept = operators.parse("top-k(3)")(jnp.array([0.4, 0.3, 0.2, 0.1]), 2.0)
    np.testing.assert_allclose(kept, np.array([4, 3, 2, 0]) / 9, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: operators.get("tsallis", alpha="1.5"), r"alpha .* is '1\.5'; it is a finite number > 0"),
        (lambda: operators.ConvexMixture(schedule=0.5), "schedule .* is a function T -> weight"),
        (
            lambda: operators.ConvexMixture(lambda t: 1 - t)(GOOD, 2.0),
            "schedule gives the weight -1 at T = 2",
        ),
        (
            lambda: operators.ConvexMixture(lambda t: jnp.array([0.1, 0.2, 0.3]))(GOOD, 2.0),
            r"schedule gives weights of shape \(3,\) for T of shape \(\)",
        ),
        (lambda: operators.lawless.PriorDirected(np.array([0.1, -0.2, 1.1])), "prior"),
        (lambda: operators.lawless.PriorDirected(np.array([0.1, 0.2, 5.0])), "prior"),
        (lambda: operators.lawless.PriorDirected(np.full(3, 1 / 3))(GOOD, 2.0), r"prior has shape \(3,\)"),
    ],
)
def test_what_a_family_is_made_of_is_checked(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_a_schedule_without_a_name_of_its_own_is_named_by_its_kind():
    rising = functools.partial(lambda power, t: 1 - t**-power, 2.0)
    assert operators.ConvexMixture(rising).name == "mixture[partial]"


@pytest.mark.parametrize("name", ["power", "mixture", "tsallis(0.5)", "tsallis(1.5)"])
def test_temperatures_that_the_dtype_cannot_carry_are_refused(name):
    """Float32 flushes 1e-38 to zero and powers of 1e38 overflow; up to there the limits are reached."""
    op = operators.parse(name)
    for t, words in (
        (1e-38, r"Below 7\.9e-31 take .*argmax"),
        (1e38, r"Above 1\.3e\+30 use the limit"),
    ):
        with pytest.raises(ValueError, match=words):
            op(GOOD, t)
    np.testing.assert_allclose(op(GOOD, 1e-30), operators.get("argmax")(GOOD, 1.0), rtol=0, atol=1e-5)
    np.testing.assert_allclose(op(GOOD, 1e30), 1 / GOOD.shape[-1], rtol=0, atol=1e-5)


def test_hyper_parameters_are_checked_where_an_operator_is_made():
    with pytest.raises(ValueError, match=r"alpha of operator 'tsallis' is -2\.0; it is a finite number > 0"):
        TsallisSoftening(-2.0)
    with pytest.raises(ValueError, match="alpha"):
        TsallisSoftening(jnp.array([0.5, 2.0, 0.0]))  # one of a family
    with pytest.raises(ValueError, match="alpha"):
        TsallisSoftening(2.0).replace(alpha=-2.0)
    with pytest.raises(ValueError, match=r"k of operator 'top-k' is 2\.0"):
        operators.lawless.TopKRenormalized(2.0)


def test_a_number_that_is_part_of_the_program_is_one_number():
    """As an array it raised jax's error of unhashable metadata, and that at the second use only."""
    top_k = operators.lawless.TopKRenormalized
    for k in (np.array([1, 2]), [1, 2], (2,), jnp.array(2), np.array(2), True):
        with pytest.raises(ValueError, match=r"k of operator 'top-k' is .*; it is a whole number"):
            top_k(k)
    with pytest.raises(ValueError, match=r"k of operator 'top-k' is .*Tracer.*; it is a whole number"):
        jax.vmap(lambda k: top_k(k)(GOOD, 2.0))(jnp.array([1, 2]))
    assert top_k(np.int64(2)) == top_k(2)


@pytest.mark.parametrize("text", ["tsallis(2)", "label-smoothing(0.5)", "clamped-power(3)"])
def test_numbers_that_an_optimizer_moved_out_are_refused_at_the_next_use(text):
    stepped = jax.tree.map(lambda number: number - 4.0, operators.parse(text))
    with pytest.raises(ValueError, match=r"of operator .* is -\d\.\d; it is a"):
        stepped(GOOD, 2.0)


def test_bad_ranges_and_strengths():
    with pytest.raises(ValueError, match="needs 0 ≤ low < high"):
        TemperatureRange(2.0, 1.0)
    with pytest.raises(ValueError, match="strength is 'both'"):
        operators.variational(jnp.square, jnp.square, "both")
    with pytest.raises(TypeError, match="phi is 3"):
        operators.variational(3, jnp.square)
