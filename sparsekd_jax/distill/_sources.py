"""Where batches come from: arrays in memory, or batches by number, such as a ``grain.MapDataset``."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int

from sparsekd_jax._durable import fingerprint
from sparsekd_jax._refusals import is_traced, refuse, whole
from sparsekd_jax.distill._placement import Placement
from sparsekd_jax.distill._program import Batch, epochs
from sparsekd_jax.distill.losses import require_weights


class DataSet(Protocol):
    """What the loop asks of data in memory: ``[n, ...]`` inputs and ``[n]`` or ``[n, L]`` integer labels.

    Also read where they are there and not None: ``train_weights``, a weight ≥ 0 for every training label (0
    for padding; a batch of padding alone has loss and gradient 0); ``validation_inputs`` and
    ``validation_labels``, for stages that may end early; ``num_classes``, which is then the model's K.
    """

    @property
    def train_inputs(self) -> Any: ...
    @property
    def train_labels(self) -> Any: ...
    @property
    def test_inputs(self) -> Any: ...
    @property
    def test_labels(self) -> Any: ...


class RandomAccess(Protocol):
    """Batches by number: a list, or a ``grain.MapDataset``."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: Any, /) -> Any: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """Training data that comes in batches, step k training on ``train_batches[k]``; read as it is needed.

    The step is all there is to the position in the data, so that a resumed run reads on where it stopped.
    The order is the caller's, ``seed`` and ``batch_size`` of a run do not touch it. The teacher has to be a
    module, since it is evaluated on each batch.

    Attributes:
        train_batches: at least as many as the run has steps; each a mapping with ``inputs [B, ...]``,
            ``labels [B, ...]`` and perhaps ``weights``, of one shape throughout. Of Grain:
            ``grain.MapDataset.source(examples).seed(0).shuffle().repeat().batch(128)``.
        test_inputs: ``[m, ...]``.
        test_labels: ``[m, ...]``.
        validation_inputs: ``[v, ...]`` or None.
        validation_labels: ``[v, ...]`` or None.

    >>> batch = {"inputs": np.zeros((4, 2), np.float32), "labels": np.zeros(4, np.int32)}
    >>> len(Batches([batch] * 10, batch["inputs"], batch["labels"]).train_batches)
    10
    """

    train_batches: RandomAccess
    test_inputs: Any
    test_labels: Any
    validation_inputs: Any = None
    validation_labels: Any = None


class Source(Protocol):
    """What the trainer asks for: the arrays and rows of steps, and what identifies them."""

    streamed: bool
    place: Placement

    def steps(self, start: int, count: int) -> tuple[Batch, Int[Array, "steps batch"]]: ...
    def identity(self) -> dict[str, Any]: ...


def source_of(
    data: DataSet | Batches, seed: int, batch_size: int, total_steps: int, mesh: Mesh | None = None
) -> Source:
    """The source of a run's batches.

    Raises:
        ValueError: sizes that do not fit, too few batches, or what is not indexed by a number.
    """
    if isinstance(data, Batches):
        return _Streamed(data.train_batches, total_steps, mesh)
    return _Shuffled(data, seed, batch_size, total_steps, mesh)


def whole_seed(argument: str, seed: Any) -> int:
    """A seed as Python's number, refused where JAX would drop a part of it."""
    value = whole(argument, seed, least=-(2**31))
    if value >= 2**32 and jnp.result_type(int).itemsize < 8:
        raise ValueError(
            f"{argument} is {value}; JAX reads 32 bits of a seed without x64, so {value % 2**32} would "
            "give the same: give one below 2**32"
        )
    return value


def require_in_memory(data: Any, caller: str) -> None:
    """Refuse batches where several members learn from the same rows."""
    if isinstance(data, Batches):
        raise ValueError(
            f"data comes in Batches; {caller} needs arrays in memory: run the members one by one"
        )


def validation_of(data: DataSet | Batches) -> tuple[Array, Array] | None:
    """Inputs and labels of the validation half, or None."""
    if "validation" not in _halves(data):
        return None
    return jnp.asarray(data.validation_inputs), jnp.asarray(data.validation_labels)  # type: ignore[union-attr]


