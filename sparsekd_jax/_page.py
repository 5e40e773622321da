"""Self-contained HTML pages: one jinja2 environment, one look, figures embedded as data URIs."""

import base64
import functools
import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2
    from matplotlib.figure import Figure

# Okabe and Ito's palette: distinguishable under every common colour-vision deficiency, and in grey print.
OKABE_ITO = {
    "blue": "#0072B2",
    "vermillion": "#D55E00",
    "green": "#009E73",
    "purple": "#CC79A7",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "black": "#000000",
    "yellow": "#F0E442",
}
FIGURE_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a94a0",
    "axes.labelcolor": "#1c2430",
    "xtick.color": "#5a6675",
    "ytick.color": "#5a6675",
    "grid.color": "#e1e6ec",
    "legend.frameon": False,
    "figure.facecolor": "white",
}


def new_figure(width: float, height: float, **kwargs: Any) -> tuple["Figure", Any]:
    """A figure of its own, outside pyplot's global state, so that nothing has to be closed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**kwargs)


def settle(figure: "Figure") -> None:
    """Fix the layout, which moves once more at its second pass: the same figure then gives the same bytes."""
    for _ in range(2):
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


@functools.cache
def environment() -> "jinja2.Environment":
    """The environment of every page: this package's templates, escaped, an undefined name is an error.

    Returns:
        A cached ``jinja2.Environment``.

    >>> environment().from_string("{{ x }}").render(x="a < b")
    'a &lt; b'
    """
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("sparsekd_jax"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template_name: str, **context: Any) -> str:
    """Render a template of this package to one self-contained HTML string.

    Args:
        template_name: a file under ``sparsekd_jax/templates``, such as ``"distill.html"``.
        **context: the names that the template uses; one left out is an error.

    Returns:
        The page, with its style inside and no reference to any other file.

    Raises:
        jinja2.TemplateNotFound: there is no such template.
        jinja2.UndefinedError: the template uses a name that ``context`` lacks.

    >>> render("base.html", title="Laws", subtitle="").splitlines()[0]
    '<!doctype html>'
    """
    return environment().get_template(template_name).render(**context)


def write_svg(figure: "Figure", target: Any) -> None:
    """Draw a matplotlib figure into a file, or to a path; the same figure gives the same bytes."""
    import matplotlib as mpl

    # Without a fixed salt and with a date, two runs of one seed would write two different files.
    with mpl.rc_context({"svg.hashsalt": "sparsekd"}):
        figure.savefig(target, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})


def figure_uri(figure: "Figure") -> str:
    """Draw a matplotlib figure as an SVG data URI; the same figure gives the same bytes.

    Args:
        figure: the figure; it stays open, closing it is the caller's affair.

    Returns:
        ``data:image/svg+xml;base64,...``, to stand in the ``src`` of an ``img``.
    """
    buffer = io.BytesIO()
    write_svg(figure, buffer)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
