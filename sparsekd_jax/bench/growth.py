"""How each cost grows: operators with K and with the batch, training with stages and with the ensemble.

Each curve has at least five points and the exponent that fits them, ``cost ∝ size^exponent``. How the fused
loss grows with the vocabulary is measured with the losses.
"""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import optax  # type: ignore[import-untyped]
from flax import nnx
from rich.table import Table

from sparsekd_jax import data, distill, models, operators
from sparsekd_jax._page import FIGURE_STYLE, OKABE_ITO, new_figure
from sparsekd_jax.bench._tables import bare_table
from sparsekd_jax.bench.operators import BASELINE, COPY, FAMILIES, batch
from sparsekd_jax.bench.timing import Call, compiled, exponent, interleave

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (256, 512, 1024, 2048, 4096, 8192)
COUNTS = (1, 2, 4, 8, 16)
_FIXED = 1024
_LOOKS = (("blue", "o"), ("vermillion", "s"), ("sky", "<"), ("green", "^"), ("yellow", ">"), ("purple", "D"))


def measure(
    *,
    sizes: Sequence[int] = SIZES,
    counts: Sequence[int] = COUNTS,
    fixed: int = _FIXED,
    steps: int = 200,
    rounds: int = 3,
    temperature: float = 4.0,
    families: Iterable[str] = FAMILIES,
    progress: Callable[[str], None] = lambda label: None,
) -> dict[str, Any]:
    """Time every operator over K and over rows, from p, and training over stages and members.

    Args:
        sizes: K, and rows, of each point.
        counts: stages, and members of an ensemble, of each point.
        fixed: rows while K grows, and K while rows grow.
        steps: of each stage, and of a member.
        rounds: interleaved rounds of a curve.
        temperature: T of most rows.
        families: names as `operators.parse` reads them.
        progress: called with what is about to run.

    Returns:
        ``{"fixed", "rounds", "steps", "curves"}``; a curve has ``what``, ``over`` ("classes", "rows",
        "stages" or "members"), ``sizes``, ``ms`` and ``exponent``.
    """
    named = tuple(families)
    curves: list[dict[str, Any]] = []
    for over in ("classes", "rows"):
        points: dict[str, list[float]] = {}
        for size in sizes:
            progress(f"operators, {size} {over}")
            shape = (fixed, size) if over == "classes" else (size, fixed)
            for name, ms in _operators(shape, temperature, named, rounds).items():
                points.setdefault(name, []).append(ms)
        curves += [_curve(name, over, sizes, ms) for name, ms in points.items()]
    progress("training over stages and members")
    curves += _training(counts, steps, rounds)
    return {"fixed": fixed, "rounds": rounds, "steps": steps, "curves": curves}


def _operators(
    shape: tuple[int, int], temperature: float, families: Sequence[str], rounds: int
) -> dict[str, float]:
    z, p, t = batch(shape, temperature)
    calls: dict[str, Call] = {
        COPY: compiled(lambda x: x + 1, z).call(z),
        BASELINE: compiled(lambda z, t: jax.nn.softmax(z / t[:, None], axis=-1), z, t).call(z, t),
    }
    for name in families:
        operator = operators.parse(name)
        calls[operator.name] = compiled(operator, p, t).call(p, t)
    interleave(list(calls.values()), 1)  # the warm-up
    times = interleave(list(calls.values()), rounds)
    return {name: 1e3 * statistics.median(own) for name, own in zip(calls, times, strict=True)}


def _training(counts: Sequence[int], steps: int, rounds: int) -> list[dict[str, Any]]:
    digits, optimizer = data.digits(), optax.adamw(1e-3)
    teacher = _network(100)

    def stages(n: int) -> Call:
        schedule = "one-shot" if n == 1 else "cubic"
        plan = distill.stages(sparsity=0.9, num_stages=n, steps_per_stage=steps, schedule=schedule)
        return lambda: distill.run(_network(0), teacher, digits, plan, optimizer=optimizer, seed=0)

    def members(m: int) -> Call:
        plan = distill.stages(sparsity=0.9, num_stages=1, steps_per_stage=steps, schedule="one-shot")
        return lambda: distill.run_many(
            [_network(i) for i in range(m)], [teacher] * m, digits, plan, optimizer=optimizer, seeds=range(m)
        )

    curves = []
    for over, call in (("stages", stages), ("members", members)):
        calls = [call(n) for n in counts]
        interleave(calls, 1)  # the warm-up, compilation included
        times = interleave(calls, rounds)
        curves.append(_curve("training", over, counts, [1e3 * statistics.median(own) for own in times]))
    return curves


