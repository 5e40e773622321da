"""Distil through a plan of stages, train on hard labels, evaluate: the loops that people call."""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from sparsekd_jax import sparsity
from sparsekd_jax._durable import fingerprint
from sparsekd_jax._numerics import at_least_float32
from sparsekd_jax._refusals import is_traced, real, whole
from sparsekd_jax.distill import _observed, _program, _teachers
from sparsekd_jax.distill._placement import on_host
from sparsekd_jax.distill._program import Batch, Objective
from sparsekd_jax.distill._sources import Batches, DataSet, require_classes, require_examples
from sparsekd_jax.distill._trainer import Progress, Row, Trainer
from sparsekd_jax.distill.losses import require_distributions
from sparsekd_jax.distill.metrics import Tally
from sparsekd_jax.distill.plan import Plan, Stage
from sparsekd_jax.operators.base import Operator, SofteningOperator
from sparsekd_jax.targets import Samples, Target, TopK, soften


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What a run leaves.

    Attributes:
        student: the trained model, a new module; the one passed in is untouched.
        history: one row a record, in order of steps: the stage's sparsity as the plan has it, the training
            loss since the last record (the mean over labels, by their weights if they have any), and
            accuracy, NLL and calibration error on the test half; ``event`` is "start", "pruned" or "train".
            With a validation half also its accuracy and NLL, and in the last row of a stage that ended early
            ``ended``, the reason.
        path: parameters S_0 (as given), S_1, …, S_n after each stage.
        rests: what was beside them at the same points: batch statistics, random streams.
        masks: those of the same points, in the structure of the parameters: bool arrays, True where a weight
            is kept, None where none can be dropped. Zeros that an optimizer makes itself are kept weights.
        final: the metrics of the student on the test half.
    """

    student: nnx.Module
    history: list[Row]
    path: list[PyTree]
    rests: list[PyTree]
    masks: list[PyTree]
    final: Tally

    def __repr__(self) -> str:
        """Where the run ended, not its arrays.

        >>> from sparsekd_jax.distill import tally
        >>> final = tally(jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([0, 0]))
        >>> rows = [{"step": 20, "sparsity": 0.5}]
        >>> Result(nnx.Module(), rows, [{}, {}], [{}, {}], [{}, {}], final)
        Result(stages=1, steps=20, sparsity=0.5, accuracy=0.5, nll=0.7201)
        """
        last = self.history[-1]
        return (
            f"Result(stages={len(self.path) - 1}, steps={last['step']}, sparsity={last['sparsity']:.4g}, "
            f"accuracy={self.final.accuracy:.4g}, nll={self.final.mean_nll:.4g})"
        )

    def model(self, stage: int, *, pruned: bool = False) -> nnx.Module:
        """The student as a stage left it, in evaluation mode; stage 0 is the one given.

        Args:
            stage: an index of ``path``.
            pruned: just after the prune of the stage instead, before its first step: the parameters that the
                stage before left, under the masks of this stage.

        Returns:
            A new module.

        Raises:
            ValueError: stage 0 has no prune.
            IndexError: no such stage.
        """
        graphdef, params, _ = _program.split(self.student)
        params = jax.tree.map(lambda leaf: leaf, params)
        if not -len(self.path) <= stage < len(self.path):
            raise IndexError(f"stage is {stage}; this run has the stages 0 to {len(self.path) - 1}")
        at = stage
        if pruned:
            at = range(len(self.path))[stage] - 1
            if at < 0:
                raise ValueError("stage 0 is the student as given; the first prune is that of stage 1")
        point = self.path[at]
        if pruned:
            point = sparsity.apply_masks(point, self.masks[stage])
        nnx.replace_by_pure_dict(params, point)
        model = nnx.merge(graphdef, params, self.rests[at], copy=True)
        model.eval()
        return model


def run(
    student: nnx.Module,
    teacher: nnx.Module | Float[Array, "n *L K"] | Target,
    data: DataSet | Batches,
    plan: Plan,
    *,
    optimizer: optax.GradientTransformation,
    seed: int,
    tail: str | None = None,
    batch_size: int = 128,
    record_every: int = 100,
    where: sparsity.Select = sparsity.is_kernel,
    cache_teacher: bool = True,
    on_progress: Progress | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 30.0,
    keep: int = 2,
    resume: bool | int = False,
    mesh: Mesh | None = None,
) -> Result:
    """Distil a teacher into a student through the stages of a plan.

    Each stage prunes, ``w ← m·w`` with m the mask of its sparsity, and takes its steps on ``mean over the
    labels of the batch of (1 − α)·c·D(F_T(p_t), q_s) + α·CE(y, p_s)``, D the plan's divergence. The order of
    the data depends on ``seed`` and the total number of steps alone: plans of equal effort see equal batches.

    The optimizer state runs through the stages, save the moments of dropped weights.

    Args:
        student: an NNX module from inputs to logits, ``[B, K]``, or ``[B, L, K]`` of sequences; its
            parameters are where the path starts. A copy trains, in training mode (``nnx.Module.train``)
            whatever mode it is in; it comes back in the mode that it was given in.
        teacher: an NNX module, used in evaluation mode; or its training logits, ``[n, K]`` or ``[n, L, K]``;
            or what it revealed of the training rows, a `targets.Dense`, `TopK` or `Samples` of batch shape
            ``[n]`` or ``[n, L]``. `TopK` and `Samples` are softened once a stage, by `targets.soften`, and
            compared by forward KL; both sides are softened by power alone.
        data: arrays of a training and a test half (`data.Arrays` or the like), or `Batches`.
        plan: from `stages`.
        optimizer: an optax transformation; `sparsity.sparsify` is wrapped around it here. Its update gets
            ``value`` (the loss) and ``grad``, as `optax.contrib.reduce_on_plateau` asks, but no ``value_fn``.
            `optax.MultiSteps` averages batches alike, whatever their labels weigh: with uneven weights that
            is not one large batch.
            Runs that reuse one object share one compilation.
        seed: of the order of the data; no default.
        tail: for a `TopK` or `Samples` teacher, what the loss does with unseen tokens, a name of
            `TAIL_POLICIES` but "sampled" (see `target_divergence`); no default.
        batch_size: examples a step; `Batches` bring their own.
        record_every: steps between rows of the history, and between looks at whether a stage ends early.
        where: which parameters may lose weights, such as `sparsity.by_path` of names.
        cache_teacher: evaluate the teacher once for all training examples, and hold its softened targets,
            ``n·K`` numbers; False evaluates it in every step, for what does not fit. Never of `Batches`.
        on_progress: called after each record with (steps done, total steps); it waits for the device.
        checkpoint_dir: a directory of this run alone, for its checkpoints and its history so far
            (history.jsonl, a row a record). A run that is killed and resumed ends with the same bits as one
            that is not, on the same machine and libraries. What an optimizer closes over (its learning rate)
            is not checked.
        checkpoint_every: seconds between checkpoints, looked at after each record; the end is always kept.
        keep: how many of the newest checkpoints stay.
        resume: go on from the newest checkpoint, if there is one; or from that of a step.
        mesh: devices to train on, such as ``jax.make_mesh((8,), ("data",))``: each takes an equal part of
            every batch, by its axis "data" or else its first, and all else is copied to each, save what is
            placed on this mesh already (a student whose output layer is split by the vocabulary stays so).
            The same numbers as on one device, to rounding; a checkpoint resumes under any number of devices.

    Returns:
        The student, its history, its path, its final metrics.

    Raises:
        ValueError: sizes, labels or classes that do not fit together; a model that gives probabilities, or
            holds other variables after a call than before; an operator whose rows do not sum to 1; an
            optimizer that cannot take a step on the parameters; a plan or a tail that a partial teacher
            cannot serve; resume without a directory.
        TypeError: an argument that is another kind of thing, such as labels that are no class ids; a partial
            teacher and an operator that has no bound on it.
        DivergedError: a FloatingPointError; the loss or a parameter became NaN or infinite, or an evaluation
            gave NaN: the message says which, in which stage, at which step.
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
    if not isinstance(plan, Plan):
        raise TypeError(f"plan is a {type(plan).__name__}; make one by distill.stages(...) or Plan.from_json")
    _require_directory(checkpoint_dir, checkpoint_every, resume)
    trainer = Trainer(
        student,
        data,
        optimizer,
        plan.total_steps,
        seed=seed,
        batch_size=batch_size,
        record_every=record_every,
        on_progress=on_progress,
        where=where,
        mesh=mesh,
    )
    _require_validation(plan, trainer)
    cached = cache_teacher and not trainer.source.streamed
    taught_by = _teachers.taught_by(teacher, trainer, cached)
    _observed.require(plan, taught_by, tail)
    if checkpoint_dir is not None:
        identity = {
            "plan": plan.describe(),
            "operator": _numbers_of(plan.operator),
            "teacher": fingerprint(*map(on_host, _teachers.arrays_of(teacher, taught_by))),
            "cache_teacher": cached,
            **_observed.identity(taught_by, tail),
        }
        taught = None
        if isinstance(teacher, nnx.Module) and isinstance(taught_by, jax.Array):
            taught = taught_by[: _teachers.TAUGHT]
        trainer.keep_in(checkpoint_dir, checkpoint_every, keep, resume, identity, taught)
    trainer.begin()
    for number, stage in enumerate(plan.stages, start=1):
        if trainer.stages_done >= number:
            continue
        if plan.teacher == "previous" and number > 1:
            taught_by = _teachers.taught_by(trainer.stage_model(), trainer, cached)
        lesson = _lesson(plan, stage, taught_by, tail, trainer.num_classes)
        if trainer.step == trainer.stage_start:
            trainer.prune(plan, number, *lesson)
        trainer.advance(stage, number, *lesson, last=number == len(plan.stages))
    return _result(trainer)


