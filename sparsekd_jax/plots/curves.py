"""Pictures along an axis: temperature, confidence, sparsity."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from sparsekd_jax import simplex
from sparsekd_jax.distill import Tally, interval
from sparsekd_jax.operators import Operator
from sparsekd_jax.plots._canvas import (
    EDGE,
    INK,
    PALE_INK,
    axes_or_new,
    dashed,
    look,
    new_axes,
    require_labels,
    rule_lines,
)
from sparsekd_jax.theory._rows import distributions
from sparsekd_jax.theory.homotopy import HomotopyPath

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def entropy_curves(
    operators: Mapping[str, Operator],
    p: Float[ArrayLike, " K"],
    *,
    hottest: float = 64.0,
    ax: "Axes | None" = None,
) -> "Axes":
    """Entropy of F_T(p) against T: A3 says that every curve rises, A5h that it ends at log K.

    Args:
        operators: by label, operators or functions ``(p, T) -> q`` that accept T ≥ 1.
        p: one distribution ``[K]``.
        hottest: the last T, above 1.
        ax: axes to draw into.

    Returns:
        The axes; entropies are in nats.

    Raises:
        TypeError: operators without labels.
        ValueError: nothing to draw, no single distribution, or a last T that is not above 1.
    """
    require_labels(operators, "operators")
    if not operators:
        raise ValueError("operators is empty: nothing to draw")
    if not 1 < hottest < math.inf:
        raise ValueError(f"hottest is {hottest}; the curves start at T = 1 and end at a finite T above it")
    if np.ndim(p) != 1:
        raise ValueError(f"p has shape {np.shape(p)}; one distribution [K] makes a curve")
    ax = axes_or_new(ax, 8.0, 4.2)
    row = jnp.asarray(distributions(p), jnp.float32)
    temperatures = np.geomspace(1, hottest, 97)
    highest = math.log(row.size)
    ax.axhline(highest, color=EDGE, lw=1, ls=":")
    offset = {"xytext": (0, 4), "textcoords": "offset points"}
    ax.annotate(f"log {row.size}", (1.03, highest), color=PALE_INK, **offset)  # type: ignore[arg-type]
    for i, (label, operator) in enumerate(operators.items()):
        softened = jnp.stack([jnp.asarray(operator(row, t)) for t in temperatures.tolist()])
        ax.plot(temperatures, np.asarray(simplex.entropy(softened)), lw=2, label=label, **dashed(i))
    last = math.floor(math.log2(hottest))
    powers = 2.0 ** np.arange(0, last + 1, 1 + last // 11)  # more labels than eleven run into one another
    ax.set_xscale("log", base=2)
    ax.set_xticks(powers, [f"{t:g}" for t in powers])
    ax.set_xlim(1, hottest)
    ax.set_ylim(bottom=min(ax.get_ylim()[0], 0.95 * highest))  # where nothing rises, no close-up of rounding
    ax.set_xlabel("temperature T")
    ax.set_ylabel("entropy of $F_T(p)$, nats")
    ax.legend(frameon=False, loc="lower right")
    rule_lines(ax, "y")
    return ax


def reliability_diagram(tallies: Mapping[str, Tally], *, ax: "Axes | None" = None) -> "Axes":
    """Accuracy against confidence, bin by bin: on the diagonal a model is right as often as it says.

    Args:
        tallies: by label, the sums of a model over its test data (`distill.tally`).
        ax: axes to draw into.

    Returns:
        The axes. A point is a bin that is not empty, its area the share of examples there; the legend has the
        expected calibration error.

    Raises:
        TypeError: tallies without labels.
        ValueError: nothing to draw.

    Reference:
        Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599.
    """
    require_labels(tallies, "tallies")
    if not tallies:
        raise ValueError("tallies is empty: nothing to draw")
    ax = axes_or_new(ax, 4.6, 4.4)
    ax.plot([0, 1], [0, 1], color=EDGE, lw=1.2, ls=(0, (4, 3)), zorder=1)
    ax.annotate(
        "right as often as it says", (0.28, 0.31), color=PALE_INK, fontsize=9, rotation=45, ha="center"
    )
    for i, (label, tally) in enumerate(tallies.items()):
        inside = np.asarray(tally.in_bin)
        seen = inside > 0
        confidence = np.asarray(tally.confidence)[seen] / inside[seen]
        accuracy = np.asarray(tally.hits)[seen] / inside[seen]
        ax.plot(confidence, accuracy, lw=1.4, color=look(i)["color"], zorder=2)
        ax.scatter(
            confidence,
            accuracy,
            s=16 + 240 * inside[seen] / inside.sum(),
            edgecolor="white",
            zorder=3,
            clip_on=False,
            label=f"{label}, ECE {100 * tally.calibration_error:.1f} %",
            **look(i),
        )
    ax.set_xlim(0, 1.02)
    ax.set_ylim(0, 1.02)
    ax.set_aspect("equal")
    ax.set_xlabel("confidence")
    ax.set_ylabel("accuracy")
    # Points are as large as their bins are full; in the legend they are all alike.
    for handle in ax.legend(frameon=False, loc="upper left").legend_handles:
        handle.set_sizes([36])  # type: ignore[union-attr]
    rule_lines(ax, "both")
    return ax


def stage_path(
    paths: Mapping[str, Sequence[HomotopyPath]], *, axes: "Sequence[Axes] | None" = None
) -> "tuple[Axes, Axes]":
    """Distance to the teacher and lengths of the steps along the paths of one or several methods.

    Args:
        paths: by label, the paths of its seeds, with one set of sparsities a label.
        axes: two to draw into, which may share their x axis.

    Returns:
        The two axes: the distance to the teacher after each recovery (filled) and just after each prune
        (hollow), means over seeds with every seed as a pale line; and the step lengths.

    Raises:
        TypeError: paths without labels.
        ValueError: no paths, seeds of a label with different sparsities, or paths of different distances.
    """
    require_labels(paths, "paths")
    if not paths or not all(paths.values()):
        raise ValueError("paths is empty, or one of its labels is: nothing to draw")
    for label, seeds in paths.items():
        if any(not np.allclose(path.sparsities, seeds[0].sparsities) for path in seeds):
            raise ValueError(f"paths[{label!r}] has seeds of different sparsities; draw them apart")
    metrics = sorted({path.distance for seeds in paths.values() for path in seeds})
    if len(metrics) > 1:
        raise ValueError(f"paths are measured by {' and '.join(metrics)}; draw one distance at a time")
    if axes is None:
        axes = new_axes(7.6, 5.0, nrows=2, sharex=True, gridspec_kw={"height_ratios": [2.2, 1]})
    top, bottom = axes
    for i, (label, seeds) in enumerate(paths.items()):
        colour, marker = look(i)["color"], look(i)["marker"]
        x = 100 * np.asarray(seeds[0].sparsities)
        recovered = np.stack([path.from_teacher for path in seeds])
        steps = np.stack([path.step_lengths for path in seeds])
        top.plot(x, recovered.T, color=colour, lw=0.7, alpha=0.35)
        top.plot(x, recovered.mean(axis=0), color=colour, lw=2, marker=marker, ms=5, label=label)
        known = [path.from_teacher_pruned for path in seeds if path.from_teacher_pruned is not None]
        if known:
            pruned = {"color": colour, "ls": (0, (1, 2)), "marker": marker, "mfc": "white", "ms": 6}
            top.plot(x[1:], np.mean(known, axis=0), **pruned)
        bottom.plot(x[1:], steps.T, color=colour, lw=0.7, alpha=0.35)
        bottom.plot(x[1:], steps.mean(axis=0), color=colour, lw=2, marker=marker, ms=5)
    top.set_ylabel(f"distance to the teacher\n({metrics[0]})")
    top.legend(title="filled: recovered; hollow: just pruned", title_fontsize=9, frameon=False)
    bottom.set_ylabel("step length")
    bottom.set_xlabel("zeros, %")
    for ax in (top, bottom):
        ax.set_ylim(bottom=0)
        rule_lines(ax, "y")
    return top, bottom


def crossover(
    x: Sequence[float],
    differences: Mapping[str, Float[ArrayLike, "x seeds"]],
    *,
    first: str = "the first",
    second: str = "the second",
    level: float = 0.95,
    ax: "Axes | None" = None,
) -> "Axes":
    """Where one method overtakes another: ``loss(first) − loss(second)`` against x, with intervals.

    Args:
        x: what was varied, such as the sparsity; ascending.
        differences: by label, differences of paired seeds ``[len(x), seeds]`` of something that should be
            small: below zero the first method is better.
        first: name of the first method.
        second: name of the second.
        level: coverage of the Student-t intervals over seeds.
        ax: axes to draw into; the caller labels them.

    Returns:
        The axes: means joined by lines, an interval each (filled where it excludes zero, hollow where not),
        and a line at zero.

    Raises:
        TypeError: differences without labels, or x that is no numbers.
        ValueError: nothing to draw, x that falls or is not finite, or shapes that do not fit.
    """
    require_labels(differences, "differences")
    if not differences or not len(x):
        raise ValueError(f"{'x' if differences else 'differences'} is empty: nothing to draw")
    if np.ndim(x) != 1 or np.asarray(x).dtype.kind in "OUSc":
        raise TypeError(f"x is {x!r}; it is a list of numbers: give those that were varied, ascending")
    if not np.isfinite(x).all() or (np.diff(x) < 0).any():
        raise ValueError(f"x is {list(x)}; lines join its values in order: give them finite and ascending")
    ax = axes_or_new(ax, 6.6, 4.0)
    ax.axhline(0, color=INK, lw=1)
    for i, (label, values) in enumerate(differences.items()):
        rows = np.asarray(values, float)
        if rows.ndim != 2 or len(rows) != len(x):
            raise ValueError(f"differences[{label!r}] has shape {rows.shape}; it must be [{len(x)}, seeds]")
        found = [interval(row.tolist(), level=level) for row in rows]
        means = [cell.mean for cell in found]
        colour, marker = look(i)["color"], look(i)["marker"]
        ax.plot(x, means, color=colour, lw=1.6, zorder=2)
        for at, cell in zip(x, found, strict=True):
            decided = cell.low is not None and cell.high is not None and cell.low * cell.high > 0
            if cell.low is not None and cell.high is not None:
                ax.plot([at, at], [cell.low, cell.high], color=colour, lw=2.2, alpha=0.55, zorder=1)
            ax.plot(at, cell.mean, marker, mec=colour, mfc=colour if decided else "white", ms=7, zorder=3)
        ax.plot([], [], color=colour, marker=marker, label=label)
    # Room on both sides of zero, so that the words stand where they are true; outside, where no curve goes.
    low, high = ax.get_ylim()
    room = 0.14 * (high - low)
    ax.set_ylim(min(low, -room), max(high, room))
    beside: dict[str, Any] = {"xycoords": "axes fraction", "rotation": 90, "color": PALE_INK, "fontsize": 9}
    ax.annotate(f"better: {second} →", (1.015, 1.0), va="top", **beside)
    ax.annotate(f"← better: {first}", (1.015, 0.0), va="bottom", **beside)
    if len(differences) > 1:
        ax.legend(frameon=False)
    rule_lines(ax, "y")
    return ax
