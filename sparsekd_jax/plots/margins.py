"""How near to its limit each law was tried."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sparsekd_jax._page import OKABE_ITO
from sparsekd_jax.axioms import Report
from sparsekd_jax.plots._canvas import INK, PALE_INK, axes_or_new, rule_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A letter of the table to its marker: what holds is filled, what fails a cross.
_LOOKS: dict[str, dict[str, Any]] = {
    "holds": {"marker": "o", "color": OKABE_ITO["blue"]},
    "holds on the interior": {"marker": "D", "color": OKABE_ITO["sky"]},
    "fails": {"marker": "X", "color": OKABE_ITO["vermillion"]},
    "undecided": {"marker": "s", "color": OKABE_ITO["orange"]},
}
_TICKS = {"−1": -1.0, "−1e-6": -1e-6, "−1e-12": -1e-12, "0": 0.0, "1e-12": 1e-12, "1e-6": 1e-6, "1": 1.0}
_LINEAR = 1e-14  # below this all margins are rounding


def law_margins(reports: Report | Sequence[Report], *, ax: "Axes | None" = None) -> "Axes":
    """The worst margin that each law left, on both sides of zero: left of its tolerance it is violated.

    Args:
        reports: of `axioms.check`, one or several; several are drawn one below the other within each law.
        ax: axes to draw into.

    Returns:
        The axes: a row a law, a marker a verdict, the tolerance a short pale bar left of zero. The scale is
        logarithmic on both sides of ±1e-14. Where an output was NaN the margin is −∞, drawn at −1 or at the
        worst finite one. A law that is not applicable has no marker.

    Raises:
        TypeError: something that is no report.
        ValueError: no report.
    """
    alone = isinstance(reports, Report) or not isinstance(reports, Iterable)
    found: list[Any] = [reports] if alone else list(reports)
    if not all(isinstance(report, Report) for report in found):
        raise TypeError(
            "reports is no report of axioms.check, nor a list of them; pass axioms.check(operator)"
        )
    if not found:
        raise ValueError("reports is empty: nothing to draw")
    laws = list(dict.fromkeys(result.law.id for report in found for result in report))
    ax = axes_or_new(ax, 7.4, 1.2 + 0.3 * len(laws) * max(1.0, 0.6 * len(found)))
    drawn: dict[str, Any] = {}
    edge = min((r.margin for report in found for r in report if math.isfinite(r.margin)), default=-1.0)
    for i, report in enumerate(found):
        for result in report:
            y = laws.index(result.law.id) + (i + 1) / (len(found) + 1) - 0.5
            margin = min(edge, -1.0) if result.margin == -math.inf else result.margin
            if not math.isfinite(margin) or result.verdict not in _LOOKS:
                continue
            if not result.law.limit:  # a limit is judged by its trend
                tolerated = [-result.law.tolerance, 0]
                ax.plot(tolerated, [y, y], color="#c9d1da", lw=5, solid_capstyle="butt", zorder=1)
            look = _LOOKS[result.verdict]
            (mark,) = ax.plot(margin, y, ls="", ms=7, mec="white", mew=0.6, zorder=3, clip_on=False, **look)
            drawn.setdefault(result.verdict, mark)
            if len(found) > 1:
                ax.annotate(
                    report.operator,
                    (margin, y),
                    xytext=(7, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7.5,
                    color=PALE_INK,
                )
    ax.axvline(0, color=INK, lw=1, zorder=2)
    ax.set_xscale("symlog", linthresh=_LINEAR, linscale=0.6)
    ax.set_xticks(list(_TICKS.values()), list(_TICKS))
    ax.set_yticks(range(len(laws)), laws)
    ax.set_ylim(len(laws) - 0.5, -0.5)
    ax.set_xlabel("worst margin; grey: within the tolerance")
    if len(found) == 1:
        ax.set_title(found[0].operator, fontsize=11, color=INK)
    order = [verdict for verdict in _LOOKS if verdict in drawn]
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12), "ncols": 4}
    ax.legend([drawn[v] for v in order], order, frameon=False, **below)
    rule_lines(ax, "x")
    return ax
