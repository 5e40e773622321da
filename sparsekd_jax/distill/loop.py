"""The training loop: a scan on device inside a stage, masks renewed between scans."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from sparsekd_jax import sparsity
from sparsekd_jax.distill.losses import Operator, cross_entropy, soften_log_probs, student_divergence
from sparsekd_jax.distill.metrics import Tally, tally
from sparsekd_jax.distill.stages import Plan
from sparsekd_jax.operators.base import SofteningOperator

Progress = Callable[[int, int], None]
"""Called with (steps done, total steps) as a run proceeds."""
Row = dict[str, Any]


class DataSet(Protocol):
    """What the loop asks of data: four arrays, ``[n, ...]`` inputs and ``[n]`` integer labels."""

    @property
    def train_inputs(self) -> Any: ...  # noqa: D102
    @property
    def train_labels(self) -> Any: ...  # noqa: D102
    @property
    def test_inputs(self) -> Any: ...  # noqa: D102
    @property
    def test_labels(self) -> Any: ...  # noqa: D102


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves.

    Attributes:
        student: the trained model, a new module; the one passed in is untouched.
        history: one row a record, in order of steps: the training loss since the last record, and accuracy,
            NLL and calibration error on the test half; ``event`` is "start", "pruned" or "train".
        path: parameters S_0 (as given), S_1, …, S_n after each stage.
        final: the metrics of the student on the test half.
    """

    student: nnx.Module
    history: list[Row]
    path: list[PyTree]
    final: Tally


# -- what is compiled: pure functions of their arguments, so that an ensemble can vmap them ----------------


def _supervised(logits: Array, targets: Any, knobs: Any) -> tuple[Array, dict[str, Array]]:
    del knobs
    loss = cross_entropy(logits, targets["labels"])
    return loss, {"cross_entropy": loss}


def _distilled(logits: Array, targets: Any, knobs: Any) -> tuple[Array, dict[str, Array]]:
    divergence = student_divergence(logits, targets["log_targets"], knobs["operator"], knobs["temperature"])
    entropy = cross_entropy(logits, targets["labels"])
    loss = (1 - knobs["alpha"]) * knobs["scale"] * divergence + knobs["alpha"] * entropy
    return loss, {"divergence": divergence, "cross_entropy": entropy}


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
) -> tuple[PyTree, dict[str, Array]]:
    """``index.shape[0]`` optimizer steps on device; the means of the loss and its parts come back."""

    def loss_of(params: PyTree, rest: PyTree, rows: Array) -> Any:
        model = nnx.merge(graphdef, params, rest, copy=True)  # its own variables, which this trace may write
        loss, parts = objective(model(inputs[rows]), jax.tree.map(lambda t: t[rows], targets), knobs)
        _, _, rest = _split(model)
        return jnp.mean(loss), (jax.tree.map(jnp.mean, parts), rest)

    def step(carry: PyTree, rows: Array) -> tuple[PyTree, dict[str, Array]]:
        params, rest, state = carry
        (loss, (parts, rest)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, rest, rows)
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), rest, state), {"loss": loss, **parts}

    carry, record = jax.lax.scan(step, carry, index)
    return carry, jax.tree.map(jnp.mean, record)


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
def _prune(params: PyTree, state: PyTree, rate: float, score: str, pattern: str) -> tuple[PyTree, PyTree]:
    state = sparsity.update_masks(state, params, rate, score=score, pattern=pattern)
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


# -- what is public ---------------------------------------------------------------------------------------


