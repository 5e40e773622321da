"""The page of the main job: what its report looks like to a reader."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparsekd_jax import _page, operators, plots
from sparsekd_jax.studies import figures
from sparsekd_jax.studies.settings import Settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def page(report: dict[str, Any]) -> str:
    """The report as one self-contained HTML page.

    Args:
        report: from `run`.

    Returns:
        HTML.
    """
    settings = Settings.of(report["configuration"])
    workload, metrics = settings.workload, settings.workload.metrics
    summary, runs = report["summary"], report["runs"]
    teacher = summary[0]
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
        curve = figures.stage_curves(histories, teacher[metrics[0].key]["mean"], metrics[0])
        curves.append({"operator": operator, "uri": _page.figure_uri(curve)})
    fields = [
        {
            "operator": name,
            "uri": _page.figure_uri(_softening_field(name, settings.temperature)),
        }
        for name in settings.operators
    ]
    dots = [{**row, **_bounds(row[metrics[0].key])} for row in summary]
    return _page.render(
        "distill.html",
        title=f"{workload.title}: a dense teacher, {100 * settings.sparsity:g} % sparse students",
        subtitle=(
            f"{workload.model_text(settings.model)}, distilled under "
            f"{' and '.join(settings.operators)} softening at T = {settings.temperature:g} into students "
            f"keeping {100 - 100 * settings.sparsity:.3g} % of its weights: pruned in {stages}, and at once."
        ),
        report=report,
        settings=settings,
        summary=summary,
        teacher=teacher,
        staged=[row for row in summary if row["method"] == "staged"],
        metrics=metrics,
        unit_text=workload.unit_text(report["data"]["test"]),
        dots=_page.figure_uri(figures.metric_dots(dots, metrics[0])),
        curves=curves,
        fields=fields,
        stages=[{"operator": op, "rows": stage_rows(report, op, settings)} for op in settings.operators],
        layers=layer_rows(runs, settings),
    )


def _bounds(interval: dict[str, Any]) -> dict[str, Any]:
    return {key: interval[key] for key in ("mean", "low", "high")}


def stage_rows(report: dict[str, Any], operator: str, settings: Settings) -> list[dict[str, Any]]:
    """Each stage of the staged student: its plan, the first metric around its recovery, means over seeds.

    Args:
        report: from `run`.
        operator: whose students.
        settings: the settings of the report.

    Returns:
        One row a stage: its plan, ``"pruned"`` and ``"recovered"``.
    """
    rows = []
    key = settings.workload.metrics[0].key
    staged = [r for r in report["history"] if (r["operator"], r["method"]) == (operator, "staged")]
    for number, stage in enumerate(report["plans"][operator]["stages"], start=1):
        here = [row for row in staged if row["stage"] == number]
        pruned = [row[key] for row in here if row["event"] == "pruned"]
        last = {row["seed"]: row for row in here}  # of each seed: a stage may end early
        recovered = [row[key] for row in last.values()]
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


def _softening_field(name: str, temperature: float) -> "Figure":
    figure, ax = _page.new_figure(4.3, 4.1)
    plots.softening_field(operators.parse(name), temperature, ax=ax)
    return figure
