"""How choices and functions are passed: by name, and with only the arguments that a function asks for."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def named(argument: str, choice: Any, known: Mapping[str, Any]) -> Any:
    """The function that a name stands for; a function stands for itself."""
    if not isinstance(choice, str):
        return choice
    if choice not in known:
        close = difflib.get_close_matches(choice, known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        known_names = ", ".join(known)
        raise ValueError(f"{argument} {choice!r} is unknown{hint} (known: {known_names}; or pass a function)")
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


def percent_hint(share: float) -> str:
    """The question to ask of a share given in percent."""
    return f"; did you mean {share / 100:g}?" if 1.0 < share < 100.0 else ""
