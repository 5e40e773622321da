"""What was asked of the library's speed, beside what the committed run measured: benchmarks/goals.md.

``python -m benchmarks.goals`` makes it from benchmarks/results.json, with a reason where a goal is not met.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
PARTS = ("operators", "losses", "axioms", "training", "startup")
"""Parts of a run that have goals; `sparsekd bench` may have been asked for some of them only."""

SWEEPS = (
    "a root a row: four or five sweeps over it, each with an exponential and a sum, until the last row of a "
    "block has converged"
)


class Goal(NamedTuple):
    """A number that should stay within ``bound``, or reach it where ``at_least``; ``why`` it may not."""

    what: str
    bound: float
    values: Callable[[dict[str, Any]], Iterable[float]]
    at_least: bool = False
    why: str = ""


def times(operator: str, entry: str, key: str = "ratio") -> Callable[[dict[str, Any]], list[float]]:
    """A number of one operator, at each shape that has it."""
    return lambda results: [
        row[key]
        for at in results["operators"]["shapes"]
        for row in at["rows"]
        if (row["operator"], row["entry"]) == (operator, entry)
    ]


def slopes(operator: str) -> Callable[[dict[str, Any]], list[float]]:
    """Gradients over their forward, from p and from z."""
    entries = [times(operator, entry, "gradient_ratio") for entry in ("probabilities", "logits")]
    return lambda results: [value for entry in entries for value in entry(results)]


def faster_than(rival: str) -> Callable[[dict[str, Any]], list[float]]:
    """How many times faster Tsallis-1.5 from p is."""
    theirs, ours = times(f"{rival}: tsallis(1.5)", "probabilities"), times("tsallis(1.5)", "probabilities")

    def faster(results: dict[str, Any]) -> list[float]:
        # Without the rival's package there is nothing to compare.
        found = theirs(results)
        return [a / b for a, b in zip(found, ours(results), strict=True)] if found else []

    return faster


def fused(key: str) -> Callable[[dict[str, Any]], list[float]]:
    """A number of the fused loss."""
    return lambda results: [row[key] for row in results["losses"]["rows"] if row["loss"].startswith("fused")]


def checks(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the axiom checks."""
    rows: list[dict[str, Any]] = results["axioms"]["rows"]
    return rows


def whole_table(results: dict[str, Any]) -> list[float]:
    """Seconds of all axiom checks together; an empty table takes none, which meets nothing."""
    taken = [row["wall_s"] for row in checks(results)]
    return [sum(taken)] if taken else []


def evaluations(results: dict[str, Any]) -> list[float]:
    """Millions of law evaluations a minute."""
    rows = checks(results)
    return [60e-6 * sum(c["evaluations"] for c in rows) / sum(c["wall_s"] for c in rows)] if rows else []


def command(name: str) -> Callable[[dict[str, Any]], list[float]]:
    """Seconds of one command of the start-up."""
    return lambda results: [row["median_s"] for row in results["startup"]["rows"] if row["command"] == name]


def loop(results: dict[str, Any]) -> list[float]:
    """Steps a second over those of a PyTorch loop; without PyTorch the baseline is another."""
    if results["training"]["baseline"] != "PyTorch loop":
        return []
    return [row["ratio"] for row in results["training"]["loops"] if row["loop"] == "run"]


def masking(results: dict[str, Any]) -> list[float]:
    """What masks add to a step, %."""
    speed = {row["loop"]: row["steps_per_s"] for row in results["training"]["loops"]}
    return [100 * (speed["unmasked run"] / speed["run"] - 1)]


