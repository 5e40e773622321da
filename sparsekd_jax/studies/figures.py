"""The figures of a distillation's page: every number in them comes from its report."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsekd_jax._page import FIGURE_STYLE, OKABE_ITO, new_figure
from sparsekd_jax.studies.workloads import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One colour and one marker a method, the same in every figure: never colour alone.
_METHODS = {
    "teacher": (OKABE_ITO["black"], "s"),
    "dense": (OKABE_ITO["sky"], "o"),
    "one-shot": (OKABE_ITO["vermillion"], "^"),
    "staged": (OKABE_ITO["blue"], "D"),
}


def metric_dots(rows: Sequence[dict[str, Any]], metric: Metric) -> "Figure":
    """A metric of each method: every seed a dot, the mean and its Student-t interval beside them.

    Args:
        rows: in order, ``{"label", "method", "values": one number a seed, "mean", "low", "high"}``.
        metric: what they are.

    Returns:
        A matplotlib figure.
    """
    import matplotlib as mpl

    with mpl.rc_context(FIGURE_STYLE):
        figure, axes = new_figure(7.2, 0.9 + 0.55 * len(rows))
        for i, row in enumerate(rows):
            colour, marker = _METHODS[row["method"]]
            values = metric.factor * np.asarray(row["values"])
            # Seeds that agree to the image would hide one another: stack them.
            repeats = [np.sum(values[:k] == value) for k, value in enumerate(values)]
            dots = i - 0.14 - 0.09 * np.asarray(repeats)
            axes.plot(values, dots, marker, color=colour, alpha=0.45, markersize=5, mew=0)
            if row["low"] is not None:
                bounds = [metric.factor * row["low"], metric.factor * row["high"]]
                axes.plot(bounds, [i + 0.16] * 2, color=colour, lw=2.2)
            axes.plot(metric.factor * row["mean"], i + 0.16, marker, color=colour, markersize=8, mec="white")
        axes.set_yticks(range(len(rows)), [row["label"] for row in rows])
        axes.tick_params(axis="y", length=0, labelcolor="#1c2430")
        axes.set_ylim(len(rows) - 0.5, -0.5)
        # The axis follows the seeds: the interval of two of them can be wider than anything worth comparing.
        # Where it is cut, its bounds stand in the table.
        seen = metric.factor * np.concatenate([np.asarray(row["values"]) for row in rows])
        margin = 0.6 * max(float(np.ptp(seen)), 0.005 * abs(float(seen.max())))
        axes.set_xlim(seen.min() - margin, seen.max() + margin)
        if metric.unit == "%":
            axes.set_xlim(right=min(seen.max() + margin, 100.2))
        axes.grid(axis="x")
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(metric.title)
    return figure


def stage_curves(
    histories: dict[str, tuple[str, list[list[dict[str, Any]]]]], teacher: float, metric: Metric
) -> "Figure":
    """A metric and the sparsity along the training steps of each method.

    Args:
        histories: for each method, its label and one history a seed (`distill.Result.history`).
        teacher: mean of the teachers, drawn as a reference.
        metric: what is drawn.

    Returns:
        A matplotlib figure: the metric above (thin lines the seeds, thick their mean, where all seeds have
        the same steps), the sparsity below.
    """
    import matplotlib as mpl

    with mpl.rc_context(FIGURE_STYLE):
        figure, (top, bottom) = new_figure(
            9.0, 5.2, nrows=2, sharex=True, gridspec_kw={"height_ratios": [3.2, 1]}
        )
        level = metric.factor * teacher
        top.axhline(level, color="#8a94a0", lw=1.2, ls=(0, (4, 3)))
        top.annotate(
            "teacher",
            (1, level),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            color="#5a6675",
            fontsize=9,
        )
        ends, seen = [level], [level]
        for i, (method, (label, seeds)) in enumerate(histories.items()):
            colour, marker = _METHODS[method]
            lines = [
                ([row["step"] for row in h], [metric.factor * row[metric.key] for row in h]) for h in seeds
            ]
            for steps, values in lines:
                top.plot(steps, values, color=colour, lw=0.7, alpha=0.35)
                ends.append(values[-1])
                seen += values
            steps, values = lines[0]
            if all(other == steps for other, _ in lines):  # stages that end early end where they will
                values = list(np.mean([v for _, v in lines], axis=0))
            top.plot(
                steps, values, color=colour, lw=2, label=label, marker=marker, markevery=(2 + 3 * i, 9), ms=5
            )
            bottom.plot(steps, [100 * row["sparsity"] for row in seeds[0]], color=colour, lw=2)
        _cut_the_falls(top, np.asarray(ends), np.asarray(seen), metric)
        top.set_ylabel(metric.title)
        top.legend(loc="lower right" if metric.higher_is_better else "upper right", ncols=len(histories))
        bottom.set_ylabel("zeros (%)")
        bottom.set_ylim(-4, 104)
        bottom.set_yticks([0, 50, 100])
        bottom.set_xlabel("student steps")
        for axes in (top, bottom):
            axes.grid(axis="y")
            axes.set_axisbelow(True)
    return figure


def _cut_the_falls(axes: "Axes", ends: np.ndarray, seen: np.ndarray, metric: Metric) -> None:
    """A prune can fall far, which would flatten everything that matters: the axis shows where runs end."""
    if metric.unit == "%":
        axes.set_ylim(bottom=max(seen.min() - 2, min(80.0, ends.min() - 5)), top=100.0)
        return
    margin = max(1.5 * float(np.ptp(ends)), 0.02 * float(np.abs(ends).max()))
    if metric.higher_is_better:
        axes.set_ylim(max(seen.min(), ends.min() - margin), seen.max() + 0.2 * margin)
    else:
        axes.set_ylim(seen.min() - 0.2 * margin, min(seen.max(), ends.max() + margin))
