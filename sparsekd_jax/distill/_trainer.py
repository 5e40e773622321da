"""The state of one run between scans, and the programs that move it."""

import functools
import inspect
import json
import math
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx
from jaxtyping import Array, Int, PyTree

from sparsekd_jax import sparsity
from sparsekd_jax.distill.checkpoints import CheckpointStore, fingerprint
from sparsekd_jax.distill.divergences import Divergence
from sparsekd_jax.distill.losses import Operator, cross_entropy, soften_log_probs, student_divergence
from sparsekd_jax.distill.metrics import Tally, tally
from sparsekd_jax.distill.stages import Plan
from sparsekd_jax.sparsity.masks import named_leaves

Progress = Callable[[int, int], None]
"""Called with (steps done, total steps) as a run proceeds."""
Row = dict[str, Any]
GRADIENT_BATCHES = 32
"""Batches that the gradients of a score are averaged over."""


class DataSet(Protocol):
    """What the loop asks of data: four arrays, ``[n, ...]`` inputs and ``[n]`` integer labels."""

    @property
    def train_inputs(self) -> Any: ...
    @property
    def train_labels(self) -> Any: ...
    @property
    def test_inputs(self) -> Any: ...
    @property
    def test_labels(self) -> Any: ...


class DivergedError(FloatingPointError):
    """The loss or a parameter became NaN or infinite; the message says where.

    Attributes:
        stage: number of the stage, from 1.
        step: the first bad step of the run, from 1.
        tensor: "loss", or the name of the first bad parameter.
        params: the parameters at the last record before it, a pytree of arrays.
    """

    def __init__(self, message: str, *, stage: int, step: int, tensor: str, params: PyTree) -> None:
        super().__init__(message)
        self.stage, self.step, self.tensor, self.params = stage, step, tensor, params


# -- what is compiled: pure functions of their arguments --------------------------------------------------


def _supervised(logits: Array, targets: Any, knobs: Any) -> tuple[Array, dict[str, Array]]:
    del knobs
    loss = cross_entropy(logits, targets["labels"])
    return loss, {"cross_entropy": loss}


@functools.lru_cache(maxsize=32)
def distilled(divergence: str | Divergence) -> Callable[..., Any]:
    """The objective of a stage; one function a divergence, so that a second run finds its compiled scan."""

    def objective(logits: Array, targets: Any, knobs: Any) -> tuple[Array, dict[str, Array]]:
        distance = student_divergence(
            logits, targets["log_targets"], knobs["operator"], knobs["temperature"], divergence=divergence
        )
        entropy = cross_entropy(logits, targets["labels"])
        loss = (1 - knobs["alpha"]) * knobs["scale"] * distance + knobs["alpha"] * entropy
        return loss, {"divergence": distance, "cross_entropy": entropy}

    return objective


def _loss_of(
    graphdef: Any, objective: Callable[..., Any], inputs: Array, targets: PyTree, knobs: PyTree
) -> Callable[..., Any]:
    def loss_of(params: PyTree, rest: PyTree, rows: Array) -> Any:
        model = nnx.merge(graphdef, params, rest, copy=True)  # its own variables, which this trace may write
        loss, parts = objective(model(inputs[rows]), jax.tree.map(lambda t: t[rows], targets), knobs)
        _, _, rest = _split(model)
        return jnp.mean(loss), (jax.tree.map(jnp.mean, parts), rest)

    return loss_of


@functools.partial(jax.jit, static_argnames=("graphdef", "objective"))
def _mean_gradients(
    graphdef: Any,
    objective: Callable[..., Any],
    params: PyTree,
    rest: PyTree,
    inputs: Array,
    targets: PyTree,
    knobs: PyTree,
    index: Int[Array, "batches batch"],
) -> PyTree:
    """The gradients at one point, averaged over batches; for the scores that ask for them."""
    loss_of = _loss_of(graphdef, objective, inputs, targets, knobs)

    def add(total: PyTree, rows: Array) -> tuple[PyTree, None]:
        gradients, _ = jax.grad(loss_of, has_aux=True)(params, rest, rows)
        return jax.tree.map(jnp.add, total, gradients), None

    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), index)
    return jax.tree.map(lambda leaf: leaf / index.shape[0], total)


