"""The program of `fused`: the logits of a chunk of rows at a time, gradients summed on the way."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jaxtyping import Array

from sparsekd_jax._numerics import at_least_float32
from sparsekd_jax.distill import divergences
from sparsekd_jax.distill.divergences import Divergence
from sparsekd_jax.distill.losses import cross_entropy, soften_log_probs
from sparsekd_jax.distill.target_losses import target_divergence
from sparsekd_jax.operators import PowerTransform
from sparsekd_jax.operators.base import Operator
from sparsekd_jax.targets import Softened

_HELD = 3 * 2**22
"""Logits of one side that are held at a time by default: 48 MiB in float32."""
_BLOCK = 2**18
"""Logits that a CPU turns into gradients at a time, so that the passes over them stay in its cache."""
_TILE = 2**20
"""Entries of the output matrix whose gradient is updated at a time."""

Student = tuple[Array, Array, Array | None]
"""Hidden states ``[N, d]``, matrix ``[d, V]``, bias ``[V]``."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """What belongs to each of N rows; any leaf may be cut along its first axis."""

    target: Array | Softened
    """Hidden states of the teacher, its log-probabilities, or a softened target."""
    temperature: Array
    soft: Array
    """Weight of the divergence: (1 − α)·c·w."""
    hard: Array
    """Weight of the cross-entropy: α·w."""
    live: Array
    labels: Array | None


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the program is compiled for."""

    divergence: Divergence
    soften_student: bool
    tail: str | None
    chunk: int
    block: int
    tile: int


