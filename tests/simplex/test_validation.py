"""What is refused, and how the message says so."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import simplex
from sparsekd_jax._refusals import is_traced
from tests.simplex.harness import DTYPES, cast

REQUIRE = {
    "probabilities": (simplex.require_probabilities, [0.5, 0.5], "probabilities"),
    "log": (simplex.require_log_probabilities, [-math.log(2), -math.log(2)], "log-probabilities"),
    "logits": (simplex.require_logits, [3.0, -1.0], "logits"),
}


@pytest.mark.parametrize("kind", REQUIRE)
@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_what_is_right_passes(kind, dtype, x64):
    require, good, _ = REQUIRE[kind]
    for shape in ((2,), (3, 2), (2, 3, 2), (0, 2)):
        assert require(cast(np.broadcast_to(good, shape), dtype)) is None
    assert require(np.broadcast_to(good, (3, 2))) is None


def test_zeros_pass_as_zeros_and_as_minus_infinity():
    simplex.require_probabilities(jnp.array([0.0, 1.0, -0.0]))
    simplex.require_log_probabilities(jnp.array([-jnp.inf, 0.0]))
    simplex.require_logits(jnp.array([-jnp.inf, 5.0]))


@pytest.mark.parametrize("kind", REQUIRE)
@pytest.mark.parametrize("dtype", ["int32", "bool", "float8_e4m3fn"])
def test_a_dtype_that_is_no_probability_is_a_type_error(kind, dtype):
    require, _, noun = REQUIRE[kind]
    with pytest.raises(TypeError, match=rf"^teacher has dtype {dtype}; {noun} are .*teacher\.astype\(jnp\.f"):
        require(jnp.array([[1, 0]]).astype(dtype), "teacher")


@pytest.mark.parametrize("kind", REQUIRE)
@pytest.mark.parametrize("x", [np.ones((3, 1)), np.ones((2, 0)), np.float64(1.0)])
def test_fewer_than_two_classes_are_refused(kind, x):
    require = REQUIRE[kind][0]
    with pytest.raises(ValueError, match=r"^teacher has shape .* needs K ≥ 2 .* pass the pair \[1 − p, p\]"):
        require(x, "teacher")


@pytest.mark.parametrize(
    ("kind", "bad", "says"),
    [
        ("probabilities", [math.nan, 1.0], "contains nan; find its origin"),
        ("probabilities", [math.inf, 0.0], "contains inf; find its origin"),
        (
            "probabilities",
            [-0.25, 1.25],
            r"contains the negative entry -0\.25\. .*op\.from_logits.*op\.log\(",
        ),
        ("probabilities", [0.5, 0.625], r"sums to 1\.125, off by 0\.125 .*simplex\.normalize\(teacher\)"),
        ("probabilities", [0.25, 0.25], r"sums to 0\.5, off by 0\.5 .*op\.from_logits"),
        ("log", [math.nan, 0.0], "contains nan; log-probabilities are ≤ 0, −inf allowed"),
        ("log", [math.inf, 0.0], "contains inf; log-probabilities are ≤ 0"),
        ("log", [0.0, 0.0], r"sums to 2 after exp, off by 1 .*jax\.nn\.log_softmax\(teacher\)"),
        ("log", [-math.inf, -math.inf], "sums to 0 after exp"),
        ("log", [5000.0, 0.0], "sums to inf after exp"),
        ("logits", [math.nan, 0.0], "contains nan; logits are finite, or −inf for an impossible class"),
        ("logits", [0.0, math.inf], "contains inf; logits are finite"),
        ("logits", [-math.inf, -math.inf], "every logit is −inf; at least one class must be possible"),
    ],
)
def test_a_bad_row_is_named_with_its_argument_and_a_remedy(kind, bad, says):
    require, good, _ = REQUIRE[kind]
    with pytest.raises(ValueError, match=rf"^teacher: {says}"):
        require(jnp.array(bad), "teacher")
    with pytest.raises(ValueError, match=rf"^teacher, row 2: {says}"):
        require(jnp.array([good, good, bad, bad]), "teacher")
    with pytest.raises(ValueError, match=rf"^teacher, row \(1, 0\): {says}"):
        require(jnp.array([[good, good], [bad, bad]]), "teacher")


@pytest.mark.parametrize("dtype", [*DTYPES, "float16"])
def test_the_tolerance_of_the_sum_is_that_of_the_dtype(dtype, x64):
    tolerance = simplex.SUM_TOLERANCE[dtype]
    step = 2 * float(jnp.finfo(dtype).eps)
    for factor, accepted in ((0.5, True), (2 * 1.0 + step / tolerance, False)):
        p = cast([0.5, 0.5 + factor * tolerance], dtype)
        off = abs(float(np.asarray(p, float).sum()) - 1)
        assert (off <= tolerance) == accepted
        if accepted:
            simplex.require_probabilities(p)
        else:
            with pytest.raises(ValueError, match=f"tolerance {tolerance:g} in {dtype}"):
                simplex.require_probabilities(p)


def test_the_remedy_for_narrow_logarithms_is_float32():
    """log 31,000 rounded to bfloat16 makes an even row sum to 1.03, after another log_softmax there too."""
    even = jax.nn.log_softmax(jnp.zeros(31_000, jnp.bfloat16))
    with pytest.raises(ValueError, match=r"jax\.nn\.log_softmax\(log_p\.astype\(jnp\.float32\)\)\."):
        simplex.require_log_probabilities(even)
    simplex.require_log_probabilities(jax.nn.log_softmax(even.astype(jnp.float32)))


def test_defaults_name_the_argument():
    for require, name in (
        (simplex.require_probabilities, "p"),
        (simplex.require_log_probabilities, "log_p"),
        (simplex.require_logits, "logits"),
    ):
        with pytest.raises(ValueError, match=f"^{name}: contains nan"):
            require(jnp.array([jnp.nan, 1.0]))


@pytest.mark.parametrize("kind", REQUIRE)
def test_traced_values_pass_but_their_shape_and_dtype_do_not(kind):
    require, good, _ = REQUIRE[kind]

    def checked(x):
        require(x, "teacher")
        return jnp.sum(x)

    bad = jnp.array([jnp.nan, jnp.inf])
    jax.eval_shape(checked, bad)
    jax.vmap(checked)(jnp.stack([bad, bad]))
    jax.grad(checked)(jnp.array(good))
    with pytest.raises(ValueError, match="needs K ≥ 2"):
        jax.eval_shape(checked, bad[:1])
    with pytest.raises(TypeError, match="teacher has dtype int32"):
        jax.eval_shape(checked, jnp.array([1, 0]))


def test_is_traced():
    assert not is_traced(1.0, jnp.ones(2), {"a": np.ones(2)}, None)
    seen = []
    jax.eval_shape(lambda x: seen.append(is_traced({"a": [1.0, x]})), jnp.ones(2))
    assert seen == [True]
