"""The checker as pytest cases: one test for each law that an operator claims."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparsekd_jax.axioms.check import Bounds, Softener, check, plain_claims
from sparsekd_jax.axioms.report import LawResult
from sparsekd_jax.operators import TemperatureRange
from sparsekd_jax.operators.base import operator_name


@dataclasses.dataclass(frozen=True)
class LawTest:
    """A law as a pytest parameter."""

    law: str
    temperature_range: Bounds | None = None
    expected_failure: str | None = None

    def assert_holds(self, operator: Softener, **options: Any) -> LawResult:
        """Check this law; raise `AssertionError` with formula, witness and margin if its claim is broken.

        Where a failure is expected, its absence is the error, so that a stale expectation does not pass
        unseen: the claim must be broken or, of a law that is not claimed, a violation found.
        """
        options.setdefault("temperature_range", self.temperature_range)
        report = check(operator, laws=(self.law,), **options)
        result = report[self.law]
        # A law claimed on the interior has a witness on the boundary that breaks no claim.
        broken = not result.ok if result.claim is not None else result.witness is not None
        if self.expected_failure is None:  # raised, not asserted: `python -O` drops an assert
            if not result.ok:
                raise AssertionError(report.explain())
        elif not broken:
            raise AssertionError(
                f"{report.operator} no longer breaks {self.law}, which was expected because: "
                f"{self.expected_failure}. Remove the expectation."
            )
        elif result.witness is None or not result.witness.replay(operator) < -result.law.tolerance:
            raise AssertionError(f"the witness {result.witness} does not replay")
        return result


def parametrize(
    operators: Sequence[Softener],
    *,
    temperature_range: Bounds | None = None,
    expected_failures: Mapping[tuple[str, str], str] | None = None,
) -> Any:
    """A pytest decorator: one case, such as ``power-A3``, for each operator and each law it claims.

    Args:
      operators: operators, or functions ``(p, temperature) -> q``.
      temperature_range: temperatures to judge at, as in `check`.
      expected_failures: reasons by ``(operator name, law)``. Such a case runs too, and fails if the law is no
        longer broken.

    >>> from sparsekd_jax.operators import PowerTransform
    >>> @parametrize([PowerTransform()])
    ... def test_laws(law, operator):
    ...     law.assert_holds(operator)
    >>> test_laws.pytestmark[0].kwargs["ids"][:3]
    ['power-closure', 'power-equivariance', 'power-A1']
    """
    import pytest

    if not isinstance(operators, Iterable):
        raise TypeError("operators is a single operator; pass a list: parametrize([operator])")
    expected = dict(expected_failures or {})
    params, ids, met = [], [], set()
    for operator in operators:
        name = operator_name(operator)
        claims = getattr(operator, "claims", None)
        if claims is None:
            claims = plain_claims(TemperatureRange.of(temperature_range or (1.0, float("inf"))))
        unclaimed = [law for owner, law in expected if owner == name and law not in claims.laws]
        for law in [*claims.laws, *unclaimed]:
            met.add((name, law))
            params.append((LawTest(law, temperature_range, expected.get((name, law))), operator))
            ids.append(f"{name}-{law}")
    if expected.keys() - met:
        owner, law = next(key for key in expected if key not in met)
        raise ValueError(f"expected_failures names ({owner!r}, {law!r}), and no operator here has that name")
    return pytest.mark.parametrize(("law", "operator"), params, ids=ids)
