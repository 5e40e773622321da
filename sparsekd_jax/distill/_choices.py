"""The choices of a plan that are objects: what JSON says of them, and the way back."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from sparsekd_jax import operators, sparsity
from sparsekd_jax.distill.divergences import JensenShannon
from sparsekd_jax.distill.losses import Operator
from sparsekd_jax.operators.base import operator_name
from sparsekd_jax.sparsity.structured import NM, Block, Channel

_MAKERS: dict[str, Callable[..., Any]] = {
    "n_m": sparsity.n_m,
    "block": sparsity.block,
    "channel": sparsity.channel,
    "JensenShannon": JensenShannon,
}


def described(choice: Any) -> Any:
    """A pattern or a divergence in JSON's types: its name, or its maker with the arguments.

    >>> described("global"), described(sparsity.n_m(2, 4))
    ('global', {'n_m': {'n': 2, 'm': 4, 'axis': -2}})
    """
    if isinstance(choice, str):
        return choice
    if isinstance(choice, Block):
        return {"block": {"shape": [choice.rows, choice.columns]}}
    for kind, name in ((NM, "n_m"), (Channel, "channel"), (JensenShannon, "JensenShannon")):
        if type(choice) is kind:
            return {name: dataclasses.asdict(choice)}
    # A function by its place in the code: its address would be another in the process that resumes.
    return f"{choice.__module__}.{choice.__qualname__}" if inspect.isfunction(choice) else str(choice)


def made(field: str, said: Any) -> Any:
    """What `described` said, made again.

    Raises:
        ValueError: an unknown maker, or arguments that it does not take.

    >>> made("pattern", {"block": {"shape": [4, 4]}}) == sparsity.block((4, 4))
    True
    """
    if not isinstance(said, dict):
        return said
    name = next(iter(said), None)
    if len(said) != 1 or name not in _MAKERS or not isinstance(said[name], dict):
        raise ValueError(
            f"{field} is {said} in the plan; give a name, or one of {', '.join(_MAKERS)} with its arguments, "
            'such as {"n_m": {"n": 2, "m": 4}}'
        )
    try:
        return _MAKERS[name](**said[name])
    except TypeError as error:
        raise ValueError(f"{field} {name}: {error}") from error


def is_written(choice: Any) -> bool:
    """Whether what `described` says of a pattern or a divergence leads back to it."""
    return isinstance(choice, str) or isinstance(described(choice), dict)


def is_named(operator: Operator) -> bool:
    """Whether the name of an operator leads back to it, with all of its hyper-parameters."""
    try:
        named = operators.parse(operator_name(operator))
    except ValueError:
        return False
    if type(named) is not type(operator):
        return False
    fields = dataclasses.fields(named)  # type: ignore[arg-type]  # every operator that has a name is one
    pairs = [(getattr(named, f.name), getattr(operator, f.name)) for f in fields]
    return all(a is b or np.array_equal(a, b) for a, b in pairs)
