"""Pictures over the simplex of three classes."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsekd_jax._page import OKABE_ITO
from sparsekd_jax.operators import Operator, SofteningOperator
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.plots._canvas import EDGE, INK, PALE_INK, axes_or_new
from sparsekd_jax.theory.variance import AmplificationMap

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def softening_field(
    operator: Operator, temperature: float, *, name: str = "", ax: "Axes | None" = None
) -> "Axes":
    """How an operator moves three-class distributions: the paths of points of the triangle as T leaves 1.

    Blue paths are of T from 1 up to 64, orange ones of T down to 1/16 where the operator's range reaches
    below 1; dots mark T = 1, diamonds ``temperature``, a cross the centre.

    Args:
        operator: a softening operator, or a function ``(p, T) -> q`` taken to accept T ≥ 1.
        temperature: the T to mark on every path.
        name: what to call a plain function.
        ax: axes to draw into; they lose their frame.

    Returns:
        The axes.
    """
    ax = axes_or_new(ax, 4.3, 4.1)
    lattice = [(i, j, 9 - i - j) for i in range(1, 9) for j in range(1, 9 - i)]
    weights = np.array([*lattice, (40, 1, 1), (1, 40, 1), (1, 1, 40)], dtype=np.float64)
    # Off the lattice by a little, so that paths from symmetric points do not lie on one another.
    starts = weights + np.array([0.0, 0.12, 0.3])
    starts /= starts.sum(axis=-1, keepdims=True)
    _draw_triangle(ax, facecolor="#f6f8fa")
    low = operator.claims.temperatures.low if isinstance(operator, SofteningOperator) else 1.0
    _draw_paths(ax, operator, starts, np.geomspace(1, 64, 40), OKABE_ITO["blue"])
    if low < 1:
        coldest = max(1 / 16, low * (1 + 1e-6))
        _draw_paths(ax, operator, starts, np.geomspace(1, coldest, 40), OKABE_ITO["orange"])
    ax.plot(*to_plane(starts).T, "o", color=INK, ms=2.6, zorder=4)
    marked = to_plane(soften(operator, starts, float(temperature)))
    ax.plot(*marked.T, "D", color=OKABE_ITO["blue"], mec="white", mew=0.5, ms=4.4, zorder=5)
    ax.plot(*to_plane(np.full((1, 3), 1 / 3)).T, "+", color=INK, ms=9, zorder=6)
    ax.set_title(getattr(operator, "name", name), fontsize=11, color=INK, pad=12)
    return ax


def variance_map(
    amplification: AmplificationMap, *, largest: float | None = None, ax: "Axes | None" = None
) -> "Axes":
    """Where softening raises the variance of an empirical target, and where it lowers it.

    Args:
        amplification: of `theory.variance.amplification_map`.
        largest: end of the scale, a ratio > 1 that nothing on the map exceeds; maps to be compared share it.
            The map's own by default.
        ax: axes to draw into; they lose their frame and some room to a colour bar.

    Returns:
        The axes. The scale is logarithmic about 1 (blue lowers, red raises); the black line is at 1.

    Raises:
        ValueError: a ratio on the map is above ``largest``, or below its reciprocal; ``largest`` ≤ 1; a ratio
            is 0 or not finite, which a logarithmic scale has no place for; fewer than three points.
        TypeError: an operator, or whatever else is no map.
    """
    from matplotlib import colors, ticker

    if not hasattr(amplification, "ratio"):
        raise TypeError(
            f"amplification is a {type(amplification).__name__}; pass theory.variance.amplification_map("
            "operator, temperature)"
        )
    drawable = (amplification.ratio > 0) & np.isfinite(amplification.ratio)
    if not drawable.all():
        bad, where = amplification.ratio[~drawable][0], amplification.points[~drawable][0]
        raise ValueError(
            f"amplification has the ratio {bad:g} at p = ({', '.join(f'{x:.3g}' for x in where)}), which a "
            "logarithmic scale does not show; draw an operator that keeps some variance"
        )
    if len(amplification.points) < 3:
        raise ValueError(
            f"amplification has {len(amplification.points)} points, and a map needs 3: give resolution ≥ 4"
        )
    ax = axes_or_new(ax, 5.4, 4.3)
    log_ratio = np.log2(amplification.ratio)
    furthest = float(np.abs(log_ratio).max())
    if largest is not None and not (largest > 1 and math.log2(largest) >= furthest - 1e-9):
        raise ValueError(
            f"largest is {largest:g}, and the map goes to {2**furthest:.4g}; give that or more, above 1"
        )
    bound = max(1.0, math.ceil(furthest - 1e-9)) if largest is None else math.log2(largest)
    x, y = to_plane(amplification.points).T
    filled = ax.tricontourf(
        x,
        y,
        np.clip(log_ratio, -bound, bound),  # a ratio of 4 to rounding fits a scale that ends at 4
        levels=np.linspace(-bound, bound, 38),  # 37 bands, a prime: no border at a power of 2, to speckle
        cmap="RdBu_r",
        norm=colors.Normalize(-bound, bound),
    )
    if log_ratio.min() < 0 < log_ratio.max():
        ax.tricontour(x, y, log_ratio, levels=[0.0], colors="black", linewidths=1.4)
    _draw_triangle(ax, facecolor="none")
    bar = ax.get_figure().colorbar(filled, ax=ax, shrink=0.86, pad=0.04)  # type: ignore[union-attr]
    bar.set_label("total variance of F(p̂) over that of p̂")
    step = max(1, math.ceil(bound / 4))
    bar.set_ticks([float(v) for v in np.arange(-(bound // step) * step, bound + 1e-9, step)])
    bar.ax.axhline(0, color="black", lw=1.4)  # the contour at 1
    bar.ax.yaxis.set_major_formatter(
        ticker.FuncFormatter(lambda v, _: f"{2**v:g}" if v >= 0 else f"1/{2**-v:g}")
    )
    ax.set_title(str(amplification), fontsize=11, color=INK)
    return ax


def to_plane(p: np.ndarray) -> np.ndarray:
    """Barycentric ``[..., 3]`` to Cartesian ``[..., 2]``: an equilateral triangle of side 1."""
    return np.stack([p[..., 1] + p[..., 2] / 2, p[..., 2] * math.sqrt(3) / 2], axis=-1)


def _draw_triangle(ax: "Axes", facecolor: str) -> None:
    corners = to_plane(np.eye(3))
    ax.fill(*corners.T, facecolor=facecolor, edgecolor=EDGE, lw=1.1, zorder=0 if facecolor != "none" else 2)
    text: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "color": PALE_INK}
    for corner, label, offset in zip(corners, ("p₁", "p₂", "p₃"), ((-9, -9), (9, -9), (0, 8)), strict=True):
        ax.annotate(label, corner, xytext=offset, **text)
    ax.set_aspect("equal")
    ax.set_xlim(-0.08, 1.08)
    ax.axis("off")


def _draw_paths(
    ax: "Axes", operator: Operator, starts: np.ndarray, temperatures: np.ndarray, colour: str
) -> None:
    paths = to_plane(np.stack([soften(operator, starts, t) for t in temperatures.tolist()]))
    ax.plot(paths[..., 0], paths[..., 1], color=colour, lw=1, alpha=0.75, solid_capstyle="round", zorder=2)
    for path in np.moveaxis(paths, 1, 0):
        lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=-1))])
        if lengths[-1] < 0.05:
            continue  # too short for an arrowhead to point anywhere
        middle = int(np.searchsorted(lengths, 0.45 * lengths[-1]))
        ax.annotate(
            "",
            path[min(middle + 1, len(path) - 1)],
            xytext=path[max(middle - 1, 0)],
            arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 0, "mutation_scale": 8},
            zorder=3,
        )