def fit(
    model: nnx.Module,
    data: DataSet | Batches,
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
    mesh: Mesh | None = None,
) -> Result:
    """Train a dense model on hard labels: ``mean over the batch of −log softmax(z)_y``.

    Args:
        model: as `run`'s student: untouched, a trained copy is returned, in its mode.
        data: arrays of a training and a test half, or `Batches`.
        steps: optimizer steps, at least 1.
        optimizer: as `run`.
        seed: of the order of the data; no default.
        batch_size: examples a step.
        record_every: steps between rows of the history.
        on_progress: called after each record with (steps done, total steps).
        checkpoint_dir: as `run`, and so are ``checkpoint_every``, ``keep`` and ``resume``.
        checkpoint_every: seconds between checkpoints.
        keep: how many stay.
        resume: go on from the newest checkpoint, or from that of a step.
        mesh: as `run`.

    Returns:
        As `run`, the trained model under ``student``.

    Raises:
        ValueError: as `run`.
        TypeError: as `run`.
        DivergedError: as `run`.
        CheckpointError: as `run`.

    >>> import optax
    >>> from flax import nnx
    >>> from sparsekd_jax import data, models
    >>> model = models.MLP((64, 16, 10), rngs=nnx.Rngs(0))
    >>> result = fit(model, data.digits(), steps=30, optimizer=optax.adamw(1e-2), seed=0)
    >>> result.final.accuracy > 0.5
    True
    """
    steps = whole("steps", steps)
    _require_directory(checkpoint_dir, checkpoint_every, resume)
    trainer = Trainer(
        model,
        data,
        optimizer,
        steps,
        seed=seed,
        batch_size=batch_size,
        record_every=record_every,
        on_progress=on_progress,
        mesh=mesh,
        argument="model",
    )
    if checkpoint_dir is not None:
        identity = {"supervised_steps": steps}
        trainer.keep_in(checkpoint_dir, checkpoint_every, keep, resume, identity)
    trainer.begin()
    if trainer.stages_done == 0:
        supervised = Stage(sparsity=0.0, temperature=1.0, steps=steps, scale=1.0, alpha=1.0)
        trainer.advance(supervised, 1, _program.supervised, {}, {}, last=True)
    return _result(trainer)


