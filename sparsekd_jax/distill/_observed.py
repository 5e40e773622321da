"""What a run asks of a teacher that is seen in part: a plan that it can serve, rows, an identity."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sparsekd_jax.distill.divergences import get_divergence, kl_from_logs
from sparsekd_jax.distill.plan import Plan
from sparsekd_jax.distill.target_losses import TAIL_POLICIES, require_tail_policy
from sparsekd_jax.operators import PowerTransform, TsallisSoftening
from sparsekd_jax.targets import Samples, TopK, require_consistent, soften


def require(plan: Plan, teacher: Any, tail: str | None) -> None:
    """Refuse a plan, or a tail policy, that a `TopK` or `Samples` teacher cannot serve, before step 1.

    Raises:
        ValueError: the tail missing, unknown or not for a run, a divergence but forward KL, the student's
            side softened by another operator than power, a temperature out of range.
        TypeError: an operator without a certified bound.
    """
    if not isinstance(teacher, TopK | Samples):
        if tail is not None:
            raise ValueError(f"tail is {tail!r}, but the teacher shows all its classes; leave tail out")
        return
    seen = type(teacher).__name__
    if tail is None:
        usable = ", ".join(name for name in TAIL_POLICIES if name != "sampled")
        raise ValueError(f"teacher is a {seen}: say what its unseen tokens are, by tail = one of {usable}")
    require_tail_policy(tail)
    if tail == "sampled":
        raise ValueError("tail 'sampled' needs a key a step; a run has 'uniform', which is its expectation")
    if get_divergence(plan.divergence) is not kl_from_logs:
        raise ValueError(f"divergence is {plan.divergence!r}; with a {seen} teacher it is 'forward-kl'")
    if plan.soften_student and type(plan.operator) is not PowerTransform:
        raise ValueError(
            f"soften_student with operator {plan.operator_name} needs all classes of the teacher; with "
            f"a {seen} soften the targets only (soften_student=False), or both sides by power"
        )
    if tail == "bounds" and (isinstance(teacher, Samples) or isinstance(plan.operator, TsallisSoftening)):
        raise ValueError(
            "tail 'bounds' needs a TopK teacher and power or mixture, where the tail mass alone is "
            "uncertain; take tail='uniform'"
        )
    row = jax.tree.map(lambda leaf: leaf[:1], teacher)
    for stage in plan.stages:
        soften(plan.operator, row, stage.temperature)  # type: ignore[arg-type]


def aligned(teacher: TopK | Samples, labels: Array) -> TopK | Samples:
    """The teacher, checked against the training rows.

    Raises:
        ValueError: other rows than the labels have, or lists that are not consistent.
    """
    if teacher.batch_shape != labels.shape:
        raise ValueError(
            f"teacher has rows of shape {teacher.batch_shape}, the training labels {labels.shape}: one row a "
            "label"
        )
    require_consistent(teacher)
    return jax.tree.map(jnp.asarray, teacher)


def identity(teacher: Any, tail: str | None) -> dict[str, Any]:
    """What a checkpoint remembers of a partial teacher beside its arrays; nothing of any other."""
    if not isinstance(teacher, TopK | Samples):
        return {}
    return {"seen": type(teacher).__name__, "vocab_size": teacher.vocab_size, "tail": tail}
