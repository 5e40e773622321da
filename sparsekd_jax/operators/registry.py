"""Operators by name: what configuration files, command lines and tables use."""

import dataclasses
from typing import Any

from sparsekd_jax._refusals import resembling
from sparsekd_jax.operators import lawless
from sparsekd_jax.operators._parameters import numeric_fields
from sparsekd_jax.operators.base import SofteningOperator, TemperatureRange
from sparsekd_jax.operators.entropy_projection import EntropyProjection
from sparsekd_jax.operators.euclidean_entropy_projection import EuclideanEntropyProjection
from sparsekd_jax.operators.mixture import ConvexMixture
from sparsekd_jax.operators.power import PowerTransform
from sparsekd_jax.operators.tsallis import TsallisSoftening

_FAMILIES: dict[str, type[SofteningOperator]] = {
    family.family: family
    for family in (
        PowerTransform,
        ConvexMixture,
        TsallisSoftening,
        EntropyProjection,
        EuclideanEntropyProjection,
        lawless.LabelSmoothing,
        lawless.TopKRenormalized,
        lawless.PriorDirected,
        lawless.ClampedPower,
        lawless.Argmax,
    )
}


def names() -> tuple[str, ...]:
    """The names that `get` knows: the lawful families first, then the counterexamples."""
    return tuple(_FAMILIES)


def get(name: str, **parameters: Any) -> SofteningOperator:
    """The operator of that name, its parameters validated.

    Args:
      name: one of `names()`.
      **parameters: hyper-parameters of the family, such as ``alpha`` of "tsallis".

    Returns:
      The operator.

    Raises:
      ValueError: unknown name, unknown or missing parameter, or a value outside its domain.
      TypeError: a name that is no text.

    >>> get("powr")
    Traceback (most recent call last):
    ValueError: unknown operator 'powr'; did you mean 'power'? Known: power, mixture, tsallis, ...
    """
    if not isinstance(name, str):
        raise TypeError(f"name is {name!r}; it is a text such as 'power', and an operator needs no get")
    if name not in _FAMILIES:
        if "(" in name and name.partition("(")[0] in _FAMILIES:
            raise ValueError(f"name is {name!r}, with a parameter in it; call operators.parse({name!r})")
        hint = resembling(name, _FAMILIES) or ";"
        raise ValueError(f"unknown operator {name!r}{hint} Known: {', '.join(_FAMILIES)}")
    family = _FAMILIES[name]
    fields = {f.name: f for f in dataclasses.fields(family)}  # type: ignore[arg-type]
    for given in parameters:
        if given not in fields:
            has = f"its parameters are: {', '.join(fields)}" if fields else "it has none"
            raise ValueError(f"operator {name!r} has no parameter {given!r}; {has}")
    for field in fields.values():
        if field.default is dataclasses.MISSING and field.name not in parameters:
            raise ValueError(f"operator {name!r} needs {field.name}: get({name!r}, {field.name}=1.5)")
    return family(**parameters)


def parse(text: str) -> SofteningOperator:
    """The operator that a text names, as `SofteningOperator.name` and the tables print it.

    Args:
      text: a name, with the value of the family's one number in parentheses where it has one.

    Raises:
      ValueError: unknown name, a value that is no number, or one outside its domain.

    >>> parse("tsallis(1.5)").name, parse("power").name
    ('tsallis(1.5)', 'power')
    >>> parse("tsallis")
    Traceback (most recent call last):
    ValueError: operator 'tsallis' needs alpha: write tsallis(1.5)
    """
    if not isinstance(text, str):
        return get(text)  # raises, saying what it is
    name, bracket, inner = text.strip().partition("(")
    if name not in _FAMILIES:
        return get(name)  # raises, naming what is close
    number = next(iter(numeric_fields(_FAMILIES[name]).values()), None)
    if not bracket:
        if number is not None and number.default is dataclasses.MISSING:
            raise ValueError(f"operator {name!r} needs {number.name}: write {name}(1.5)")
        return get(name)
    if number is None or not inner.endswith(")"):
        form = name if number is None else f"{name}({number.name})"
        raise ValueError(f"{text!r} is not an operator; write {form}")
    try:
        value = float(inner[:-1])
    except ValueError:
        raise ValueError(f"{number.name} in {text!r} is not a number; write {name}(1.5)") from None
    return get(name, **{number.name: int(value) if number.name == "k" and value % 1 == 0 else value})


@dataclasses.dataclass(frozen=True)
class TableRow:
    """A row of the verdict table: an operator, and the temperatures at which the row judges it."""

    label: str
    operator: SofteningOperator
    temperatures: TemperatureRange


def table_rows() -> tuple[TableRow, ...]:
    """The rows of the verdict table of theory.md section 2: fixed instances, in its order."""
    warm, cold = TemperatureRange(1.0), TemperatureRange(0.0, 1.0)
    return (
        TableRow("power", PowerTransform(), warm),
        TableRow("mixture", ConvexMixture(), warm),
        TableRow("mixture, T < 1", ConvexMixture(), cold),
        TableRow("tsallis(0.5)", TsallisSoftening(0.5), warm),
        TableRow("tsallis(1.5)", TsallisSoftening(1.5), warm),
        TableRow("tsallis(2.5)", TsallisSoftening(2.5), warm),
        TableRow("tsallis(3)", TsallisSoftening(3.0), warm),
        TableRow("entropy-projection", EntropyProjection(), warm),
        TableRow("euclidean-entropy-projection", EuclideanEntropyProjection(), warm),
        TableRow("label-smoothing", lawless.LabelSmoothing(), warm),
        TableRow("top-k", lawless.TopKRenormalized(), warm),
        TableRow("prior-directed", lawless.PriorDirected(), warm),
        TableRow("clamped-power", lawless.ClampedPower(), warm),
        TableRow("argmax", lawless.Argmax(), warm),
    )
