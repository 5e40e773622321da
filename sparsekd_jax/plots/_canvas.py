"""What every picture shares: axes of the caller's or new ones, and what tells things in one apart."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparsekd_jax._page import FIGURE_STYLE, OKABE_ITO

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, PALE_INK, EDGE, GRID = "#1c2430", "#5a6675", "#8a94a0", "#e1e6ec"

_COLOURS = ("blue", "vermillion", "green", "orange", "purple", "sky")
_MARKERS = ("o", "^", "D", "s", "v", "P")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (6, 2)), (0, (3, 1, 1, 1, 1, 1)))


def axes_or_new(ax: "Axes | None", width: float, height: float) -> "Axes":
    """The caller's axes as they are, or those of a new figure in the style of the house."""
    if ax is not None:
        return ax
    return new_axes(width, height)


def new_axes(width: float, height: float, **layout: Any) -> Any:
    """The axes of a new figure that pyplot knows; ``layout`` as in ``pyplot.subplots``."""
    import matplotlib as mpl
    from matplotlib import pyplot

    with mpl.rc_context(FIGURE_STYLE):
        return pyplot.subplots(figsize=(width, height), layout="constrained", **layout)[1]


def look(i: int) -> dict[str, Any]:
    """Colour and marker of the i-th thing in a picture; 36 things have 36 looks."""
    return {"color": OKABE_ITO[_COLOURS[i % 6]], "marker": _MARKERS[(i + i // 6) % 6]}


def dashed(i: int) -> dict[str, Any]:
    """Colour and dash of the i-th curve in a picture, for curves without points of their own."""
    return {"color": OKABE_ITO[_COLOURS[i % 6]], "ls": _DASHES[(i + i // 6) % 6]}


def require_labels(argument: Any, name: str) -> None:
    """Refuse a thing alone where a picture takes several, each under its label."""
    if not isinstance(argument, Mapping):
        kind = type(argument).__name__
        raise TypeError(f"{name} is a {kind}; give each thing to draw a label: {{'label': ...}}")


def rule_lines(ax: "Axes", axis: str) -> None:
    """Pale lines across, behind what is drawn."""
    ax.grid(axis=axis, color=GRID)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
