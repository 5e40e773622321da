"""What a student learns from: the logits of a module, a module in the step, or what was seen of a teacher."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, PyTree

from sparsekd_jax._refusals import is_traced, refuse
from sparsekd_jax.distill import _observed, _program
from sparsekd_jax.distill._program import Batch
from sparsekd_jax.distill._trainer import Trainer
from sparsekd_jax.targets import Dense, Samples, TopK

TAUGHT = 64
"""Rows of a cached teacher's logits that a checkpoint holds, to see a module that computes something else."""

Taught = Array | tuple[Any, PyTree, PyTree] | TopK | Samples
"""Training logits, or a model for evaluation (its graph, its parameters, and what is beside them), or what
was seen of a teacher in part."""


def teacher_logits(teacher: Any, batch: Batch) -> Array:
    """Training logits of a teacher that is a module, a split one, or its logits already."""
    inputs, labels = batch["inputs"], batch["labels"]
    if isinstance(teacher, TopK | Samples):
        raise TypeError(f"teacher is a {type(teacher).__name__}, which has no logits; use distill.run")
    if isinstance(teacher, Dense):
        teacher = teacher.log_probs
    if isinstance(teacher, nnx.Module):
        teacher = _program.split_for_evaluation(teacher)
    if not isinstance(teacher, tuple) and not hasattr(teacher, "shape"):
        hint = "its .student" if hasattr(teacher, "student") else "an nnx.Module"
        raise TypeError(
            f"teacher is a {type(teacher).__name__}; pass {hint}, its training logits [n, K], or targets.TopK"
        )
    if isinstance(teacher, tuple):
        logits = _program.logits_of(*teacher, inputs, _program.rows_at_once(labels))
    else:
        logits = jnp.asarray(teacher)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(
            f"teacher gives logits of dtype {logits.dtype}; give floats: logits.astype(np.float32)"
        )
    if logits.ndim < 2 or logits.shape[:-1] != labels.shape:
        needs = ", ".join([*map(str, labels.shape), "num_classes"])
        raise ValueError(
            f"teacher gives logits of shape {logits.shape}; {inputs.shape[0]} training inputs need ({needs})"
        )
    live = True
    if "weights" in batch:  # padding may hold anything
        live = batch["weights"].astype(bool)
        logits = jnp.where(live[..., None], logits, jnp.zeros_like(logits))
    if not is_traced(logits):
        if bool(jnp.where(live, _program.are_probabilities(logits), True).all()):
            raise ValueError(
                "teacher gives rows that are ≥ 0 and sum to 1, which are probabilities; give logits: leave "
                "the softmax out of a module, take jnp.log of an array"
            )
        broken = ~jnp.isfinite(jnp.max(logits, axis=-1))
        refuse(broken, "teacher", lambda _: "gives logits that are NaN, +inf, or all −inf; leave the row out")
    return logits


def taught_by(teacher: Any, trainer: Trainer, cached: bool) -> Taught:
    """What the stages of a run learn from: logits for all rows where they are cached, or what gives them."""
    if cached:
        arrays, _ = trainer.source.steps(0, 1)
        if isinstance(teacher, TopK | Samples):
            require_same_classes(teacher.vocab_size, trainer.num_classes)
            return trainer.place.everywhere(_observed.aligned(teacher, arrays["labels"]))
        if isinstance(teacher, nnx.Module):
            teacher = _on_mesh(teacher, trainer)
        logits = teacher_logits(teacher, arrays)
        require_same_classes(logits.shape[-1], trainer.num_classes)
        return trainer.place.everywhere(logits)
    if isinstance(teacher, nnx.Module):
        split = _on_mesh(teacher, trainer)
        inputs = trainer.source.steps(0, 1)[0]["inputs"]
        require_same_classes(_program.logits_shape("teacher", *split, inputs)[-1], trainer.num_classes)
        return split
    if not isinstance(teacher, tuple):
        why = "data comes in Batches" if trainer.source.streamed else "cache_teacher is False"
        raise ValueError(f"teacher must be an nnx.Module where {why}, got {type(teacher).__name__}")
    return teacher


def require_same_classes(taught: int, learnt: int) -> None:
    """Refuse a teacher and a student of different numbers of classes."""
    if taught != learnt:
        raise ValueError(
            f"teacher has {taught} classes and student {learnt}; give the student's last layer {taught} "
            "outputs, the teacher's classes in the same order"
        )


def _on_mesh(teacher: nnx.Module, trainer: Trainer) -> tuple[Any, PyTree, PyTree]:
    graphdef, *held = _program.split_for_evaluation(teacher)
    params, rest = trainer.place.everywhere(held)
    return graphdef, params, rest


def arrays_of(teacher: Any, taught: Taught) -> list[Any]:
    """What tells a teacher from others: of a module what it holds, as its logits hang on the device."""
    if isinstance(teacher, nnx.Module):
        return [jnp.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(teacher, nnx.Not(nnx.RngState)))]
    return jax.tree.leaves(taught[1:] if isinstance(taught, tuple) else taught)
