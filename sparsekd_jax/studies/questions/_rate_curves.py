"""What RQ3 draws beside its two budgets: where P is not finite, and rates as they were measured."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from sparsekd_jax._page import FIGURE_STYLE, OKABE_ITO, new_figure
from sparsekd_jax.studies.questions._digits import show
from sparsekd_jax.studies.questions.answer import Picture
from sparsekd_jax.theory.convergence import RateFit

_PALE = {"lw": 0.6, "alpha": 0.35}


@dataclasses.dataclass(frozen=True, eq=False)
class HardMasks:
    """Fastest chords of two paths of minimisers, for each subset of the rows.

    Attributes:
        stages: ``[J]``, n.
        hard: ``[subsets, J]``, weights dropped one after another.
        annealed: ``[subsets, J]``, the same weights faded out together.
    """

    stages: Float[np.ndarray, " J"]
    hard: Float[np.ndarray, "S J"]
    annealed: Float[np.ndarray, "S J"]


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredRate:
    """Replicates of a curve over n, and what was fitted to them.

    Attributes:
        name: what was measured, its unit included.
        stages: ``[J]``, n.
        values: ``[R, J]``, one row a replicate.
        fit: the rate.
    """

    name: str
    stages: Float[np.ndarray, " J"]
    values: Float[np.ndarray, "R J"]
    fit: RateFit


def draw_hard_masks(masks: HardMasks) -> Picture:
    """The fastest chord against n."""
    import matplotlib as mpl

    with mpl.rc_context(FIGURE_STYLE):
        figure, axes = new_figure(5.4, 3.8)
        for name, values, colour, marker in (
            ("hard masks", masks.hard, "vermillion", "^"),
            ("annealed penalty", masks.annealed, "blue", "o"),
        ):
            line = {"color": OKABE_ITO[colour]}
            axes.plot(masks.stages, values.T, **line, **_PALE)
            axes.plot(masks.stages, np.median(values, 0), marker=marker, lw=1.8, label=name, **line)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter(lambda value, _: show(value))
        axes.set_ylabel("fastest chord, ‖Δθ*‖ per unit of λ")
        _over_stages(axes, masks.stages)
        axes.legend()
    return Picture(
        "rq3-hard-masks",
        figure,
        "The fastest chord of the path of minimisers against the number of stages, log-log: under hard masks "
        "it doubles with n, under the annealed penalty it stays.",
        f"P as n stages see it on {len(masks.hard)} subsets of digits (pale) and their medians. Where it "
        "grows with n there is no finite P, and the bound says nothing.",
    )


def draw_rates(convex: Sequence[MeasuredRate], trained: Sequence[MeasuredRate]) -> Picture:
    """Replicates, their mean, and the fitted rate where one could be told: a panel a measurement."""
    import matplotlib as mpl

    rates = [*convex, *trained]
    with mpl.rc_context(FIGURE_STYLE):
        figure, axes = new_figure(9.2, 6.8, nrows=2, ncols=2)
        for i, (ax, rate) in enumerate(zip(axes.flat, rates, strict=True)):
            colour, marker = (("green", "o"), ("purple", "D"))[i // 2]
            line = {"color": OKABE_ITO[colour]}
            mean = rate.values.mean(axis=0)
            ax.plot(rate.stages, rate.values.T, **line, **_PALE)
            ax.plot(rate.stages, mean, marker=marker, ms=5.5, lw=1.8, **line)
            if (rate.values > 0).all():
                ax.set_yscale("log")
            # The fitted curve may have a floor far from the data: the axis keeps to what was measured.
            low, high = ax.get_ylim()
            fit = rate.fit
            if fit.verdict == "decided":
                ax.plot(rate.stages, fit.a + fit.b * rate.stages**-fit.gamma, "k--", lw=1.3)
                words = f"γ = {show(fit.gamma)} [{show(fit.low)}, {show(fit.high)}]"  # type: ignore[arg-type]
            else:
                words = "rate undecided"
            ax.set_ylim(low, high)
            ax.set_title(f"{rate.name}: {words}", fontsize=9.5, color="#1c2430")
            _over_stages(ax, rate.stages)
        axes[0, 0].set_ylabel("lag along the path")
        axes[1, 0].set_ylabel("at the end of training")
    return Picture(
        "rq3-rates",
        figure,
        "Four plots over the number of stages: the lag of noisy gradient descent on a convex problem with "
        "little and with much noise, and the test loss and test error of trained networks.",
        f"Above: softmax regression, {len(convex[0].values)} runs (pale), the floor solved exactly. Below: "
        f"networks under hard masks and AdamW, {len(trained[0].values)} seeds (pale). Dashed: the fitted "
        "a + b·n^(−γ), where the data decide γ.",
    )


def _over_stages(axes: Any, stages: np.ndarray) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(stages, [str(n) for n in stages])
    axes.set_xlabel("stages n")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
