"""Reading a cache: rows by number, each shard verified before the first of its rows is given out."""

import collections
import dataclasses
import itertools
import operator
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from sparsekd_jax.targets.cache import columns as _columns
from sparsekd_jax.targets.cache.columns import Columns
from sparsekd_jax.targets.cache.manifest import CacheError, Manifest, Provenance, Shard
from sparsekd_jax.targets.revealed import Target

_OPEN_FILES = 32


class Reader:
    """The rows of a cache by number: a ``RandomAccessDataSource`` of Grain, or all of them at once.

    ``reader[i]`` is a target of batch shape ``row_shape``, so ``()`` or ``(L,)``; ``reader.rows([i, j])``
    puts a batch axis before it. Leaves are numpy arrays, as data loaders want them; jax functions take them
    as they are. Blocks of about 1,000 distributions are decompressed together, and the last used ones kept.

    Sent to another process, it opens the cache there anew. Threads may share it.

    Args:
        path: the directory.
        verify: "lazily" hashes a shard before the first of its rows is read; "open" all of them at once.
            The manifest is verified in either case, and shards are there with their sizes.
        memory_bytes: how much of decompressed blocks is kept.
        expected: fields of the provenance that have to agree.

    Raises:
        CacheError: damaged, or of another provenance; the message names what and the remedy.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        verify: Literal["lazily", "open"] = "lazily",
        memory_bytes: int = 1 << 28,
        expected: dict[str, Any] | None = None,
    ) -> None:
        if verify not in ("lazily", "open"):
            raise ValueError(f"verify must be 'lazily' or 'open', got {verify!r}")
        _columns.pyarrow()
        self.path = Path(path).absolute()
        self.manifest = Manifest.load(self.path)
        self.manifest.provenance.check(self.path, expected or {})
        for shard in self.manifest.shards:
            shard.require(self.path)
        self._memory_bytes = memory_bytes
        self._starts = [0, *itertools.accumulate(shard.rows for shard in self.manifest.shards)]
        self._forget()
        if verify == "open":
            for number in range(len(self.manifest.shards)):
                self._verify(number)

    @property
    def provenance(self) -> Provenance:
        """Whose targets they are."""
        return self.manifest.provenance

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, row: int) -> Target:
        number = operator.index(row)
        if not -len(self) <= number < len(self):
            raise IndexError(f"row {number} of the {len(self)} rows of {self.path}")
        return self._target(np.array([number % len(self)]), self.manifest.row_shape)

    def __iter__(self) -> Iterator[Target]:
        return (self[row] for row in range(len(self)))

    def rows(self, indices: Sequence[int] | Int[np.ndarray, " n"]) -> Target:
        """The rows of these numbers, in this order, as one target of batch shape ``(n, *row_shape)``.

        Raises:
            CacheError: a shard is damaged.
            IndexError: there is no such row.
        """
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise TypeError(f"indices must be a list of whole numbers, got {indices!r:.60}")
        wanted = wanted.astype(np.int64)
        outside = (wanted < -len(self)) | (wanted >= len(self))
        if outside.any():
            raise IndexError(f"row {wanted[outside][0]} of the {len(self)} rows of {self.path}")
        return self._target(wanted % max(len(self), 1), (len(wanted), *self.manifest.row_shape))

    def read(self) -> Target:
        """All rows as one target, ``(N, *row_shape)``, in memory."""
        return self.rows(range(len(self)))

    def _target(self, rows: np.ndarray, batch_shape: tuple[int, ...]) -> Target:
        return _columns.to_target(self._gather(rows), self.manifest, batch_shape)

    def _gather(self, rows: np.ndarray) -> Columns:
        """The distributions of rows, block by block."""
        positions, of = self.manifest.row_positions, self.manifest
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        within = rows - np.asarray(self._starts)[shards]
        keys = np.stack([shards, within // of.block_rows], axis=-1)
        out = _columns.empty(len(rows), of)
        blocks, place, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
        of_blocks = np.split(np.argsort(place.reshape(-1), kind="stable"), np.cumsum(counts))
        for (shard, block), mine in zip(blocks.tolist(), of_blocks[:-1], strict=True):
            source = within[mine] - block * of.block_rows
            for name, values in self._block(shard, block).items():
                out[name][mine] = values.reshape(-1, positions, *values.shape[1:])[source]
        return {name: values.reshape(-1, *values.shape[2:]) for name, values in out.items()}

    def _block(self, shard: int, block: int) -> Columns:
        with self._lock:
            key = (shard, block)
            if key not in self._blocks:
                self._blocks[key] = self._decoded(shard, block)
                self._kept += _size(self._blocks[key])
                while self._kept > self._memory_bytes and len(self._blocks) > 1:
                    self._kept -= _size(self._blocks.popitem(last=False)[1])
            self._blocks.move_to_end(key)
            return self._blocks[key]

    def _decoded(self, shard: int, block: int) -> Columns:
        self._verify(shard)
        of = self.manifest
        rows = min(of.block_rows, of.shards[shard].rows - block * of.block_rows)
        try:
            table = self._file(shard).read_row_group(block, use_threads=False)
            if table.num_rows != rows * of.row_positions:
                raise ValueError(f"block {block} has {table.num_rows} distributions")
            return _columns.from_table(table, of)
        # All that pyarrow raises for a damaged file, an encoding that it does not know among them.
        except (OSError, ValueError, LookupError, TypeError, _columns.pyarrow().ArrowException) as error:
            raise of.shards[shard].refused(self.path, f"does not fit the manifest ({error})") from error

    def _file(self, shard: int) -> Any:
        if shard not in self._files:
            path = self.path / self.manifest.shards[shard].file
            self._files[shard] = _columns.pyarrow().parquet.ParquetFile(path)
            if len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)[1].close()
        self._files.move_to_end(shard)
        return self._files[shard]

    def _verify(self, shard: int) -> None:
        if shard not in self._verified:
            self.manifest.shards[shard].verify(self.path)
            self._verified.add(shard)

    def _forget(self) -> None:
        """Nothing is open, verified or kept."""
        self._files: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._blocks: collections.OrderedDict[tuple[int, int], Columns] = collections.OrderedDict()
        self._kept = 0
        self._verified: set[int] = set()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("path", "manifest", "_memory_bytes", "_starts")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __repr__(self) -> str:
        of = self.manifest
        return f"Reader({str(self.path)!r}, {of.kind}, rows={len(self)}, vocab_size={of.vocab_size})"


@dataclasses.dataclass(frozen=True)
class Description:
    """What is in a cache, and whether it is whole.

    Attributes:
        path: the directory.
        kind: "dense", "topk" or "samples".
        rows: N.
        row_shape: the positions of a row, () or (L,).
        positions: distributions, N · ∏ row_shape.
        vocab_size: V.
        k: entries of a list; V where dense.
        dtype: of the log-probabilities or weights on disk.
        provenance: whose targets they are.
        shards: each file with its rows, bytes and SHA-256.
        bytes: of all files, the manifest with them.
        complete: whether the writer was closed.
        faults: what is wrong, a sentence a shard; empty where every checksum fits.
    """

    path: Path
    kind: str
    rows: int
    row_shape: tuple[int, ...]
    positions: int
    vocab_size: int
    k: int
    dtype: str
    provenance: Provenance
    shards: tuple[Shard, ...]
    bytes: int
    complete: bool
    faults: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every shard is as written."""
        return not self.faults

    @property
    def bytes_per_token(self) -> float:
        """Bytes a distribution; NaN where there is none."""
        return self.bytes / self.positions if self.positions else float("nan")

    @property
    def num_refused(self) -> int:
        """Damaged shards."""
        return len(self.faults)

    def __str__(self) -> str:
        shape = f" of {self.row_shape[0]} positions" if self.row_shape else ""
        state = "complete" if self.complete else "not closed by its writer"
        lines = [
            f"{self.path}: {self.kind} targets, {self.rows:,} rows{shape}, {state}",
            f"V = {self.vocab_size:,}, k = {self.k}, {self.dtype}, {self.bytes_per_token:.1f} bytes a token",
        ]
        said = dataclasses.asdict(self.provenance).items()
        lines += [f"{name}: {value}" for name, value in said if value is not None]
        lines += self.faults or (f"every checksum fits; shards: {len(self.shards)}",)
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """The same in JSON's types."""
        return {**dataclasses.asdict(self), "path": str(self.path), "bytes_per_token": self.bytes_per_token}


def describe(path: str | os.PathLike[str]) -> Description:
    """Read the manifest, verify every shard, and say what was found; a damaged shard is no error here.

    Raises:
        CacheError: there is no manifest, or it is damaged or of another version.
    """
    folder = Path(path).absolute()
    of = Manifest.load(folder)
    faults = []
    for shard in of.shards:
        try:
            shard.verify(folder)
        except CacheError as error:
            faults.append(str(error))
    return Description(
        path=folder,
        kind=of.kind,
        rows=of.rows,
        row_shape=of.row_shape,
        positions=of.rows * of.row_positions,
        vocab_size=of.vocab_size,
        k=of.width,
        dtype=of.dtype,
        provenance=of.provenance,
        shards=of.shards,
        bytes=sum(shard.bytes for shard in of.shards) + len(of.text().encode()),
        complete=of.complete,
        faults=tuple(faults),
    )


def _size(columns: Columns) -> int:
    return sum(values.nbytes for values in columns.values())
