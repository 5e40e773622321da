"""Targets on disk: Parquet files and a sealed manifest that says whose they are.

>>> import tempfile
>>> import numpy as np
>>> from sparsekd_jax.targets import TopK
>>> target = TopK(
...     ids=np.array([[2, 0], [1, -1]], np.int32),
...     log_probs=np.log(np.array([[0.5, 0.25], [0.75, 0.0]], np.float32), where=[[1, 1], [1, 0]],
...                      out=np.full((2, 2), -np.inf, np.float32)),
...     tail_mass=np.array([0.25, 0.25], np.float32),
...     num_ranked=np.array([2, 1], np.int32),
...     vocab_size=4,
... )
>>> with tempfile.TemporaryDirectory() as folder:
...     write_targets(folder, target, teacher="a", tokenizer=None, data=fingerprint("the text"))
...     reader = open_cache(folder, teacher="a", data=fingerprint("the text"))
...     len(reader), reader[1].ids.tolist(), reader.rows([0]).tail_mass.tolist()
(2, [1, -1], [0.25])
"""

import os
from typing import Any, Literal

from sparsekd_jax._durable import fingerprint
from sparsekd_jax.targets.cache.manifest import CacheError, Provenance, Shard
from sparsekd_jax.targets.cache.reader import Description, Reader, describe
from sparsekd_jax.targets.cache.writer import Writer
from sparsekd_jax.targets.revealed import Target

__all__ = [
    "CacheError",
    "Description",
    "Provenance",
    "Reader",
    "Shard",
    "Writer",
    "describe",
    "fingerprint",
    "open_cache",
    "write_targets",
]


def write_targets(
    path: str | os.PathLike[str],
    target: Target,
    *,
    dtype: str = "float32",
    shard_rows: int | None = None,
    **provenance: Any,
) -> None:
    """Write one target, whole, as a new cache; `Writer` takes them piece by piece.

    Args:
        path: a directory without a cache.
        target: of batch shape ``[N]``, or ``[N, L]`` for rows of L positions.
        dtype: of the log-probabilities on disk, as in `Writer`.
        shard_rows: rows of a file, as in `Writer`.
        **provenance: the fields of `Provenance`.

    Raises:
        CacheError: the directory cannot be written, or holds a cache.
        ValueError: what no target holds, by field and row.
    """
    with Writer(path, Provenance(**provenance), dtype=dtype, shard_rows=shard_rows) as writer:
        writer.append(target)


def open_cache(
    path: str | os.PathLike[str],
    *,
    verify: Literal["lazily", "open"] = "lazily",
    memory_bytes: int = 1 << 28,
    **expected: Any,
) -> Reader:
    """Open a cache for reading, if it is the expected one.

    Args:
        path: the directory.
        verify: when shards are hashed, as in `Reader`.
        memory_bytes: how much is kept decompressed, as in `Reader`.
        **expected: fields of `Provenance`, each of which has to agree where it is given: ``teacher``,
            ``tokenizer``, ``data``, ``teacher_fingerprint``; ``operator=None`` asks for raw targets.

    Raises:
        CacheError: damaged, or a field differs; both values are in the message.
    """
    return Reader(path, verify=verify, memory_bytes=memory_bytes, expected=expected)
