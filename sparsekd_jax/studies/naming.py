"""Operators from the words of a command line or a configuration file."""

import dataclasses
import re

from sparsekd_jax import operators
from sparsekd_jax.operators.base import SofteningOperator


def operator_named(text: str) -> SofteningOperator:
    """An operator from its name, with the hyper-parameter in parentheses where it has one.

    Args:
        text: such as ``"power"`` or ``"tsallis(1.5)"``, as `SofteningOperator.name` prints them.

    Returns:
        The operator.

    Raises:
        ValueError: an unknown name, or a value that is no number or that the family refuses.

    >>> operator_named("tsallis(1.5)").name
    'tsallis(1.5)'
    """
    match = re.fullmatch(r"([^()]+)\((.*)\)", text.strip())
    if match is None:
        try:
            return operators.get(text.strip())
        except ValueError as error:
            if " needs " in str(error):
                raise ValueError(f"operator {text!r} needs its parameter: write {text}(1.5)") from error
            raise
    name, inner = match.groups()
    if name not in operators.names():
        operators.get(name)  # raises, with the close names
    try:
        value = float(inner)
    except ValueError:
        raise ValueError(f"operator {text!r}: {inner!r} is not a number; write {name}(1.5)") from None
    return operators.get(name, **{_parameter(name): value})


def _parameter(name: str) -> str:
    """The one number a family takes."""
    family = type(operators.get(name, alpha=1.5)) if name == "tsallis" else type(operators.get(name))
    declared = dataclasses.fields(family)  # type: ignore[arg-type]
    fields = [f.name for f in declared if f.name in ("alpha", "epsilon", "limit", "k")]
    if len(fields) != 1:
        raise ValueError(f"operator {name!r} takes no number: write {name}")
    return fields[0]