@functools.partial(jax.jit, static_argnames=("graphdef", "optimizer", "objective"))
def _scan_steps(
    graphdef: Any,
    optimizer: optax.GradientTransformation,
    objective: Callable[..., Any],
    carry: PyTree,
    inputs: Array,
    targets: PyTree,
    knobs: PyTree,
    index: Int[Array, "steps batch"],
) -> tuple[PyTree, dict[str, Array], Array]:
    """``index.shape[0]`` optimizer steps on device: the carry, the means of the loss and its parts, and the
    place of the first loss that is not finite (−1 where all are)."""

    loss_of = _loss_of(graphdef, objective, inputs, targets, knobs)

    def step(carry: PyTree, rows: Array) -> tuple[PyTree, dict[str, Array]]:
        params, rest, state = carry
        (loss, (parts, rest)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, rest, rows)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), rest, state), {"loss": loss, **parts}

    carry, record = jax.lax.scan(step, carry, index)
    bad = ~jnp.isfinite(record["loss"])
    first_bad = jnp.where(bad.any(), jnp.argmax(bad), -1)
    return carry, jax.tree.map(jnp.mean, record), first_bad


@functools.partial(jax.jit, static_argnames="graphdef")
def _logits(graphdef: Any, params: PyTree, rest: PyTree, inputs: Array) -> Array:
    return nnx.merge(graphdef, params, rest)(inputs)


@functools.partial(jax.jit, static_argnames="graphdef")
def _evaluate(graphdef: Any, params: PyTree, rest: PyTree, inputs: Array, labels: Array) -> Tally:
    return tally(nnx.merge(graphdef, params, rest)(inputs), labels)


@jax.jit
def _soften_targets(operator: Operator, logits: Array, temperature: Array) -> Array:
    return soften_log_probs(operator, jax.nn.log_softmax(logits, axis=-1), temperature)


@functools.partial(jax.jit, static_argnames=("rate", "score", "pattern"))
def _prune(
    params: PyTree,
    state: PyTree,
    rate: float,
    score: str,
    pattern: str | sparsity.Pattern,
    gradients: PyTree | None = None,
    key: Array | None = None,
) -> tuple[PyTree, PyTree]:
    state = sparsity.update_masks(
        state, params, rate, score=score, pattern=pattern, gradients=gradients, key=key
    )
    return sparsity.apply_masks(params, sparsity.current_masks(state)), state


