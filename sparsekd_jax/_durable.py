"""Files that are there whole or not at all, and the digests that show whether one was altered later."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np


def fingerprint(*arrays: Any) -> str:
    """The SHA-256 of arrays with their shapes and dtypes, in hexadecimal.

    For what holds its arrays in a tree pass ``*jax.tree.leaves(tree)``; for a file, such as a tokenizer's,
    its bytes.

    Args:
        *arrays: numbers, text or bytes, or arrays of them of any shape.

    Raises:
        TypeError: an argument that numpy holds as objects, whose bytes are addresses in memory.

    >>> fingerprint(np.arange(3, dtype=np.int32))[:12]
    'e75927918d87'
    """
    digest = hashlib.sha256()
    for array in arrays:
        values = np.asarray(array, order="C")  # ascontiguousarray would give a scalar the shape (1,)
        if values.dtype.hasobject:
            raise TypeError(
                f"fingerprint takes arrays, text or bytes, got {type(array).__name__}; "
                "of a tree pass *jax.tree.leaves(tree)"
            )
        digest.update(f"{values.dtype.name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def seal(record: dict[str, Any]) -> str:
    """The SHA-256 of a record in JSON's types, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def write(path: Path, content: str | bytes) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


def replace(path: Path, content: str | bytes) -> None:
    """Write a file under another name, then rename it: a reader sees the old one or the new one, whole."""
    partial = partial_name(path)
    try:
        write(partial, content)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def partial_name(path: Path) -> Path:
    """The name under which `replace` writes."""
    return path.with_name(f".{path.name}")


def sync_directory(folder: Path) -> None:
    """Wait until the names in a directory are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def probe(folder: Path) -> None:
    """Make a directory, and a file in it that is dropped again.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / ".probe"
    file.write_bytes(b"")
    file.unlink()
