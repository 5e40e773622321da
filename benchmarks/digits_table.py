"""The ten-seed table of the main job: ``python benchmarks/digits_table.py`` writes digits_table.md and .json.

Trains what `sparsekd distill` trains, over ten seeds, and tabulates accuracy with Student-t intervals and
each student's difference to its own teacher, paired by seed.
"""

import json
from pathlib import Path
from typing import Any

from sparsekd_jax import studies

HERE = Path(__file__).parent
SEEDS = 10


def main() -> None:
    report = studies.run(studies.Settings(num_seeds=SEEDS), laws=False)
    for name, text in (("digits_table.md", table(report)), ("digits_table.json", numbers(report))):
        (HERE / name).write_text(text, encoding="utf-8")


def numbers(report: dict[str, Any]) -> str:
    kept = ("version", "command", "configuration", "data", "summary", "runs", "environment", "timing")
    return json.dumps({key: report[key] for key in kept}, indent=1) + "\n"


def table(report: dict[str, Any]) -> str:
    configuration, environment, timing = (report[k] for k in ("configuration", "environment", "timing"))
    lines = [
        "# Digits: dense teacher, 95 % sparse students, ten seeds",
        "",
        f"`python benchmarks/digits_table.py` made this file: {configuration['num_seeds']} seeds, operator "
        f"{', '.join(configuration['operators'])}, T = {configuration['temperature']:g}, "
        f"{configuration['steps']:,} steps a student, {configuration['teacher_steps']:,} a teacher; jax "
        f"{environment['jax']} on {environment['device']}, {timing['training_seconds']:.0f} s.",
        "",
        "Accuracy is a share of the 450 test images (one is 0.0022); brackets are 95 % Student-t intervals",
        "over seeds on this one split; the difference is to the seed's own teacher, paired.",
        "",
        "| model | accuracy | minus its teacher | NLL, nats | calibration error | exact zeros, min to max |",
        "|-|-|-|-|-|-|",
    ]
    for row in report["summary"]:
        zeros = row["zero_fraction"]
        lines.append(
            f"| {row['label']} | {bracket(row['accuracy'])} | "
            f"{bracket(row['difference'], '+') if row['difference'] else '–'} | {bracket(row['nll'])} | "
            f"{bracket(row['calibration_error'])} | {zeros['min']:.5f} to {zeros['max']:.5f} |"
        )
    lines += ["", "Accuracy by seed:", ""]
    lines += ["| model | " + " | ".join(map(str, range(configuration["num_seeds"]))) + " |"]
    lines += ["|-" * (configuration["num_seeds"] + 1) + "|"]
    for row in report["summary"]:
        lines.append(f"| {row['label']} | " + " | ".join(f"{value:.4f}" for value in row["values"]) + " |")
    return "\n".join(lines) + "\n"


def bracket(interval: dict[str, float], sign: str = "") -> str:
    mean, low, high = (f"{interval[key]:{sign}.4f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


if __name__ == "__main__":
    main()