def sizes(num_rows: int, width: int, vocab_size: int, chunk_size: int | None) -> dict[str, int]:
    """Rows of a chunk and of a block, and columns of a tile."""
    most = min(num_rows, chunk_size or max(1, _HELD // vocab_size))
    # Chunks of even size: what the last one shares with the one before is work done twice.
    chunk = -(-num_rows // -(-num_rows // most))
    # An accelerator has no cache to stay in, and is busy only with whole chunks.
    block = max(1, _BLOCK // vocab_size) if jax.default_backend() == "cpu" else chunk
    return {"chunk": chunk, "block": min(chunk, block), "tile": min(vocab_size, max(1, _TILE // width))}


def _plus(logits: Array, bias: Array | None) -> Array:
    return logits if bias is None else logits + bias.astype(logits.dtype)[None]


def _softened(operator: Operator, logits: Array, temperature: Array) -> Array:
    """``log F_T(softmax z)``; one log-softmax for power, where an operator's own entry would be a second."""
    if type(operator) is PowerTransform:
        top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
        return jax.nn.log_softmax((logits - top) / temperature[:, None], axis=-1)
    return soften_log_probs(operator, jax.nn.log_softmax(logits, axis=-1), temperature)


def _loss(settings: Settings, operator: Operator, z: Array, shown: Any, rows: Rows) -> Array:
    """``Σ soft·D + hard·CE`` over rows of logits ``[R, V]``."""
    if isinstance(shown, Softened) and shown.ids is not None:
        own = z / rows.temperature[:, None] if settings.soften_student else z
        distance = target_divergence(own, shown, settings.tail or "", mask=rows.live)
    else:
        log_p = shown.log_probs if isinstance(shown, Softened) else shown
        even = -jnp.log(jnp.asarray(z.shape[-1], log_p.dtype))
        log_p = jnp.where(rows.live[:, None], log_p, even)
        if not isinstance(shown, Softened):
            log_p = _softened(operator, log_p, rows.temperature.astype(log_p.dtype))
        own = _softened(operator, z, rows.temperature) if settings.soften_student else jax.nn.log_softmax(z)
        distance = settings.divergence(log_p.astype(z.dtype), own)
    loss = divergences.times(rows.soft, jnp.where(rows.live, distance, 0))
    if rows.labels is not None:
        loss += divergences.times(rows.hard, cross_entropy(z, rows.labels, rows.live))
    return jnp.sum(loss)


def _cut(x: Any, start: Array, size: int, axis: int = 0) -> Any:
    return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, size, axis), x)


def _window(i: Array, size: int, total: int) -> tuple[Array, Array]:
    """Where the i-th window of ``size`` starts; which of it no earlier one had (the last one overlaps)."""
    start = jnp.minimum(i * size, total - size)
    return start, start + jnp.arange(size, dtype=start.dtype) >= i * size


def _add(total: Array, part: Array, start: Array, axis: int) -> Array:
    """``total[start:…] += part``, in place."""
    old = _cut(total, start, part.shape[axis], axis)
    return jax.lax.dynamic_update_slice_in_dim(total, old + part, start, axis)


def _only(rows: Rows, fresh: Array) -> Rows:
    return dataclasses.replace(rows, live=rows.live & fresh)


# Compiled by itself: the bodies of the loops are new functions at each call, which eager code compiled anew.
@functools.partial(jax.jit, static_argnames=("settings", "wanted"), inline=True)
def _run(
    settings: Settings, student: Student, rows: Rows, shared: Any, wanted: tuple[bool, ...] = ()
) -> tuple[Array, tuple[Array | None, ...]]:
    """The numerator, and its gradients by those parts of the student that are wanted, in the sum's dtype."""
    hidden, matrix, bias = student
    teacher, operator = shared
    dtype = rows.soft.dtype
    size, block, tile = settings.chunk, settings.block, settings.tile

    def per_block(chunk: Rows, shown: Any, j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        total, z = carry
        start, fresh = _window(j, block, size)
        own, (seen, part) = _cut(z, start, block), _cut((shown, chunk), start, block)
        if teacher is not None:
            seen = _plus(seen, teacher[1])
        loss = functools.partial(_loss, settings, operator, shown=seen, rows=_only(part, fresh))
        # Biases are added here: to whole chunks they would take another buffer.
        logits = _plus(jnp.where(fresh[:, None], own, 0), bias)
        if not any(wanted):
            return total + loss(logits), z
        value, slope = jax.value_and_grad(loss)(logits)
        # The gradient takes the place of its logits: rows that an earlier block had are gradients already.
        slope = jnp.where(fresh[:, None], slope, own)
        return total + value, jax.lax.dynamic_update_slice_in_dim(z, slope, start, 0)

    def per_chunk(i: Array, carry: tuple[Array, tuple]) -> tuple[Array, tuple]:
        total, (by_hidden, by_matrix, by_bias) = carry
        start, fresh = _window(i, size, hidden.shape[0])
        chunk = _only(_cut(rows, start, size), fresh)
        # A dead row as zeros: 0 times its NaN would reach the gradient of the matrix.
        h = jnp.where(chunk.live[:, None], _cut(hidden, start, size), 0)
        z = jnp.matmul(h, matrix, preferred_element_type=dtype)
        shown: Any = chunk.target
        if teacher is not None:
            wide = at_least_float32(shown.dtype)
            shown = jnp.matmul(shown, teacher[0], preferred_element_type=wide)
        body = functools.partial(per_block, chunk, shown)
        total, z = jax.lax.fori_loop(0, -(-size // block), body, (total, z))
        slope = z.astype(hidden.dtype)
        if by_hidden is not None:
            part = jnp.matmul(slope, matrix.T, preferred_element_type=dtype)
            by_hidden = _add(by_hidden, part, start, 0)
        if by_bias is not None:
            by_bias = by_bias + jnp.sum(z, axis=0)
        if by_matrix is not None:

            def per_tile(j: Array, by_matrix: Array) -> Array:
                start, fresh = _window(j, tile, matrix.shape[1])
                columns = jnp.where(fresh[None], _cut(slope, start, tile, 1), 0)
                part = jnp.matmul(h.T, columns, preferred_element_type=dtype)
                return _add(by_matrix, part, start, 1)

            by_matrix = jax.lax.fori_loop(0, -(-matrix.shape[1] // tile), per_tile, by_matrix)
        return total, (by_hidden, by_matrix, by_bias)

    none = tuple(
        jnp.zeros(part.shape, dtype) if want and part is not None else None
        for part, want in zip(student, wanted or (False,) * 3, strict=True)
    )
    return jax.lax.fori_loop(0, -(-hidden.shape[0] // size), per_chunk, (jnp.zeros((), dtype), none))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def numerator(settings: Settings, student: Student, rows: Rows, shared: Any) -> Array:
    """``Σ soft·D + hard·CE`` over all rows, without a gradient."""
    return _run(settings, student, rows, shared)[0]


@jax.custom_jvp
def _first_order(student: Student) -> Student:
    return student


@_first_order.defjvp
def _(primals: Any, tangents: Any) -> Any:
    raise TypeError(
        "linear_distillation_loss has no second derivatives: its gradient is computed in the forward pass, "
        "without logits to go back to; use distillation_loss on hidden @ matrix"
    )


def _forward(settings: Settings, student: Any, rows: Any, shared: Any) -> Any:
    is_leaf = lambda x: isinstance(x, CustomVJPPrimal)  # noqa: E731
    if any(leaf.perturbed for leaf in jax.tree.leaves((rows, shared), is_leaf=is_leaf)):
        raise TypeError(
            "linear_distillation_loss is differentiable in the student (hidden, matrix, bias) only, not in "
            "temperature, alpha, scale, weights or the operator: use jax.lax.stop_gradient on them, or "
            "distillation_loss on hidden @ matrix"
        )
    wanted = tuple(part is not None and part.perturbed for part in student)
    student, rows, shared = jax.tree.map(lambda x: x.value, (student, rows, shared), is_leaf=is_leaf)
    total, slopes = _run(settings, _first_order(student), rows, shared, wanted)
    # Arrays without elements carry the dtypes to return.
    return total, (slopes, tuple(None if x is None else jnp.zeros((0,), x.dtype) for x in student))


def _backward(settings: Settings, saved: Any, cotangent: Any) -> Any:
    slopes, dtypes = saved
    if isinstance(cotangent, SymbolicZero):
        return None, None, None
    scaled = tuple(
        None if slope is None else (slope * cotangent).astype(like.dtype)
        for slope, like in zip(slopes, dtypes, strict=True)
    )
    return scaled, None, None


numerator.defvjp(_forward, _backward, symbolic_zeros=True)
