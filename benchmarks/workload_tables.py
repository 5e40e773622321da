"""The tables of the main job: ``python -m benchmarks.workload_tables NAME`` writes NAME_table.md and .json.

Trains what ``sparsekd distill --data NAME`` trains, digits over ten seeds and pydoc over three, and tabulates
its metrics with Student-t intervals and each student's difference to its own teacher, paired by seed.
"""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsekd_jax import studies

HERE = Path(__file__).parent
SEEDS = {"digits": 10, "pydoc": 3}
Name = StrEnum("Name", {name: name for name in SEEDS})


def main(
    name: Annotated[Name, typer.Argument(help="The workload.")],
    report_dir: Annotated[Path | None, typer.Option(help="Also write the page and the weights here.")] = None,
) -> None:
    """Train a workload's seeds and write its table."""
    settings = studies.Settings.of_data(name.value, num_seeds=SEEDS[name.value])
    report = studies.run(settings, laws=False)
    for suffix, text in (("md", table(report)), ("json", numbers(report))):
        (HERE / f"{name.value}_table.{suffix}").write_text(text, encoding="utf-8")
    if report_dir is not None:
        studies.write_report(report, report_dir)


def numbers(report: dict[str, Any]) -> str:
    kept = ("command", "configuration", "data", "summary", "runs", "environment", "timing")
    return json.dumps({key: report[key] for key in kept}, indent=1) + "\n"


def table(report: dict[str, Any]) -> str:
    settings = studies.Settings.of(report["configuration"])
    workload, environment, timing = settings.workload, report["environment"], report["timing"]
    head, *others = workload.metrics
    seeds = settings.num_seeds
    columns = [
        "model",
        head.title,
        f"minus its teacher, {head.difference_unit}",
        *(metric.title for metric in others),
        "zeros, %, min to max",
    ]
    lines = [
        f"# {workload.title}: dense teacher, {100 * settings.sparsity:g} % sparse students, {seeds} seeds",
        "",
        f"`python -m benchmarks.workload_tables {settings.data}` made this file: "
        f"{workload.model_text(settings.model)}, {seeds} seeds, "
        f"operator {', '.join(settings.operators)}, T = {settings.temperature:g}, "
        f"{settings.steps:,} steps a student, {settings.teacher_steps:,} a teacher; "
        f"jax {environment['jax']} on {environment['device']}, {timing['training_seconds']:.0f} s.",
        "",
        f"{workload.unit_text(report['data']['test'])} Brackets are 95 % Student-t intervals over seeds on",
        "this one split; the difference is to the seed's own teacher, paired.",
        "",
        row_of(columns),
        "|-" * len(columns) + "|",
    ]
    for row in report["summary"]:
        zeros = row["zero_fraction"]
        difference = head.show_interval(row["difference"], "+") if row["difference"] else "–"
        shown = [metric.show_interval(row[metric.key]) for metric in others]
        span = f"{100 * zeros['min']:.3f} to {100 * zeros['max']:.3f}"
        lines.append(row_of([row["label"], head.show_interval(row[head.key]), difference, *shown, span]))
    lines += ["", f"{head.title[0].upper()}{head.title[1:]} by seed:", ""]
    lines += [row_of(["model", *map(str, range(seeds))]), "|-" * (seeds + 1) + "|"]
    lines += [row_of([row["label"], *map(head.show, row["values"])]) for row in report["summary"]]
    return "\n".join(lines) + "\n"


def row_of(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    typer.run(main)
