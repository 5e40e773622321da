"""Plans from a few numbers: how a sparsity, an effort and a temperature are shared out over stages."""

import math
from collections.abc import Sequence
from typing import Any

from sparsekd_jax import operators
from sparsekd_jax import sparsity as sparsity_room
from sparsekd_jax._refusals import real, whole
from sparsekd_jax.distill.divergences import Divergence
from sparsekd_jax.distill.losses import Operator, gradient_scale
from sparsekd_jax.distill.plan import Plan, Stage


def stages(
    *,
    operator: str | Operator = "power",
    temperature: float | Sequence[float] = 4.0,
    sparsity: float = 0.95,
    num_stages: int = 5,
    schedule: str | sparsity_room.Schedule = "cubic",
    total_steps: int | None = None,
    steps_per_stage: int | None = None,
    alpha: float | Sequence[float] = 0.1,
    soften_student: bool = True,
    scale: float | None = None,
    learning_rate: float | Sequence[float] = 1.0,
    decay: str | Sequence[str] = "constant",
    recover_to: float | Sequence[float | None] | None = None,
    patience: int | Sequence[int | None] | None = None,
    score: str = "magnitude",
    pattern: str | sparsity_room.Pattern = "global",
    divergence: str | Divergence = "forward-kl",
    teacher: str = "original",
) -> Plan:
    """A plan of n stages: stage k prunes to s_k = s·g(k/n), then trains.

    Either the total effort is fixed and n stages share it (``total_steps``), or the effort of each stage is
    (``steps_per_stage``). A claim about n says which: see theory.md section 4, budget.

    Arguments that a stage has of its own take one value for all, or a list of one a stage; `annealed` makes
    such a list.

    Args:
        operator: a name, a softening operator, or a function ``(p, temperature) -> q``.
        temperature: T of the softening.
        sparsity: final share of zeros among the prunable weights, in [0, 1); 0 trains a dense student.
        num_stages: n ≥ 1; one stage prunes everything before the first step.
        schedule: "one-shot", "linear", "cubic", "geometric", or a function g.
        total_steps: optimizer steps of all stages together, 2,500 where neither budget is given; stages
            differ by at most one.
        steps_per_stage: optimizer steps of each stage, in place of ``total_steps``.
        alpha: weight of the hard labels, in [0, 1].
        soften_student: soften both sides, or the targets only.
        scale: gradient scale of the distillation term; by default `gradient_scale` of operator and T.
        learning_rate: factor on the optimizer's updates, 1 for its own learning rate.
        decay: how that factor falls within a stage: "constant", "linear" or "cosine", the last two to 0.
        recover_to: validation accuracy at which a stage ends before its steps are done.
        patience: records without a lower validation NLL after which a stage ends.
        score: how weights are ranked: "magnitude", "taylor", "movement" or "random".
        pattern: "global", "layer", or one of `sparsity.n_m`, `sparsity.block`, `sparsity.channel`.
        divergence: "forward-kl", "reverse-kl", "jensen-shannon", "total-variation", or a function.
        teacher: "original" in every stage, or "previous": each stage is taught by what the one before left.

    Returns:
        A frozen, validated plan.

    Raises:
        ValueError: an argument outside its range, or a temperature outside the operator's; it is named.
        TypeError: an argument that is another kind of thing, such as text where a number belongs.

    >>> print(stages(sparsity=0.9, num_stages=2, total_steps=100))
    power, both sides softened, magnitude global, 100 steps
    stage  sparsity  temperature  scale  alpha  steps
        1    0.7875            4     16    0.1     50
        2       0.9            4     16    0.1     50
    """
    op = operators.parse(operator) if isinstance(operator, str) else operator
    num_stages = whole("num_stages", num_stages)
    if total_steps is not None and steps_per_stage is not None:
        raise ValueError("total_steps and steps_per_stage are two budgets; give one of them")
    if steps_per_stage is not None:
        total_steps = whole("steps_per_stage", steps_per_stage) * num_stages
    total_steps = 2500 if total_steps is None else whole("total_steps", total_steps)
    if not isinstance(sparsity, Sequence):  # which is refused there
        sparsity = real("sparsity", sparsity)
    levels = sparsity_room.sparsities(schedule, sparsity, num_stages)
    if total_steps < num_stages:
        raise ValueError(f"total_steps = {total_steps} is less than one a stage (num_stages = {num_stages})")
    each = {
        "temperature": temperature,
        "alpha": alpha,
        "learning_rate": learning_rate,
        "decay": decay,
        "recover_to": recover_to,
        "patience": patience,
    }
    own = {name: _one_a_stage(name, value, num_stages) for name, value in each.items()}
    ends = [total_steps * k // num_stages for k in range(num_stages + 1)]
    made = []
    for k, level in enumerate(levels):
        fields = {name: values[k] for name, values in own.items()}
        t = real("temperature", fields["temperature"])
        c = scale
        if c is None and 0 < t < math.inf:  # any other temperature is the stage's own error
            c = gradient_scale(op, t, soften_student=soften_student, divergence=divergence)
        try:
            made.append(
                Stage(
                    sparsity=level,
                    steps=ends[k + 1] - ends[k],
                    scale=1.0 if c is None else c,
                    **fields,
                )
            )
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error} (stage {k + 1})") from error
    return Plan(
        operator=op,
        stages=tuple(made),
        soften_student=soften_student,
        score=score,
        pattern=pattern,
        divergence=divergence,
        teacher=teacher,
    )


def annealed(start: float, end: float, num_stages: int, *, geometric: bool = True) -> tuple[float, ...]:
    """One value a stage, from ``start`` in the first to ``end`` in the last, in equal ratios or equal steps.

    Args:
        start: value of stage 1.
        end: value of stage n.
        num_stages: n ≥ 1; a single stage has ``end``.
        geometric: equal ratios, for a temperature or a learning rate; False for equal steps.

    Returns:
        n values, for an argument of `stages`.

    Raises:
        ValueError: no stage, or a ratio to or from a number that is not positive.
        TypeError: ends that are no numbers, or part of a stage.

    >>> annealed(8.0, 2.0, 3), annealed(0.5, 0.1, 3, geometric=False)
    ((8.0, 4.0, 2.0), (0.5, 0.3, 0.1))
    """
    start, end, num_stages = real("start", start), real("end", end), whole("num_stages", num_stages)
    if geometric and not (start > 0 and end > 0):
        raise ValueError(f"equal ratios from {start:g} to {end:g} need positive ends; pass geometric=False")
    shares = [1.0 if num_stages == 1 else k / (num_stages - 1) for k in range(num_stages)]
    if geometric:
        values = [start * (end / start) ** share for share in shares]
    else:
        values = [start + (end - start) * share for share in shares]
    # The end itself: rounded below 1 it would leave the temperatures of an entropy projection.
    return (*values[:-1], end)


def _one_a_stage(name: str, value: Any, num_stages: int) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        if not isinstance(value, str) and hasattr(value, "shape") and value.shape:
            raise TypeError(f"{name} is an array of shape {value.shape}; give a list: {name}.tolist()")
        return [value] * num_stages
    if len(value) != num_stages:
        raise ValueError(
            f"{name} lists {len(value)} values for num_stages = {num_stages}: give one a stage, or one "
            "number for all"
        )
    return list(value)
