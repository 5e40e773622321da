"""The main job: a dense teacher, distilled into sparse students at equal effort, over several seeds."""

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optax  # type: ignore[import-untyped]
from flax import nnx

from sparsekd_jax import data, distill, operators, sparsity
from sparsekd_jax.studies.environment import environment
from sparsekd_jax.studies.settings import Settings, command, slug
from sparsekd_jax.studies.verdicts import verdict_table

METRICS = ("accuracy", "nll", "calibration_error")
VALIDATION_SIZE = 0.1
"""Share of the training half that stages which may end early look at."""
Progress = Callable[[str, int, int], None]
"""Called with (what is running, steps done, total steps of the study)."""


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
        texts[f"plan-{slug(operator)}.json"] = json.dumps(report["plans"][operator], indent=2) + "\n"
        weights = f"student-{slug(operator)}.safetensors"
        paths[weights] = folder / weights
        metadata = {"operator": operator, "seed": "0", "command": report["command"]}
        distill.save_safetensors(paths[weights], params, metadata)
    for name, text in texts.items():
        paths[name] = folder / name
        paths[name].write_text(text, encoding="utf-8")
    return paths
