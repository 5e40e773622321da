"""The main job: a dense teacher on digits, distilled into sparse students, and what it looks like."""

import dataclasses
import functools
import json
import platform
import re
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import optax  # type: ignore[import-untyped]
from flax import nnx

import sparsekd_jax
from sparsekd_jax import _page, data, distill, models, operators, sparsity
from sparsekd_jax.studies import figures
from sparsekd_jax.studies.verdicts import verdict_table

METRICS = ("accuracy", "nll", "calibration_error")
Progress = Callable[[str, int, int], None]
"""Called with (what is running, steps done, total steps of the study)."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the study runs. The defaults are those of the demo.

    The optimizer is AdamW for teacher and students alike. Where a student starts, the learning rate and alpha
    were settled on validation images cut from the training half; the test half only reports.

    Attributes:
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
        hidden: widths of the hidden layers.
        batch_size: examples a step.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        record_every: steps between rows of the history.
    """

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
    hidden: tuple[int, ...] = (256, 256)
    batch_size: int = 128
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    record_every: int = 50

    @classmethod
    def of(cls, configuration: dict[str, Any]) -> "Settings":
        """Settings from a report's configuration, whose tuples JSON has made lists."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in configuration.items()}
        return cls(**fields)

    def plan(self, operator: str, method: str) -> distill.Plan:
        """The plan of one method, "dense", "one-shot" or "staged"; raises ValueError on a bad setting."""
        staged = method == "staged"
        return distill.stages(
            operator=operators.parse(operator),
            temperature=self.temperature,
            sparsity=0.0 if method == "dense" else self.sparsity,
            num_stages=self.num_stages if staged else 1,
            schedule=self.schedule if staged else "one-shot",
            total_steps=self.steps,
            alpha=self.alpha,
            soften_student=self.soften_student,
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
    digits = data.digits()
    optimizer = _adamw(settings.learning_rate, settings.weight_decay)
    sizes = (digits.train_inputs.shape[1], *settings.hidden, digits.num_classes)
    common: dict[str, Any] = {
        "optimizer": optimizer,
        "batch_size": settings.batch_size,
        "record_every": settings.record_every,
    }
    per_seed = settings.teacher_steps + len(settings.operators) * len(settings.methods) * settings.steps
    total = per_seed * settings.num_seeds
    done = 0
    runs: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    students: dict[str, Any] = {}

    def report(label: str) -> Callable[[int, int], None]:
        return lambda step, _: on_progress(label, done + step, total) if on_progress else None

    def checkpoints(*names: str) -> dict[str, Any]:
        folder = Path(checkpoint_dir, *names) if checkpoint_dir is not None else None
        return {"checkpoint_dir": folder, "resume": resume}

    def keep(result: distill.Result, seed: int, operator: str | None, method: str) -> None:
        params = nnx.to_pure_dict(nnx.state(result.student, nnx.Param))
        key = {"operator": operator, "method": method, "seed": seed}
        runs.append(
            {
                **key,
                "accuracy": result.final.accuracy,
                "nll": result.final.mean_nll,
                "calibration_error": result.final.calibration_error,
                "zero_fraction": sparsity.zero_fraction(params),
                "layers": {name: list(counts) for name, counts in sparsity.layer_zeros(params).items()},
            }
        )
        history.extend({**key, **row} for row in result.history)
        if method == "staged" and seed == 0 and operator is not None:
            students[operator] = params

    for seed in range(settings.num_seeds):
        teacher = distill.fit(
            models.MLP(sizes, rngs=nnx.Rngs(seed)),
            digits,
            steps=settings.teacher_steps,
            seed=2 * seed,  # even seeds order the teachers' data, odd ones the students'
            on_progress=report(f"seed {seed}: teacher"),
            **checkpoints(f"seed-{seed}", "teacher"),
            **common,
        )
        keep(teacher, seed, None, "teacher")
        done += settings.teacher_steps
        for operator in settings.operators:
            for method in settings.methods:
                result = distill.run(
                    teacher.student,  # the path starts at the teacher (theory.md section 4)
                    teacher.student,
                    digits,
                    settings.plan(operator, method),
                    seed=2 * seed + 1,
                    on_progress=report(f"seed {seed}: {operator}, {settings.method_label(method)}"),
                    **checkpoints(f"seed-{seed}", operator, method),
                    **common,
                )
                keep(result, seed, operator, method)
                done += settings.steps
    trained = time.perf_counter()
    if laws and on_progress:
        on_progress("checking the laws", total, total)
    verdicts = verdict_table([operators.parse(name) for name in settings.operators] if laws else [])
    return {
        "study": "digits",
        "version": sparsekd_jax.__version__,
        "command": command(settings),
        "configuration": json.loads(json.dumps(dataclasses.asdict(settings))),
        "data": {
            "name": digits.name,
            "inputs": sizes[0],
            "num_classes": sizes[-1],
            "train": int(digits.train_labels.size),
            "test": int(digits.test_labels.size),
            "split": "test_size 0.25, random_state 0, stratified",
        },
        "plans": {name: settings.plan(name, "staged").describe() for name in settings.operators},
        "summary": summarise(runs, settings),
        "runs": runs,
        "verdicts": verdicts,
        "environment": {
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "python": platform.python_version(),
        },
        "timing": {
            "training_seconds": round(trained - started, 2),
            "laws_seconds": round(time.perf_counter() - trained, 2),
            "steps": total,
        },
        "history": history,
        "students": students,
    }


@functools.cache
def _adamw(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    # One object for all runs of these settings: they then share their compiled scans.
    return optax.adamw(learning_rate, weight_decay=weight_decay)


def command(settings: Settings) -> str:
    """The command line that runs these settings again."""
    default = Settings()
    options = {
        "operator": ",".join(settings.operators),
        "temperature": f"{settings.temperature:g}",
        "sparsity": f"{settings.sparsity:g}",
        "stages": str(settings.num_stages),
        "seeds": str(settings.num_seeds),
        "steps": str(settings.steps),
        "teacher-steps": str(settings.teacher_steps),
    }
    usual = {
        "operator": ",".join(default.operators),
        "temperature": f"{default.temperature:g}",
        "sparsity": f"{default.sparsity:g}",
        "stages": str(default.num_stages),
        "seeds": str(default.num_seeds),
        "steps": str(default.steps),
        "teacher-steps": str(default.teacher_steps),
    }
    flags = [] if settings.soften_student else ["--targets-only"]
    extra = [f"--{name} {shlex.quote(value)}" for name, value in options.items() if value != usual[name]]
    return " ".join(["sparsekd distill --data digits", *extra, *flags, "--out DIR"])


def summarise(runs: Sequence[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Means over seeds with Student-t intervals, and each student's paired difference to its own teacher.

    Args:
        runs: the runs of `run`.
        settings: the settings they ran under.

    Returns:
        One row a method and operator, the teacher first: ``{"operator", "method", "label", metric: interval,
        "difference": interval of accuracy minus the teacher's or None, "zero_fraction", "values"}``.
    """
    teacher = [r for r in runs if r["method"] == "teacher"]
    several = len(settings.operators) > 1
    rows = []
    for operator, method in [
        (None, "teacher"),
        *((operator, method) for operator in settings.operators for method in settings.methods),
    ]:
        chosen = [r for r in runs if (r["operator"], r["method"]) == (operator, method)]
        label = "teacher" if operator is None else settings.method_label(method)
        values = [r["accuracy"] for r in chosen]
        difference = None
        if operator is not None:
            paired = distill.paired_difference(values, [r["accuracy"] for r in teacher])
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
    """Write what `run` returned: report.json, history.jsonl, the sparse weights, and report.html.

    Args:
        report: from `run`.
        out: a directory; made if missing.

    Returns:
        The path of each file by name.

    Raises:
        OSError: the directory cannot be written.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    plain = {key: value for key, value in report.items() if key not in ("history", "students")}
    paths = {"report.json": folder / "report.json", "history.jsonl": folder / "history.jsonl"}
    paths["report.json"].write_text(json.dumps(plain, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    lines = [json.dumps(row, allow_nan=False) for row in report["history"]]
    paths["history.jsonl"].write_text("\n".join(lines) + "\n", encoding="utf-8")
    for operator, params in report["students"].items():
        name = f"student-{re.sub(r'[^a-z0-9.]+', '-', operator).strip('-')}.safetensors"
        paths[name] = folder / name
        metadata = {"operator": operator, "seed": "0", "command": report["command"]}
        distill.save_safetensors(paths[name], params, metadata)
    paths["report.html"] = folder / "report.html"
    paths["report.html"].write_text(page(report), encoding="utf-8")
    return paths


def page(report: dict[str, Any]) -> str:
    """The report as one self-contained HTML page.

    Args:
        report: from `run`.

    Returns:
        HTML.
    """
    settings = Settings.of(report["configuration"])
    summary, runs = report["summary"], report["runs"]
    teacher = summary[0]
    sizes = (report["data"]["inputs"], *settings.hidden, report["data"]["num_classes"])
    stages = settings.method_label("staged")
    curves = []
    for operator in settings.operators:
        histories = {
            method: (
                settings.method_label(method),
                [
                    [row for row in report["history"] if (row["operator"], row["method"], row["seed"]) == key]
                    for key in ((operator, method, seed) for seed in range(settings.num_seeds))
                ],
            )
            for method in settings.methods
        }
        curve = figures.stage_curves(histories, teacher["accuracy"]["mean"])
        curves.append({"operator": operator, "uri": _page.figure_uri(curve)})
    fields = [
        {
            "operator": name,
            "uri": _page.figure_uri(figures.softening_field(operators.parse(name), settings.temperature)),
        }
        for name in settings.operators
    ]
    dots = [{**row, **_bounds(row["accuracy"])} for row in summary]
    return _page.render(
        "distill.html",
        title=f"Digits: a dense teacher, {100 * settings.sparsity:g} % sparse students",
        subtitle=(
            f"A {'-'.join(map(str, sizes))} network trained on handwritten digits, distilled under "
            f"{' and '.join(settings.operators)} softening at T = {settings.temperature:g} into students "
            f"keeping {100 - 100 * settings.sparsity:.3g} % of its weights: pruned in {stages}, and at once."
        ),
        report=report,
        settings=settings,
        summary=summary,
        teacher=teacher,
        staged=[row for row in summary if row["method"] == "staged"],
        dots=_page.figure_uri(figures.accuracy_dots(dots)),
        curves=curves,
        fields=fields,
        stages=[{"operator": op, "rows": stage_rows(report, op, settings)} for op in settings.operators],
        layers=layer_rows(runs, settings),
    )


def _bounds(interval: dict[str, Any]) -> dict[str, Any]:
    return {key: interval[key] for key in ("mean", "low", "high")}


def stage_rows(report: dict[str, Any], operator: str, settings: Settings) -> list[dict[str, Any]]:
    """Each stage of the staged student: its plan, accuracy before and after recovery, means over seeds.

    Args:
        report: from `run`.
        operator: whose students.
        settings: the settings of the report.

    Returns:
        One row a stage: its plan, ``"pruned"`` and ``"recovered"``.
    """
    rows = []
    staged = [r for r in report["history"] if (r["operator"], r["method"]) == (operator, "staged")]
    for number, stage in enumerate(report["plans"][operator]["stages"], start=1):
        here = [row for row in staged if row["stage"] == number]
        end = max(row["step"] for row in here)
        pruned = [row["accuracy"] for row in here if row["event"] == "pruned"]
        recovered = [row["accuracy"] for row in here if row["event"] == "train" and row["step"] == end]
        mean = {"pruned": sum(pruned) / len(pruned), "recovered": sum(recovered) / len(recovered)}
        rows.append({"stage": number, **stage, **mean})
    return rows


def layer_rows(runs: Sequence[dict[str, Any]], settings: Settings) -> list[dict[str, Any]]:
    """Share of zeros in each kernel, means over seeds, for the sparse methods.

    Args:
        runs: the runs of a report.
        settings: its settings.

    Returns:
        One row a kernel: ``{"name", "size", "shares": {"operator: method": share}}``, then one for all.
    """
    sparse = [(op, method) for op in settings.operators for method in settings.methods if method != "dense"]
    rows = []
    for name in [*runs[0]["layers"], None]:
        shares, size = {}, 0
        for operator, method in sparse:
            chosen = [r["layers"] for r in runs if (r["operator"], r["method"]) == (operator, method)]
            counts = [c for layers in chosen for key, c in layers.items() if name in (key, None)]
            zeros, total = (sum(column) for column in zip(*counts, strict=True))
            label = settings.method_label(method)
            shares[f"{operator}: {label}" if len(settings.operators) > 1 else label] = zeros / total
            size = total // len(chosen)
        rows.append({"name": name or "all kernels", "size": size, "shares": shares})
    return rows
