"""Which parameters may lose weights: by their number of axes, or by their names."""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Sequence

from jaxtyping import Array

Select = Callable[[str, Array], bool]
"""Says from its name and value whether a parameter may lose weights."""


def is_kernel(path: str, leaf: Array) -> bool:
    """The default choice of what may be dropped: matrices and convolution kernels, not biases or norms.

    Args:
        path: the parameter's name, such as ``"layers.0.kernel"``.
        leaf: its value.

    Returns:
        Whether the leaf has at least two axes and is called neither ``bias`` nor ``scale``: those of
        attention heads have two. Embedding tables count as matrices; `by_path` leaves them out.

    >>> import jax.numpy as jnp
    >>> is_kernel("layers.0.kernel", jnp.ones((3, 2))), is_kernel("attention.query.bias", jnp.ones((8, 8)))
    (True, False)
    """
    return leaf.ndim >= 2 and path.rpartition(".")[2] not in ("bias", "scale")


@dataclasses.dataclass(frozen=True)
class ByPath:
    """What `by_path` returns: a `Select`, hashable, equal where its patterns are equal."""

    include: tuple[str, ...] | None
    exclude: tuple[str, ...]

    def __call__(self, path: str, leaf: Array) -> bool:
        """Whether the parameter is selected."""
        if any(fnmatch.fnmatchcase(path, pattern) for pattern in self.exclude):
            return False
        if self.include is None:
            return is_kernel(path, leaf)
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.include)

    def require_matches(self, names: Iterable[str]) -> None:
        """Refuse a pattern that matches none of the names: it is a typing mistake, or an old layout."""
        names = list(names)
        for argument in ("include", "exclude"):
            for pattern in getattr(self, argument) or ():
                if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
                    raise ValueError(
                        f"{argument} pattern {pattern!r} matches no parameter: the names are "
                        f"{', '.join(names) or 'none'} (* crosses dots)"
                    )


def by_path(include: str | Sequence[str] | None = None, exclude: str | Sequence[str] = ()) -> ByPath:
    """Select parameters by name, with shell patterns: ``*`` any characters, dots included, ``?`` one.

    A parameter is selected when a pattern of ``include`` matches it and none of ``exclude`` does. Names are
    those of `layer_zeros`, ``layers.0.kernel``, and case counts. A pattern that matches no parameter at all
    is an error when `sparsify` starts (its ``init``), which lists the names.

    Args:
        include: one pattern or several; None takes arrays of two axes or more. Patterns given here decide
            alone, so that ``"*"`` takes biases too.
        exclude: patterns that win over ``include``.

    Returns:
        A hashable function ``(path, leaf) -> bool``, for ``where``.

    >>> import jax.numpy as jnp
    >>> where = by_path(include="*.kernel", exclude=["head.*"])
    >>> [where(name, jnp.ones((2, 2))) for name in ("layers.0.kernel", "layers.0.bias", "head.kernel")]
    [True, False, False]
    """

    def as_tuple(patterns: str | Sequence[str]) -> tuple[str, ...]:
        return (patterns,) if isinstance(patterns, str) else tuple(patterns)

    return ByPath(None if include is None else as_tuple(include), as_tuple(exclude))