def _halves(data: DataSet | Batches) -> list[str]:
    """The halves that are arrays: the training half unless it comes in batches, validation where it is."""
    given = [getattr(data, f"validation_{name}", None) is not None for name in ("inputs", "labels")]
    if any(given) and not all(given):
        has, lacks = ("inputs", "labels") if given[0] else ("labels", "inputs")
        raise ValueError(f"data has validation_{has} and no validation_{lacks}; give both, or neither")
    return [
        *([] if isinstance(data, Batches) else ["train"]),
        "test",
        *(["validation"] if all(given) else []),
    ]


def require_data(data: Any) -> None:
    """Refuse what does not have the arrays of a training and a test half, or what `require_examples` does."""
    for name in ("train_inputs", "train_labels", "test_inputs", "test_labels"):
        if not isinstance(data, Batches) and getattr(data, name, None) is None:
            remedy = "; rows without labels take zeros and alpha=0" if name == "train_labels" else ""
            raise TypeError(
                f"data is a {type(data).__name__} without {name}; pass data.Arrays(...) or Batches{remedy}"
            )
    for half in _halves(data):
        require_examples(f"{half}_", getattr(data, f"{half}_inputs"), getattr(data, f"{half}_labels"))


def require_examples(prefix: str, inputs: Any, labels: Any) -> None:
    """Refuse inputs and labels that are not one label an example, labels that are no class ids, and NaN in
    what is evaluated: argmax takes a row of NaN for class 0. (A training loss of NaN is found in the run.)

    ``prefix``: of the names of the arguments, such as "train_".
    """
    sizes, shape = np.shape(inputs), np.shape(labels)
    dtype = labels.dtype if hasattr(labels, "dtype") else np.asarray(labels).dtype
    if not sizes or sizes[0] == 0:
        raise ValueError(f"{prefix}inputs has shape {sizes}; give at least one example, [n, ...]")
    if not jnp.issubdtype(dtype, jnp.integer):
        raise TypeError(
            f"{prefix}labels has dtype {dtype}; labels are class ids: of one-hot rows pass "
            "labels.argmax(-1), of floats labels.astype(np.int32)"
        )
    if not shape or shape[0] != sizes[0]:
        raise ValueError(
            f"{prefix}labels has shape {shape} for {sizes[0]} examples; give one label each, in their order"
        )
    if prefix == "train_" or is_traced(inputs):
        return
    values = np.asarray(inputs)
    if jnp.issubdtype(values.dtype, jnp.floating):
        rows = np.isnan(values).any(axis=tuple(range(1, len(sizes))))
        refuse(rows, f"{prefix}inputs", lambda _: "holds NaN; fill it in, or leave the row out")


def require_halves(
    who: str, data: DataSet | Batches, first: Batch, shape_of: Callable[[Any], tuple[int, ...]]
) -> int:
    """Refuse labels of any half, or a number of classes, that do not fit the logits of a model.

    Args:
        who: what the model is called.
        data: what `require_data` took.
        first: the training arrays; of `Batches` the first batch.
        shape_of: from inputs to the shape of the model's logits.

    Returns:
        The number of classes.
    """
    shape = shape_of(first["inputs"])
    told = getattr(data, "num_classes", None)
    if told is not None and told != shape[-1]:
        raise ValueError(
            f"data has num_classes = {told}, and {who} gives logits of {shape[-1]} classes; give its last "
            f"layer {told} outputs, or correct num_classes"
        )
    train = first["labels"] if isinstance(data, Batches) else data.train_labels
    require_classes("train_", train, shape, who, first.get("weights"))
    for half in _halves(data):
        if half != "train":
            shape = shape_of(jnp.asarray(getattr(data, f"{half}_inputs")))
            require_classes(f"{half}_", getattr(data, f"{half}_labels"), shape, who)
    return shape[-1]


