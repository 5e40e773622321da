"""What the main job can vary, the plans that follow from it, and the command line that says it again."""

import dataclasses
import json
import re
import shlex
from typing import Any

from sparsekd_jax import distill, operators
from sparsekd_jax._numerics import fewest_digits
from sparsekd_jax.studies.workloads import WORKLOADS, Workload


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the study runs. The defaults are those of the demo; `of_data` gives those of another workload.

    The optimizer is AdamW for teacher and students. Where a student starts, the learning rate and alpha were
    settled on validation data cut from the training half; the test half only reports.

    Attributes:
        data: a name of `WORKLOADS`.
        operators: names of softening operators; each gets its own students.
        temperature: T of the softening.
        sparsity: final share of zeros among the kernels' weights, in [0, 1).
        num_stages: stages of the staged student.
        num_seeds: seeds 0 … n−1; each its own teacher initialisation and order of the data.
        steps: steps of every student in all, so that methods have equal effort (at most, where stages of
            ``config`` may end early).
        teacher_steps: steps of a teacher.
        alpha: weight of the hard labels in the students' loss.
        soften_student: soften both sides of the loss, or the targets only.
        schedule: how the sparsity rises over the stages.
        score: how weights are ranked.
        pattern: over what they are ranked.
        model: sizes of the model, by name.
        batch_size: examples a step.
        learning_rate: of the students' AdamW.
        decay: how the students' learning rate falls within a stage.
        teacher_learning_rate: of the teachers' AdamW.
        teacher_warmup: steps over which it rises to that, to fall to 0 as a cosine; 0 keeps it constant.
        weight_decay: of AdamW.
        record_every: steps between rows of the history.
        config: the plan of the staged student as `distill.Plan.describe` gives it, in place of the settings
            above that make one; None makes it from them. The other students then take its last stage.
    """

    data: str = "digits"
    operators: tuple[str, ...] = ("power",)
    temperature: float = 4.0
    sparsity: float = 0.95
    num_stages: int = 5
    num_seeds: int = 3
    steps: int = 2500
    teacher_steps: int = 1000
    alpha: float = 0.1
    soften_student: bool = True
    schedule: str = "cubic"
    score: str = "magnitude"
    pattern: str = "global"
    model: dict[str, Any] = dataclasses.field(default_factory=lambda: {"hidden": [256, 256]})
    batch_size: int = 128
    learning_rate: float = 1e-3
    decay: str = "constant"
    teacher_learning_rate: float = 1e-3
    teacher_warmup: int = 0
    weight_decay: float = 1e-4
    record_every: int = 50
    config: dict[str, Any] | None = None

    @classmethod
    def of_data(cls, name: str, **changes: Any) -> "Settings":
        """The defaults of a workload, with changes.

        Args:
            name: a name of `WORKLOADS`.
            **changes: fields.
        """
        return cls(**{**WORKLOADS[name].defaults, **changes})

    @classmethod
    def of_plan(cls, plan: distill.Plan, name: str, **changes: Any) -> "Settings":
        """The defaults of a workload, with the staged student trained by a plan.

        Args:
            plan: one that JSON can say.
            name: a name of `WORKLOADS`.
            **changes: fields that the plan does not say.
        """
        last = plan.stages[-1]
        said = {
            "config": json.loads(plan.to_json()),
            "operators": (plan.operator_name,),
            "temperature": last.temperature,
            "sparsity": last.sparsity,
            "num_stages": len(plan.stages),
            "steps": plan.total_steps,
            "alpha": last.alpha,
            "decay": last.decay,
            "soften_student": plan.soften_student,
            "schedule": "of the plan",
            "score": plan.score,
            "pattern": str(plan.pattern),
        }
        return cls.of_data(name, **{**said, **changes})

    @classmethod
    def of(cls, configuration: dict[str, Any]) -> "Settings":
        """Settings from a report's configuration, whose tuple JSON has made a list."""
        return cls(**{**configuration, "operators": tuple(configuration["operators"])})

    @property
    def workload(self) -> Workload:
        """Data, model and metrics."""
        return WORKLOADS[self.data]

    def plan(self, operator: str, method: str) -> distill.Plan:
        """The plan of one method, "dense", "one-shot" or "staged"; raises ValueError on a bad setting."""
        staged = method == "staged"
        if self.config is not None:
            plan = distill.Plan.from_json(json.dumps(self.config))
            return plan if staged else _in_one_stage(plan, dense=method == "dense")
        return distill.stages(
            operator=operators.parse(operator),
            temperature=self.temperature,
            sparsity=0.0 if method == "dense" else self.sparsity,
            num_stages=self.num_stages if staged else 1,
            schedule=self.schedule if staged else "one-shot",
            total_steps=self.steps,
            alpha=self.alpha,
            soften_student=self.soften_student,
            decay=self.decay,
            score=self.score,
            pattern=self.pattern,
        )

    def method_label(self, method: str) -> str:
        """What a page calls a method."""
        staged = "1 stage" if self.num_stages == 1 else f"{self.num_stages} stages"
        return {"dense": "dense student", "one-shot": "one-shot", "staged": staged}[method]

    @property
    def methods(self) -> tuple[str, ...]:
        """The students of every operator."""
        return ("dense", "one-shot", "staged")

    def validate(self) -> None:
        """Refuse what could not run, before anything runs.

        Raises:
            ValueError: names the setting.
        """
        if self.data not in WORKLOADS:
            raise ValueError(f"data {self.data!r} is unknown; known: {', '.join(WORKLOADS)}")
        if not self.operators:
            raise ValueError("operators is empty: name at least one, such as 'power'")
        for field in ("num_seeds", "teacher_steps", "record_every"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, got {getattr(self, field)}")
        for operator in self.operators:
            self.plan(operator, "staged")


def _in_one_stage(plan: distill.Plan, *, dense: bool) -> distill.Plan:
    """The steps of a plan in one stage like its last, that prunes at once or not at all."""
    last = plan.stages[-1]
    whole = dataclasses.replace(
        last,
        sparsity=0.0 if dense else last.sparsity,
        steps=plan.total_steps,
        recover_to=None,
        patience=None,
    )
    pattern = "global" if dense else plan.pattern  # n:m has a sparsity of its own
    return dataclasses.replace(plan, stages=(whole,), teacher="original", pattern=pattern)


_OF_A_PLAN = ("alpha", "schedule", "decay", "score", "pattern")
"""Settings that a plan says and no option does."""
_OF_NO_OPTION = (
    "model",
    "batch_size",
    "learning_rate",
    "teacher_learning_rate",
    "teacher_warmup",
    "weight_decay",
    "record_every",
)


def command(settings: Settings) -> str:
    """The command line that runs these settings again.

    What options cannot say of the plan is left to ``--config`` and the plan that `write_report` writes, where
    one plan says it. What nothing on the command line says stands after it as a comment.

    >>> command(Settings(alpha=0.5))
    'sparsekd distill --data digits --config plan-power.json --out DIR'
    >>> command(Settings(batch_size=32))
    'sparsekd distill --data digits --out DIR  # without what no option says: batch_size=32'
    """
    default = Settings.of_data(settings.data)
    changed = [name for name in _OF_A_PLAN if getattr(settings, name) != getattr(default, name)]
    plan = "plan.json" if settings.config is not None else None
    if plan is None and changed and len(settings.operators) == 1:
        plan = f"plan-{slug(settings.operators[0])}.json"
    unsaid = [*_OF_NO_OPTION, *(() if plan else changed)]
    missing = [f"{n}={getattr(settings, n)!r}" for n in unsaid if getattr(settings, n) != getattr(default, n)]

    def said(given: Settings) -> dict[str, str]:
        effort = {"seeds": str(given.num_seeds), "teacher-steps": str(given.teacher_steps)}
        if plan is not None:
            return effort
        return {
            "operator": ",".join(given.operators),
            "temperature": fewest_digits(given.temperature),
            "sparsity": fewest_digits(given.sparsity),
            "stages": str(given.num_stages),
            "steps": str(given.steps),
            **effort,
        }

    usual = said(default)
    words = [f"sparsekd distill --data {settings.data}"]
    if plan is not None:
        words.append(f"--config {plan}")
    words += [f"--{name} {shlex.quote(v)}" for name, v in said(settings).items() if v != usual[name]]
    if not settings.soften_student and plan is None:
        words.append("--targets-only")
    words.append("--out DIR")
    return " ".join([*words, *([f" # without what no option says: {', '.join(missing)}"] if missing else [])])


def slug(operator: str) -> str:
    """An operator's name in the name of a file.

    >>> slug("tsallis(1.5)")
    'tsallis-1.5'
    """
    return re.sub(r"[^a-z0-9.]+", "-", operator).strip("-")
