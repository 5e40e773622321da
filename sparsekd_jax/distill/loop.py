"""Distil through a plan of stages, train on hard labels, evaluate: the loops that people call."""

import dataclasses
import os

import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from sparsekd_jax.distill._trainer import (
    DataSet,
    Progress,
    Row,
    Trainer,
    _as_pytree,
    _evaluate,
    _soften_targets,
    _split_for_evaluation,
    _supervised,
    _teacher_logits,
    distilled,
)
from sparsekd_jax.distill.checkpoints import fingerprint
from sparsekd_jax.distill.metrics import Tally
from sparsekd_jax.distill.stages import Plan
from sparsekd_jax.operators.base import SofteningOperator


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
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 30.0,
    keep: int = 2,
    resume: bool | int = False,
) -> Result:
    """Distil a teacher into a student through the stages of a plan.

    Each stage prunes, ``w ← m·w`` with m the mask of its sparsity, softens the teacher's targets once, and
    takes its steps on ``mean over the batch of (1 − α)·c·D(F_T(p_t), q_s) + α·CE(y, p_s)``, D the plan's
    divergence. The order of the data depends on ``seed`` and the total number of steps alone: plans of equal
    effort see equal batches.

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
        checkpoint_dir: a directory of this run alone, for its checkpoints and its history so far
            (history.jsonl). A run that is killed and resumed ends with the same bits as one that is not, on
            the same machine and libraries. What an optimizer closes over (its learning rate) is not checked.
        checkpoint_every: seconds between checkpoints, looked at after each record; the end is always kept.
        keep: how many of the newest checkpoints stay.
        resume: go on from the newest checkpoint, if there is one; or from that of a step.

    Returns:
        The student, its history, its path, its final metrics.

    Raises:
        ValueError: sizes that do not fit together.
        DivergedError: a FloatingPointError; the loss or a parameter became NaN or infinite: the message says
            which, in which stage, at which step.
        CheckpointError: the directory or the disk refuses, or a checkpoint is damaged or of another run.

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
    trainer = Trainer(student, data, optimizer, steps, seed, batch_size, record_every, on_progress)
    logits = _teacher_logits(teacher, trainer.inputs)
    if checkpoint_dir is not None:
        identity = {"plan": plan.describe(), "teacher": fingerprint(logits)}
        trainer.keep_in(checkpoint_dir, checkpoint_every, keep, resume, identity)
    operator = plan.operator if isinstance(plan.operator, SofteningOperator) else _as_pytree(plan.operator)
    objective = distilled(plan.divergence)
    trainer.begin()
    end = 0
    for number, stage in enumerate(plan.stages, start=1):
        start, end = end, end + stage.steps
        if trainer.stages_done >= number:
            continue
        dtype = logits.dtype
        temperature = jnp.asarray(stage.temperature, dtype)
        knobs = {
            "operator": operator if plan.soften_student else None,
            "temperature": temperature,
            "alpha": jnp.asarray(plan.alpha, dtype),
            "scale": jnp.asarray(stage.scale, dtype),
        }
        targets = {"labels": trainer.labels, "log_targets": _soften_targets(operator, logits, temperature)}
        if trainer.step == start:
            trainer.prune(plan, number, objective, targets, knobs)
            trainer.record("pruned", stage=number)
        trainer.advance(start, end, objective, targets, knobs, stage=number)
    return _result(trainer)


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
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 30.0,
    keep: int = 2,
    resume: bool | int = False,
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
        checkpoint_dir: as `run`, and so are ``checkpoint_every``, ``keep`` and ``resume``.
        checkpoint_every: seconds between checkpoints.
        keep: how many stay.
        resume: go on from the newest checkpoint, or from that of a step.

    Returns:
        As `run`, the trained model under ``student``.

    Raises:
        ValueError: sizes that do not fit together.
        DivergedError: the loss or a parameter became NaN or infinite.
        CheckpointError: as `run`.

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
    trainer = Trainer(model, data, optimizer, steps, seed, batch_size, record_every, on_progress)
    if checkpoint_dir is not None:
        identity = {"supervised_steps": steps}
        trainer.keep_in(checkpoint_dir, checkpoint_every, keep, resume, identity)
    trainer.begin()
    if trainer.stages_done == 0:
        trainer.advance(0, steps, _supervised, {"labels": trainer.labels}, {}, stage=1)
    return _result(trainer)


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


def _result(trainer: Trainer) -> Result:
    student = nnx.merge(trainer.graphdef, trainer.carry[0], trainer.carry[1])
    assert trainer.final is not None  # recorded at the start at the latest
    return Result(student=student, history=trainer.history, path=trainer.path, final=trainer.final)
