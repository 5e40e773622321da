"""Targets as the columns of a Parquet file, and back: lists without padding, ids as narrow as V allows."""

from typing import Any

import numpy as np

from sparsekd_jax import simplex
from sparsekd_jax._refusals import refuse
from sparsekd_jax.targets.cache.manifest import Manifest
from sparsekd_jax.targets.revealed import PADDING, Dense, Samples, Target, TopK, require_consistent

Columns = dict[str, np.ndarray]
"""P distributions by name: lists ``[P, width]``, numbers ``[P]``; ``length`` ``[P]`` is that of the lists."""

_LISTS = ("ids", "log_probs", "weights")
_COUNTS = ("num_ranked", "num_draws")
_FILL = {"ids": 0, "log_probs": -np.inf, "weights": 0}


def pyarrow() -> Any:
    """The module, or what to install.

    Raises:
        ImportError: it is missing.
    """
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("a cache of targets needs pyarrow: pip install 'sparsekd_jax[targets]'") from error
    return pyarrow


def kind_of(target: Target) -> str:
    """The kind in a manifest.

    Raises:
        TypeError: no target.
    """
    for name, kind in (("dense", Dense), ("topk", TopK), ("samples", Samples)):
        if isinstance(target, kind):
            return name
    raise TypeError(f"a cache holds Dense, TopK or Samples, got {type(target).__name__}")


def dtypes(kind: str, vocab_size: int, dtype: str) -> dict[str, np.dtype]:
    """The columns of a file and what each holds. ``log_mass`` is ``log Σ exp`` of a list before float16.

    >>> {name: str(dtype) for name, dtype in dtypes("topk", 50_000, "float32").items()}
    {'ids': 'uint16', 'log_probs': 'float32', 'tail_mass': 'float32', 'num_ranked': 'int32'}
    """
    ids = "uint16" if vocab_size <= 1 << 16 else "int32"
    wide = "float64" if dtype == "float64" else "float32"
    found = {
        "dense": {"log_probs": dtype},
        "topk": {"ids": ids, "log_probs": dtype, "tail_mass": wide, "num_ranked": "int32"},
        "samples": {"ids": ids, "weights": wide, "num_draws": "int32"},
    }[kind]
    if "log_probs" in found and dtype == "float16":
        found["log_mass"] = "float32"
    return {name: np.dtype(of) for name, of in found.items()}


def empty(rows: int, manifest: Manifest) -> Columns:
    """Columns to be filled, ``[rows, positions of a row, ...]``."""
    found = dtypes(manifest.kind, manifest.vocab_size, manifest.dtype)
    width = {name: (manifest.width,) if name in _LISTS else () for name in found}
    shape = (rows, manifest.row_positions)
    out = {name: np.empty((*shape, *width[name]), of) for name, of in found.items()}
    return {**out, "length": np.empty(shape, np.int32)}