@functools.lru_cache(maxsize=32)
def _sparsified(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    # One wrapper an optimizer: a second run of the same optimizer then finds its compiled scan.
    return sparsity.sparsify(optimizer)


@functools.partial(jax.jit, static_argnames=("size", "batch_size", "steps"))
def _epochs(key: Array, size: int, batch_size: int, steps: int) -> Int[Array, "steps batch"]:
    """Rows of each batch: a fresh shuffle an epoch, the incomplete last batch of an epoch left out."""
    per_epoch = size // batch_size
    keys = jax.random.split(key, math.ceil(steps / per_epoch))
    shuffled = jax.vmap(lambda k: jax.random.permutation(k, size)[: per_epoch * batch_size])(keys)
    return shuffled.reshape(-1, batch_size)[:steps]


# -- modules and operators as arguments --------------------------------------------------------------------


def _split(model: nnx.Module) -> tuple[Any, PyTree, PyTree]:
    """Graph, parameters, and whatever else the module holds (batch statistics, random streams)."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    return graphdef, params, rest


def _split_for_evaluation(model: nnx.Module) -> tuple[Any, PyTree, PyTree]:
    model = nnx.clone(model)
    model.eval()
    return _split(model)


def _teacher_logits(teacher: Any, inputs: Array) -> Array:
    logits = (
        _logits(*_split_for_evaluation(teacher), inputs)
        if isinstance(teacher, nnx.Module)
        else jnp.asarray(teacher)
    )
    if logits.ndim != 2 or logits.shape[0] != inputs.shape[0]:
        raise ValueError(
            f"teacher gives logits of shape {logits.shape}; {inputs.shape[0]} training inputs need "
            f"({inputs.shape[0]}, num_classes)"
        )
    return logits


def _as_pytree(function: Callable[..., Any]) -> Any:
    """A plain function as an argument of a compiled one: Partial is a pytree with the function static."""
    return jax.tree_util.Partial(function)


def history_row(row: Row, means: dict[str, Array], metrics: Tally) -> Row:
    """One row of a history, from what was recorded and is on the host."""
    return {
        **row,
        **{name: float(mean) for name, mean in means.items()},
        "accuracy": metrics.accuracy,
        "nll": metrics.mean_nll,
        "calibration_error": metrics.calibration_error,
    }


class Trainer:
    """The state of one run between scans. Mutable, and gone when the run is over."""

    def __init__(
        self,
        model: nnx.Module,
        data: DataSet,
        optimizer: optax.GradientTransformation,
        total_steps: int,
        seed: int,
        batch_size: int,
        record_every: int,
        on_progress: Progress | None,
    ) -> None:
        self.inputs, self.labels = jnp.asarray(data.train_inputs), jnp.asarray(data.train_labels)
        self.test = jnp.asarray(data.test_inputs), jnp.asarray(data.test_labels)
        size = self.inputs.shape[0]
        if not 1 <= batch_size <= size:
            raise ValueError(f"batch_size must lie in [1, {size}] (the training examples), got {batch_size}")
        if record_every < 1:
            raise ValueError(f"record_every must be at least 1, got {record_every}")
        self.optimizer = _sparsified(optimizer)
        self.graphdef, params, rest = _split(model)
        self.eval_graphdef = _split_for_evaluation(model)[0]
        self.carry = (params, rest, self.optimizer.init(params))
        self.index = _epochs(jax.random.key(seed), size, batch_size, total_steps)
        self.seed, self.batch_size, self.record_every = seed, batch_size, record_every
        self.on_progress = on_progress
        self.total_steps, self.step, self.sparsity = total_steps, 0, 0.0
        self.path = [self.pure_params()]
        self.history: list[Row] = []
        self.final: Tally | None = None
        self._pending: list[tuple[Row, dict[str, Array], Array | None, Tally]] = []
        self._good: PyTree = self.path[0]  # the parameters at the last record known to be finite
        self._store: CheckpointStore | None = None
        self._every, self._saved_at = math.inf, time.monotonic()

    def pure_params(self) -> PyTree:
        return nnx.to_pure_dict(self.carry[0])

    @property
    def stages_done(self) -> int:
        return len(self.path) - 1

    # -- steps ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Record where a run starts; one that was resumed has that already."""
        if not self.history:
            self.record("start", stage=0)

    def prune(
        self, plan: Plan, number: int, objective: Callable[..., Any], targets: PyTree, knobs: PyTree
    ) -> None:
        """Drop weights down to the sparsity of stage ``number``; gradients are those of its first batches."""
        stage = plan.stages[number - 1]
        self.sparsity = stage.sparsity
        if stage.sparsity == 0:  # sparsities never fall, so nothing was dropped before either
            return
        params, rest, state = self.carry
        gradients, key = None, None
        asks = inspect.signature(sparsity.SCORES[plan.score]).parameters
        if "gradients" in asks:
            index = self.index[self.step : self.step + min(stage.steps, GRADIENT_BATCHES)]
            gradients = _mean_gradients(
                self.graphdef, objective, params, rest, self.inputs, targets, knobs, index
            )
        if "key" in asks:  # apart from the keys of the epochs, which are split from the same seed
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), 2**31 - 1), number)
        params, state = _prune(params, state, stage.sparsity, plan.score, plan.pattern, gradients, key)
        self.carry = (params, rest, state)

    def advance(
        self,
        start: int,
        end: int,
        objective: Callable[..., Any],
        targets: PyTree,
        knobs: PyTree,
        stage: int,
    ) -> None:
        """Train from wherever the run stands to the end of the stage that covers steps start to end."""
        while self.step < end:
            # A boundary counts from the stage's first step, so that a resumed run has the same scans.
            size = min(self.record_every - (self.step - start) % self.record_every, end - self.step)
            index = self.index[self.step : self.step + size]
            self.carry, means, first_bad = _scan_steps(
                self.graphdef, self.optimizer, objective, self.carry, self.inputs, targets, knobs, index
            )
            self.step += size
            self.record("train", stage, means, first_bad)
            if self.on_progress is not None or self._store is not None:
                jax.block_until_ready(means)
            if self.on_progress is not None:
                self.on_progress(self.step, self.total_steps)
            if self.step < end and self._due():
                self.save()
        self._flush()
        self.path.append(self.pure_params())
        if self.step == self.total_steps or self._due():
            self.save()

    def record(
        self, event: str, stage: int, means: dict[str, Array] | None = None, first_bad: Array | None = None
    ) -> None:
        params, rest, _ = self.carry
        metrics = _evaluate(self.eval_graphdef, params, rest, *self.test)
        row = {"event": event, "stage": stage, "step": self.step, "sparsity": self.sparsity}
        self._pending.append((row, means or {}, first_bad, metrics))

    def _flush(self) -> None:
        """Bring what was recorded to the host, in one transfer, and refuse what is not finite."""
        pending, self._pending = jax.device_get(self._pending), []
        before = self.history[-1]["step"] if self.history else 0
        for row, means, first_bad, metrics in pending:
            if first_bad is not None and first_bad >= 0:
                self._diverged("loss", row["stage"], before + int(first_bad) + 1)
            before = row["step"]
            self.history.append(history_row(row, means, metrics))
            self.final = metrics
        params = jax.device_get(self.pure_params())
        for name, leaf in named_leaves(params).items():
            if not np.isfinite(leaf).all():
                self._diverged(name, self.history[-1]["stage"], self.step)
        self._good = params

    def _diverged(self, tensor: str, stage: int, step: int) -> None:
        kept = self._store.steps() if self._store is not None else []
        where = f"; the checkpoint of step {kept[-1]} is the last good one" if kept else ""
        raise DivergedError(
            f"{tensor} is not finite in stage {stage}, at step {step} of {self.total_steps}{where}: lower "
            "the learning rate, or look at the operator's gradients where the teacher is near 0",
            stage=stage,
            step=step,
            tensor=tensor,
            params=self._good,
        )

    # -- checkpoints ---------------------------------------------------------------------------------

    def keep_in(
        self, folder: Any, every: float, keep: int, resume: bool | int, identity: dict[str, Any]
    ) -> None:
        """Save to a directory from now on; first go on from what it holds, where that is asked for."""
        params, _, state = self.carry
        shapes = {name: f"{leaf.dtype.name}{list(leaf.shape)}" for name, leaf in named_leaves(params).items()}
        optimizer = {n: f"{leaf.dtype.name}{list(leaf.shape)}" for n, leaf in named_leaves(state).items()}
        full = {
            "version": metadata.version("sparsekd_jax"),
            **identity,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "record_every": self.record_every,
            "model": shapes,
            "optimizer": optimizer,
            "data": fingerprint(self.inputs, self.labels),
        }
        self._store = CheckpointStore(folder, full, keep=keep)
        self._every = every
        saved = self._store.resume(resume)
        if saved is None:
            return
        position = saved.position
        self.step, self.sparsity = position["step"], position["sparsity"]
        self.history = position["history"]
        template = (self.carry, [self.path[0]] * position["stages_done"], self._tally_template())
        leaves, structure = jax.tree.flatten(template)
        restored = [_as_key(a, like) for a, like in zip(saved.arrays, leaves, strict=True)]
        self.carry, later, self.final = jax.tree.unflatten(structure, restored)
        self.path = [self.path[0], *later]
        self._good = jax.device_get(self.pure_params())

    def _due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._every

    def save(self) -> None:
        """Write a checkpoint of this moment, if the run keeps any."""
        if self._store is None:
            return
        self._flush()
        arrays = jax.tree.leaves((self.carry, self.path[1:], self.final))
        position = {
            "step": self.step,
            "sparsity": self.sparsity,
            "stages_done": self.stages_done,
            "history": self.history,
        }
        self._store.save(self.step, [_as_data(a) for a in arrays], position)
        self._store.write_text("history.jsonl", "".join(json.dumps(row) + "\n" for row in self.history))
        self._saved_at = time.monotonic()

    def _tally_template(self) -> Tally:
        params, rest, _ = self.carry
        return jax.eval_shape(functools.partial(_evaluate, self.eval_graphdef), params, rest, *self.test)


def _as_data(leaf: Any) -> Array:
    """A leaf as an ordinary array: the words of a random key."""
    array = jnp.asarray(leaf)
    return jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array


def _as_key(array: Array, like: Any) -> Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like))
    return array
