"""The checker as a tool: what it accepts, what it says, and what it leaves untouched."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import operators
from sparsekd_jax.axioms import LAWS, Budget, Witness, cells, check, markdown_table, page, parametrize
from sparsekd_jax.axioms.parametrize import LawTest
from sparsekd_jax.operators.lawless import ClampedPower
from tests.axioms.twins import TWINS, WARM, Overclaiming

QUICK = Budget(sweep=400, limits=50, search=5, shrink=60)


def softmax_like(p, temperature):
    w = p ** (1 / temperature)
    return w / w.sum()


def numpy_power(p, temperature):
    w = np.asarray(p) ** (1 / temperature)
    return w / w.sum()


def power_with_an_if(p, temperature):
    if temperature == 1:
        return p
    w = jnp.where(p > 0, p, 0) ** (1 / temperature)
    return w / jnp.sum(w)


def falls_back_in_a_band(p, temperature):
    t = jnp.where((temperature > 6.0) & (temperature < 6.2), temperature - 0.5, temperature)
    return softmax_like(p, t)


@pytest.mark.parametrize("function", [softmax_like, numpy_power, power_with_an_if])
def test_a_plain_function_is_held_to_the_axioms(function):
    report = check(function, num_classes=(2, 5), budget=QUICK)
    assert report.ok, report.explain()
    assert not report.declares_claims
    claimed = {result.law.id for result in report if result.claim is not None}
    assert claimed == {"closure", "equivariance", "A1", "A2", "A3", "A4", "A5h"}


def test_a_narrow_band_of_a_plain_function_is_found():
    report = check(falls_back_in_a_band, laws=("A1", "A3"), num_classes=(3,), temperature_range=(1, 20))
    assert report["A1"].ok
    witness = report["A3"].witness
    assert not report.ok
    assert 5.5 < witness.high < 6.3
    assert witness.left > witness.right


def test_claims_of_a_plain_function_follow_its_range():
    report = check(softmax_like, temperature_range=(1.0, 20.0), num_classes=(3,), budget=QUICK)
    assert report["A5h"].verdict == report["A5c"].verdict == "not applicable"
    report = check(softmax_like, temperature_range=(0.0, np.inf), num_classes=(3,), budget=QUICK)
    assert report["A5c"].claim is not None


def test_nan_at_zeros_breaks_closure_of_a_plain_function():
    def by_logarithm(p, temperature):
        return jax.nn.softmax(jnp.log(p) * p / p / temperature)

    report = check(by_logarithm, laws=("closure", "A3"), num_classes=(3,), budget=QUICK)
    assert report["closure"].verdict == "holds on the interior"
    assert not report["closure"].ok  # claimed on the whole simplex
    assert report["A3"].ok  # claimed on the interior only


def test_an_over_cautious_claim_shows():
    class Cautious(operators.PowerTransform):
        @property
        def claims(self):
            return operators.Claims(WARM, {"A3": operators.Claim("interior", WARM)})

    result = check(Cautious(), laws=("A3",), num_classes=(3,), budget=QUICK)["A3"]
    assert result.ok
    assert result.verdict == "holds"
    assert result.standing == "interior (or wider)"


def test_the_process_keeps_its_own_precision():
    assert not jax.config.jax_enable_x64
    check(softmax_like, laws=("A1",), num_classes=(2,), budget=QUICK)
    assert not jax.config.jax_enable_x64
    assert jnp.ones(2).dtype == jnp.float32


def test_single_precision_answers_are_forgiven_their_rounding():
    def in_float32(p, temperature):
        w = p.astype(jnp.float32) ** (1 / temperature).astype(jnp.float32)
        return w / w.sum()

    report = check(in_float32, laws=("closure", "A1", "A3", "A4"), num_classes=(3,), budget=QUICK)
    assert report.ok, report.explain()


def test_a_report_is_a_function_of_its_arguments():
    first = check(TWINS["A3"], laws=("A3",), num_classes=(3,), budget=QUICK)
    again = check(TWINS["A3"], laws=("A3",), num_classes=(3,), budget=QUICK)
    assert first.to_json() == again.to_json()


def test_verdicts_without_the_known_witnesses():
    operator = operators.TsallisSoftening(1.5)
    alone = check(operator, laws=("affine",), num_classes=(2,), budget=QUICK, corpus=False)
    assert alone["affine"].verdict == "fails"
    with_corpus = check(operator, laws=("affine",), num_classes=(2,), budget=QUICK)
    assert with_corpus["affine"].cases > alone["affine"].cases


def test_known_witnesses_are_among_the_cases_examined_at_length():
    """Square roots at one known witness alone: their slopes are infinite, and 400 other cases say nothing."""

    def rooted(p, temperature):
        near = (jnp.abs(p[0] - 0.5) < 1e-4) & (jnp.abs(p[1] - 0.3) < 1e-4)
        off = jnp.where(p[0] == 0.5, 1.0, jnp.abs(p[0] - 0.5))
        moved = jnp.where(near & (p[0] != 0.5), 0.01 * jnp.sqrt(off), 0.0)
        return p + moved * jnp.array([1.0, -1.0, 0.0], p.dtype)

    options = {"num_classes": (3,), "temperature_range": (0.2, 20.0)}
    options["budget"] = Budget(sweep=400, search=0, shrink=1)
    assert check(rooted, laws=("gradients",), corpus=False, **options)["gradients"].verdict == "holds"
    assert check(rooted, laws=("gradients",), **options)["gradients"].verdict == "fails"


def test_only_examined_cases_are_counted():
    budget = Budget(sweep=2000, limits=50, search=0, shrink=1)
    laws = ("closure", "A2", "gradients")
    report = check(operators.PowerTransform(), laws=laws, num_classes=(3,), budget=budget, corpus=False)
    assert report["closure"].cases == 2000
    assert report["gradients"].cases == 256
    # 128 segments in p, 128 in T and 128 faces, some of them of one case.
    assert 128 <= report["A2"].cases <= 384


def test_report_forms():
    report = check(TWINS["A4"], laws=("A3", "A4"), num_classes=(2, 3), budget=QUICK)
    data = json.loads(report.to_json())
    assert not data["ok"]
    assert [law["law"] for law in data["laws"]] == ["A3", "A4"]
    witness = Witness.from_dict(data["laws"][1]["witness"])
    assert witness == report["A4"].witness
    assert witness.replay(TWINS["A4"]) == pytest.approx(witness.margin, rel=1e-9)
    assert cells([report]) == [{"operator": "never_identity", "A3": "H", "A4": "F"}]
    assert "|never_identity|H|F|" in markdown_table([report])
    text = str(report)
    assert "interior: BROKEN" in text
    assert str(witness) in text
    html = page([report])
    assert "<script src" not in html
    assert 'href="http' not in html
    assert "never_identity" in html
    with pytest.raises(KeyError, match=r"A1.*was not checked"):
        report["A1"]


def test_a_witness_is_replayed_at_the_temperatures_it_was_judged_at():
    """A law that steps onto a face does so at T ≤ 3 where it may, and this one jumps above 5 alone."""

    def leaps(p, t):
        q = p ** (1 / t)
        q = jnp.where(t > 5, jnp.where((p == 0).any(), jnp.maximum(q, 0.5 * q.max()), q), q)
        return q / q.sum()

    result = check(leaps, laws="A2", num_classes=(3,), temperature_range=(10.0, 100.0), budget=QUICK)["A2"]
    assert result.witness.replay(leaps) == pytest.approx(result.witness.margin)
    assert result.witness.margin < -0.1
    again = Witness.from_dict(json.loads(json.dumps(result.witness.to_dict())))
    assert again == result.witness
    assert (again.lowest, again.highest) == (10.0, 100.0)


def test_a_retypable_witness_is_exact():
    witness = check(TWINS["A4"], laws=("A4",), num_classes=(2,), budget=QUICK)["A4"].witness
    text = str(witness)
    weights, total = text.split("p = ")[1].split(":")[0].split("/")
    retyped = np.array(json.loads(weights)) / float(total)
    np.testing.assert_allclose(retyped, witness.p, rtol=0, atol=2e-16)


def test_constant_operators_hold_entropy_as_an_equality():
    report = check(operators.get("label-smoothing"), laws=("A3", "A3s"), num_classes=(3,), budget=QUICK)
    assert report["A3"].cell == "="
    assert report["A3s"].cell == "F"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"operator": 3}, TypeError, r"operator is 3; it is a function \(p, temperature\) -> q"),
        ({"laws": ("A9",)}, ValueError, "unknown law 'A9'; the laws are closure"),
        ({"num_classes": (1, 3)}, ValueError, "num_classes is .* each ≥ 2"),
        (
            {"operator": operators.EntropyProjection(), "temperature_range": (0.1, 0.5)},
            ValueError,
            "nothing in common",
        ),
        ({"operator": lambda p, temperature: p[:1]}, TypeError, r"returned shape \(1,\) for p of shape"),
    ],
)
def test_bad_input_is_named(arguments, error, words):
    arguments = {"operator": softmax_like, "num_classes": (3,), "budget": QUICK} | arguments
    with pytest.raises(error, match=words):
        check(arguments.pop("operator"), **arguments)


# -- the pytest front ----------------------------------------------------------------------------------------


@parametrize([operators.PowerTransform(), softmax_like], temperature_range=(1.0, 20.0))
def test_parametrize_runs_each_claim(law, operator):
    law.assert_holds(operator, num_classes=(3,), budget=QUICK)


@parametrize(
    [ClampedPower()], expected_failures={("clamped-power", "semigroup"): "the clamp does not compose"}
)
def test_parametrize_replays_expected_failures(law, operator):
    law.assert_holds(operator, num_classes=(2,), budget=QUICK)


def test_parametrize_names_its_cases():
    mark = parametrize([operators.PowerTransform(), softmax_like])
    assert {"power-A3", "softmax_like-A5h"} <= set(mark.kwargs["ids"])


def test_an_expected_failure_that_no_longer_fails_is_an_error():
    with pytest.raises(AssertionError, match=r"no longer breaks A1.*because: once it did"):
        LawTest("A1", None, "once it did").assert_holds(
            operators.PowerTransform(), num_classes=(2,), budget=QUICK
        )


def test_a_violation_that_breaks_no_claim_is_not_the_expected_failure():
    """A5h is claimed on the interior, so its witness on the boundary says nothing of the claim."""
    with pytest.raises(AssertionError, match=r"no longer breaks A5h.*because: x"):
        LawTest("A5h", None, "x").assert_holds(operators.PowerTransform(), num_classes=(3,), budget=QUICK)


def test_an_expectation_for_nobody_is_an_error():
    with pytest.raises(ValueError, match="no operator here has that name"):
        parametrize([operators.PowerTransform()], expected_failures={("powr", "A1"): "typo"})


def test_a_broken_claim_says_what_to_look_at():
    operator = Overclaiming(operators.ConvexMixture(), "support")
    with pytest.raises(AssertionError) as caught:
        LawTest("support").assert_holds(operator, num_classes=(2,), budget=QUICK)
    assert LAWS["support"].formula in str(caught.value)
    assert "p = [" in str(caught.value)