def run(
    student: nnx.Module,
    teacher: nnx.Module | Float[Array, "n K"],
    data: DataSet,
    plan: Plan,
    *,
    optimizer: optax.GradientTransformation,
    seed: int,
    batch_size: int = 128,
    record_every: int = 100,
    on_progress: Progress | None = None,
) -> Result:
    """Distil a teacher into a student through the stages of a plan.

    Each stage prunes, ``w ← m·w`` with m the mask of its sparsity, softens the teacher's targets once, and
    takes its steps on ``mean over the batch of (1 − α)·c·KL(F_T(p_t)‖q_s) + α·CE(y, p_s)``. The order of the
    data depends on ``seed`` and the total number of steps alone: plans of equal effort see equal batches.

    The optimizer state runs through the stages, save the moments of dropped weights.

    Args:
        student: an NNX module from inputs to logits; its parameters are where the path starts.
        teacher: an NNX module, evaluated once in evaluation mode; or its training logits, ``[n, K]``.
        data: arrays of a training and a test half.
        plan: from `stages`.
        optimizer: any optax transformation; `sparsity.sparsify` is wrapped around it here. Runs that reuse
            one object share one compilation.
        seed: of the order of the data; no default.
        batch_size: examples a step.
        record_every: steps between rows of the history.
        on_progress: called after each record with (steps done, total steps); it waits for the device.

    Returns:
        The student, its history, its path, its final metrics.

    Raises:
        ValueError: sizes that do not fit together.
        FloatingPointError: the loss became NaN or infinite; the message says in which stage, by which step.

    >>> import optax
    >>> from flax import nnx
    >>> from sparsekd_jax import data, distill, models
    >>> teacher, student = (models.MLP((64, 16, 10), rngs=nnx.Rngs(seed)) for seed in (0, 1))
    >>> plan = distill.stages(sparsity=0.5, num_stages=2, total_steps=20)
    >>> result = distill.run(student, teacher, data.digits(), plan, optimizer=optax.adamw(1e-3), seed=0)
    >>> len(result.path), result.history[-1]["step"], round(result.history[-1]["sparsity"], 4)
    (3, 20, 0.5)
    """
    steps = plan.total_steps
    trainer = _Trainer(student, data, optimizer, steps, seed, batch_size, record_every, on_progress)
    logits = _teacher_logits(teacher, trainer.inputs)
    operator = plan.operator if isinstance(plan.operator, SofteningOperator) else _as_pytree(plan.operator)
    path = [trainer.pure_params()]
    trainer.record("start", stage=0)
    for number, stage in enumerate(plan.stages, start=1):
        trainer.prune(stage.sparsity, plan.score, plan.pattern)
        trainer.record("pruned", stage=number)
        dtype = logits.dtype
        temperature = jnp.asarray(stage.temperature, dtype)
        knobs = {
            "operator": operator if plan.soften_student else None,
            "temperature": temperature,
            "alpha": jnp.asarray(plan.alpha, dtype),
            "scale": jnp.asarray(stage.scale, dtype),
        }
        targets = {"labels": trainer.labels, "log_targets": _soften_targets(operator, logits, temperature)}
        trainer.advance(stage.steps, _distilled, targets, knobs, stage=number)
        path.append(trainer.pure_params())
    return trainer.result(path)