def _network(seed: int) -> nnx.Module:
    return models.MLP((64, 128, 10), rngs=nnx.Rngs(seed))


def _curve(what: str, over: str, sizes: Sequence[int], ms: Sequence[float]) -> dict[str, Any]:
    fitted = round(exponent(sizes, ms), 2) if len(sizes) > 1 else None
    return {
        "what": what,
        "over": over,
        "sizes": list(sizes),
        "ms": [round(x, 3) for x in ms],
        "exponent": fitted,
    }


def table(result: dict[str, Any]) -> Table:
    """The exponents, with the first and the last point."""
    out = bare_table(f"Growth: the other size {result['fixed']}, {result['rounds']} interleaved rounds; ms")
    out.add_column("cost of", no_wrap=True)
    out.add_column("over", no_wrap=True)
    for head in ("from", "to", "ms", "ms", "exponent"):
        out.add_column(head, justify="right", no_wrap=True)
    for curve in result["curves"]:
        ends = (curve["sizes"][0], curve["sizes"][-1])
        times = (f"{curve['ms'][0]:.2f}", f"{curve['ms'][-1]:.1f}")
        fitted = "–" if curve["exponent"] is None else f"{curve['exponent']:.2f}"
        out.add_row(curve["what"], curve["over"], *map(str, ends), *times, fitted)
    return out


def figure(result: dict[str, Any], losses: dict[str, Any] | None = None) -> "Figure":
    """How time grows: operators over K and rows (a roofline, beside a copy, x + 1), training, the fused loss.

    Args:
        result: what `measure` returned.
        losses: what `fused_loss.measure` returned, for the panel over the vocabulary; by default it is empty.

    Returns:
        A matplotlib figure, log-log; exponents of the operators are in the table, the others in the legends.
    """
    import matplotlib as mpl

    def over(name: str) -> list[dict[str, Any]]:
        return [curve for curve in result["curves"] if curve["over"] == name]

    counted = [{**curve, "what": f"over {name}"} for name in ("stages", "members") for curve in over(name)]
    panels = [
        (over("classes"), "classes", f"operators, {result['fixed']:,} rows"),
        (over("rows"), "rows", f"operators, {result['fixed']:,} classes"),
        ([_with_exponent(curve) for curve in counted], "stages, members", "training on digits"),
    ]
    if losses is not None:
        points, fitted = losses["growth"]["points"], losses["growth"]["exponents"]
        curve = {
            "what": "loss and gradients",
            "sizes": [point["vocab_size"] for point in points],
            "ms": [point["median_ms"] for point in points],
            "exponent": fitted.get("median_ms"),
        }
        tokens = losses["growth"]["tokens"]
        panels.append(([_with_exponent(curve)], "vocabulary", f"fused loss, {tokens:,} tokens"))
    with mpl.rc_context(FIGURE_STYLE):
        drawn, axes = new_figure(9.2, 8.6, nrows=2, ncols=2)
        for ax, (curves, label, title) in zip(axes.flat, panels, strict=False):
            _draw(ax, curves, label, title)
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        for ax in axes[:, 0]:
            ax.set_ylabel("ms a call")
        for ax in axes.flat[2 : len(panels)]:
            ax.legend(loc="upper left", fontsize=9)
        handles, labels = axes.flat[0].get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    return drawn


def _with_exponent(curve: dict[str, Any]) -> dict[str, Any]:
    if curve["exponent"] is None:
        return curve
    return {**curve, "what": f"{curve['what']}: exponent {curve['exponent']:.2f}"}


def _draw(ax: Any, curves: Sequence[dict[str, Any]], label: str, title: str) -> None:
    looks = iter([*_LOOKS, ("orange", "v")])
    for curve in curves:
        style: dict[str, Any] = {"lw": 1.6, "ms": 5}
        if curve["what"] == COPY:
            style |= {"color": "#5a6675", "ls": ":"}
        elif curve["what"] == BASELINE:
            style |= {"color": "black", "ls": "--"}
        else:
            colour, style["marker"] = next(looks, ("black", "x"))
            style["color"] = OKABE_ITO[colour]
        ax.plot(curve["sizes"], curve["ms"], label=curve["what"], **style)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ticks = curves[0]["sizes"]
    ax.set_xticks(ticks, [f"{n:,}" for n in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel(label)
    ax.set_title(title, fontsize=10.5, color="#1c2430")
    ax.grid(axis="y")
    ax.set_axisbelow(True)
