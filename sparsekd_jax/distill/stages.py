"""A plan of stages, as data: what is pruned when, for how long, at which temperature."""

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from sparsekd_jax import operators
from sparsekd_jax import sparsity as sparsity_room
from sparsekd_jax.distill.divergences import Divergence, get_divergence
from sparsekd_jax.distill.losses import Operator, gradient_scale
from sparsekd_jax.operators.base import SofteningOperator


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: prune to a sparsity, then train.

    Attributes:
        sparsity: share of the prunable weights that are zero after the prune, in [0, 1).
        temperature: T of the softening.
        steps: optimizer steps of recovery.
        scale: gradient scale c of the distillation term.
    """

    sparsity: float
    temperature: float
    steps: int
    scale: float


@dataclasses.dataclass(frozen=True)
class Plan:
    """Stages and what they share; ``print(plan)`` shows them, `stages` makes them.

    Attributes:
        operator: softening operator, or a plain function.
        stages: the stages in order.
        alpha: weight of the hard labels in the loss, in [0, 1].
        soften_student: whether both sides are softened.
        score: how weights are ranked.
        pattern: over what they are ranked.
        divergence: what the distillation term measures, a name of `DIVERGENCES` or a function.
    """

    operator: Operator
    stages: tuple[Stage, ...]
    alpha: float
    soften_student: bool
    score: str
    pattern: str | sparsity_room.Pattern
    divergence: str | Divergence = "forward-kl"

    def __post_init__(self) -> None:
        get_divergence(self.divergence)
        if not callable(self.operator):
            raise ValueError(
                f"operator must be a name, an operator or a function (p, T) -> q, got {self.operator!r}"
            )
        if not self.stages:
            raise ValueError("stages is empty: a plan needs at least one")
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(
                f"alpha must lie in [0, 1], got {self.alpha:g}; it is the weight of the hard labels"
            )
        if self.score not in sparsity_room.SCORES:
            raise ValueError(f"score {self.score!r} is unknown; known: {', '.join(sparsity_room.SCORES)}")
        if isinstance(self.pattern, str) and self.pattern not in sparsity_room.PATTERNS:
            raise ValueError(
                f"pattern {self.pattern!r} is unknown; known: {', '.join(sparsity_room.PATTERNS)}, or one of "
                "sparsity.n_m(n, m), block(shape), channel(axis)"
            )
        before = 0.0
        for number, stage in enumerate(self.stages, start=1):
            _require_temperature(self.operator, stage.temperature, number)
            if not before <= stage.sparsity < 1.0:
                raise ValueError(
                    f"sparsity of stage {number} is {stage.sparsity:g} after {before:g}; it must lie in "
                    "[0, 1) and not fall"
                )
            if stage.steps < 1:
                raise ValueError(f"steps of stage {number} is {stage.steps}; every stage needs at least one")
            if not (math.isfinite(stage.scale) and stage.scale > 0):
                raise ValueError(f"scale must be a positive number, got {stage.scale} (stage {number})")
            before = stage.sparsity
        most = getattr(self.pattern, "rate", None)  # of n:m, which has one final sparsity
        if most is not None and abs(before - most) > 1e-9:
            raise ValueError(f"sparsity ends at {before:g}; the pattern {self.pattern} has sparsity {most:g}")

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def operator_name(self) -> str:
        """The operator's name, or the function's."""
        return _name_of(self.operator)

    def describe(self) -> dict[str, Any]:
        """The plan in JSON's types.

        Returns:
            A dictionary; the operator stands by its name.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        stages = [dataclasses.asdict(stage) for stage in self.stages]
        shown = {"pattern": str(self.pattern), "divergence": _name_of(self.divergence)}
        return {**fields, "operator": self.operator_name, "stages": stages, **shown}

    def to_json(self) -> str:
        """The plan as JSON, which `from_json` reads back.

        Raises:
            ValueError: the operator is not one that its name leads back to, such as a function of your own.

        >>> plan = stages(operator="mixture", num_stages=2, total_steps=20)
        >>> Plan.from_json(plan.to_json()).describe() == plan.describe()
        True
        """
        try:
            known = operators.parse(self.operator_name).name == self.operator_name
        except ValueError:
            known = False
        if not known:
            raise ValueError(
                f"operator {self.operator_name} cannot be written to JSON, only those of operators.names(); "
                "keep the code that makes the plan instead"
            )
        for field in ("pattern", "divergence"):
            if not isinstance(getattr(self, field), str):
                raise ValueError(
                    f"{field} {self.describe()[field]} cannot be written to JSON, only those with a name; "
                    "keep the code that makes the plan instead"
                )
        return json.dumps(self.describe(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """A plan from `to_json`'s text, edited or not: it is validated as any other.

        Raises:
            ValueError: not JSON, an unknown or missing field (it is named), or a value outside its range.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"the plan is not JSON: {error}") from error
        _require_fields(fields, cls, "the plan")
        if not isinstance(fields["stages"], list):
            raise ValueError("stages must be a list in the plan")
        for number, stage in enumerate(fields["stages"], start=1):
            _require_fields(stage, Stage, f"stage {number}")
        made = tuple(Stage(**stage) for stage in fields["stages"])
        return cls(**{**fields, "operator": operators.parse(str(fields["operator"])), "stages": made})

    def __str__(self) -> str:
        sides = "both sides softened" if self.soften_student else "targets softened"
        lines = [
            f"{self.operator_name}, {sides}, alpha {self.alpha:g}, {self.score} {self.pattern}, "
            f"{self.total_steps} steps",
            "stage  sparsity  temperature  scale  steps",
        ]
        lines += [
            f"{k:5d}  {stage.sparsity:8.4f}  {stage.temperature:11.4g}  {stage.scale:5.4g}  {stage.steps:5d}"
            for k, stage in enumerate(self.stages, start=1)
        ]
        return "\n".join(lines)


def stages(
    *,
    operator: str | Operator = "power",
    temperature: float | Sequence[float] = 4.0,
    sparsity: float = 0.95,
    num_stages: int = 5,
    schedule: str | sparsity_room.Schedule = "cubic",
    total_steps: int | None = None,
    steps_per_stage: int | None = None,
    alpha: float = 0.1,
    soften_student: bool = True,
    scale: float | None = None,
    score: str = "magnitude",
    pattern: str | sparsity_room.Pattern = "global",
    divergence: str | Divergence = "forward-kl",
) -> Plan:
    """A plan of n stages: stage k prunes to s_k = s·g(k/n), then trains.

    Either the total effort is fixed and n stages share it (``total_steps``), or the effort of each stage is
    (``steps_per_stage``). A claim about n says which: see theory.md section 4, budget.

    Args:
        operator: a name, a softening operator, or a function ``(p, temperature) -> q``.
        temperature: T of every stage, or one T a stage.
        sparsity: final share of zeros among the prunable weights, in [0, 1); 0 trains a dense student.
        num_stages: n ≥ 1; one stage prunes everything before the first step.
        schedule: "one-shot", "linear", "cubic", "geometric", or a function g.
        total_steps: optimizer steps of all stages together, 2,500 where neither budget is given; stages
            differ by at most one.
        steps_per_stage: optimizer steps of each stage, in place of ``total_steps``.
        alpha: weight of the hard labels, in [0, 1].
        soften_student: soften both sides, or the targets only.
        scale: gradient scale of the distillation term; by default `gradient_scale` of operator and T.
        score: how weights are ranked: "magnitude", "taylor", "movement" or "random".
        pattern: "global", "layer", or one of `sparsity.n_m`, `sparsity.block`, `sparsity.channel`.
        divergence: "forward-kl", "reverse-kl", "jensen-shannon", "total-variation", or a function.

    Returns:
        A frozen, validated plan.

    Raises:
        ValueError: an argument outside its range, or a temperature outside the operator's; it is named.

    >>> print(stages(sparsity=0.9, num_stages=2, total_steps=100))
    power, both sides softened, alpha 0.1, magnitude global, 100 steps
    stage  sparsity  temperature  scale  steps
        1    0.7875            4     16     50
        2    0.9000            4     16     50
    """
    op = operators.get(operator) if isinstance(operator, str) else operator
    if total_steps is not None and steps_per_stage is not None:
        raise ValueError("total_steps and steps_per_stage are two budgets; give one of them")
    if steps_per_stage is not None:
        total_steps = steps_per_stage * num_stages
    total_steps = 2500 if total_steps is None else total_steps
    levels = sparsity_room.sparsities(schedule, sparsity, num_stages)
    if isinstance(temperature, Sequence):
        temperatures = [float(t) for t in temperature]
        if len(temperatures) != num_stages:
            raise ValueError(f"temperature lists {len(temperatures)} values for num_stages = {num_stages}")
    else:
        temperatures = [float(temperature)] * num_stages
    if total_steps < num_stages:
        raise ValueError(f"total_steps = {total_steps} is less than one a stage (num_stages = {num_stages})")

    def scale_of(t: float) -> float:
        if scale is not None:
            return float(scale)
        return gradient_scale(op, t, soften_student=soften_student, divergence=divergence)

    ends = [total_steps * k // num_stages for k in range(num_stages + 1)]
    return Plan(
        operator=op,
        stages=tuple(
            Stage(
                sparsity=level,
                temperature=t,
                steps=end - start,
                scale=gradient_scale(op, t, soften_student=soften_student, divergence=divergence)
                if scale is None
                else float(scale),
            )
            for level, t, start, end in zip(levels, temperatures, ends[:-1], ends[1:], strict=True)
        ),
        alpha=float(alpha),
        soften_student=soften_student,
        score=score,
        pattern=pattern,
        divergence=divergence,
    )


def _name_of(choice: Any) -> str:
    if isinstance(choice, str):
        return choice
    return str(getattr(choice, "name", getattr(choice, "__name__", repr(choice))))


def _require_fields(given: Any, cls: type, where: str) -> None:
    wanted = [field.name for field in dataclasses.fields(cls)]
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be an object with the fields {', '.join(wanted)}")
    for name in [*(n for n in wanted if n not in given), *(n for n in given if n not in wanted)]:
        what = "is missing" if name in wanted else f"is unknown; known: {', '.join(wanted)}"
        raise ValueError(f"{name} {what} in {where}")


def _require_temperature(operator: Operator, temperature: float, stage: int) -> None:
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"temperature must be a positive number, got {temperature:g} (stage {stage})")
    if isinstance(operator, SofteningOperator) and temperature not in operator.claims.temperatures:
        raise ValueError(
            f"temperature {temperature:g} (stage {stage}) is outside the range of {operator.name}, "
            f"{operator.claims.temperatures}"
        )