def fit(
    model: nnx.Module,
    data: DataSet,
    *,
    steps: int,
    optimizer: optax.GradientTransformation,
    seed: int,
    batch_size: int = 128,
    record_every: int = 100,
    on_progress: Progress | None = None,
) -> Result:
    """Train a dense model on hard labels: ``mean over the batch of −log softmax(z)_y``.

    Args:
        model: an NNX module from inputs to logits; untouched, a trained copy is returned.
        data: arrays of a training and a test half.
        steps: optimizer steps, at least 1.
        optimizer: any optax transformation.
        seed: of the order of the data; no default.
        batch_size: examples a step.
        record_every: steps between rows of the history.
        on_progress: called after each record with (steps done, total steps).

    Returns:
        As `run`, the trained model under ``student``.

    Raises:
        ValueError: sizes that do not fit together.
        FloatingPointError: the loss became NaN or infinite.

    >>> import optax
    >>> from flax import nnx
    >>> from sparsekd_jax import data, models
    >>> model = models.MLP((64, 16, 10), rngs=nnx.Rngs(0))
    >>> result = fit(model, data.digits(), steps=30, optimizer=optax.adamw(1e-2), seed=0)
    >>> result.final.accuracy > 0.5
    True
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    trainer = _Trainer(model, data, optimizer, steps, seed, batch_size, record_every, on_progress)
    path = [trainer.pure_params()]
    trainer.record("start", stage=0)
    trainer.advance(steps, _supervised, {"labels": trainer.labels}, {}, stage=1)
    return trainer.result([*path, trainer.pure_params()])


def evaluate(model: nnx.Module, inputs: Float[Array, "n ..."], labels: Int[Array, " n"]) -> Tally:
    """Accuracy, NLL and calibration error of a model, in evaluation mode.

    Args:
        model: an NNX module from inputs to logits.
        inputs: ``[n, ...]``.
        labels: ``[n]``, classes in [0, K).

    Returns:
        The sums as a `Tally`.

    >>> from flax import nnx
    >>> from sparsekd_jax import models
    >>> model = models.MLP((3, 2), rngs=nnx.Rngs(0))
    >>> float(evaluate(model, jnp.zeros((5, 3)), jnp.zeros(5, jnp.int32)).count)
    5.0
    """
    graphdef, params, rest = _split_for_evaluation(model)
    return _evaluate(graphdef, params, rest, jnp.asarray(inputs), jnp.asarray(labels))


# -- plumbing ---------------------------------------------------------------------------------------------


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


class _Trainer:
    """The state of one run between scans. Mutable, private, and gone when the run is over."""

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
        self.record_every, self.on_progress = record_every, on_progress
        self.total_steps, self.step, self.sparsity = total_steps, 0, 0.0
        self.rows: list[tuple[Row, dict[str, Array], Tally]] = []

    def pure_params(self) -> PyTree:
        return nnx.to_pure_dict(self.carry[0])

    def prune(self, rate: float, score: str, pattern: str) -> None:
        self.sparsity = rate
        if rate == 0:  # sparsities never fall, so nothing was dropped before either
            return
        params, rest, state = self.carry
        params, state = _prune(params, state, rate, score, pattern)
        self.carry = (params, rest, state)

    def advance(
        self, steps: int, objective: Callable[..., Any], targets: PyTree, knobs: PyTree, stage: int
    ) -> None:
        end = self.step + steps
        first = len(self.rows)
        while self.step < end:
            size = min(self.record_every, end - self.step)
            index = self.index[self.step : self.step + size]
            self.carry, means = _scan_steps(
                self.graphdef, self.optimizer, objective, self.carry, self.inputs, targets, knobs, index
            )
            self.step += size
            self.record("train", stage, means)
            if self.on_progress is not None:
                jax.block_until_ready(means)
                self.on_progress(self.step, self.total_steps)
        # One transfer a stage, after its last scan.
        for row, means, _ in jax.device_get(self.rows[first:]):
            if not math.isfinite(means["loss"]):
                raise FloatingPointError(
                    f"loss is {means['loss']} in stage {stage}, by step {row['step']} of {self.total_steps}: "
                    "lower the learning rate, or look at the operator's gradients where the teacher is near 0"
                )

    def record(self, event: str, stage: int, means: dict[str, Array] | None = None) -> None:
        params, rest, _ = self.carry
        metrics = _evaluate(self.eval_graphdef, params, rest, *self.test)
        row = {"event": event, "stage": stage, "step": self.step, "sparsity": self.sparsity}
        self.rows.append((row, means or {}, metrics))

    def result(self, path: list[PyTree]) -> Result:
        rows = jax.device_get(self.rows)  # one transfer for the whole run
        history = [
            {
                **row,
                **{name: float(mean) for name, mean in means.items()},
                "accuracy": metrics.accuracy,
                "nll": metrics.mean_nll,
                "calibration_error": metrics.calibration_error,
            }
            for row, means, metrics in rows
        ]
        student = nnx.merge(self.graphdef, self.carry[0], self.carry[1])
        return Result(student=student, history=history, path=path, final=self.rows[-1][2])
