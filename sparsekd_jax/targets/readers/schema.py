"""Finding the field that is wrong. Reading is fast and blind; these walk a record only after it failed."""

import math
from collections.abc import Callable
from typing import Any

Check = Callable[[Any, str], tuple[str, str] | None]
"""``(value, path)`` to the path of the first mismatch and what is wrong there; None where all is well."""

_SHOWN = 60


def show(value: Any) -> str:
    """A value in an error message, cut to a line."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):  # a whole number of thousands of digits, lists in lists in lists
        return f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def text(value: Any, path: str) -> tuple[str, str] | None:
    """A string."""
    return None if type(value) is str else (path, f"{show(value)} is not a text")


def whole(value: Any, path: str) -> tuple[str, str] | None:
    """A whole number, from 0."""
    return None if type(value) is int and value >= 0 else (path, f"{show(value)} is not a whole number ≥ 0")


def log_prob(value: Any, path: str) -> tuple[str, str] | None:
    """A number below +∞."""
    if type(value) not in (int, float):
        return path, f"{show(value)} is not a log-probability"
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    return None if number < math.inf else (path, f"{show(value)} is not a log-probability")


def either(first: Check, second: Check) -> Check:
    """One of two; the mismatch told is the first's."""
    return lambda value, path: first(value, path) and second(value, path) and first(value, path)


def octets(value: Any, path: str) -> tuple[str, str] | None:
    """A list of whole numbers below 256."""
    fine = type(value) is list and all(type(byte) is int and 0 <= byte < 256 for byte in value)
    return None if fine else (path, f"{show(value)} is not a list of bytes")


def maybe(check: Check) -> Check:
    """Null, or what ``check`` accepts."""
    return lambda value, path: None if value is None else check(value, path)


def each(check: Check) -> Check:
    """A list, every entry accepted."""

    def run(value: Any, path: str) -> tuple[str, str] | None:
        if type(value) is not list:
            return path, f"{show(value)} is not a list"
        return next((m for i, entry in enumerate(value) if (m := check(entry, f"{path}[{i}]"))), None)

    return run


def row(*checks: Check) -> Check:
    """A list with at least these entries."""

    def run(value: Any, path: str) -> tuple[str, str] | None:
        if type(value) is not list or len(value) < len(checks):
            return path, f"{show(value)} is not a list of {len(checks)}"
        return next((m for i, check in enumerate(checks) if (m := check(value[i], f"{path}[{i}]"))), None)

    return run


def fields(needed: dict[str, Check], optional: dict[str, Check] | None = None) -> Check:
    """An object with these fields; an optional one may be null."""

    def run(value: Any, path: str) -> tuple[str, str] | None:
        if type(value) is not dict:
            return path, f"{show(value)} is not an object"
        for name, check in needed.items():
            if name not in value:
                return f"{path}.{name}", "is missing"
            if mismatch := check(value[name], f"{path}.{name}"):
                return mismatch
        for name, check in (optional or {}).items():
            if mismatch := maybe(check)(value.get(name), f"{path}.{name}"):
                return mismatch
        return None

    return run


def mapping(key: Check, entry: Check) -> Check:
    """An object of any names."""

    def run(value: Any, path: str) -> tuple[str, str] | None:
        if type(value) is not dict:
            return path, f"{show(value)} is not an object"
        for name, held in value.items():
            if mismatch := key(name, path) or entry(held, f"{path}[{show(name)}]"):
                return mismatch
        return None

    return run


def equally_long(names: tuple[str, ...], check: Check) -> Check:
    """An object whose lists under these names (null aside) have one length."""

    def run(value: Any, path: str) -> tuple[str, str] | None:
        if mismatch := check(value, path):
            return mismatch
        lengths = {name: len(value[name]) for name in names if value.get(name) is not None}
        if len(set(lengths.values())) > 1:
            return path, ", ".join(f"{name} has {n}" for name, n in lengths.items()) + " entries"
        return None

    return run
