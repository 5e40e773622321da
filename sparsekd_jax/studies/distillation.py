"""The main job: a dense teacher, distilled into sparse students at equal effort, over several seeds."""

import dataclasses
import functools
import json
import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optax  # type: ignore[import-untyped]
from flax import nnx

from sparsekd_jax import data, distill, operators, sparsity
from sparsekd_jax._numerics import fewest_digits
from sparsekd_jax.studies.environment import environment
from sparsekd_jax.studies.verdicts import verdict_table
from sparsekd_jax.studies.workloads import WORKLOADS, Workload

METRICS = ("accuracy", "nll", "calibration_error")
VALIDATION_SIZE = 0.1
"""Share of the training half that stages which may end early look at."""
Progress = Callable[[str, int, int], None]
"""Called with (what is running, steps done, total steps of the study)."""


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
        steps: steps of every student in all, so that methods have equal effort.
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


def run(
    settings: Settings,
    *,
    on_progress: Progress | None = None,
    laws: bool = True,
    checkpoint_dir: str | Path | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Train teachers and students of every seed and operator, and gather their numbers.

    The same settings give the same numbers on the same machine and libraries, ``timing`` apart.

    Args:
        settings: what to run.
        on_progress: called as steps are done.
        laws: whether to check the operators' laws too.
        checkpoint_dir: where each training keeps its checkpoints, in a directory of its own.
        resume: go on with what a killed run left there.

    Returns:
        The report: configuration, plan, runs, summary with intervals, histories, verdicts; in JSON's types,
        save ``students``: the staged student's parameters of the first seed, by operator.

    Raises:
        ValueError: a setting that could not run.
    """
    settings.validate()
    started = time.perf_counter()
    plans = {name: {m: settings.plan(name, m) for m in settings.methods} for name in settings.operators}
    early = any(stage.may_end_early for own in plans.values() for p in own.values() for stage in p.stages)
    arrays = settings.workload.load(VALIDATION_SIZE if early else 0.0)
    trainings = _Trainings(settings, arrays, on_progress, checkpoint_dir, resume)
    for seed in range(settings.num_seeds):
        teacher = trainings.teacher(seed)
        for operator in settings.operators:
            for method in settings.methods:
                trainings.student(teacher, plans[operator][method], seed, operator, method)
    trained = time.perf_counter()
    if laws and on_progress:
        on_progress("checking the laws", trainings.total, trainings.total)
    verdicts = verdict_table([operators.parse(name) for name in settings.operators] if laws else [])
    return {
        "study": settings.data,
        "command": command(settings),
        "configuration": json.loads(json.dumps(dataclasses.asdict(settings))),
        "data": {
            "name": arrays.name,
            "num_classes": arrays.num_classes,
            "train": int(arrays.train_labels.size),
            "test": int(arrays.test_labels.size),
            "split": settings.workload.split_text,
        },
        "plans": {name: own["staged"].describe() for name, own in plans.items()},
        "summary": summarise(trainings.runs, settings),
        "runs": trainings.runs,
        "verdicts": verdicts,
        "environment": environment(),
        "timing": {
            "training_seconds": round(trained - started, 2),
            "laws_seconds": round(time.perf_counter() - trained, 2),
            "steps": trainings.total,
        },
        "history": trainings.history,
        "students": trainings.students,
    }


class _Trainings:
    """The trainings of a study, one after another, and what the report keeps of each."""

    def __init__(
        self,
        settings: Settings,
        arrays: data.Arrays,
        on_progress: Progress | None,
        checkpoint_dir: str | Path | None,
        resume: bool,
    ) -> None:
        self.runs: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.students: dict[str, Any] = {}
        per_seed = settings.teacher_steps + len(settings.operators) * len(settings.methods) * settings.steps
        self.total = per_seed * settings.num_seeds
        self._done = 0
        self._settings, self._arrays = settings, arrays
        self._on_progress, self._checkpoint_dir, self._resume = on_progress, checkpoint_dir, resume

    def teacher(self, seed: int) -> nnx.Module:
        """The teacher of a seed."""
        settings = self._settings
        rate, warmup = settings.teacher_learning_rate, settings.teacher_warmup
        result = distill.fit(
            settings.workload.build(settings.model, seed),
            self._arrays,
            steps=settings.teacher_steps,
            optimizer=adamw(rate, settings.weight_decay, warmup, settings.teacher_steps),
            seed=2 * seed,  # even seeds order the teachers' data, odd ones the students'
            **self._options(f"seed {seed}: teacher", f"seed-{seed}", "teacher"),
        )
        self._keep(result, seed, None, "teacher", settings.teacher_steps)
        return result.student

    def student(self, teacher: nnx.Module, plan: distill.Plan, seed: int, operator: str, method: str) -> None:
        """Train one student of a teacher; its path starts at the teacher (theory.md section 4)."""
        settings = self._settings
        label = f"seed {seed}: {operator}, {settings.method_label(method)}"
        result = distill.run(
            teacher,
            teacher,
            self._arrays,
            plan,
            optimizer=adamw(settings.learning_rate, settings.weight_decay),
            where=settings.workload.where,
            seed=2 * seed + 1,
            **self._options(label, f"seed-{seed}", operator, method),
        )
        self._keep(result, seed, operator, method, settings.steps)

    def _options(self, label: str, *folder: str) -> dict[str, Any]:
        """What teachers and students are trained with alike."""
        done, root = self._done, self._checkpoint_dir

        def on_step(step: int, _: int) -> None:
            if self._on_progress is not None:
                self._on_progress(label, done + step, self.total)

        return {
            "batch_size": self._settings.batch_size,
            "record_every": self._settings.record_every,
            "on_progress": on_step,
            "checkpoint_dir": None if root is None else Path(root, *folder),
            "resume": self._resume,
        }

    def _keep(self, result: distill.Result, seed: int, operator: str | None, method: str, steps: int) -> None:
        self._done += steps
        params = nnx.to_pure_dict(nnx.state(result.student, nnx.Param))
        where = self._settings.workload.where
        key = {"operator": operator, "method": method, "seed": seed}
        layers = sparsity.layer_zeros(params, where)
        self.runs.append(
            {
                **key,
                "accuracy": result.final.accuracy,
                "nll": result.final.mean_nll,
                "calibration_error": result.final.calibration_error,
                "zero_fraction": sparsity.zero_fraction(params, where),
                "layers": {name: list(counts) for name, counts in layers.items()},
            }
        )
        self.history.extend({**key, **row} for row in result.history)
        if method == "staged" and seed == 0 and operator is not None:
            self.students[operator] = params


@functools.cache
def adamw(
    learning_rate: float, weight_decay: float, warmup: int = 0, steps: int = 0
) -> optax.GradientTransformation:
    """AdamW, one object for all runs of these settings: they then share their compiled scans."""
    rate: Any = learning_rate
    if warmup:
        rate = optax.warmup_cosine_decay_schedule(0.0, learning_rate, min(warmup, steps - 1), steps)
    return optax.adamw(rate, weight_decay=weight_decay)


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
        plan = f"plan-{_slug(settings.operators[0])}.json"
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


def _slug(operator: str) -> str:
    """An operator's name in the name of a file."""
    return re.sub(r"[^a-z0-9.]+", "-", operator).strip("-")


def summarise(runs: Sequence[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Means over seeds with Student-t intervals, and each student's paired difference to its own teacher.

    The difference is that of the workload's first metric.

    Args:
        runs: the runs of `run`.
        settings: the settings they ran under.

    Returns:
        One row a method and operator, the teacher first: ``{"operator", "method", "label", metric: interval,
        "difference": interval of the first metric minus the teacher's or None, "zero_fraction", "values"}``.
    """
    teacher = [r for r in runs if r["method"] == "teacher"]
    several = len(settings.operators) > 1
    first = settings.workload.metrics[0].key
    rows = []
    for operator, method in [
        (None, "teacher"),
        *((operator, method) for operator in settings.operators for method in settings.methods),
    ]:
        chosen = [r for r in runs if (r["operator"], r["method"]) == (operator, method)]
        label = "teacher" if operator is None else settings.method_label(method)
        values = [r[first] for r in chosen]
        difference = None
        if operator is not None:
            paired = distill.paired_difference(values, [r[first] for r in teacher])
            difference = dataclasses.asdict(paired)
        rows.append(
            {
                "operator": operator,
                "method": method,
                "label": f"{operator}: {label}" if several and operator else label,
                **{m: dataclasses.asdict(distill.interval([r[m] for r in chosen])) for m in METRICS},
                "difference": difference,
                "zero_fraction": {
                    "min": min(r["zero_fraction"] for r in chosen),
                    "max": max(r["zero_fraction"] for r in chosen),
                },
                "values": values,
            }
        )
    return rows


def write_report(report: dict[str, Any], out: str | Path) -> dict[str, Path]:
    """Write what `run` returned: report.json and .html, history.jsonl, each plan and its sparse weights.

    Args:
        report: from `run`.
        out: a directory; made if missing.

    Returns:
        The path of each file by name.

    Raises:
        OSError: the directory cannot be written.
    """
    from sparsekd_jax.studies.distillation_page import page

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    plain = {key: value for key, value in report.items() if key not in ("history", "students")}
    rows = [json.dumps(row, allow_nan=False) + "\n" for row in report["history"]]
    texts = {
        "report.json": json.dumps(plain, indent=2, allow_nan=False) + "\n",
        "history.jsonl": "".join(rows),
        "report.html": page(report),
    }
    paths = {}
    for operator, params in report["students"].items():
        slug = _slug(operator)
        texts[f"plan-{slug}.json"] = json.dumps(report["plans"][operator], indent=2) + "\n"
        paths[f"student-{slug}.safetensors"] = folder / f"student-{slug}.safetensors"
        metadata = {"operator": operator, "seed": "0", "command": report["command"]}
        distill.save_safetensors(paths[f"student-{slug}.safetensors"], params, metadata)
    for name, text in texts.items():
        paths[name] = folder / name
        paths[name].write_text(text, encoding="utf-8")
    return paths
