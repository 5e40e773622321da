"""How choices and functions are passed: by name, and with only the arguments that a function asks for."""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any

from sparsekd_jax._refusals import resembling


def named(argument: str, choice: Any, known: Mapping[str, Any], others: str = "a function") -> Any:
    """The function that a name stands for; a function stands for itself."""
    if not isinstance(choice, str):
        return choice
    if choice not in known:
        hint, names = resembling(choice, known), ", ".join(known)
        raise ValueError(f"{argument} {choice!r} is unknown{hint} (known: {names}; or pass {others})")
    return known[choice]


def call_with(function: Callable[..., Any], first: Any, remedies: Mapping[str, str], **offered: Any) -> Any:
    """``function(first, …)`` with those of the offered arguments that its signature names.

    An argument that the function requires and nobody offers (None) is an error, with its remedy.
    """
    try:
        rest = dict(list(inspect.signature(function).parameters.items())[1:])
    except (TypeError, ValueError):  # some built-ins have no signature: they get the first argument alone
        rest = {}
    given = {}
    for name, value in offered.items():
        if name not in rest or rest[name].kind is inspect.Parameter.POSITIONAL_ONLY:
            continue
        if value is not None:
            given[name] = value
        elif rest[name].default is inspect.Parameter.empty:
            called = getattr(function, "__name__", repr(function))
            raise ValueError(f"{called} needs {name}, which is None: {remedies[name]}")
    return function(first, **given)


def require_optimizer(argument: str, optimizer: Any) -> None:
    """Refuse what is no optax transformation: a learning rate, a factory, an ``nnx.Optimizer``."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"{argument} is {_kind(optimizer)}; pass an optax transformation, such as optax.adam(1e-3)"
        )


def require_params(argument: str, params: Any) -> None:
    """Refuse an NNX module where its parameters were meant."""
    nnx = sys.modules.get("flax.nnx")  # a module can only be there where it is loaded
    if nnx is not None and isinstance(params, nnx.Module):
        raise TypeError(
            f"{argument} is the module {type(params).__name__}; pass its parameters: "
            "nnx.state(model, nnx.Param)"
        )


def require_select(where: Any) -> None:
    """Refuse what does not say of a name and a leaf whether it is selected."""
    if isinstance(where, str):
        raise TypeError(f"where is the text {where!r}; pass sparsity.by_path({where!r})")
    if not callable(where):
        raise TypeError(
            f"where is {_kind(where)}; pass a function (name, leaf) -> bool, or sparsity.by_path(...)"
        )


def _kind(value: Any) -> str:
    return value.__name__ if hasattr(value, "__name__") else f"a {type(value).__name__}"