def require_classes(prefix: str, labels: Any, logits: tuple[int, ...], who: str, weights: Any = None) -> None:
    """Refuse labels that are not one for each row of logits ``[n, ..., K]``, or not in ``[0, K)``.

    A label of weight 0 is padding, and may be anything.
    """
    shape, num_classes = np.shape(labels), logits[-1]
    if shape[1:] != logits[1:-1]:
        raise ValueError(
            f"{prefix}labels has shape {shape}, and {who} gives logits of shape {logits} for them; give "
            f"class ids of shape {(shape[0], *logits[1:-1])}: of one-hot rows pass labels.argmax(-1)"
        )
    values = np.asarray(labels)
    if weights is not None:
        values = values[np.asarray(weights) > 0]
    if not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{prefix}labels holds {low if low < 0 else high}, and {who} has classes in [0, {num_classes}): "
            "count labels from 0, or give the model as many outputs"
        )


class _Shuffled:
    """Arrays on device, in the order of a seed."""

    streamed = False

    def __init__(
        self, data: DataSet, seed: int, batch_size: int, total_steps: int, mesh: Mesh | None
    ) -> None:
        arrays = {"inputs": data.train_inputs, "labels": data.train_labels}
        weights = getattr(data, "train_weights", None)
        if weights is not None:
            arrays["weights"] = weights
            require_weights(weights, np.shape(data.train_labels), "train_labels", "train_weights")
            if not np.any(weights):
                raise ValueError("train_weights is 0 throughout: there is nothing to learn; 0 is padding")
        self.arrays: Batch = {name: jnp.asarray(array) for name, array in arrays.items()}
        size = self.arrays["inputs"].shape[0]
        batch_size = whole("batch_size", batch_size, least=-math.inf)
        if not 1 <= batch_size <= size:
            raise ValueError(f"batch_size must lie in [1, {size}] (the training examples), got {batch_size}")
        self.place = Placement(mesh, batch_size)
        self.arrays = self.place.everywhere(self.arrays)
        self.index = self.place.rows(epochs(jax.random.key(seed), size, batch_size, total_steps))
        self.batch_size = batch_size

    def steps(self, start: int, count: int) -> tuple[Batch, Int[Array, "steps batch"]]:
        return self.arrays, self.index[start : start + count]

    def identity(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "data": fingerprint(*self.arrays.values())}


class _Streamed:
    """Batches by number, joined on the host for one scan at a time."""

    streamed = True

    def __init__(self, batches: RandomAccess, total_steps: int, mesh: Mesh | None) -> None:
        if not (hasattr(batches, "__getitem__") and hasattr(batches, "__len__")):
            raise ValueError(
                f"train_batches must give batch k as train_batches[k], such as a grain.MapDataset or a list; "
                f"got {type(batches).__name__}"
            )
        if len(batches) < total_steps:
            raise ValueError(f"train_batches has {len(batches)} batches for {total_steps} steps: repeat them")
        self.batches = batches
        self._shapes = _shapes(self._batch(0))
        self.place = Placement(mesh, self._shapes["labels"][0])

    def _batch(self, number: int) -> dict[str, np.ndarray]:
        batch = self.batches[number]
        if not isinstance(batch, Mapping) or not {"inputs", "labels"} <= batch.keys():
            raise ValueError(
                f"batch {number} of train_batches must be a mapping with inputs and labels, got "
                f"{sorted(map(str, batch)) if isinstance(batch, Mapping) else type(batch).__name__}"
            )
        arrays = {name: np.asarray(batch[name]) for name in ("inputs", "labels", "weights") if name in batch}
        if "weights" in arrays:
            require_weights(
                arrays["weights"], arrays["labels"].shape, "its labels", f"weights of batch {number}"
            )
        return arrays

    def steps(self, start: int, count: int) -> tuple[Batch, Int[Array, "steps batch"]]:
        batches = []
        for number in range(start, start + count):
            batch = self._batch(number)
            if _shapes(batch) != self._shapes:
                raise ValueError(
                    f"batch {number} of train_batches has {_shapes(batch)}, batch 0 {self._shapes}: one "
                    "shape for all, so drop the remainder of an epoch"
                )
            batches.append(batch)
        joined = {name: jnp.asarray(np.concatenate([b[name] for b in batches])) for name in self._shapes}
        rows = joined["inputs"].shape[0]
        index = jnp.arange(rows, dtype=jnp.int32).reshape(count, rows // count)
        return self.place.everywhere(joined), self.place.rows(index)

    def identity(self) -> dict[str, Any]:
        return {"first_batch": fingerprint(*self._batch(0).values())}


def _shapes(batch: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in batch.items()}