def of_target(target: Target, dtype: str) -> Columns:
    """The columns of a target, in the dtypes of the file.

    Raises:
        ValueError: what a target must not hold, or the dtype cannot, by its field and row.
        TypeError: ids and counts that are no whole numbers, log-probabilities and weights that are no floats.
    """
    found = {name: np.asarray(value) for name, value in vars(target).items() if name != "vocab_size"}
    _require(target, found)
    _require_as_read(found, dtype)
    if "ids" in found:
        length = (found["ids"] >= 0).sum(-1, dtype=np.int32).reshape(-1)
        found["ids"] = np.maximum(found["ids"], 0)
    else:
        length = np.full(found["log_probs"].size // target.vocab_size, target.vocab_size, np.int32)
    if dtype == "float16" and "log_probs" in found:
        found["log_mass"] = _log_mass(found["log_probs"])
    out = {"length": length}
    for name, of in dtypes(kind_of(target), target.vocab_size, dtype).items():
        values = found[name]
        with np.errstate(over="ignore"):  # refused in the next line
            stored = values.astype(of)
        if of.kind == "f" and name in _LISTS:
            _refuse_lost(name, values, stored)
        out[name] = stored.reshape(-1, values.shape[-1]) if name in _LISTS else stored.reshape(-1)
    return out


def to_target(columns: Columns, manifest: Manifest, batch_shape: tuple[int, ...]) -> Target:
    """The target of some distributions, its leaves numpy arrays; float16 comes back as float32."""
    found: dict[str, Any] = {}
    padding = np.arange(manifest.width) >= columns["length"][:, None]
    for name in dtypes(manifest.kind, manifest.vocab_size, manifest.dtype):
        values = columns[name]
        if name == "ids":
            values = np.where(padding, PADDING, values.astype(np.int32))
        elif name == "log_probs" and values.dtype == np.float16:
            values = _with_mass(values.astype(np.float32), columns["log_mass"])
            if manifest.kind == "topk":
                values = _above_the_tail(values, columns, manifest.vocab_size)
        found[name] = values.reshape((*batch_shape, *values.shape[1:]))
    found.pop("log_mass", None)
    if manifest.kind == "dense":
        return Dense(**found)
    return {"topk": TopK, "samples": Samples}[manifest.kind](**found, vocab_size=manifest.vocab_size)


def to_parquet(columns: Columns, manifest: Manifest) -> bytes:
    """A Parquet file of the columns, in row groups of ``manifest.block_rows`` rows."""
    pa = pyarrow()
    arrays, fields = [], []
    full = bool((columns["length"] == manifest.width).all())
    kept = np.arange(manifest.width) < columns["length"][:, None]
    ends = np.concatenate([[0], np.cumsum(columns["length"], dtype=np.int64)])
    if ends[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"a shard of {ends[-1]} entries is too large; lower shard_rows")
    for name in dtypes(manifest.kind, manifest.vocab_size, manifest.dtype):
        values, kind = columns[name], pa.from_numpy_dtype(columns[name].dtype)
        if name in _LISTS:
            entries = pa.array(values.reshape(-1) if full else values[kept], kind)
            kind = pa.list_(pa.field("element", kind, nullable=False))
            arrays.append(pa.ListArray.from_arrays(pa.array(ends, pa.int32()), entries, type=kind))
        else:
            arrays.append(pa.array(values, kind))
        fields.append(pa.field(name, kind, nullable=False))
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    size = manifest.block_rows * manifest.row_positions
    # Where few tokens make up the lists a dictionary is 0.6 of the bytes apart, where all do 1.5 times them.
    return min((_encoded(table, size, ids_by_dictionary=by) for by in (True, False)), key=len)


def _encoded(table: Any, row_group_size: int, *, ids_by_dictionary: bool) -> bytes:
    """The file, with the bytes of reals apart: those of sign and exponent hardly vary."""
    pa = pyarrow()
    path = {name: f"{name}.list.element" if name in _LISTS else name for name in table.column_names}
    whole = [path[name] for name in path if name in _COUNTS or (name == "ids" and ids_by_dictionary)]
    buffer = pa.BufferOutputStream()
    pa.parquet.write_table(
        table,
        buffer,
        row_group_size=row_group_size,
        compression="zstd",
        compression_level=3,
        use_byte_stream_split=[column for column in path.values() if column not in whole],
        use_dictionary=whole,
        write_statistics=False,
    )
    return buffer.getvalue().to_pybytes()


def from_table(table: Any, manifest: Manifest) -> Columns:
    """The columns of a table that was read.

    Raises:
        KeyError: a column is missing.
        ValueError: a column is not what the manifest says.
    """
    out: Columns = {}
    for name, of in dtypes(manifest.kind, manifest.vocab_size, manifest.dtype).items():
        column = table.column(name).combine_chunks()
        values = (column.flatten() if name in _LISTS else column).to_numpy(zero_copy_only=True)
        if values.dtype != of:
            raise ValueError(f"{name} has dtype {values.dtype}, the manifest says {of}")
        if name in _LISTS:
            length = np.diff(column.offsets.to_numpy())
            if (length > manifest.width).any() or (length != out.setdefault("length", length)).any():
                raise ValueError(f"{name} has lists that are too long for the manifest or for the ids")
            if (length != manifest.width).any():
                padded = np.full((len(length), manifest.width), _FILL[name], of)
                padded[np.arange(manifest.width) < length[:, None]] = values
                values = padded
            values = values.reshape(-1, manifest.width)
        out[name] = values
    if "ids" in out and out["ids"].size and out["ids"].max() >= manifest.vocab_size:
        raise ValueError(f"ids holds {out['ids'].max()}, the manifest says V = {manifest.vocab_size}")
    return out


def _refuse_lost(name: str, values: np.ndarray, stored: np.ndarray) -> None:
    lost = np.isinf(stored) & np.isfinite(values.astype(np.float64))
    refuse(
        lost.any(-1),
        name,
        lambda i: f"{values[i][lost[i]][0]:g} is beyond {stored.dtype}; choose a wider dtype",
    )


def _log_mass(log_probs: np.ndarray) -> np.ndarray:
    """``log Σ exp`` of each list, −inf where it is empty."""
    wide = log_probs.astype(np.float64)
    top = wide.max(-1)
    finite = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        return finite + np.log(np.exp(wide - finite[..., None]).sum(-1))


def _with_mass(log_probs: np.ndarray, log_mass: np.ndarray) -> np.ndarray:
    """The lists shifted so that each has its mass again."""
    found = _log_mass(log_probs)
    shift = np.where(np.isfinite(found), log_mass - np.where(np.isfinite(found), found, 0), 0)
    return log_probs + shift[:, None].astype(np.float32)


def _above_the_tail(log_probs: np.ndarray, columns: Columns, vocab_size: int) -> np.ndarray:
    """Ranked entries that were rounded below the mean of the unseen tokens put back; the others pay for it.

    A tail as flat as that of a smoothed label leaves no room for rounding.
    """
    ranked = np.arange(log_probs.shape[-1]) < columns["num_ranked"][:, None]
    unseen = vocab_size - columns["length"]
    with np.errstate(divide="ignore"):
        mean = np.log(np.where(unseen > 0, columns["tail_mass"], 0) / np.maximum(unseen, 1))
    floor = np.where(ranked, mean.astype(np.float32)[:, None], -np.inf)
    low = log_probs < floor
    before, after = (np.exp(x.astype(np.float64)) for x in (log_probs, np.maximum(log_probs, floor)))
    rest = np.where(low, 0, before).sum(-1, keepdims=True)
    share = 1 - np.where(low, after - before, 0).sum(-1, keepdims=True) / np.where(rest > 0, rest, 1)
    return np.maximum(log_probs + np.log(share).astype(np.float32), floor)


def _require_as_read(found: Columns, dtype: str) -> None:
    """Refuse rows whose rounding `soften` forgives in their own dtype, and not in that of the file."""
    if "log_probs" not in found:
        return
    log_probs, read = found["log_probs"], "float64" if dtype == "float64" else "float32"
    tolerance = 4 * simplex.SUM_TOLERANCE[read]
    if 4 * simplex.SUM_TOLERANCE[log_probs.dtype.name] <= tolerance:
        return
    total = np.exp(_log_mass(log_probs)) + found.get("tail_mass", np.zeros(())).astype(np.float64)
    refuse(
        abs(total - 1) > tolerance,
        "log_probs",
        lambda i: (
            f"sums to {total[i]:.9g}, rounded to {log_probs.dtype}; the cache gives back {read}, where "
            f"{tolerance:g} is forgiven: make the target of {read} log-probabilities"
            + (", or pass dtype='float32'" if read == "float64" else "")
        ),
    )


def _require(target: Target, found: Columns) -> None:
    """Refuse what `soften` would, before it is on disk; and counts that int32 does not hold."""
    if isinstance(target, Dense):
        simplex.require_log_probabilities(target.log_probs, "log_probs")
        return
    ids = found["ids"]
    for name, value in found.items():
        if name in ("ids", *_COUNTS):
            if value.dtype.kind not in "iu":
                raise TypeError(f"{name} has dtype {value.dtype}; it holds whole numbers")
        elif value.dtype.name not in simplex.SUM_TOLERANCE:
            raise TypeError(f"{name} has dtype {value.dtype}; it is floating point: pass float32")
        if value.shape != (ids.shape if name in _LISTS else ids.shape[:-1]):
            raise ValueError(f"{name} has shape {value.shape}, ids {ids.shape}")
    require_consistent(target)
    if isinstance(target, Samples):
        draws, most = found["num_draws"], np.iinfo(np.int32).max
        refuse(
            (draws < 0) | (draws > most), "num_draws", lambda i: f"{draws[i]}; it counts draws, up to {most}"
        )
