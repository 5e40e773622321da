"""The table of gradient angles: ``python -m benchmarks.gradient_angles`` writes gradient_angles.md and .json.

Targets of few stored tokens, top k against sampled, by the angle and length of the gradient they give.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
from rich.progress import Progress

from sparsekd_jax import distill
from sparsekd_jax.studies import gradient_angles as study

HERE = Path(__file__).parent
TITLES = {
    "zipf": "Synthetic Zipf teacher, {vocab_size:,} tokens; gradient of a linear head, {tokens:,} contexts",
    "pydoc": "Byte-level Transformer; gradient of all parameters of the student, {windows} windows",
}


def main() -> None:
    settings, started = study.Settings(), time.perf_counter()
    with Progress() as bar:
        task = bar.add_task("", total=None)
        rows = study.gradient_angles(settings, on_progress=lambda text: bar.update(task, description=text))
    result = {
        "settings": dataclasses.asdict(settings),
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "seconds": round(time.perf_counter() - started),
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    (HERE / "gradient_angles.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (HERE / "gradient_angles.md").write_text(table(result), encoding="utf-8")


def table(result: dict[str, Any]) -> str:
    settings = result["settings"]
    lines = [
        "# Gradients under stored targets",
        "",
        f"`python -m benchmarks.gradient_angles` made this file: {settings['seeds']} seeds, 95 % Student-t "
        f"intervals; jax {result['jax']} on {result['device']}, {result['seconds']} s.",
    ]
    for name, title in TITLES.items():
        lines += ["", f"**{title.format(**settings)}**", ""]
        lines += ["| T | target | tokens stored | angle to the full gradient, ° | norm over the full one's |"]
        lines += ["|-|-|-|-|-|"]
        lines += [
            f"| {row['temperature']:g} | {row['target']} | {row['stored']:.1f} | {show(row['angle'], 1)} | "
            f"{show(row['norm_ratio'], 2)} |"
            for row in result["rows"]
            if row["workload"] == name
        ]
    return "\n".join(lines) + "\n"


def show(interval: dict[str, Any], decimals: int) -> str:
    return distill.Interval(**interval).show(decimals=decimals)


if __name__ == "__main__":
    main()
