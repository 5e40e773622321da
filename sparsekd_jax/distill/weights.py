"""Trained weights on disk, in the safetensors format."""

import os
from pathlib import Path

import numpy as np
import safetensors
from jaxtyping import PyTree
from safetensors.numpy import save

from sparsekd_jax.sparsity.masks import named_leaves


def save_safetensors(
    path: str | os.PathLike[str], params: PyTree, metadata: dict[str, str] | None = None
) -> None:
    """Write parameters as one safetensors file; it appears whole or not at all.

    Args:
        path: where to write.
        params: a pytree of arrays; names are paths such as ``layers.0.kernel``.
        metadata: strings to store beside them.

    Raises:
        TypeError: an array whose dtype the format does not have.

    Reference:
        The safetensors file format; ``safetensors.numpy.load_file`` reads the result back.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_safetensors(Path(folder) / "w.safetensors", {"w": np.zeros((2, 3), np.float32)})
    ...     (Path(folder) / "w.safetensors").stat().st_size % 8
    0
    """
    arrays = {name: np.ascontiguousarray(leaf) for name, leaf in named_leaves(params).items()}
    try:
        contents = save(arrays, metadata)
    except (safetensors.SafetensorError, TypeError, ValueError) as error:
        dtypes = ", ".join(f"{name} {array.dtype}" for name, array in arrays.items())
        raise TypeError(f"params cannot be written as safetensors ({error}); they are {dtypes}") from error
    target = Path(path)
    temporary = target.with_name(target.name + ".partial")
    temporary.write_bytes(contents)
    temporary.replace(target)