def evaluate(model: nnx.Module, inputs: Float[Array, "n ..."], labels: Int[Array, " n *L"]) -> Tally:
    """Accuracy, NLL and calibration error of a model, in evaluation mode, a slice of the examples at a time.

    Args:
        model: an NNX module from inputs to logits.
        inputs: ``[n, ...]``.
        labels: ``[n]`` or ``[n, L]``, classes in [0, K).

    Returns:
        The sums as a `Tally`.

    Raises:
        TypeError: no module, or labels that are no class ids.
        ValueError: no example, inputs that hold NaN, labels that do not fit the inputs and the model's
            logits, or probabilities for logits.

    >>> from flax import nnx
    >>> from sparsekd_jax import models
    >>> model = models.MLP((3, 2), rngs=nnx.Rngs(0))
    >>> float(evaluate(model, jnp.zeros((5, 3)), jnp.zeros(5, jnp.int32)).count)
    5.0
    """
    _program.require_module("model", model)
    require_examples("", inputs, labels)
    split, inputs = _program.split_for_evaluation(model), jnp.asarray(inputs)
    if not is_traced(inputs, labels):
        require_classes("", labels, _program.logits_shape("model", *split, inputs), "model")
    found, others = _program.evaluate_all(*split, inputs, jnp.asarray(labels))
    _program.require_logits("model", others)
    return found


