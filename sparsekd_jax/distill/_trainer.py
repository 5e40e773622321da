"""The state of one run between scans: where it stands, what it recorded, what it saves."""

import functools
import inspect
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, PyTree

from sparsekd_jax import sparsity
from sparsekd_jax._durable import fingerprint
from sparsekd_jax._refusals import whole
from sparsekd_jax.distill import _program
from sparsekd_jax.distill._placement import on_host
from sparsekd_jax.distill._program import Batch, Objective
from sparsekd_jax.distill._sources import (
    Batches,
    DataSet,
    require_data,
    require_halves,
    source_of,
    validation_of,
    whole_seed,
)
from sparsekd_jax.distill.checkpoints import CheckpointStore, agreed
from sparsekd_jax.distill.metrics import Tally
from sparsekd_jax.distill.plan import Plan, Stage
from sparsekd_jax.sparsity._arguments import require_optimizer, require_select
from sparsekd_jax.sparsity.masks import named_leaves

Progress = Callable[[int, int], None]
"""Called with (steps done, total steps) as a run proceeds."""
Row = dict[str, Any]
log = logging.getLogger(__name__)
GRADIENT_BATCHES = 32
"""Batches that the gradients of a score are averaged over."""


class DivergedError(FloatingPointError):
    """The loss or a parameter became NaN or infinite, or an evaluation gave NaN; the message says where.

    Attributes:
        stage: number of the stage, from 1.
        step: the first bad step of the run, from 1.
        tensor: "loss", "nll" or "validation_nll", or the name of the first bad parameter.
        params: the parameters at the last record up to which all was finite, a pytree of arrays.
    """

    def __init__(self, message: str, *, stage: int, step: int, tensor: str, params: PyTree) -> None:
        super().__init__(message)
        self.stage, self.step, self.tensor, self.params = stage, step, tensor, params


def history_row(row: Row, means: dict[str, Array], metrics: Tally, validation: Tally | None = None) -> Row:
    """One row of a history, from what was recorded and is on the host."""
    full = {
        **row,
        **{name: float(mean) for name, mean in means.items()},
        "accuracy": metrics.accuracy,
        "nll": metrics.mean_nll,
        "calibration_error": metrics.calibration_error,
    }
    if validation is not None:
        full |= {"validation_accuracy": validation.accuracy, "validation_nll": validation.mean_nll}
    return full


def nan_metric(row: Row) -> str | None:
    """The metric of a row that says that some logits were NaN, which accuracy would count as class 0."""
    return next((name for name in ("nll", "validation_nll") if math.isnan(row.get(name, 0.0))), None)


