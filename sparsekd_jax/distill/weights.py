"""Trained weights on disk, in the safetensors format."""

import json
import os
from pathlib import Path

import numpy as np
from jaxtyping import PyTree

from sparsekd_jax.sparsity.masks import named_leaves

_DTYPE_NAMES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int32": "I32"}


def save_safetensors(
    path: str | os.PathLike[str], params: PyTree, metadata: dict[str, str] | None = None
) -> None:
    """Write parameters as one safetensors file; it appears whole or not at all.

    The format: a little-endian u64 n, n bytes of JSON ``{name: {dtype, shape, data_offsets}}``, the arrays.

    Args:
        path: where to write.
        params: a pytree of arrays; names are paths such as ``layers.0.kernel``.
        metadata: strings to store beside them.

    Raises:
        TypeError: an array whose dtype the format is not used for here.

    Reference:
        The safetensors file format; ``safetensors.numpy.load_file`` reads the result back.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_safetensors(Path(folder) / "w.safetensors", {"w": np.zeros((2, 3), np.float32)})
    ...     (Path(folder) / "w.safetensors").stat().st_size % 8
    0
    """
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    body, offset = [], 0
    for name, leaf in named_leaves(params).items():
        array = np.ascontiguousarray(leaf)
        if array.dtype.name not in _DTYPE_NAMES:
            raise TypeError(f"{name} has dtype {array.dtype}; known: {', '.join(_DTYPE_NAMES)}")
        end = offset + array.nbytes
        header[name] = {
            "dtype": _DTYPE_NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [offset, end],
        }
        body.append(array.tobytes())
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks for arrays aligned to 8 bytes
    target = Path(path)
    temporary = target.with_name(target.name + ".partial")
    temporary.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *body]))
    temporary.replace(target)