GOALS = (
    Goal(
        "power from log p, × softmax",
        1.2,
        times("power", "log"),
        why="log q next to a vertex is accurate relative to itself: ties are counted apart from the rest",
    ),
    Goal("power from z, × softmax", 1.2, times("power", "logits")),
    Goal("power from p, × softmax", 1.5, times("power", "probabilities"), why="a logarithm a class"),
    Goal(
        "mixture from p, × softmax",
        0.8,
        times("mixture", "probabilities"),
        why="a copy alone took 0.75 to 0.9 of a softmax in this run, and the program has room for T < 1 too",
    ),
    Goal("Tsallis-1.5 from p, × softmax", 1.5, times("tsallis(1.5)", "probabilities")),
    Goal(
        "Tsallis-1.5 from z, × softmax",
        1.5,
        times("tsallis(1.5)", "logits"),
        why="two sums over the exponentials, where softmax has one",
    ),
    Goal("Tsallis-1.5 at T = 0.5, × softmax", 4.0, times("tsallis(1.5), T = 0.5", "probabilities")),
    Goal("Tsallis-1.5, times faster than entmax's sort", 8.0, faster_than("entmax, sort"), at_least=True),
    Goal(
        "Tsallis-1.5, times faster than entmax's bisection",
        40.0,
        faster_than("entmax, bisection"),
        at_least=True,
    ),
    Goal("entropy projection from z, × softmax", 6.0, times("entropy-projection", "logits"), why=SWEEPS),
    Goal(
        "entropy projection from p, × softmax",
        6.0,
        times("entropy-projection", "probabilities"),
        why=f"{SWEEPS}; and a logarithm a class",
    ),
    Goal(
        "Euclidean entropy projection from p, × softmax",
        30.0,
        times("euclidean-entropy-projection", "probabilities"),
        why="two roots in one another: every sweep of the outer one solves q + a log q = p − c for each "
        "class",
    ),
    *(
        Goal(
            f"gradient of {name}, × its forward",
            3.0,
            slopes(name),
            why=why,
        )
        for name, why in (
            ("power", ""),
            ("mixture", "its forward is little more than a copy"),
            (
                "tsallis(1.5)",
                "its forward is one softmax; the derivative has sums of its own, and from z takes the "
                "exponentials again. Softmax itself has 1.7",
            ),
            ("entropy-projection", ""),
            ("euclidean-entropy-projection", ""),
        )
    ),
    Goal(
        "fused loss, temporaries of the plain one, %",
        6.0,
        lambda r: [100 * x for x in fused("temporaries_ratio")(r)],
    ),
    Goal(
        "fused loss, × time of the plain one",
        0.5,
        fused("ratio"),
        why="the four products that either of them needs take most of the plain one's time (they have a row "
        "of their own); only the rest is fused",
    ),
    Goal("fused loss, error of its value", 1e-5, fused("value_error")),
    Goal("fused loss, error of its gradients", 1e-5, fused("gradient_error")),
    Goal(
        "axiom check of one operator, s",
        20.0,
        lambda r: [row["wall_s"] for row in checks(r)],
        why="Tsallis at a general α, whose search is compiled for every K",
    ),
    Goal("axiom checks of the whole table, s", 180.0, whole_table),
    Goal("law evaluations a minute, millions", 1.0, evaluations, at_least=True),
    Goal("digits, × steps a second of a PyTorch loop", 2.0, loop, at_least=True),
    Goal("masks, % of a step", 10.0, masking),
    Goal("import of operators, s beyond jax", 0.3, lambda r: [r["startup"]["operators_over_jax_s"]]),
    Goal("sparsekd --help, s", 0.5, command("sparsekd --help")),
    Goal("resume, s beyond compilation", 1.0, lambda r: [r["training"]["resume_s"]]),
)


def page(results: dict[str, Any]) -> str:
    """The table; where there are several shapes or rows, the worst of them decides."""
    lines = ["| goal | asked | measured | |", "|-|-|-|-|"]
    for goal in GOALS:
        try:
            values = list(goal.values(results))
        except KeyError as absent:
            # A part that was not run; any other key is a mistake of this file.
            if absent.args[0] not in PARTS:
                raise
            values = []
        if not values:
            lines.append(f"| {goal.what} | | not measured | |")
            continue
        worst = min(values) if goal.at_least else max(values)
        met = worst >= goal.bound if goal.at_least else worst <= goal.bound
        low, high = min(values), max(values)
        span = f"{low:.3g}" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g}"
        verdict = "met" if met else f"**not met**: {goal.why or 'no reason is known'}"
        lines.append(f"| {goal.what} | {'≥' if goal.at_least else '≤'} {goal.bound:g} | {span} | {verdict} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    found = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
    (HERE / "goals.md").write_text(page(found), encoding="utf-8")
