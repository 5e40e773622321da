"""The pytest front of the checker: a test for each claim, and failures that are expected."""

import pytest

from sparsekd_jax import operators
from sparsekd_jax.axioms import LAWS, Budget, parametrize
from sparsekd_jax.axioms.parametrize import LawTest
from sparsekd_jax.operators.lawless import ClampedPower
from tests.axioms.twins import Overclaiming

QUICK = Budget(sweep=400, limits=50, search=5, shrink=60)


def softmax_like(p, temperature):
    w = p ** (1 / temperature)
    return w / w.sum()


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


def test_operators_of_one_name_share_an_expected_failure():
    mark = parametrize(
        [ClampedPower(), ClampedPower()], expected_failures={("clamped-power", "semigroup"): "clamped"}
    )
    reasons = [law.expected_failure for law, _ in mark.args[1] if law.law == "semigroup"]
    assert reasons == ["clamped", "clamped"]


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
