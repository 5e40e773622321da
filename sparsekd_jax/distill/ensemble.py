"""An ensemble for bias and variance: teacher and students trained again and again, on data drawn anew."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx
from jaxtyping import Float, Int

from sparsekd_jax import sparsity
from sparsekd_jax._refusals import whole
from sparsekd_jax.distill import _program
from sparsekd_jax.distill._sources import DataSet, require_in_memory
from sparsekd_jax.distill._trainer import Progress
from sparsekd_jax.distill.divergences import widened
from sparsekd_jax.distill.loop import fit, run
from sparsekd_jax.distill.many import run_many
from sparsekd_jax.distill.plan import Plan
from sparsekd_jax.distill.stages import stages


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """What m members say of the test half: arrays for `theory.bias_variance`.

    Attributes:
        teachers: ``[m, n, K]`` probabilities of the teachers.
        students: by plan, ``[m, n, K]`` probabilities of the students; member k was taught by teacher k.
        labels: ``[n]``, of the test half.
        resample: what differs between members.
    """

    teachers: Float[np.ndarray, "m n K"]
    students: dict[str, Float[np.ndarray, "m n K"]]
    labels: Int[np.ndarray, " n"]
    resample: Literal["data", "seed"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Drawn:
    train_inputs: Any
    train_labels: Any
    test_inputs: Any
    test_labels: Any
    train_weights: Any
    validation_inputs: Any
    validation_labels: Any


def ensemble(
    build: Callable[[int], nnx.Module],
    data: DataSet,
    plans: Mapping[str, Plan],
    *,
    members: int,
    teacher_steps: int,
    optimizer: optax.GradientTransformation,
    seed: int,
    size: int | None = None,
    resample: Literal["data", "seed"] = "data",
    batch_size: int = 128,
    where: sparsity.Select = sparsity.is_kernel,
    vmap: bool = False,
    on_progress: Progress | None = None,
) -> Ensemble:
    """Train m teachers, and from each a student of every plan, and gather their test probabilities.

    Bias and variance are over random training data, so each member draws its own: ``size`` rows of the
    training half with replacement, from which its teacher and all its students learn. Members also differ in
    initial weights and in the order of the data. Their first layer of chance taken away (``resample="seed"``)
    leaves the variance of optimisation, which is another quantity.

    Args:
        build: a model of a seed.
        data: arrays of a training and a test half, with one label an example; weights and a validation half
            go along.
        plans: by name, what the students are.
        members: m ≥ 2.
        teacher_steps: steps of a teacher, which starts from ``build(seed)``; students start from it.
        optimizer: of teachers and students; members share its compiled programs.
        seed: of everything; member k draws from (seed, k).
        size: examples a member learns from, by default all that there are.
        resample: "data" draws rows anew for each member; "seed" gives all of them the first ``size`` rows.
        batch_size: examples a step, at most ``size``.
        where: which parameters may lose weights.
        vmap: train all teachers in one program, and all students of a plan in one, by `run_many`: the same
            members, to the rounding of batched products, of plans that it takes (scored by magnitude, taught
            by the original teacher, no stage that ends early). `sparsekd bench training` says from how many
            members on it pays.
        on_progress: called with (members done, m); with ``vmap`` when all are trained.

    Returns:
        Probabilities of teachers and students, for `theory.bias_variance.compare`.

    Raises:
        ValueError: a number outside its range, or what `fit` and `run`, or `run_many`, refuse.
        TypeError: a number that is not whole, plans without names.

    >>> from sparsekd_jax import data, distill, models
    >>> plans = {"half": distill.stages(sparsity=0.5, num_stages=1, total_steps=5)}
    >>> build = lambda seed: models.MLP((64, 8, 10), rngs=nnx.Rngs(seed))
    >>> settings = {"members": 2, "teacher_steps": 5, "optimizer": optax.adam(1e-3), "seed": 0, "size": 100}
    >>> pairs = ensemble(build, data.digits(), plans, resample="data", batch_size=32, **settings)
    >>> pairs.students["half"].shape
    (2, 450, 10)
    """
    require_in_memory(data, "ensemble")
    inputs, labels = np.asarray(data.train_inputs), np.asarray(data.train_labels)
    rows = len(inputs)
    size = rows if size is None else whole("size", size, -math.inf)
    seed = whole("seed", seed, 0)
    if whole("members", members, -math.inf) < 2:
        raise ValueError(f"members must be at least 2, got {members}: one has no variance")
    if not isinstance(plans, Mapping):
        raise TypeError(f'plans is a {type(plans).__name__}; give them by name, such as {{"half": plan}}')
    if not plans:
        raise ValueError("plans is empty: name at least one student")
    if size < 1 or (resample == "seed" and size > rows):
        raise ValueError(f"size must lie in [1, {rows}], the training examples, got {size}")
    if resample not in ("data", "seed"):
        raise ValueError(f"resample must be 'data' or 'seed', got {resample!r}")
    draws = [_draw(seed, member, rows, size, resample) for member in range(members)]
    settings = {"optimizer": optimizer, "batch_size": batch_size}
    job = _Job(build, draws, plans, teacher_steps, where, settings)
    if vmap:
        models = _at_once(job, data)
    else:
        beside = {"test_inputs": data.test_inputs, "test_labels": data.test_labels}
        beside |= {name: getattr(data, name, None) for name in ("validation_inputs", "validation_labels")}
        weights = getattr(data, "train_weights", None)

        def own(chosen: np.ndarray) -> _Drawn:
            weigh = None if weights is None else np.asarray(weights)[chosen]
            return _Drawn(inputs[chosen], labels[chosen], train_weights=weigh, **beside)

        models = _one_by_one(job, own)
    teachers: list[np.ndarray] = []
    students: dict[str, list[np.ndarray]] = {name: [] for name in plans}
    probes = jnp.asarray(data.test_inputs)
    for member, (teacher, taught) in enumerate(models, start=1):
        teachers.append(_probs(teacher, probes))
        for name, student in taught.items():
            students[name].append(_probs(student, probes))
        if on_progress is not None:
            on_progress(member, members)
    stacked = {name: np.stack(probs) for name, probs in students.items()}
    return Ensemble(np.stack(teachers), stacked, np.asarray(data.test_labels), resample)


class _Draw(NamedTuple):
    chosen: np.ndarray
    model_seed: int
    order: int


def _draw(seed: int, member: int, rows: int, size: int, resample: str) -> _Draw:
    """What a member learns from, the seed of its initial weights, and that of the order of its data."""
    rng = np.random.default_rng((seed, member))
    chosen = rng.integers(0, rows, size) if resample == "data" else np.arange(size)
    return _Draw(chosen, *(int(x) for x in rng.integers(0, 2**31, 2)))


_Trained = tuple[nnx.Module, dict[str, nnx.Module]]
"""A teacher, and by plan the students it taught."""


class _Job(NamedTuple):
    build: Callable[[int], nnx.Module]
    draws: list[_Draw]
    plans: Mapping[str, Plan]
    teacher_steps: int
    where: sparsity.Select
    settings: dict[str, Any]


def _one_by_one(job: _Job, own: Callable[[np.ndarray], _Drawn]) -> Iterator[_Trained]:
    for draw in job.draws:
        model = job.build(draw.model_seed)
        rows, common = own(draw.chosen), {"seed": draw.order, **job.settings}
        steps = job.teacher_steps
        teacher = fit(model, rows, steps=steps, record_every=steps, **common).student
        students = {}
        for name, plan in job.plans.items():
            options = {"record_every": _longest(plan), "where": job.where, **common}
            students[name] = run(teacher, teacher, rows, plan, **options).student
        yield teacher, students


def _at_once(job: _Job, data: DataSet) -> Iterator[_Trained]:
    """The same, vmapped: a teacher is trained by a stage of labels alone (α = 1) that prunes nothing."""
    common = {
        "seeds": [draw.order for draw in job.draws],
        "rows": np.stack([draw.chosen for draw in job.draws]),
        "where": job.where,
        **job.settings,
    }
    steps = job.teacher_steps
    labels_alone = stages(sparsity=0.0, num_stages=1, total_steps=steps, alpha=1.0)
    models = [job.build(draw.model_seed) for draw in job.draws]
    trained = run_many(models, models, data, labels_alone, record_every=steps, **common)
    teachers = [result.student for result in trained]
    taught = {
        name: run_many(teachers, teachers, data, plan, record_every=_longest(plan), **common)
        for name, plan in job.plans.items()
    }
    for member, teacher in enumerate(teachers):
        yield teacher, {name: results[member].student for name, results in taught.items()}


def _longest(plan: Plan) -> int:
    return max(stage.steps for stage in plan.stages)


def _probs(model: nnx.Module, inputs: Any) -> np.ndarray:
    logits = _program.logits_of(*_program.split_for_evaluation(model), inputs, inputs.shape[0])
    return np.asarray(jax.nn.softmax(widened(logits), axis=-1))
