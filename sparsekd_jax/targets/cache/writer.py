"""Writing a cache shard by shard: a writer killed at any moment leaves a valid, shorter one."""

import dataclasses
import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from sparsekd_jax import _durable
from sparsekd_jax._refusals import whole
from sparsekd_jax.targets.cache import columns as _columns
from sparsekd_jax.targets.cache.columns import Columns
from sparsekd_jax.targets.cache.manifest import DTYPES, NAME, CacheError, Manifest, Provenance, Shard
from sparsekd_jax.targets.revealed import Target

_SHARD_BYTES, _SHARD_POSITIONS = 1 << 24, 1 << 16
_BLOCK_BYTES, _BLOCK_POSITIONS = 1 << 19, 1 << 10


class Writer:
    """A cache being written; use it in a ``with`` statement, and append to it.

    A shard is on disk under its own name before the manifest names it, and the manifest is replaced in one
    step. So after a kill there are all rows up to the last whole shard, and ``resume=True`` goes on from
    there: append the rows from number ``writer.rows`` on, and the cache becomes the one that an undisturbed
    writer leaves, bit for bit. Of an exception inside ``with`` the same is true. One writer at a time.

    Args:
        path: a directory; made if missing.
        provenance: whose targets they are.
        resume: go on with the cache that is there; False refuses to.
        dtype: of the log-probabilities in the files, to which they are rounded: "float16", "float32" or
            "float64". float16 keeps the mass of every list. Weights of samples are not stored in float16.
        shard_rows: rows of a file; about 16 MB by default, and at most 65,536 distributions.

    Raises:
        ImportError: pyarrow is missing.
        CacheError: the directory cannot be written, holds a cache already, or one of another provenance.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        provenance: Provenance,
        *,
        resume: bool = False,
        dtype: str = "float32",
        shard_rows: int | None = None,
    ) -> None:
        _columns.pyarrow()
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
        if shard_rows is not None:
            whole("shard_rows", shard_rows)
        self.path, self.provenance, self.dtype = Path(path).absolute(), provenance, dtype
        self._shard_rows = shard_rows
        self._manifest: Manifest | None = None
        self._waiting: list[Columns] = []
        self._waiting_rows = 0
        self._open = True
        try:
            _durable.probe(self.path)
        except OSError as error:
            raise CacheError(
                f"the cache directory {path} cannot be written ({error.strerror}); choose another directory"
            ) from error
        if (self.path / NAME).exists():
            self._resume(resume)
        self._drop_strays()

    @property
    def rows(self) -> int:
        """Rows that are safe on disk; on resuming, the number of the row to append next."""
        return self._manifest.rows if self._manifest else 0

    def append(self, target: Target) -> None:
        """Add rows: the first axis of the batch; further axes, such as the positions of a sequence, stay.

        Raises:
            CacheError: the disk refuses; what was there before stays.
            TypeError: no target.
            ValueError: not the kind, V, k or row shape of the rows before, or what no target holds.
        """
        if not self._open:
            raise ValueError(f"the writer of {self.path} is closed; open another with resume=True")
        kind = _columns.kind_of(target)
        if not target.batch_shape:
            raise ValueError("target is one distribution; a cache has rows: give it a batch axis")
        like = self._like(target, kind)
        for field in ("kind", "vocab_size", "width", "row_shape"):
            here, there = getattr(like, field), getattr(self._manifest or like, field)
            if here != there:
                raise ValueError(f"target has {field} {here!r}, the cache {self.path} has {there!r}")
        self._waiting.append(_columns.of_target(target, self.dtype))
        self._manifest = self._manifest or like
        self._waiting_rows += target.batch_shape[0]
        self._flush(self._shard_rows or _rows_of(like, _SHARD_BYTES, _SHARD_POSITIONS))

    def close(self) -> None:
        """Write what is left, and say in the manifest that this is all.

        If nothing was appended there is no cache.

        Raises:
            CacheError: the disk refuses; what was there before stays.
        """
        if self._open and self._manifest is not None:
            if self._waiting_rows:
                self._flush(self._waiting_rows)
            self._commit(self._manifest, complete=True)
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        self._open = False

    def _like(self, target: Target, kind: str) -> Manifest:
        if kind == "samples" and self.dtype == "float16":
            raise ValueError("dtype float16 is for log-probabilities; weights of samples need float32")
        width = target.vocab_size if kind == "dense" else target.ids.shape[-1]  # type: ignore[union-attr]
        like = Manifest(
            kind=kind,
            vocab_size=target.vocab_size,
            width=width,
            row_shape=tuple(target.batch_shape[1:]),
            dtype=self.dtype,
            block_rows=1,
            provenance=self.provenance,
        )
        return dataclasses.replace(like, block_rows=_rows_of(like, _BLOCK_BYTES, _BLOCK_POSITIONS))

    def _resume(self, resume: bool) -> None:
        found = Manifest.load(self.path)
        if not resume:
            raise CacheError(
                f"{self.path} holds a cache of {found.rows} rows: pass resume=True to go on with it, or "
                "another directory"
            )
        found.provenance.check(self.path, vars(self.provenance))
        if found.dtype != self.dtype:
            raise CacheError(f"{self.path} has dtype {found.dtype!r}, not {self.dtype!r}: resume with that")
        for shard in found.shards:
            shard.require(self.path)
        self._manifest = found

    def _drop_strays(self) -> None:
        """What a killed writer left half-done: files that the manifest does not name."""
        named = {shard.file for shard in self._manifest.shards} if self._manifest else set()
        for file in [*self.path.glob("shard-*.parquet"), *self.path.glob(".shard-*.parquet")]:
            if file.name not in named:
                file.unlink()
        _durable.partial_name(self.path / NAME).unlink(missing_ok=True)

    def _flush(self, size: int) -> None:
        """Write shards of a size as long as the rows that wait fill one."""
        if self._waiting_rows < size:
            return
        assert self._manifest is not None
        positions = self._manifest.row_positions
        names = self._waiting[0]
        waiting = {name: np.concatenate([part[name] for part in self._waiting]) for name in names}
        start = 0
        while self._waiting_rows - start >= size:
            part = slice(start * positions, (start + size) * positions)
            self._write({name: values[part] for name, values in waiting.items()}, size)
            start += size
        self._waiting = [{name: values[start * positions :].copy() for name, values in waiting.items()}]
        self._waiting_rows -= start

    def _write(self, part: Columns, rows: int) -> None:
        assert self._manifest is not None
        content = _columns.to_parquet(part, self._manifest)
        name = f"shard-{len(self._manifest.shards):05d}.parquet"
        shard = Shard(name, rows, len(content), hashlib.sha256(content).hexdigest())
        self._commit(self._manifest, complete=False, shard=shard, content=content)

    def _commit(
        self, before: Manifest, *, complete: bool, shard: Shard | None = None, content: bytes = b""
    ) -> None:
        shards = before.shards if shard is None else (*before.shards, shard)
        after = dataclasses.replace(before, shards=shards, complete=complete)
        try:
            if shard is not None:
                _durable.replace(self.path / shard.file, content)
            after.save(self.path)
        except OSError as error:
            self._open = False
            raise CacheError(
                f"{self.path} could not be written ({error.strerror or error}); it holds the {before.rows} "
                "rows written before. Make room, and go on with resume=True"
            ) from error
        self._manifest = after


def _rows_of(manifest: Manifest, size: int, most: int) -> int:
    """Rows that have about a size in bytes, and at most so many distributions."""
    positions = min(most, max(1, size // (6 * manifest.width)))
    return max(1, positions // manifest.row_positions)
