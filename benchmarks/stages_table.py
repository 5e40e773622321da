"""Staged against one-shot pruning on digits: ``python benchmarks/stages_table.py`` writes stages_table.md and
.json, and docs/figures/stages.svg.

Every sparsity × number of stages × budget × seed: the student starts at its own dense teacher and is
distilled with the power transform at T = 4. Two budgets (theory.md section 4): the same steps in all, or the
same steps a stage. Differences are paired by seed: to one-shot pruning under the same budget, and to the
dense teacher.
"""

import json
import time
from pathlib import Path
from typing import Any

import jax
import matplotlib as mpl
import optax
from flax import nnx
from matplotlib.figure import Figure
from rich.progress import track

from sparsekd_jax import data, distill, models

HERE = Path(__file__).parent
FIGURE = HERE.parent / "docs" / "figures" / "stages.svg"
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
STAGES = (1, 2, 3, 5, 10)
SEEDS = 5
BUDGETS: dict[str, dict[str, int]] = {
    "1,000 steps in all": {"total_steps": 1000},
    "300 steps a stage": {"steps_per_stage": 300},
}
TEACHER_STEPS = 1000
COLOURS = dict(zip(STAGES, ("#d55e00", "#e69f00", "#56b4e9", "#0072b2", "#000000"), strict=True))
MARKERS = dict(zip(STAGES, "^vosD", strict=True))


def main() -> None:
    started = time.perf_counter()
    accuracies = train()
    result = {
        "data": "digits, test_size 0.25, random_state 0, stratified; 450 test images",
        "seeds": SEEDS,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "seconds": round(time.perf_counter() - started),
        "teacher": accuracies["teacher"],
        "students": accuracies["students"],
    }
    (HERE / "stages_table.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draw(result)


def draw(result: dict[str, Any]) -> None:
    """The table and the figure from the numbers."""
    (HERE / "stages_table.md").write_text(table(result), encoding="utf-8")
    with mpl.rc_context({"svg.hashsalt": "sparsekd", "font.size": 10}):
        figure(result).savefig(FIGURE, metadata={"Date": None, "Creator": None})


def train() -> dict[str, Any]:
    """Test accuracies, lists over seeds: of teachers, and of ``students[budget][sparsity][stages]``."""
    digits, optimizer = data.digits(), optax.adamw(1e-3)
    teachers, students = [], {b: {s: {n: [] for n in STAGES} for s in SPARSITIES} for b in BUDGETS}
    jobs = [(b, s, n) for b in BUDGETS for s in SPARSITIES for n in STAGES]
    for seed in range(SEEDS):
        fitted = distill.fit(
            models.MLP((64, 256, 256, 10), rngs=nnx.Rngs(seed)),
            digits,
            steps=TEACHER_STEPS,
            optimizer=optimizer,
            seed=2 * seed,
        )
        teachers.append(fitted.final.accuracy)
        for budget, sparsity, count in track(jobs, f"seed {seed + 1} of {SEEDS}"):
            plan = distill.stages(sparsity=sparsity, num_stages=count, **BUDGETS[budget])
            run = distill.run(
                fitted.student, fitted.student, digits, plan, optimizer=optimizer, seed=2 * seed + 1
            )
            students[budget][sparsity][count].append(run.final.accuracy)
    as_text = {
        budget: {str(s): {str(n): values for n, values in row.items()} for s, row in rows.items()}
        for budget, rows in students.items()
    }
    return {"teacher": teachers, "students": as_text}


def verdict(difference: distill.Interval) -> str:
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        return ""
    return " **+**" if difference.low > 0 else " **−**"


def shown(interval: distill.Interval, sign: str = "") -> str:
    return interval.show(factor=100.0, sign=sign)


def table(result: dict[str, Any]) -> str:
    """Accuracy and both paired differences, in points, with 95 % Student-t intervals over seeds."""
    teacher = distill.interval(result["teacher"])
    lines = [
        "# Digits: staged against one-shot pruning, two budgets",
        "",
        f"`python benchmarks/stages_table.py` made this file: {result['seeds']} seeds, power at T = 4, cubic "
        f"schedule, global magnitude, AdamW 1e-3; jax {result['jax']} on {result['device']}, "
        f"{result['seconds']} s. Data: {result['data']}.",
        "",
        f"The dense teachers reach {shown(teacher)} %. Differences are in points, paired by seed, with 95 % "
        "Student-t intervals over seeds on this one split; **+** or **−** marks an interval that excludes 0. "
        "Of so many intervals one in twenty would do so by chance alone. One test image is 0.22 points.",
    ]
    for budget, rows in result["students"].items():
        lines += ["", f"## {budget}", ""]
        lines += [
            "| sparsity | stages | accuracy, % | minus one-shot | minus the dense teacher |",
            "|-|-|-|-|-|",
        ]
        for sparsity, row in rows.items():
            for count, values in row.items():
                cells = [shown(distill.interval(values))]
                for other in (None if count == "1" else row["1"], result["teacher"]):
                    gap = None if other is None else distill.paired_difference(values, other)
                    cells.append("–" if gap is None else shown(gap, "+") + verdict(gap))
                lines.append(f"| {sparsity} | {count} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def figure(result: dict[str, Any]) -> Figure:
    """Test error against sparsity, on a logarithmic scale; a panel a budget, a marker a number of stages."""
    out = Figure(figsize=(9.2, 4.0), layout="constrained")
    panels = out.subplots(1, 2, sharey=True)
    teacher = 100 - 100 * distill.interval(result["teacher"]).mean
    for axes, (budget, rows) in zip(panels, result["students"].items(), strict=True):
        axes.axhline(teacher, color="#8a94a0", lw=1, zorder=0)
        for j, count in enumerate(STAGES):
            stats = [distill.interval(row[str(count)]) for row in rows.values()]
            place = [i + 0.11 * (j - 2) for i in range(len(stats))]
            mean = [100 - 100 * s.mean for s in stats]
            half = [100 * (s.high - s.mean) for s in stats]
            half = [[min(h, 0.9 * m) for h, m in zip(half, mean, strict=True)], half]
            axes.errorbar(
                place,
                mean,
                yerr=half,
                color=COLOURS[count],
                marker=MARKERS[count],
                ms=5,
                lw=0,
                elinewidth=1.4,
                label="one-shot" if count == 1 else f"{count} stages",
            )
        axes.set_yscale("log")
        axes.set_yticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
        axes.minorticks_off()
        axes.set_xticks(range(len(rows)), [f"{100 * float(s):g} %" for s in rows])
        axes.set_xlabel("weights pruned")
        axes.set_title(budget, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e1e6ec")
        axes.set_axisbelow(True)
    panels[0].set_ylabel("test error, % (one image is 0.22)")
    panels[0].annotate(
        "dense teacher", (2.6, teacher), (0, -13), textcoords="offset points", color="#5a6675", fontsize=9
    )
    panels[1].legend(frameon=False, loc="upper left")
    return out


if __name__ == "__main__":
    main()
