"""How the library refuses values: by argument, row and remedy, and only where values can be looked at."""

import difflib
import operator
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is an abstract value (inside jit, vmap or grad), which cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def resembling(given: Any, known: Iterable[str]) -> str:
    """``"; did you mean 'power'?"`` where a known name resembles what was given, otherwise nothing."""
    close = difflib.get_close_matches(str(given), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def refuse(flags: Any, name: str, say: Callable[[tuple[int, ...]], str]) -> None:
    """Raise ValueError for the first flag set in a ``[...]`` array: argument, row, then ``say(row)``.

    >>> refuse([False, True], "weights", lambda i: "is -1; weights are ≥ 0")
    Traceback (most recent call last):
    ValueError: weights, row 1: is -1; weights are ≥ 0
    """
    bad = np.asarray(flags)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        row = f", row {index[0] if len(index) == 1 else index}" if index else ""
        raise ValueError(f"{name}{row}: {say(index)}")


def broadcasts_to(shape: tuple[int, ...], batch: tuple[int, ...]) -> bool:
    """Whether what has this shape gives one value a row of the batch, and no more rows."""
    try:
        return jax.numpy.broadcast_shapes(shape, batch) == batch
    except ValueError:
        return False


def require_key(key: Any, then: str = "") -> None:
    """Refuse what is no random key, such as a seed.

    >>> require_key(0)
    Traceback (most recent call last):
    TypeError: key is 0; pass jax.random.key(seed)
    """
    dtype = getattr(key, "dtype", None)
    if dtype is None or not (dtype == np.uint32 or jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)):
        raise TypeError(f"key is {key!r:.60}; pass jax.random.key(seed){then}")


def require_level(level: float) -> None:
    """Refuse a level of confidence outside (0, 1), such as 95 for 0.95."""
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie in (0, 1), got {level}; 0.95 is usual")


def whole(argument: str, number: Any, least: float = 1) -> int:
    """The number, refused where it is not whole, is a truth value or is below the least."""
    try:
        value = operator.index(number)
    except TypeError:
        value = None
    if value is None or isinstance(number, bool):
        raise TypeError(f"{argument} must be a whole number (an int), got {number!r}")
    if value < least:
        raise ValueError(f"{argument} must be at least {least}, got {value}")
    return value


def real(argument: str, number: Any) -> float:
    """A number, also of numpy or jax, as Python's; refused where it is none, or several."""
    value = item(number)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} is {number!r}; give one number, such as {argument}=0.5")
    return float(value)


def item(value: Any) -> Any:
    """What a scalar of numpy or jax holds, so that JSON can say it."""
    return value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value


def percent_hint(share: float) -> str:
    """The question to ask of a share given in percent."""
    return f"; did you mean {share / 100:g}?" if 1.0 < share < 100.0 else ""
