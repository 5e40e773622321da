"""Each law catches its own broken twin, and no other law that the twin claims does."""

import numpy as np
import pytest

from sparsekd_jax.axioms import LAWS, Budget, check
from tests.axioms.twins import TWINS

SMALL = Budget(sweep=1500, limits=100, search=5, shrink=120)


@pytest.mark.parametrize("law", LAWS)
def test_only_its_own_law_catches_a_twin(law):
    operator = TWINS[law]
    report = check(operator, laws=tuple(operator.claims.laws), num_classes=(2, 3, 8), budget=SMALL)
    assert [result.law.id for result in report.failures] == [law], report.explain()
    witness = report[law].witness
    assert witness.replay(operator) < -LAWS[law].tolerance
    # The message holds the formula and both sides, in numbers.
    text = report.explain()
    assert LAWS[law].formula in text
    assert all(side in text for side in LAWS[law].sides)
    assert "margin" in text


def test_every_law_has_a_twin():
    assert set(TWINS) == set(LAWS)


def test_the_axioms_imply_what_theory_says_they_imply():
    """A3 is implied by majorization: an operator that keeps the second cannot break the first."""
    for law in ("A3", "majorization"):
        report = check(TWINS["A3"], laws=(law,), num_classes=(2,), budget=SMALL)
        assert report[law].verdict == "fails"  # the A3 twin breaks the stronger law as well
    report = check(TWINS["majorization"], laws=("A3",), num_classes=(3,), budget=SMALL)
    assert report["A3"].verdict != "fails"


def test_witness_numbers_are_the_laws_own():
    """The printed sides of A3 are the entropies of the outputs at the printed inputs."""
    operator = TWINS["A3"]
    witness = check(operator, laws=("A3",), num_classes=(2,), budget=SMALL)["A3"].witness
    p = np.asarray(witness.p)

    def entropy_at(t):
        q = np.asarray(operator(p.astype(np.float32), t), np.float64)
        return -(q * np.log(q)).sum()

    assert entropy_at(witness.low) == pytest.approx(witness.left, abs=1e-5)
    assert entropy_at(witness.high) == pytest.approx(witness.right, abs=1e-5)
