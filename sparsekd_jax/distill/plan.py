"""A plan of stages, as data: what is pruned when, for how long, at which temperature, taught by whom."""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from sparsekd_jax import operators, sparsity
from sparsekd_jax._refusals import item, percent_hint, real, resembling, whole
from sparsekd_jax.distill._choices import described, is_named, is_written, made
from sparsekd_jax.distill.divergences import Divergence, get_divergence
from sparsekd_jax.distill.losses import Operator
from sparsekd_jax.operators.base import SofteningOperator, operator_name, require_operator

TEACHERS = ("original", "previous")
DECAYS: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "constant": lambda _: 1.0,
        "linear": lambda share: 1.0 - share,
        "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
    }
)
"""How the rate of learning falls within a stage: a factor, of the share of the stage's steps done."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage: prune to a sparsity, then train. Scalars of numpy and jax become Python's numbers.

    Attributes:
        sparsity: share of the prunable weights to drop, in [0, 1); a pattern of groups, such as N:M, comes as
            near as whole groups allow (`sparsity.zero_fraction` measures it).
        temperature: T of the softening.
        steps: optimizer steps of recovery, at most where the stage may end early.
        scale: gradient scale c of the distillation term.
        alpha: weight of the hard labels in the loss, in [0, 1].
        learning_rate: factor on the optimizer's updates; 1 leaves its own learning rate as it is.
        decay: how that factor falls within the stage, a name of `DECAYS`.
        recover_to: validation accuracy at which the stage ends early, in (0, 1], or None.
        patience: records without a lower validation NLL after which the stage ends early, or None.
    """

    sparsity: float
    temperature: float
    steps: int
    scale: float
    alpha: float
    learning_rate: float = 1.0
    decay: str = "constant"
    recover_to: float | None = None
    patience: int | None = None

    def __post_init__(self) -> None:
        for name in ("sparsity", "temperature", "scale", "alpha", "learning_rate"):
            object.__setattr__(self, name, real(name, getattr(self, name)))
        object.__setattr__(self, "steps", whole("steps", self.steps))
        if self.recover_to is not None:
            object.__setattr__(self, "recover_to", real("recover_to", self.recover_to))
        if self.patience is not None:
            object.__setattr__(self, "patience", whole("patience", self.patience))
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be a positive number, got {self.temperature:g}")
        for name in ("scale", "learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be a positive number, got {getattr(self, name)}")
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha must lie in [0, 1], got {self.alpha:g}: the weight of the hard labels")
        if not isinstance(self.decay, str) or self.decay not in DECAYS:
            raise ValueError(f"decay {self.decay!r} is unknown; known: {', '.join(DECAYS)}")
        if self.recover_to is not None and not 0.0 < self.recover_to <= 1.0:
            hint = percent_hint(self.recover_to)
            raise ValueError(f"recover_to is an accuracy in (0, 1], got {self.recover_to:g}{hint}")

    @property
    def may_end_early(self) -> bool:
        """Whether the stage looks at validation data."""
        return self.recover_to is not None or self.patience is not None

    def rates(self) -> list[float]:
        """The factor on the updates at each step, ``learning_rate · decay(k/steps)``."""
        fall = DECAYS[self.decay]
        return [self.learning_rate * fall(k / self.steps) for k in range(self.steps)]

    def end(self, records: list[dict[str, Any]]) -> str | None:
        """Why the stage ends at the last of these records, or None.

        Args:
            records: the rows of the history that the stage has trained for, oldest first.

        Returns:
            "recovered", "no longer improving" or None.

        >>> stage = Stage(0.9, 4.0, 100, 16.0, 0.1, patience=2)
        >>> records = [{"validation_nll": x} for x in (0.5, 0.4, 0.45, 0.41)]
        >>> stage.end(records[:3]), stage.end(records)
        (None, 'no longer improving')
        """
        if self.recover_to is not None and records[-1]["validation_accuracy"] >= self.recover_to:
            return "recovered"
        if self.patience is not None:
            losses = [row["validation_nll"] for row in records]
            if len(losses) - 1 - losses.index(min(losses)) >= self.patience:
                return "no longer improving"
        return None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Stages and what they share; ``print(plan)`` shows them, `stages` makes them.

    Attributes:
        operator: softening operator, or a plain function.
        stages: the stages in order.
        soften_student: whether both sides are softened.
        score: how weights are ranked.
        pattern: over what they are ranked.
        divergence: what the distillation term measures, a name of `DIVERGENCES` or a function.
        teacher: "original", the one given, in every stage; or "previous", from the second stage on the
            student that the stage before left.
    """

    operator: Operator
    stages: tuple[Stage, ...]
    soften_student: bool
    score: str
    pattern: str | sparsity.Pattern
    divergence: str | Divergence = "forward-kl"
    teacher: str = "original"

    def __post_init__(self) -> None:
        get_divergence(self.divergence)
        require_operator(self.operator)
        if isinstance(self.stages, Stage):
            raise TypeError("stages is a single Stage; pass a tuple of them: (stage,)")
        if not isinstance(self.stages, tuple | list):
            raise TypeError(f"stages is a {type(self.stages).__name__}; pass a tuple of distill.Stage")
        if not self.stages:
            raise ValueError("stages is empty: a plan needs at least one")
        for i, stage in enumerate(self.stages):
            if not isinstance(stage, Stage):
                raise TypeError(f"stages[{i}] is a {type(stage).__name__}; make a distill.Stage(...) of it")
        object.__setattr__(self, "stages", tuple(self.stages))
        soften = item(self.soften_student)
        if not isinstance(soften, bool):
            raise TypeError(f"soften_student is {self.soften_student!r}; give True or False")
        object.__setattr__(self, "soften_student", soften)
        if not isinstance(self.score, str) or self.score not in sparsity.SCORES:
            raise ValueError(f"score {self.score!r} is unknown; known: {', '.join(sparsity.SCORES)}")
        _require_pattern(self.pattern)
        if isinstance(self.pattern, str) and self.pattern not in sparsity.PATTERNS:
            raise ValueError(
                f"pattern {self.pattern!r} is unknown; known: {', '.join(sparsity.PATTERNS)}, or one of "
                "sparsity.n_m(n, m), block(shape), channel(axis)"
            )
        if self.teacher not in TEACHERS:
            raise ValueError(f"teacher {self.teacher!r} is unknown; known: {', '.join(TEACHERS)}")
        before = 0.0
        for number, stage in enumerate(self.stages, start=1):
            _require_temperature(self.operator, stage.temperature, number)
            if not before <= stage.sparsity < 1.0:
                raise ValueError(
                    f"sparsity of stage {number} is {stage.sparsity:g} after {before:g}; it must lie in "
                    f"[0, 1) and not fall{percent_hint(stage.sparsity)}"
                )
            before = stage.sparsity
        most = getattr(self.pattern, "rate", None)  # of n:m, which has one final sparsity
        if most is not None and abs(before - most) > 1e-9:
            raise ValueError(
                f"sparsity ends at {before:g}; the pattern {self.pattern} has sparsity {most:g}: "
                f"pass sparsity={most:g}"
            )

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all stages, at most where some may end early."""
        return sum(stage.steps for stage in self.stages)

    @property
    def operator_name(self) -> str:
        """The operator's name, or the function's."""
        return operator_name(self.operator)

    def describe(self) -> dict[str, Any]:
        """The plan in JSON's types.

        Returns:
            A dictionary; the operator stands by its name.
        """
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        stages = [dataclasses.asdict(stage) for stage in self.stages]
        shown = {name: described(fields[name]) for name in ("pattern", "divergence")}
        return {**fields, "operator": self.operator_name, "stages": stages, **shown}

    def to_json(self) -> str:
        """The plan as JSON, which `from_json` reads back.

        Raises:
            ValueError: an operator, a pattern or a divergence that JSON cannot say, such as a function of
                your own.

        >>> from sparsekd_jax.distill import stages
        >>> plan = stages(operator="mixture", num_stages=2, total_steps=20)
        >>> Plan.from_json(plan.to_json()).describe() == plan.describe()
        True
        """
        if not is_named(self.operator):
            raise ValueError(
                f"operator {self.operator_name} cannot be written to JSON, only those of operators.names(); "
                "keep the code that makes the plan instead"
            )
        for field in ("pattern", "divergence"):
            if not is_written(getattr(self, field)):
                raise ValueError(
                    f"{field} {self.describe()[field]} cannot be written to JSON, only those of the library; "
                    "keep the code that makes the plan instead"
                )
        return json.dumps(self.describe(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """A plan from `to_json`'s text, edited or not: it is validated as any other.

        Fields that have a default may be left out.

        Raises:
            ValueError: not JSON, an unknown or missing field (it is named), or a value outside its range.
            TypeError: no text.
        """
        if not isinstance(text, str | bytes):
            what = ".read_text() of it" if isinstance(text, os.PathLike) else "json.dumps(...) of it"
            raise TypeError(f"text is a {type(text).__name__}; give the JSON text itself, {what}")
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            is_path = text.strip()[-5:] in (".json", b".json")
            hint = "; text looks like a path: give Path(text).read_text()" if is_path else ""
            raise ValueError(f"the plan is not JSON: {error}{hint}") from error
        _require_fields(fields, cls, "the plan")
        if not isinstance(fields["stages"], list):
            raise ValueError("stages must be a list in the plan")
        parsed = []
        for number, stage in enumerate(fields["stages"], start=1):
            _require_fields(stage, Stage, f"stage {number}")
            try:
                parsed.append(Stage(**stage))
            except (TypeError, ValueError) as error:  # a TypeError: text where a number belongs
                raise ValueError(f"{error} (stage {number})") from error
        named = {"operator": operators.parse(str(fields["operator"])), "stages": tuple(parsed)}
        for field in ("pattern", "divergence"):
            named |= {field: made(field, fields[field])} if field in fields else {}
        try:
            return cls(**{**fields, **named})
        except TypeError as error:  # text where a truth value belongs
            raise ValueError(str(error)) from error

    def __str__(self) -> str:
        sides = "both sides softened" if self.soften_student else "targets softened"
        taught = ", taught by the stage before" if self.teacher == "previous" else ""
        columns = [["stage", *(str(k) for k in range(1, len(self.stages) + 1))]]
        for name in _shown_fields(self.stages):
            columns.append([name.replace("_", " "), *(_cell(getattr(s, name)) for s in self.stages)])
        widths = [max(map(len, column)) for column in columns]
        ranked = f"{self.score} {self.pattern}"
        title = f"{self.operator_name}, {sides}, {ranked}, {self.total_steps} steps{taught}"
        rows = ("  ".join(map(str.rjust, row, widths)) for row in zip(*columns, strict=True))
        return "\n".join([title, *rows])


def _shown_fields(stages: tuple[Stage, ...]) -> list[str]:
    """The columns of a printed plan: some always, the others where a stage leaves the default."""
    always = ["sparsity", "temperature", "scale", "alpha", "steps"]
    rest = [f for f in dataclasses.fields(Stage) if f.name not in always]
    return always + [f.name for f in rest if any(getattr(s, f.name) != f.default for s in stages)]


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _require_fields(given: Any, cls: type, where: str) -> None:
    fields = dataclasses.fields(cls)
    wanted = [field.name for field in fields]
    needed = [field.name for field in fields if field.default is dataclasses.MISSING]
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be an object with the fields {', '.join(wanted)}")
    for name in given:  # before those that are missing, of which one may be this, misspelt
        if name not in wanted:
            hint = resembling(name, wanted) or ";"
            raise ValueError(f"{name} is unknown in {where}{hint} Known: {', '.join(wanted)}")
    for name in needed:
        if name not in given:
            raise ValueError(f"{name} is missing in {where}")


def _require_pattern(pattern: Any) -> None:
    """Refuse what is neither a name nor a function of scores and a rate, such as a maker of patterns."""
    if any(pattern is maker for maker in (sparsity.n_m, sparsity.block, sparsity.channel)):
        raise TypeError(
            f"pattern is the function {pattern.__name__}, which makes patterns; call it, as in "
            "sparsity.channel()"
        )
    if isinstance(pattern, type) or not (isinstance(pattern, str) or callable(pattern)):
        raise TypeError(
            f"pattern is {pattern!r}; give a name ({', '.join(sparsity.PATTERNS)}), one of "
            "sparsity.n_m(n, m), block(shape), channel(axis), or a function (scores, rate) -> masks"
        )


def _require_temperature(operator: Operator, temperature: float, stage: int) -> None:
    if isinstance(operator, SofteningOperator) and temperature not in operator.claims.temperatures:
        raise ValueError(
            f"temperature {temperature:g} (stage {stage}) is outside the range of {operator.name}, "
            f"{operator.claims.temperatures}"
        )
