"""What is compiled: pure functions of a model's graph, its parameters and arrays of examples."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax  # type: ignore[import-untyped]
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree

from sparsekd_jax import sparsity
from sparsekd_jax._refusals import is_traced
from sparsekd_jax.distill.divergences import Divergence, times, widened
from sparsekd_jax.distill.losses import (
    Operator,
    cross_entropy,
    soften_log_probs,
    student_divergence,
    weighted_sum,
)
from sparsekd_jax.distill.metrics import Tally, tally
from sparsekd_jax.distill.target_losses import target_divergence
from sparsekd_jax.sparsity.masks import named_leaves
from sparsekd_jax.sparsity.state import is_sparsify_state

LABELS_AT_ONCE = 2**16
"""Labels that an evaluation holds the logits of at one time."""

Batch = dict[str, Any]
"""``inputs`` and ``labels``, perhaps ``weights``, and ``log_targets`` or ``softened``: arrays, or pytrees of
them, whose first axis is examples."""
Objective = Callable[[Array, Batch, Any], tuple[Array, dict[str, Array]]]
"""``(logits, batch, knobs) -> (loss of each label, its named parts)``."""


def supervised(logits: Array, batch: Batch, knobs: Any) -> tuple[Array, dict[str, Array]]:
    """The objective of `fit`."""
    del knobs
    loss = cross_entropy(logits, batch["labels"])
    return loss, {"cross_entropy": loss}


@functools.lru_cache(maxsize=32)
def distilled(divergence: str | Divergence, teacher_graphdef: Any = None) -> Objective:
    """The objective of a stage; one function for equal arguments: a second run finds its compiled scan.

    ``knobs["operator"]`` softens the student's side, None leaves it. With the graph of a teacher, the targets
    are made in the step, from ``knobs["teacher"]`` by ``knobs["softener"]``; without, they are the batch's
    ``log_targets``, whatever made them, so that operators whose student is not softened share a program.
    """

    def objective(logits: Array, batch: Batch, knobs: Any) -> tuple[Array, dict[str, Array]]:
        temperature = knobs["temperature"]
        if teacher_graphdef is None:
            log_targets = batch["log_targets"]
        else:
            taught = nnx.merge(teacher_graphdef, *knobs["teacher"], copy=True)(batch["inputs"])
            log_targets = soften_targets(knobs["softener"], jax.lax.stop_gradient(taught), temperature)
        distance = student_divergence(
            logits, log_targets, knobs["operator"], temperature, divergence=divergence
        )
        return _with_labels(distance, logits, batch, knobs)

    return objective


@functools.lru_cache(maxsize=32)
def observed(tail: str) -> Objective:
    """The objective of a stage whose teacher is seen in part: the batch's ``softened``, a pytree of rows.

    ``knobs["operator"]`` is None, or power, which softens the student's side as logits over T.
    """

    def objective(logits: Array, batch: Batch, knobs: Any) -> tuple[Array, dict[str, Array]]:
        own = logits if knobs["operator"] is None else logits / knobs["temperature"].astype(logits.dtype)
        distance = target_divergence(own, batch["softened"], tail)
        return _with_labels(distance, logits, batch, knobs)

    return objective


def _with_labels(distance: Array, logits: Array, batch: Batch, knobs: Any) -> tuple[Array, dict[str, Array]]:
    entropy = cross_entropy(logits, batch["labels"])
    loss = times((1 - knobs["alpha"]) * knobs["scale"], distance) + times(knobs["alpha"], entropy)
    return loss, {"divergence": distance, "cross_entropy": entropy}


def _loss_of(graphdef: Any, objective: Objective, arrays: Batch, knobs: PyTree) -> Callable[..., Any]:
    def loss_of(params: PyTree, rest: PyTree, rows: Array) -> Any:
        model = nnx.merge(graphdef, params, rest, copy=True)  # its own variables, which this trace may write
        batch = jax.tree.map(lambda array: array[rows], arrays)
        loss, parts = objective(widened(model(batch["inputs"])), batch, knobs)
        _, _, rest = split(model)

        weights = batch.get("weights")
        return _mean(loss, weights), (jax.tree.map(lambda part: _mean(part, weights), parts), rest)

    return loss_of


def _mean(values: Array, weights: Array | None) -> Array:
    """``Σ w_i v_i / Σ w_i``, one division for all, so that padding weighs nothing; of padding alone value
    and gradient are 0, not 0/0."""
    if weights is None:
        return jnp.mean(values)
    total = weighted_sum(values, weights)
    return total.numerator / jnp.where(total.denominator == 0, 1, total.denominator)


@functools.partial(jax.jit, static_argnames=("graphdef", "objective"))
def mean_gradients(
    graphdef: Any,
    objective: Objective,
    params: PyTree,
    rest: PyTree,
    arrays: Batch,
    knobs: PyTree,
    index: Int[Array, "batches batch"],
) -> PyTree:
    """The gradients at one point, averaged over batches in float32 at least; for the scores that ask for
    them."""
    loss_of = _loss_of(graphdef, objective, arrays, knobs)

    def add(total: PyTree, rows: Array) -> tuple[PyTree, None]:
        gradients, _ = jax.grad(loss_of, has_aux=True)(params, rest, rows)
        return jax.tree.map(lambda own, new: own + widened(new), total, gradients), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(widened(leaf)), params)
    total, _ = jax.lax.scan(add, zeros, index)
    return jax.tree.map(lambda leaf: leaf / index.shape[0], total)


@functools.partial(jax.jit, static_argnames=("graphdef", "optimizer", "objective"))
def scan_steps(
    graphdef: Any,
    optimizer: optax.GradientTransformationExtraArgs,
    objective: Objective,
    carry: PyTree,
    arrays: Batch,
    knobs: PyTree,
    index: Int[Array, "steps batch"],
    rates: Float[Array, " steps"],
) -> tuple[PyTree, dict[str, Array], Array]:
    """``index.shape[0]`` optimizer steps on device: the carry, the means of the loss and its parts over the
    labels of all steps, and the place of the first loss that is not finite (−1 where all are)."""
    loss_of = _loss_of(graphdef, objective, arrays, knobs)

    def step(carry: PyTree, at: tuple[Array, Array]) -> tuple[PyTree, tuple[dict[str, Array], Any]]:
        rows, rate = at
        params, rest, state = carry
        (loss, (parts, rest)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, rest, rows)
        updates, state = optimizer.update(gradients, state, params, rate=rate, value=loss)
        weight = jnp.sum(widened(arrays["weights"][rows])) if "weights" in arrays else None
        return (optax.apply_updates(params, updates), rest, state), ({"loss": loss, **parts}, weight)

    carry, (record, weights) = jax.lax.scan(step, carry, (index, rates))
    bad = ~jnp.isfinite(record["loss"])
    first_bad = jnp.where(bad.any(), jnp.argmax(bad), -1)
    return carry, jax.tree.map(lambda losses: _mean(losses, weights), record), first_bad


@functools.partial(jax.jit, static_argnames=("graphdef", "rows_at_once"))
def logits_of(graphdef: Any, params: PyTree, rest: PyTree, inputs: Array, rows_at_once: int) -> Array:
    """Logits of all inputs, a slice of them at a time."""

    def some(rows: Array) -> Array:
        return nnx.merge(graphdef, params, rest, copy=True)(rows)

    stacked, last = _in_slices(some, inputs, rows_at_once)
    joined = [] if stacked is None else [stacked.reshape(-1, *stacked.shape[2:])]
    return jnp.concatenate([*joined, *([] if last is None else [last])])


@functools.partial(jax.jit, static_argnames="graphdef")
def evaluate_all(
    graphdef: Any, params: PyTree, rest: PyTree, inputs: Array, labels: Array
) -> tuple[Tally, Array]:
    """The tally of all examples, a slice of them at a time, and how many rows are no probabilities."""

    def some(rows: tuple[Array, Array]) -> tuple[Tally, Array]:
        logits = nnx.merge(graphdef, params, rest, copy=True)(rows[0])
        return tally(logits, rows[1]), jnp.sum(~are_probabilities(logits))

    stacked, last = _in_slices(some, (inputs, labels), rows_at_once(labels))
    if stacked is None:
        return last
    total = jax.tree.map(lambda sums: jnp.sum(sums, axis=0), stacked)
    return total if last is None else jax.tree.map(jnp.add, total, last)


def are_probabilities(logits: Array) -> Array:
    """For each row, whether it is ≥ 0 and sums to 1, as a model that ends in softmax gives it."""
    wide = widened(logits)
    return (wide >= 0).all(-1) & (jnp.abs(wide.sum(-1) - 1) < 0.01)


def require_logits(argument: str, others: Array) -> None:
    """Refuse a model of whose rows none is anything else than probabilities."""
    if not is_traced(others) and int(others) == 0:
        raise ValueError(
            f"{argument} gives rows that are ≥ 0 and sum to 1, which are probabilities; leave the softmax "
            "out: losses and metrics take logits"
        )


def rows_at_once(labels: Array) -> int:
    """How many examples an evaluation takes at one time."""
    return max(1, LABELS_AT_ONCE // max(1, math.prod(labels.shape[1:])))


def _in_slices(function: Callable[[Any], Any], arrays: PyTree, size: int) -> tuple[Any, Any]:
    """``function`` of every full slice of ``size`` rows, stacked, and of the rest; None if there is none."""
    rows = jax.tree.leaves(arrays)[0].shape[0]
    whole = rows - rows % size
    stacked = last = None
    if whole:
        sliced = jax.tree.map(lambda a: a[:whole].reshape(-1, size, *a.shape[1:]), arrays)
        stacked = jax.lax.map(function, sliced)
    if whole < rows:
        last = function(jax.tree.map(lambda a: a[whole:], arrays))
    return stacked, last


@jax.jit
def soften_targets(operator: Operator, logits: Array, temperature: Array) -> Array:
    """``log F_T(softmax z)``, the targets of a stage."""
    return soften_log_probs(operator, jax.nn.log_softmax(widened(logits), axis=-1), temperature)


@jax.jit
def all_finite(params: PyTree) -> PyTree:
    """For each array, whether all of it is finite."""
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), params)


@jax.jit
def keep_good(
    good: tuple[PyTree, Array], params: PyTree, first_bad: Array, losses: PyTree
) -> tuple[PyTree, Array]:
    """The parameters of the last record up to which all was finite, and whether that is this record."""
    kept, sound = good
    held = [*jax.tree.leaves(all_finite(params)), *(~jnp.isnan(loss) for loss in jax.tree.leaves(losses))]
    sound = sound & (first_bad < 0) & jnp.stack(held).all()
    return jax.tree.map(lambda new, old: jnp.where(sound, new, old), params, kept), sound


@functools.partial(jax.jit, static_argnames=("rate", "score", "pattern"))
def prune(
    params: PyTree,
    state: PyTree,
    rate: float,
    score: str,
    pattern: str | sparsity.Pattern,
    gradients: PyTree | None = None,
    key: Array | None = None,
) -> tuple[PyTree, PyTree]:
    """New masks of a rate, and the parameters under them."""
    state = sparsity.update_masks(
        state, params, rate, score=score, pattern=pattern, gradients=gradients, key=key
    )
    return sparsity.apply_masks(params, sparsity.current_masks(state)), state


@functools.lru_cache(maxsize=32)
def sparsified(
    optimizer: optax.GradientTransformation, where: sparsity.Select
) -> optax.GradientTransformationExtraArgs:
    """The optimizer with a ``rate`` on its updates, masked; one object for equal arguments."""
    inner = optax.with_extra_args_support(optimizer)
    known = inspect.signature(inner.update).parameters
    takes_all = any(own.kind is inspect.Parameter.VAR_KEYWORD for own in known.values())

    def update(
        updates: PyTree, state: PyTree, params: PyTree | None = None, *, rate: Array, value: Array
    ) -> tuple[PyTree, PyTree]:
        # The gradients as the masks leave them: what is dropped shows no optimizer a gradient.
        extra = {"value": value, "grad": updates}
        extra = {name: given for name, given in extra.items() if takes_all or name in known}
        steps, state = inner.update(updates, state, params, **extra)
        return jax.tree.map(lambda step: step * rate.astype(step.dtype), steps), state

    return sparsity.sparsify(optax.GradientTransformationExtraArgs(inner.init, update), where=where)


def require_trainable(argument: str, optimizer: optax.GradientTransformation, params: PyTree) -> None:
    """Refuse parameters that have no gradient, and an optimizer that could not take a step on them, before
    anything is computed."""
    for name, leaf in named_leaves(params).items():
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"{argument} has the parameter {name} of dtype {leaf.dtype}, which has no gradient; hold it "
                "in another nnx.Variable than nnx.Param"
            )
    if not jax.tree.leaves(params):  # refused by the init of the masks
        return
    transform = sparsified.__wrapped__(optimizer, lambda name, leaf: True)  # not to crowd the cache of runs

    def step(params: PyTree, number: Array) -> Any:
        return transform.update(params, transform.init(params), params, rate=number, value=number)

    try:
        jax.eval_shape(step, params, jax.ShapeDtypeStruct((), jnp.float32))
    except Exception as error:  # of any kind: what an optimizer raises is its own
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"optimizer cannot take a step on the parameters ({first}). It is called as update(gradients, "
            "state, params, value=loss, grad=gradients), params an nnx.State: take one that needs no "
            "value_fn (no line search) and no parameters of its own form (lookahead), and give masked or "
            "partition a function of the parameters for its tree"
        ) from error
    state = jax.eval_shape(optimizer.init, params)
    if any(is_sparsify_state(node) for node in jax.tree.leaves(state, is_leaf=is_sparsify_state)):
        raise ValueError(
            "optimizer is wrapped by sparsify already, whose own where and straight_through would not count "
            "here; pass the optimizer inside it, and where as an argument"
        )


@functools.partial(jax.jit, static_argnames=("size", "batch_size", "steps"))
def epochs(key: Array, size: int, batch_size: int, steps: int) -> Int[Array, "steps batch"]:
    """Rows of each batch: a fresh shuffle an epoch, the incomplete last batch of an epoch left out."""
    per_epoch = size // batch_size
    keys = jax.random.split(key, math.ceil(steps / per_epoch))
    shuffled = jax.vmap(lambda k: jax.random.permutation(k, size)[: per_epoch * batch_size])(keys)
    return shuffled.reshape(-1, batch_size)[:steps]


def split(model: nnx.Module) -> tuple[Any, PyTree, PyTree]:
    """Graph, parameters, and whatever else the module holds (batch statistics, random streams)."""
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)  # type: ignore[misc]
    return graphdef, params, rest


def split_for_training(model: nnx.Module) -> tuple[Any, PyTree, PyTree]:
    """The same of a copy in training mode: what was evaluated last would train without dropout."""
    model = nnx.clone(model)
    model.train()
    return split(model)


def split_for_evaluation(model: nnx.Module) -> tuple[Any, PyTree, PyTree]:
    """The same of a copy in evaluation mode."""
    model = nnx.clone(model)
    model.eval()
    return split(model)


def require_module(argument: str, model: Any) -> None:
    """Refuse what is no NNX module: a class, its parameters, the result of a run."""
    if not isinstance(model, nnx.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        hint = f", such as {argument}.student of a result" if hasattr(model, "student") else ""
        if hasattr(model, "apply") and hasattr(model, "lazy_init"):  # a Linen module
            hint = f": nnx.bridge.ToNNX({argument}, rngs=nnx.Rngs(seed)).lazy_init(inputs)"
        raise TypeError(f"{argument} is {kind}; pass the nnx.Module itself{hint}")


def logits_shape(
    argument: str, graphdef: Any, params: PyTree, rest: PyTree, inputs: Array
) -> tuple[int, ...]:
    """The shape of a model's logits, nothing computed; inputs that it does not take are refused."""
    try:
        logits = jax.eval_shape(lambda p, r, x: nnx.merge(graphdef, p, r, copy=True)(x), params, rest, inputs)
    except (TypeError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        remedy = "reshape the data, or give the model another first layer"
        if "required positional argument" in first or "required keyword-only argument" in first:
            remedy = (
                "it is called with the inputs alone: give the rest defaults; train() and eval() set modes"
            )
        if isinstance(error, jax.errors.JAXTypeError):  # an if on values, or numpy code
            remedy = "it is compiled: write it with jax.numpy, jnp.where for an if on values"
        raise ValueError(
            f"{argument} does not take inputs of shape {inputs.shape} and dtype {inputs.dtype} "
            f"({first}); {remedy}"
        ) from error
    shape: tuple[int, ...] | None = getattr(logits, "shape", None)
    if not shape or len(shape) < 2:
        raise ValueError(
            f"{argument} maps inputs to a {type(logits).__name__}{f' of shape {shape}' if shape else ''}; "
            "it must return logits [B, K] or [B, L, K] alone"
        )
    if shape[-1] < 2:
        raise ValueError(
            f"{argument} gives logits of shape {shape}, {shape[-1]} a label, and one class is always right: "
            "return one logit a class, of two classes [0, z] for a logit z"
        )
    return shape


def named_shapes(tree: PyTree) -> dict[str, str]:
    """What each array of a pytree is, by name, such as ``{"kernel": "float32[64, 10]"}``."""
    return {name: f"{leaf.dtype.name}{list(leaf.shape)}" for name, leaf in named_leaves(tree).items()}


def require_steady(
    argument: str, graphdef: Any, params: PyTree, rest: PyTree, inputs: Array, batch_size: int
) -> None:
    """Refuse a model that a batch leaves with other variables than before, which no scan can carry."""
    batch = jax.ShapeDtypeStruct((batch_size, *inputs.shape[1:]), inputs.dtype)

    def called(params: PyTree, rest: PyTree, inputs: Array) -> PyTree:
        model = nnx.merge(graphdef, params, rest, copy=True)
        model(inputs)
        return split(model)[1:]

    held = [jax.eval_shape(lambda *held: held, params, rest), jax.eval_shape(called, params, rest, batch)]
    before, after = map(named_shapes, held)
    for name in [*after, *(name for name in before if name not in after)]:
        was, is_now = before.get(name, "not there"), after.get(name, "not there")
        if was != is_now:
            raise ValueError(
                f"{argument} changes what it holds when it is called: {name.partition('.')[2]} is {was} "
                f"before and {is_now} after; make every variable in __init__, keep its shape and dtype, and "
                "leave sow out"
            )


def as_pytree(function: Callable[..., Any]) -> Any:
    """A plain function as an argument of a compiled one: Partial is a pytree with the function static."""
    return jax.tree_util.Partial(function)