class Trainer:
    """Mutable, and gone when the run is over."""

    def __init__(
        self,
        model: nnx.Module,
        data: DataSet | Batches,
        optimizer: optax.GradientTransformation,
        total_steps: int,
        *,
        seed: int,
        batch_size: int,
        record_every: int,
        on_progress: Progress | None,
        where: sparsity.Select = sparsity.is_kernel,
        mesh: Mesh | None = None,
        argument: str = "student",
    ) -> None:
        record_every = whole("record_every", record_every)
        seed = whole_seed("seed", seed)
        _program.require_module(argument, model)
        require_optimizer("optimizer", optimizer)
        require_select(where)
        require_data(data)
        self.source = source_of(data, seed, batch_size, total_steps, mesh)
        self.place = self.source.place
        self.test = self.place.everywhere((jnp.asarray(data.test_inputs), jnp.asarray(data.test_labels)))
        self.validation = self.place.everywhere(validation_of(data))
        self.optimizer = _program.sparsified(optimizer, where)
        self.given_graphdef = _program.split(model)[0]  # in the mode that it goes back in
        self.graphdef, *held = _program.split_for_training(model)
        # A variable may hold a number, which a scan carries but which has no dtype to be saved by.
        params, rest = jax.tree.map(jnp.asarray, self.place.everywhere(held))
        self.eval_graphdef = _program.split_for_evaluation(model)[0]
        self.argument = argument
        shape_of = functools.partial(_program.logits_shape, argument, self.eval_graphdef, params, rest)
        first, index = self.source.steps(0, 1)
        self.num_classes = require_halves(argument, data, first, shape_of)
        _program.require_steady(argument, self.graphdef, params, rest, first["inputs"], index.shape[1])
        _program.require_trainable(argument, optimizer, params)
        self.carry = (params, rest, self.place.everywhere(self.optimizer.init(params)))
        self.seed, self.record_every, self.on_progress = seed, record_every, on_progress
        self.total_steps, self.step, self.sparsity = total_steps, 0, 0.0
        self.stage_start = 0
        self.path, self.rests, self.masks = [self.pure_params()], [rest], [self.pure_masks()]
        self.history: list[Row] = []
        self.final: Tally | None = None
        self._pending: list[tuple[Row, dict[str, Array], Array | None, tuple[Tally, Tally | None]]] = []
        self._good: tuple[PyTree, Any] = self.path[0], jnp.asarray(True)
        self._store: CheckpointStore | None = None
        self._taught: Array | None = None
        self._every, self._saved_at = math.inf, time.monotonic()

    def pure_params(self) -> PyTree:
        return nnx.to_pure_dict(self.carry[0])

    def pure_masks(self) -> PyTree:
        return nnx.to_pure_dict(sparsity.current_masks(self.carry[2]))

    @property
    def stages_done(self) -> int:
        return len(self.path) - 1

    def stage_model(self) -> tuple[Any, PyTree, PyTree]:
        """The model that the stage before left, for evaluation."""
        params = jax.tree.map(lambda leaf: leaf, self.carry[0])
        nnx.replace_by_pure_dict(params, self.path[-1])
        return self.eval_graphdef, params, self.rests[-1]

    # -- steps ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Record where a run starts; one that was resumed has that already."""
        if not self.history:
            _program.require_logits(self.argument, self._record("start", stage=0))

    def prune(self, plan: Plan, number: int, objective: Objective, targets: Batch, knobs: PyTree) -> None:
        """Drop weights down to the sparsity of stage ``number``; gradients are those of its first batches."""
        stage = plan.stages[number - 1]
        self.sparsity = stage.sparsity
        if stage.sparsity > 0:  # sparsities never fall, so nothing was dropped before either
            params, rest, state = self.carry
            gradients, key = None, None
            asks = inspect.signature(sparsity.SCORES[plan.score]).parameters
            if "gradients" in asks:
                arrays, index = self.source.steps(self.step, min(stage.steps, GRADIENT_BATCHES))
                gradients = _program.mean_gradients(
                    self.graphdef, objective, params, rest, arrays | targets, knobs, index
                )
            if "key" in asks:  # apart from the keys of the epochs, which are split from the same seed
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.seed), 2**31 - 1), number)
            params, state = _program.prune(
                params, state, stage.sparsity, plan.score, plan.pattern, gradients, key
            )
            self.carry = (params, rest, state)
        self._record("pruned", stage=number)

    def advance(
        self, stage: Stage, number: int, objective: Objective, targets: Batch, knobs: PyTree, *, last: bool
    ) -> None:
        """Train from wherever the run stands to the end of the stage that began at ``stage_start``."""
        log.info("stage %d: sparsity %g, steps %d of %d", number, stage.sparsity, self.step, self.total_steps)
        rates = jnp.asarray(stage.rates(), jnp.float32)
        start, end = self.stage_start, self.stage_start + stage.steps
        ended = False
        while self.step < end and not ended:
            # A boundary counts from the stage's first step, so that a resumed run has the same scans.
            size = min(self.record_every - (self.step - start) % self.record_every, end - self.step)
            arrays, index = self.source.steps(self.step, size)
            at = self.step - start
            self.carry, means, first_bad = _program.scan_steps(
                self.graphdef,
                self.optimizer,
                objective,
                self.carry,
                arrays | targets,
                knobs,
                index,
                rates[at : at + size],
            )
            self.step += size
            self._record("train", number, means, first_bad)
            if stage.may_end_early or self._store is not None:
                self._flush()
            elif self.on_progress is not None:
                jax.block_until_ready(means)
            if self.on_progress is not None:
                self.on_progress(self.step, self.total_steps)
            if stage.may_end_early:
                ended = self._ended_early(stage, number)
            if self.step < end and not ended and self._due():
                self._save()
        self._flush()
        self.path.append(self.pure_params())
        self.rests.append(self.carry[1])
        self.masks.append(self.pure_masks())
        self.stage_start = self.step
        if last or self._due():
            self._save()

    def _ended_early(self, stage: Stage, number: int) -> bool:
        rows = [row for row in self.history if (row["event"], row["stage"]) == ("train", number)]
        reason = stage.end(rows)
        if reason is not None:
            self.history[-1]["ended"] = reason
        return reason is not None

    def _record(
        self, event: str, stage: int, means: dict[str, Array] | None = None, first_bad: Array | None = None
    ) -> Array:
        """Evaluate, and keep what is found on device; returns how many rows are no probabilities."""
        params, rest, _ = self.carry
        judge = functools.partial(_program.evaluate_all, self.eval_graphdef, params, rest)
        tally, others = judge(*self.test)
        tallies = (tally, None if self.validation is None else judge(*self.validation)[0])
        # Chosen on device: whether this record is good is only known on the host when it is flushed.
        nlls = [own.nll for own in tallies if own is not None]
        first = jnp.asarray(-1) if first_bad is None else first_bad
        self._good = _program.keep_good(self._good, self.pure_params(), first, nlls)
        row = {"event": event, "stage": stage, "step": self.step, "sparsity": self.sparsity}
        self._pending.append((row, means or {}, first_bad, tallies))
        return others

    def _flush(self) -> None:
        """Bring what was recorded to the host, in one transfer, and refuse what is not finite."""
        finite = _program.all_finite(self.pure_params())
        pending, finite = jax.device_get((self._pending, finite))
        self._pending = []
        before = self.history[-1]["step"] if self.history else 0
        for row, means, first_bad, (metrics, validation) in pending:
            if first_bad is not None and first_bad >= 0:
                self._diverged("loss", row["stage"], before + int(first_bad) + 1)
            before = row["step"]
            self.history.append(history_row(row, means, metrics, validation))
            self.final = metrics
        for name, good in named_leaves(finite).items():
            if not good:
                self._diverged(name, self.history[-1]["stage"], self.step)
        for row in self.history[-len(pending) :] if pending else []:
            metric = nan_metric(row)
            if metric is not None:
                self._diverged(metric, row["stage"], row["step"])
        if self._store is not None:
            text = "".join(json.dumps(row) + "\n" for row in self.history)
            self._store.write_text("history.jsonl", text)

    def _diverged(self, tensor: str, stage: int, step: int) -> None:
        kept = self._store.steps() if self._store is not None else []
        where = f"; the checkpoint of step {kept[-1]} is the last good one" if kept else ""
        raise DivergedError(
            f"{tensor} is not finite in stage {stage}, at step {step} of {self.total_steps}{where}: lower "
            "the learning rate, look for NaN in the inputs, or at the operator's gradients where the teacher "
            "is near 0",
            stage=stage,
            step=step,
            tensor=tensor,
            params=jax.device_get(self._good[0]),
        )

    # -- checkpoints ---------------------------------------------------------------------------------

    def keep_in(
        self,
        folder: Any,
        every: float,
        keep: int,
        resume: bool | int,
        identity: dict[str, Any],
        taught: Array | None = None,
    ) -> None:
        """Save to a directory from now on; first go on from what it holds, where that is asked for.

        ``taught`` are logits of the teacher, which are those of the run but for what another device rounds.
        """
        params, rest, state = self.carry
        full = {
            "version": metadata.version("sparsekd_jax"),
            **self.source.identity(),  # before the teacher's logits, which change with the data
            **identity,
            "seed": self.seed,
            "record_every": self.record_every,
            "model": _program.named_shapes(params),
            "state": _program.named_shapes(rest),
            "optimizer": _program.named_shapes(state),
            "test_data": fingerprint(*map(on_host, self.test)),
            "validation_data": fingerprint(*map(on_host, jax.tree.leaves(self.validation))),
        }
        self._store = CheckpointStore(folder, full, keep=keep)
        self._every = every
        self._taught = taught
        given = {**named_leaves(self.path[0]), **named_leaves(rest)}
        saved = self._store.resume(resume, lambda saved: _another_start(given, taught, saved.arrays))
        if saved is None:
            return
        position = saved.position
        self.step, self.sparsity = position["step"], position["sparsity"]
        self.stage_start, self.history = position["stage_start"], position["history"]
        stages = [(self.path[0], self.rests[0], self.masks[0])] * (1 + position["stages_done"])
        template = (stages, self.carry, self._tally_template(), taught)
        leaves, structure = jax.tree.flatten(template)
        restored = [
            _as_key(self.place.like(a, like), like) for a, like in zip(saved.arrays, leaves, strict=True)
        ]
        stages, self.carry, self.final, _ = jax.tree.unflatten(structure, restored)
        self.path, self.rests, self.masks = (list(each) for each in zip(*stages, strict=True))
        self._good = self.pure_params(), jnp.asarray(True)
        log.info("resumed at step %d of %d from %s", self.step, self.total_steps, folder)

    def _due(self) -> bool:
        return self._store is not None and agreed(time.monotonic() - self._saved_at >= self._every)

    def _save(self) -> None:
        """Write a checkpoint of this moment, if the run keeps any."""
        if self._store is None:
            return
        log.info("saving step %d of %d", self.step, self.total_steps)
        self._flush()
        stages = list(zip(self.path, self.rests, self.masks, strict=True))
        arrays = jax.tree.leaves((stages, self.carry, self.final, self._taught))
        position = {
            "step": self.step,
            "sparsity": self.sparsity,
            "stage_start": self.stage_start,
            "stages_done": self.stages_done,
            "history": self.history,
        }
        self._store.save(self.step, self.place.everywhere([_as_data(a) for a in arrays]), position)
        self._saved_at = time.monotonic()

    def _tally_template(self) -> Tally:
        params, rest, _ = self.carry
        judge = functools.partial(_program.evaluate_all, self.eval_graphdef)
        return jax.eval_shape(judge, params, rest, *self.test)[0]