def _result(trainer: Trainer) -> Result:
    student = nnx.merge(trainer.given_graphdef, trainer.carry[0], trainer.carry[1])
    assert trainer.final is not None  # recorded at the start at the latest
    return Result(student, trainer.history, trainer.path, trainer.rests, trainer.masks, trainer.final)


def _require_directory(checkpoint_dir: Any, checkpoint_every: Any, resume: bool | int) -> None:
    if not isinstance(checkpoint_dir, str | os.PathLike | None):
        raise TypeError(f"checkpoint_dir is a {type(checkpoint_dir).__name__}; give the path of a directory")
    if not real("checkpoint_every", checkpoint_every) >= 0:
        raise ValueError(f"checkpoint_every is {checkpoint_every}; give seconds, 0 for every record")
    if not isinstance(resume, bool):
        whole("resume", resume, least=0)
    if checkpoint_dir is None and resume is not False:
        raise ValueError(
            f"resume is {resume}, but there is no checkpoint_dir to go on from: give the run's own"
        )


def _numbers_of(operator: Operator) -> str | None:
    """What the operator's name does not say, such as the prior that it draws to; of a function, nothing."""
    if not isinstance(operator, SofteningOperator):
        return None
    return fingerprint(*jax.tree.leaves(operator))


def _lesson(
    plan: Plan, stage: Stage, taught_by: _teachers.Taught, tail: str | None, num_classes: int
) -> tuple[Objective, Batch, dict[str, Any]]:
    """What a stage trains on: its objective, its softened targets where they are held, and its numbers."""
    operator = plan.operator
    if not isinstance(operator, SofteningOperator):
        operator = _program.as_pytree(operator)
    params = taught_by[1] if isinstance(taught_by, tuple) else taught_by
    dtype = jnp.result_type(*[a for a in jax.tree.leaves(params) if jnp.issubdtype(a.dtype, jnp.floating)])
    dtype = at_least_float32(dtype)
    knobs: dict[str, Any] = {
        "operator": operator if plan.soften_student else None,
        "temperature": jnp.asarray(stage.temperature, dtype),
        "alpha": jnp.asarray(stage.alpha, dtype),
        "scale": jnp.asarray(stage.scale, dtype),
    }
    if isinstance(taught_by, TopK | Samples):
        softened = soften(operator, taught_by, knobs["temperature"])
        return _program.observed(str(tail)), {"softened": softened}, knobs
    if not isinstance(taught_by, tuple):
        targets = _program.soften_targets(operator, taught_by, knobs["temperature"])
        require_distributions(plan.operator, targets)
        return _program.distilled(plan.divergence), {"log_targets": targets}, knobs
    # Its rows are only known in the step; a function that does not normalise is off on any.
    probe = _program.soften_targets(
        operator, jnp.linspace(0, 4, num_classes, dtype=dtype), knobs["temperature"]
    )
    require_distributions(plan.operator, probe)
    graphdef, params, rest = taught_by
    taught = {"softener": operator, "teacher": (params, rest)}
    return _program.distilled(plan.divergence, graphdef), {}, {**knobs, **taught}


def _require_validation(plan: Plan, trainer: Trainer) -> None:
    early = [k for k, stage in enumerate(plan.stages, start=1) if stage.may_end_early]
    if early and trainer.validation is None:
        raise ValueError(
            f"data has no validation half, and stage {early[0]} of the plan ends early by one: give "
            "validation_inputs and validation_labels (such as data.digits(validation_size=0.1)), or leave "
            "recover_to and patience out"
        )
