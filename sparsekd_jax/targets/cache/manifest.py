"""What a cache says of itself: whose targets, of which text, in which shards; sealed by its own digest."""

import dataclasses
import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any, Self

from sparsekd_jax import _durable

NAME = "_manifest.json"  # an underscore, so that pandas reads the directory as one table
FORMAT = "sparsekd_jax.targets"
VERSION = 1
KINDS = ("dense", "topk", "samples")
DTYPES = ("float16", "float32", "float64")
REMEDY = "restore it from a copy, or write the cache anew"
_SHARD_NAME = re.compile(r"shard-\d{5,}\.parquet")


class CacheError(RuntimeError):
    """A cache that could not be written, or that must not be read; the message says what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where targets come from: what has to agree before they may teach.

    ``tokenizer`` and ``data`` have to be said; None says that there is none or that it is not known.

    Attributes:
        teacher: its name.
        tokenizer: a fingerprint, such as ``fingerprint(Path("tokenizer.json").read_bytes())``.
        data: a fingerprint of the inputs, in their order.
        teacher_fingerprint: of its weights, ``fingerprint(*jax.tree.leaves(weights))``; None where they
            cannot be seen.
        operator: what softened the targets already, in words; None where they are raw.
        temperature: with which it did; None where they are raw.

    Raises:
        TypeError: a field of another type.
        ValueError: an empty text, a temperature that is not above 0, or an operator without a temperature.

    >>> Provenance(teacher="bytes-2M", tokenizer=None, data="9f2c").temperature is None
    True
    """

    teacher: str
    tokenizer: str | None
    data: str | None
    teacher_fingerprint: str | None = None
    operator: str | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        for name in ("teacher", "tokenizer", "data", "teacher_fingerprint", "operator"):
            value = getattr(self, name)
            if not isinstance(value, str) and (value is not None or name == "teacher"):
                raise TypeError(f"{name} must be text, got {value!r}")
            if value == "":
                raise ValueError(f"{name} is empty" + ("" if name == "teacher" else "; pass None for none"))
        if (self.operator is None) != (self.temperature is None):
            raise ValueError(
                f"operator is {self.operator!r} and temperature {self.temperature!r}: softened targets have "
                "both, raw ones neither"
            )
        if self.temperature is not None:
            if isinstance(self.temperature, bool) or not isinstance(self.temperature, int | float):
                raise TypeError(f"temperature must be a number, got {self.temperature!r}")
            if not 0 < self.temperature < math.inf:
                raise ValueError(f"temperature must be finite and above 0, got {self.temperature}")

    def check(self, where: Path, expected: dict[str, Any]) -> None:
        """Refuse targets that are not the expected ones, by the first field that differs.

        Raises:
            CacheError: a field differs; both values are in the message.
            TypeError: an expected field that provenance does not have.
        """
        names = [field.name for field in dataclasses.fields(self)]
        for name, here in expected.items():
            if name not in names:
                raise TypeError(f"{name} is no field of a cache's provenance; there are {', '.join(names)}")
            there = getattr(self, name)
            if there != here:
                raise CacheError(
                    f"the cache {where} is refused: {name} is {there!r} there and {here!r} here; "
                    f"open the cache of this {name}, or write one"
                )


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file: its name, rows, bytes and SHA-256."""

    file: str
    rows: int
    bytes: int
    sha256: str

    def require(self, folder: Path) -> None:
        """Refuse a file that is missing or has another size; its contents are not read.

        Raises:
            CacheError: names the file, and the remedy.
        """
        try:
            size = (folder / self.file).stat().st_size
        except OSError as error:
            raise self.refused(folder, f"cannot be read ({error.strerror})") from error
        if size != self.bytes:
            raise self.refused(folder, f"has {size} bytes, written were {self.bytes}")

    def verify(self, folder: Path) -> None:
        """Refuse a file that is not as written.

        Raises:
            CacheError: names the file, and the remedy.
        """
        self.require(folder)
        try:
            with (folder / self.file).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise self.refused(folder, f"cannot be read ({error.strerror})") from error
        if digest != self.sha256:
            raise self.refused(folder, "is not as written: its checksum differs")

    def refused(self, folder: Path, fault: str) -> CacheError:
        """The error of a file, to be raised."""
        return CacheError(f"{folder / self.file} {fault}; {REMEDY}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of ``_manifest.json``.

    Attributes:
        kind: "dense", "topk" or "samples".
        vocab_size: V.
        width: entries of a list, k or n; V where dense.
        row_shape: the positions of a row: () for one, (L,) for a sequence of them.
        dtype: of the stored log-probabilities or weights.
        block_rows: rows that are compressed together, and so read together.
        provenance: whose targets they are.
        shards: in order.
        complete: whether the writer was closed; False where it was killed, or still writes.
    """

    kind: str
    vocab_size: int
    width: int
    row_shape: tuple[int, ...]
    dtype: str
    block_rows: int
    provenance: Provenance
    shards: tuple[Shard, ...] = ()
    complete: bool = False

    @property
    def rows(self) -> int:
        """N, the rows of all shards."""
        return sum(shard.rows for shard in self.shards)

    @property
    def row_positions(self) -> int:
        """Distributions in a row, ∏ row_shape."""
        return math.prod(self.row_shape)

    def text(self) -> str:
        """The file's text, the only one that is accepted for this manifest."""
        record = {"format": FORMAT, "version": VERSION, "rows": self.rows, **dataclasses.asdict(self)}
        record = json.loads(json.dumps(record))  # tuples are lists there
        return json.dumps({**record, "digest": _durable.seal(record)}, indent=1) + "\n"

    def save(self, folder: Path) -> None:
        """Replace the manifest of a cache."""
        _durable.replace(folder / NAME, self.text())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read and verify.

        Raises:
            CacheError: missing, altered, or of another version.
        """
        path = folder / NAME
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise CacheError(
                f"there is no cache in {folder}: {NAME} is missing, so no shard was finished there"
            ) from None
        except OSError as error:
            raise CacheError(f"{path} cannot be read ({error.strerror})") from error
        try:
            record = json.loads(content)
            if record["format"] != FORMAT:
                raise CacheError(f"{path} is no manifest of targets (its format is {record['format']!r})")
            if record["version"] != VERSION:
                raise CacheError(
                    f"{path} has schema version {record['version']!r}, this library reads {VERSION}: "
                    "read it with the library that wrote it, or write the cache anew"
                )
            manifest = cls._from_record(record)
            as_written = manifest.text().encode() == content
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CacheError(f"{path} is damaged ({type(error).__name__}: {error}); {REMEDY}") from error
        if not as_written:
            raise CacheError(f"{path} is not as written: its digest does not fit its contents; {REMEDY}")
        return manifest

    @classmethod
    def _from_record(cls, record: dict[str, Any]) -> Self:
        fields = {field.name: record[field.name] for field in dataclasses.fields(cls)}
        fields["provenance"] = Provenance(**fields["provenance"])
        fields["row_shape"] = tuple(fields["row_shape"])
        fields["shards"] = tuple(Shard(**shard) for shard in fields["shards"])
        return cls(**fields)

    def __post_init__(self) -> None:
        counts = {"vocab_size": self.vocab_size, "width": self.width, "block_rows": self.block_rows}
        counts |= {f"row_shape[{i}]": length for i, length in enumerate(self.row_shape)}
        counts |= {f"rows of {shard.file}": shard.rows for shard in self.shards}
        counts |= {f"bytes of {shard.file}": shard.bytes for shard in self.shards}
        for name, count in counts.items():
            if type(count) is not int or count < 1:
                raise ValueError(f"{name} must be a whole number ≥ 1, got {count!r}")
        if self.kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.kind == "dense" and self.width != self.vocab_size:
            raise ValueError(f"dense targets have width V = {self.vocab_size}, got {self.width}")
        for shard in self.shards:
            if not _SHARD_NAME.fullmatch(shard.file):
                raise ValueError(f"{shard.file!r} is no name of a shard")
