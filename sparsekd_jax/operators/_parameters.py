"""What the numbers that make an operator may be: refused where the operator is made, not where it is used.

A field says it by ``dataclasses.field(metadata={"domain": POSITIVE})``. An optimizer that moves the leaves of
an operator makes another without calling its class: families whose numbers are leaves ask again in `claims`.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from sparsekd_jax._refusals import is_traced


class ParameterDomain(NamedTuple):
    """The values of a hyper-parameter, and the words for them."""

    holds: Callable[[Any], bool]
    words: str


POSITIVE = ParameterDomain(lambda v: 0 < v < math.inf, "is a finite number > 0")
FRACTION = ParameterDomain(lambda v: 0 <= v < 1, "is a number from 0 up to 1, 1 excluded")
COUNT = ParameterDomain(
    lambda v: isinstance(v, int | np.integer) and type(v) is not bool and int(v) >= 1, "is a whole number ≥ 1"
)


def numeric_fields(family: Any) -> dict[str, dataclasses.Field]:
    """The fields of an operator, or of its class, that have a domain."""
    fields = dataclasses.fields(family) if dataclasses.is_dataclass(family) else ()
    return {field.name: field for field in fields if "domain" in field.metadata}


def require_parameters(operator: Any) -> None:
    """Refuse an operator of which a number is outside its domain; what is traced cannot be looked at."""
    for name, field in numeric_fields(operator).items():
        value, (holds, words) = getattr(operator, name), field.metadata["domain"]
        static = field.metadata.get("static")  # part of the program: one number, no array and nothing traced
        if is_traced(value) and not static:
            continue
        try:
            good = all(map(holds, [value] if static else (v.item() for v in np.asarray(value).ravel())))
        except (AttributeError, TypeError, ValueError):  # text or None, among others: no number
            good = False
        if not good:
            raise ValueError(f"{name} of operator {operator.family!r} is {value!r}; it {words}")
