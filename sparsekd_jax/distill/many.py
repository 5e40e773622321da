"""Many runs in one compiled program: seeds, temperatures, weights and hyper-parameters as a vmapped axis."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from sparsekd_jax._numerics import at_least_float32
from sparsekd_jax._refusals import whole
from sparsekd_jax.distill import _program
from sparsekd_jax.distill._sources import (
    DataSet,
    require_data,
    require_halves,
    require_in_memory,
    source_of,
    whole_seed,
)
from sparsekd_jax.distill._teachers import require_same_classes, teacher_logits
from sparsekd_jax.distill._trainer import DivergedError, Progress, Row, history_row, nan_metric
from sparsekd_jax.distill.loop import Result
from sparsekd_jax.distill.losses import require_distributions
from sparsekd_jax.distill.plan import Plan
from sparsekd_jax.operators.base import SofteningOperator
from sparsekd_jax.sparsity import Select, current_masks, is_kernel
from sparsekd_jax.sparsity._arguments import require_optimizer, require_select


def run_many(
    students: Sequence[nnx.Module],
    teachers: Sequence[nnx.Module | Float[Array, "n K"]],
    data: DataSet,
    plans: Plan | Sequence[Plan],
    *,
    optimizer: optax.GradientTransformation,
    seeds: Sequence[int],
    rows: Int[ArrayLike, "M m"] | None = None,
    batch_size: int = 128,
    record_every: int = 100,
    where: Select = is_kernel,
    on_progress: Progress | None = None,
) -> list[Result]:
    """`run` for M members at once: ``jax.vmap`` over everything that differs between them.

    Plans prune by magnitude, are taught by the original teacher (a module or its logits, not a partial one),
    and have no stage that ends early; histories have no columns of a validation half.

    Members share the architecture, the data, the steps and the sparsity of every stage; they may differ in
    initial weights, teacher, seed, temperature, α, scale, learning rate, and the real hyper-parameters of one
    operator family, such as the α of `TsallisSoftening`. Each member gets what `run` would have given it, to
    the rounding of batched matrix products. `sparsekd bench training` says from which M this pays on the
    machine at hand.

    Args:
        students: M modules of one architecture; untouched.
        teachers: M modules or arrays of training logits ``[n, K]``.
        data: arrays of a training and a test half.
        plans: one for all, or M of them.
        optimizer: as `run`.
        seeds: M seeds of the order of the data.
        rows: by member, the training examples it learns from, counted from 0, with repeats if it drew them
            with replacement; all of them by default.
        batch_size: examples a step and member.
        record_every: steps between rows of the histories.
        where: which parameters may lose weights.
        on_progress: called after each record with (steps done, total steps).

    Returns:
        M results, in order.

    Raises:
        ValueError: lengths, architectures or plans that cannot share one program, rows that are not there;
            the argument is named.
        TypeError: a list, seed, optimizer or ``where`` that is none; a TopK or Samples teacher.
        DivergedError: a member's loss became NaN or infinite, or its NLL NaN; says which member.

    >>> import optax
    >>> from sparsekd_jax import data, distill, models
    >>> digits, plan = data.digits(), distill.stages(sparsity=0.5, num_stages=1, total_steps=10)
    >>> members = [models.MLP((64, 8, 10), rngs=nnx.Rngs(seed)) for seed in (0, 1)]
    >>> results = run_many(members, members, digits, plan, optimizer=optax.sgd(0.1), seeds=(0, 1))
    >>> [round(result.history[-1]["sparsity"], 2) for result in results]
    [0.5, 0.5]
    """
    for argument, given in (("students", students), ("teachers", teachers), ("seeds", seeds)):
        if not hasattr(given, "__len__"):
            raise TypeError(f"{argument} is a {type(given).__name__}; give a list, one a member")
    record_every = whole("record_every", record_every)
    seeds = [whole_seed(f"seeds[{i}]", seed) for i, seed in enumerate(seeds)]
    require_optimizer("optimizer", optimizer)
    require_select(where)
    require_data(data)
    size = len(students)
    plans = [plans] * size if isinstance(plans, Plan) else list(plans)
    _require_one_program(students, teachers, plans, seeds)
    require_in_memory(data, "run_many")
    total = plans[0].total_steps
    arrays, _ = source_of(data, seeds[0], batch_size, total).steps(0, total)
    index = _batches(rows, seeds, arrays["inputs"].shape[0], batch_size, total)
    test = jnp.asarray(data.test_inputs), jnp.asarray(data.test_labels)
    wrapped = _program.sparsified(optimizer, where)
    _program.require_trainable("students[0]", optimizer, _program.split(students[0])[1])
    given, *held = zip(*[_program.split(student) for student in students], strict=True)
    params, rest = (_stack(trees) for trees in held)
    carry = (params, rest, jax.vmap(wrapped.init)(params))
    awake = _program.split_for_evaluation(students[0])
    shape_of = functools.partial(_program.logits_shape, "students[0]", *awake)
    num_classes = require_halves("students[0]", data, arrays, shape_of)
    trained = _program.split_for_training(students[0])
    _program.require_steady("students[0]", *trained, arrays["inputs"], batch_size)
    taught = [teacher_logits(t, arrays) for t in teachers]
    for own in taught:
        require_same_classes(own.shape[-1], num_classes)
    logits = jnp.stack(taught)
    program = _members(trained[0], wrapped, plans[0].divergence)
    judge = _judge(awake[0])
    paths = [_point(carry)]
    records: list[tuple[dict[str, Any], dict[str, Array], Any]] = []

    def record(event: str, stage: int, step: int, sparsity: float, means: dict[str, Array]) -> Array:
        row = {"event": event, "stage": stage, "step": step, "sparsity": sparsity}
        tallies, others = judge(carry[0], carry[1], *test)
        records.append((row, means, tallies))
        return others

    step = 0
    for member, others in enumerate(record("start", 0, step, 0.0, {})):
        _program.require_logits(f"students[{member}]", others)
    for number, stage in enumerate(plans[0].stages, start=1):
        if stage.sparsity > 0:
            pruned, state = _prune_members(plans[0].score, plans[0].pattern, stage.sparsity)(
                carry[0], carry[2]
            )
            carry = (pruned, carry[1], state)
        record("pruned", number, step, stage.sparsity, {})
        softener, knobs = _knobs(plans, number - 1, logits.dtype)
        softened = jax.vmap(_program.soften_targets)(softener, logits, knobs["temperature"])
        require_distributions(plans[0].operator, softened)
        rates = jnp.asarray([plan.stages[number - 1].rates() for plan in plans], jnp.float32)
        start, end = step, step + stage.steps
        while step < end:
            count = min(record_every, end - step)
            before, at = carry[0], step - start
            carry, means, first_bad = program(
                carry, arrays, softened, knobs, index[:, step : step + count], rates[:, at : at + count]
            )
            _require_finite(jax.device_get(first_bad), number, step, total, before)
            step += count
            record("train", number, step, stage.sparsity, means)
            if on_progress is not None:
                on_progress(step, total)
        paths.append(_point(carry))
    host = jax.device_get(records)
    # Each in the mode that it was given in.
    return [_result(graphdef, carry, host, paths, member) for member, graphdef in enumerate(given)]


@functools.lru_cache(maxsize=32)
def _members(graphdef: Any, optimizer: optax.GradientTransformationExtraArgs, divergence: Any) -> Any:
    """The compiled scan of all members, the same object for the same arguments: a second run finds it."""
    objective = _program.distilled(divergence)

    def one(
        carry: PyTree, arrays: _program.Batch, softened: Array, knobs: PyTree, index: Array, rates: Array
    ) -> tuple[PyTree, dict[str, Array], Array]:
        own = {**arrays, "log_targets": softened}
        return _program.scan_steps(graphdef, optimizer, objective, carry, own, knobs, index, rates)

    return jax.jit(jax.vmap(one, in_axes=(0, None, 0, 0, 0, 0)))


@functools.lru_cache(maxsize=32)
def _judge(graphdef: Any) -> Any:
    return jax.jit(jax.vmap(functools.partial(_program.evaluate_all, graphdef), in_axes=(0, 0, None, None)))


@functools.lru_cache(maxsize=64)
def _prune_members(score: str, pattern: Any, rate: float) -> Any:
    return jax.jit(jax.vmap(lambda params, state: _program.prune(params, state, rate, score, pattern)))


def _batches(rows: Any, seeds: Sequence[int], examples: int, batch_size: int, total: int) -> Array:
    """``[M, steps, batch]``: the training examples of every batch of every member."""
    own = np.broadcast_to(np.arange(examples), (len(seeds), examples)) if rows is None else np.asarray(rows)
    if own.ndim != 2 or len(own) != len(seeds) or not np.issubdtype(own.dtype, np.integer):
        raise ValueError(f"rows is {own.dtype} {own.shape}; give [{len(seeds)}, m] integers, a row a member")
    if not 1 <= batch_size <= own.shape[1]:
        raise ValueError(
            f"batch_size must lie in [1, {own.shape[1]}] (the rows of a member), got {batch_size}"
        )
    outside = np.argwhere((own < 0) | (own >= examples))
    if outside.size:
        member, place = (int(i) for i in outside[0])
        raise ValueError(
            f"rows[{member}, {place}] is {own[member, place]}; the training examples are 0 to {examples - 1}"
        )
    order = [_program.epochs(jax.random.key(seed), own.shape[1], batch_size, total) for seed in seeds]
    return jnp.stack([jnp.asarray(mine)[which] for mine, which in zip(own, order, strict=True)])


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _require_finite(first_bad: Any, stage: int, step: int, total: int, before: PyTree) -> None:
    bad = first_bad >= 0
    if bad.any():
        member = int(bad.argmax())
        at = step + int(first_bad[member]) + 1
        raise _diverged("loss", member, stage, at, total, _member(nnx.to_pure_dict(before), member))


def _diverged(tensor: str, member: int, stage: int, step: int, total: int, params: PyTree) -> DivergedError:
    return DivergedError(
        f"{tensor} of member {member} is not finite in stage {stage}, at step {step} of {total}: lower the "
        "learning rate, or leave it out",
        stage=stage,
        step=step,
        tensor=tensor,
        params=jax.device_get(params),
    )


def _point(carry: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """What a result keeps of a stage: parameters, what is beside them, masks."""
    params, rest, state = carry
    return nnx.to_pure_dict(params), rest, nnx.to_pure_dict(current_masks(state))


def _member(tree: PyTree, member: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[member], tree)


def _knobs(plans: Sequence[Plan], stage: int, dtype: Any) -> tuple[Any, dict[str, Any]]:
    """The softener of the targets and what the scan asks for, stacked: ``[M]`` arrays, operators of them."""
    dtype = at_least_float32(dtype)
    softeners = [
        plan.operator if isinstance(plan.operator, SofteningOperator) else _program.as_pytree(plan.operator)
        for plan in plans
    ]
    stacked = _stack([jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), op) for op in softeners])
    numbers = ("temperature", "alpha", "scale")
    own = [{name: getattr(plan.stages[stage], name) for name in numbers} for plan in plans]
    stacked_numbers = {name: jnp.asarray([o[name] for o in own], dtype) for name in numbers}
    return stacked, {"operator": stacked if plans[0].soften_student else None, **stacked_numbers}


def _require_one_program(
    students: Sequence[nnx.Module], teachers: Sequence[Any], plans: Sequence[Plan], seeds: Sequence[int]
) -> None:
    size = len(students)
    if size == 0:
        raise ValueError("students is empty: give at least one member")
    for i, plan in enumerate(plans):
        if not isinstance(plan, Plan):
            raise TypeError(f"plans[{i}] is a {type(plan).__name__}; make one by distill.stages(...)")
    for argument, given in (("teachers", teachers), ("plans", plans), ("seeds", seeds)):
        if len(given) != size:
            raise ValueError(f"{argument} has {len(given)} entries for {size} students; give one a member")

    if plans[0].score != "magnitude":
        raise ValueError(
            f"score of the plans is {plans[0].score}; run_many prunes by magnitude, run does all"
        )

    if plans[0].teacher != "original" or any(stage.may_end_early for stage in plans[0].stages):
        raise ValueError(
            "plans whose stages end early, or whose teacher is the stage before, cannot share one program; "
            "run their members one by one"
        )

    def shape(model: nnx.Module) -> Any:
        graphdef, params, rest = _program.split_for_training(model)
        return graphdef, jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (params, rest))

    for member, (student, plan) in enumerate(zip(students, plans, strict=True)):
        if shape(student) != shape(students[0]):
            raise ValueError(
                f"students[{member}] has another architecture than students[0]; run it by itself"
            )
        for field in ("score", "pattern", "soften_student", "divergence", "teacher"):
            if getattr(plan, field) != getattr(plans[0], field):
                raise ValueError(f"plans[{member}] has another {field} than plans[0]; members share it")
        for field in ("steps", "sparsity"):
            if [getattr(s, field) for s in plan.stages] != [getattr(s, field) for s in plans[0].stages]:
                raise ValueError(
                    f"plans[{member}] has other {field} of stages than plans[0]; members share them"
                )
        family: Any = jax.tree.structure(plans[0].operator)
        if jax.tree.structure(plan.operator) != family:
            raise ValueError(
                f"plans[{member}] has operator {plan.operator_name}, plans[0] {plans[0].operator_name}: only "
                "the real hyper-parameters of one family may differ; call run_many once a family"
            )


def _result(graphdef: Any, carry: PyTree, host: list[Any], paths: list[PyTree], member: int) -> Result:
    params, rest, _ = _member(carry, member)
    path, rests, masks = ([_member(stage[part], member) for stage in paths] for part in range(3))
    history: list[Row] = []
    tally = None
    for row, means, tallies in host:
        tally = _member(tallies, member)
        history.append(history_row(row, _member(means, member), tally))
        metric = nan_metric(history[-1])
        if metric is not None:
            before = path[max(row["stage"] - 1, 0)]
            raise _diverged(metric, member, row["stage"], row["step"], host[-1][0]["step"], before)
    assert tally is not None  # there is a row for the start
    return Result(nnx.merge(graphdef, params, rest), history, path, rests, masks, tally)