def _another_start(given: dict[str, Any], taught: Array | None, saved: Sequence[Array]) -> str | None:
    """Which variable of the student, or the teacher, is not the one that a run began with, if any is.

    Another device initialises to other last bits, and multiplies matrices in fewer.
    """
    for (name, leaf), began in zip(given.items(), saved, strict=False):  # the start comes first
        if not _is_near(leaf, began, 1e-3):
            return (
                f"it began with another student, whose {name} had other numbers (give it as it was before "
                "the run: a call in training mode moves statistics and random streams)"
            )
    if taught is not None and not _is_near(taught, saved[-1], 1e-2):  # the logits come last
        return (
            "it had a teacher of the same parameters that gave other logits (give the model and the inputs "
            "as they were)"
        )
    return None


def _is_near(here: Any, there: Any, share: float) -> bool:
    """Whether numbers are the same to a share of the largest; what are no floats, exactly."""
    here, there = on_host(here), on_host(there)
    if here.shape != there.shape or not jnp.issubdtype(here.dtype, jnp.floating):
        return np.array_equal(here, there)
    eps = float(jnp.finfo(here.dtype).eps)
    here, there = here.astype(np.float64), there.astype(np.float64)
    largest = np.abs(there[np.isfinite(there)]).max(initial=0)  # a mask of attention holds −inf
    return np.allclose(here, there, rtol=0, atol=max(share, 2 * eps) * largest, equal_nan=True)


def _as_data(leaf: Any) -> Array:
    """A leaf as an ordinary array: the words of a random key."""
    array = jnp.asarray(leaf)
    return jax.random.key_data(array) if jnp.issubdtype(array.dtype, jax.dtypes.prng_key) else array


def _as_key(array: Array, like: Any) -> Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like))
    return array
