"""Gaps of five operators to one of them as a linear student gets more features: what RQ4 draws."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np

from sparsekd_jax._page import FIGURE_STYLE, new_figure
from sparsekd_jax.studies.questions._digits import LOOKS, OPERATORS, principal_features, show
from sparsekd_jax.studies.questions.answer import Evidence, Picture, Table
from sparsekd_jax.theory.equivalence import classes, gap, nearest_temperature

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPERATURE, TOLERANCE = 4.0, 0.1
REFERENCE = "power"
OTHERS = tuple(name for name in OPERATORS if name != REFERENCE)


@dataclasses.dataclass(frozen=True, eq=False)
class Capacity:
    """Gaps to the reference operator, relative to the signal, as features are added.

    Attributes:
        dimensions: principal components d.
        same: gap at equal temperature over ``‖Xᵀ(F(P) − u)‖/N``, by operator: ``[teachers, d]``.
        matched: the same at the nearest temperature.
        temperatures: those nearest temperatures.
        groups: classes at a tolerance of the signal, temperatures matched, by teacher and d.
    """

    dimensions: tuple[int, ...]
    same: dict[str, np.ndarray]
    matched: dict[str, np.ndarray]
    temperatures: dict[str, np.ndarray]
    groups: list[list[tuple[tuple[str, ...], ...]]]

    @classmethod
    def measured(
        cls, teachers: Sequence[np.ndarray], inputs: np.ndarray, capacities: Sequence[int]
    ) -> "Capacity":
        """One set of rows, more and more of their principal components, as several teachers label them."""
        first = OPERATORS[REFERENCE]
        shape = len(teachers), len(capacities)
        same, matched, temperatures = ({name: np.zeros(shape) for name in OTHERS} for _ in range(3))
        groups: list[list[tuple[tuple[str, ...], ...]]] = [[] for _ in teachers]
        named = {name: OPERATORS[name] for name in (REFERENCE, *OTHERS)}
        for at in np.ndindex(shape):
            p, x = teachers[at[0]], principal_features(inputs, capacities[at[1]])
            signal = gap(first, lambda row, t: jnp.full_like(row, 1 / row.size), p, x, TEMPERATURE).value
            for name in OTHERS:
                found = nearest_temperature(first, TEMPERATURE, OPERATORS[name], p, x)
                assert found.identified, found
                assert found.same is not None
                same[name][at] = found.same / signal
                matched[name][at] = found.relative
                temperatures[name][at] = found.temperature
            nearest = [TEMPERATURE, *(float(temperatures[name][at]) for name in OTHERS)]
            groups[at[0]].append(classes(named, p, x, nearest, TOLERANCE * signal).classes)
        return cls(tuple(capacities), same, matched, temperatures, groups)

    def evidence(self) -> Evidence:
        """How much of the gap is temperature, and what capacity leaves of the rest."""
        before, after = (np.stack(list(kind.values())) for kind in (self.same, self.matched))
        counts = np.array([[len(groups) for groups in teacher] for teacher in self.groups])
        parts = [f"{_range(counts[:, k])} at d = {d}" for k, d in enumerate(self.dimensions)]
        rises = sum(int((m[:, -1] > m[:, 0]).all()) for m in self.matched.values())
        found = (
            f"Relative to the signal the gap to {REFERENCE} at T = {show(TEMPERATURE)} is "
            f"{show(100 * before.min())} to {show(100 * before.max())} % at the same temperature and "
            f"{show(100 * after.min())} to {show(100 * after.max())} % at the nearest one. For {rises} of "
            f"{len(self.matched)} families the latter is larger at d = {self.dimensions[-1]} than at d = "
            f"{self.dimensions[0]} with every one of {len(counts)} teachers. Classes within "
            f"{show(100 * TOLERANCE)} % of the signal: {', '.join(parts)}."
        )
        claim = "A student of less capacity tells fewer operators apart."
        stands = bool((counts[:, 0] <= counts[:, -1]).all()) and rises == len(self.matched)
        return Evidence("measurement", claim, found, stands)

    def table(self) -> Table:
        """Nearest temperatures, gaps and classes."""
        heads = ["d", *(f"{name}: S; gap %" for name in OTHERS), "classes"]
        rows = [
            [
                d,
                *(
                    f"{show(self.temperatures[name][:, k].mean())}; "
                    f"{show(100 * self.same[name][:, k].mean())} → "
                    f"{show(100 * self.matched[name][:, k].mean())}"
                    for name in OTHERS
                ),
                " | ".join("+".join(group) for group in self.groups[0][k]),
            ]
            for k, d in enumerate(self.dimensions)
        ]
        caption = (
            f"Temperature S nearest to {REFERENCE} at T = {show(TEMPERATURE)}, relative gap at T → at S, "
            f"means over {len(self.groups)} teachers, for d principal components; classes of the first "
            f"teacher at S within {show(100 * TOLERANCE)} % of the signal"
        )
        return Table(caption, heads, rows)

    def picture(self) -> Picture:
        """Relative gaps against d, at the same and at the nearest temperature."""
        return Picture(
            "rq4-capacity",
            self._draw(),
            "Two plots of the relative gap of four operators to the power transform against the number of "
            "features, at the same temperature on the left and at the nearest temperature on the right.",
            f"What a linear student on d principal components of digits sees of the difference from "
            f"{REFERENCE} at T = {show(TEMPERATURE)}, in percent of the signal (its distance from uniform "
            f"targets): {len(self.groups)} teachers (pale) and their means. The two scales differ.",
        )

    def _draw(self) -> "Figure":
        import matplotlib as mpl

        with mpl.rc_context(FIGURE_STYLE):
            figure, axes = new_figure(9.2, 4.1, ncols=2)
            titles = (f"same temperature, T = {show(TEMPERATURE)}", "nearest temperature")
            for ax, values, title in zip(axes, (self.same, self.matched), titles, strict=True):
                for size, name in zip((11, 8, 7, 7), OTHERS, strict=True):  # what coincides stays visible
                    colour, marker = LOOKS[name]
                    each = 100 * values[name]
                    ax.plot(self.dimensions, each.T, color=colour, lw=0.6, alpha=0.35)
                    ax.plot(
                        self.dimensions,
                        each.mean(axis=0),
                        marker=marker,
                        color=colour,
                        ms=size,
                        mec="white",
                        mew=0.5,
                        label=name,
                    )
                ax.set_xscale("log", base=2)
                ax.set_xticks(self.dimensions, [str(d) for d in self.dimensions])
                ax.set_xticks([], minor=True)
                ax.set_ylim(0, 108 * max(v.max() for v in values.values()))
                ax.set_xlabel("principal components d")
                ax.set_title(title, fontsize=10.5, color="#1c2430")
                ax.grid(axis="y")
                ax.set_axisbelow(True)
            axes[0].set_ylabel(f"gap to {REFERENCE}, % of the signal")
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
        return figure


def _range(counts: np.ndarray) -> str:
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"
