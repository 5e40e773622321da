"""Many runs in one compiled program: seeds, temperatures, weights and hyper-parameters as a vmapped axis."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from flax import nnx
from jaxtyping import Array, Float, PyTree

from sparsekd_jax.distill._trainer import (
    DataSet,
    Progress,
    _as_pytree,
    _epochs,
    _evaluate,
    _prune,
    _scan_steps,
    _soften_targets,
    _sparsified,
    _split,
    _split_for_evaluation,
    _teacher_logits,
    distilled,
    history_row,
)
from sparsekd_jax.distill.loop import Result
from sparsekd_jax.distill.stages import Plan
from sparsekd_jax.operators.base import SofteningOperator


def run_ensemble(
    students: Sequence[nnx.Module],
    teachers: Sequence[nnx.Module | Float[Array, "n K"]],
    data: DataSet,
    plans: Plan | Sequence[Plan],
    *,
    optimizer: optax.GradientTransformation,
    seeds: Sequence[int],
    batch_size: int = 128,
    record_every: int = 100,
    on_progress: Progress | None = None,
) -> list[Result]:
    """`run` for M members at once: ``jax.vmap`` over everything that differs between them.

    Members share the architecture, the data, the steps and the sparsity of every stage; they may differ in
    initial weights, teacher, seed, temperature, α, scale, and the real hyper-parameters of one operator
    family, such as the α of `TsallisSoftening`. Each member gets what `run` would have given it, to the
    rounding of batched matrix products. What pays on a GPU need not on a CPU: benchmarks/ says from which M.

    Args:
        students: M modules of one architecture; untouched.
        teachers: M modules or arrays of training logits ``[n, K]``.
        data: arrays of a training and a test half.
        plans: one for all, or M of them.
        optimizer: any optax transformation.
        seeds: M seeds of the order of the data.
        batch_size: examples a step and member.
        record_every: steps between rows of the histories.
        on_progress: called after each record with (steps done, total steps).

    Returns:
        M results, in order.

    Raises:
        ValueError: lengths, architectures or plans that cannot share one program; the argument is named.
        FloatingPointError: a member's loss became NaN or infinite; says which member.

    >>> import optax
    >>> from sparsekd_jax import data, distill, models
    >>> digits, plan = data.digits(), distill.stages(sparsity=0.5, num_stages=1, total_steps=10)
    >>> members = [models.MLP((64, 8, 10), rngs=nnx.Rngs(seed)) for seed in (0, 1)]
    >>> results = run_ensemble(members, members, digits, plan, optimizer=optax.sgd(0.1), seeds=(0, 1))
    >>> [round(result.history[-1]["sparsity"], 2) for result in results]
    [0.5, 0.5]
    """
    size = len(students)
    plans = [plans] * size if isinstance(plans, Plan) else list(plans)
    _require_one_program(students, teachers, plans, seeds)
    inputs, labels = jnp.asarray(data.train_inputs), jnp.asarray(data.train_labels)
    test = jnp.asarray(data.test_inputs), jnp.asarray(data.test_labels)
    rows = inputs.shape[0]
    if not 1 <= batch_size <= rows:
        raise ValueError(f"batch_size must lie in [1, {rows}] (the training examples), got {batch_size}")
    wrapped = _sparsified(optimizer)
    graphdef = _split(students[0])[0]
    params, rest = _stack([_split(student)[1:] for student in students])
    carry = (params, rest, jax.vmap(wrapped.init)(params))
    total = plans[0].total_steps
    index = jnp.stack([_epochs(jax.random.key(seed), rows, batch_size, total) for seed in seeds])
    logits = jnp.stack([_teacher_logits(teacher, inputs) for teacher in teachers])
    program = _program(graphdef, wrapped, plans[0].divergence)
    judge = _judge(_split_for_evaluation(students[0])[0])
    paths = [nnx.to_pure_dict(params)]
    records: list[tuple[dict[str, Any], dict[str, Array], Any]] = []

    def record(event: str, stage: int, step: int, sparsity: float, means: dict[str, Array]) -> None:
        row = {"event": event, "stage": stage, "step": step, "sparsity": sparsity}
        records.append((row, means, judge(carry[0], carry[1], *test)))

    step = 0
    record("start", 0, step, 0.0, {})
    for number, stage in enumerate(plans[0].stages, start=1):
        if stage.sparsity > 0:
            pruned, state = _prune_members(plans[0].score, plans[0].pattern, stage.sparsity)(
                carry[0], carry[2]
            )
            carry = (pruned, carry[1], state)
        record("pruned", number, step, stage.sparsity, {})
        knobs = _knobs(plans, number - 1, logits.dtype)
        softened = jax.vmap(_soften_targets)(knobs["softener"], logits, knobs["temperature"])
        end = step + stage.steps
        while step < end:
            count = min(record_every, end - step)
            carry, means, first_bad = program(
                carry, inputs, labels, softened, knobs, index[:, step : step + count]
            )
            bad = jax.device_get(first_bad)
            if (bad >= 0).any():
                member = int((bad >= 0).argmax())
                raise FloatingPointError(
                    f"loss of member {member} is not finite in stage {number}, at step "
                    f"{step + int(bad[member]) + 1} of {total}: lower the learning rate, or leave it out"
                )
            step += count
            record("train", number, step, stage.sparsity, means)
            if on_progress is not None:
                on_progress(step, total)
        paths.append(nnx.to_pure_dict(carry[0]))
    host = jax.device_get(records)
    return [_result(graphdef, carry, host, paths, member) for member in range(size)]


@functools.lru_cache(maxsize=32)
def _program(graphdef: Any, optimizer: optax.GradientTransformation, divergence: Any) -> Any:
    """The compiled scan of all members, the same object for the same arguments: a second run finds it."""

    objective = distilled(divergence)

    def one(
        carry: PyTree, inputs: Array, labels: Array, softened: Array, knobs: PyTree, index: Array
    ) -> tuple[PyTree, dict[str, Array], Array]:
        targets = {"labels": labels, "log_targets": softened}
        used = {name: knobs[name] for name in ("operator", "temperature", "alpha", "scale")}
        return _scan_steps(graphdef, optimizer, objective, carry, inputs, targets, used, index)

    return jax.jit(jax.vmap(one, in_axes=(0, None, None, 0, 0, 0)))


@functools.lru_cache(maxsize=32)
def _judge(graphdef: Any) -> Any:
    return jax.jit(jax.vmap(functools.partial(_evaluate, graphdef), in_axes=(0, 0, None, None)))


@functools.lru_cache(maxsize=64)
def _prune_members(score: str, pattern: Any, rate: float) -> Any:
    return jax.jit(jax.vmap(lambda params, state: _prune(params, state, rate, score, pattern)))


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _knobs(plans: Sequence[Plan], stage: int, dtype: Any) -> dict[str, Any]:
    """What differs between members, stacked: ``[M]`` arrays, and an operator whose leaves are."""
    softeners = [
        plan.operator if isinstance(plan.operator, SofteningOperator) else _as_pytree(plan.operator)
        for plan in plans
    ]
    softener = _stack([jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), op) for op in softeners])
    return {
        "softener": softener,
        "operator": softener if plans[0].soften_student else None,
        "temperature": jnp.asarray([plan.stages[stage].temperature for plan in plans], dtype),
        "alpha": jnp.asarray([plan.alpha for plan in plans], dtype),
        "scale": jnp.asarray([plan.stages[stage].scale for plan in plans], dtype),
    }


def _require_one_program(
    students: Sequence[nnx.Module], teachers: Sequence[Any], plans: Sequence[Plan], seeds: Sequence[int]
) -> None:
    size = len(students)
    if size == 0:
        raise ValueError("students is empty: an ensemble needs at least one member")
    for argument, given in (("teachers", teachers), ("plans", plans), ("seeds", seeds)):
        if len(given) != size:
            raise ValueError(f"{argument} has {len(given)} entries for {size} students; give one a member")

    if plans[0].score != "magnitude":
        raise ValueError(
            f"score of the plans is {plans[0].score}; an ensemble prunes by magnitude, run does all"
        )

    def shape(model: nnx.Module) -> Any:
        graphdef, params, rest = _split(model)
        return graphdef, jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (params, rest))

    for member, (student, plan) in enumerate(zip(students, plans, strict=True)):
        if shape(student) != shape(students[0]):
            raise ValueError(
                f"students[{member}] has another architecture than students[0]; run it by itself"
            )
        for field in ("score", "pattern", "soften_student", "divergence"):
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
                "the real hyper-parameters of one family may differ; run one ensemble a family"
            )


def _result(graphdef: Any, carry: PyTree, host: list[Any], paths: list[PyTree], member: int) -> Result:
    params, rest, _ = jax.tree.map(lambda leaf: leaf[member], carry)
    history, tally = [], None
    for row, means, tallies in host:
        tally = jax.tree.map(lambda leaf: leaf[member], tallies)
        history.append(history_row(row, {name: mean[member] for name, mean in means.items()}, tally))
    assert tally is not None  # there is a row for the start
    path = [jax.tree.map(lambda leaf: leaf[member], stage) for stage in paths]
    return Result(nnx.merge(graphdef, params, rest), history, path, tally)
