"""Sparse knowledge distillation in JAX, with axioms that are checked instead of assumed.

Rooms load when they are first entered (PEP 562), so ``import sparsekd_jax`` costs nothing, not even jax:

>>> import sparsekd_jax as skd
>>> sorted(skd.__all__)[:4]
['axioms', 'data', 'distill', 'models']
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsekd_jax import (
        axioms,
        data,
        distill,
        models,
        operators,
        plots,
        simplex,
        sparsity,
        studies,
        targets,
        theory,
    )

__version__ = "0.1.0"
__all__ = [
    "axioms",
    "data",
    "distill",
    "models",
    "operators",
    "plots",
    "simplex",
    "sparsity",
    "studies",
    "targets",
    "theory",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
