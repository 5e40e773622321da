"""How the library refuses values: by argument, row and remedy, and only where values can be looked at."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is an abstract value (inside jit, vmap or grad), which cannot be looked at."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def refuse(flags: Any, name: str, say: Callable[[tuple[int, ...]], str]) -> None:
    """Raise ValueError for the first flag set in a ``[...]`` array: argument, row, then ``say(row)``.

    >>> refuse([False, True], "weights", lambda i: "is -1; weights are ≥ 0")
    Traceback (most recent call last):
    ValueError: weights, row 1: is -1; weights are ≥ 0
    """
    bad = np.asarray(flags)
    if bad.any():
        index = tuple(int(i) for i in np.argwhere(bad)[0])
        row = f"row {index[0] if len(index) == 1 else index}: " if index else ""
        raise ValueError(f"{name}, {row}{say(index)}")
