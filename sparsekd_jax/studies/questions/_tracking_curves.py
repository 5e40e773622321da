"""Staged gradient descent on digits under two budgets: what RQ3 draws."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from sparsekd_jax._page import FIGURE_STYLE, new_figure
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.studies.questions._digits import LOOKS, OPERATORS, rounded, show_range
from sparsekd_jax.studies.questions.answer import Evidence, Picture, Table
from sparsekd_jax.theory.convergence import PenaltyPath, follow, penalty_path, tracking_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MU, SPARSITY, STEPS, TEMPERATURE = 0.1, 0.7, 2, 4.0
FINEST = 256
TOTAL = 32
"""Steps in all under the other budget: few enough that what is left is not rounding."""


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """e_n on digits for n = 1, 2, 4, …: both budgets, ``[operator, subset, n]``, with their bounds.

    Attributes:
        stages: n at `STEPS` steps a stage.
        shared: n that share `TOTAL` steps.
        per_stage: e_n at a fixed effort a stage.
        total: e_n at a fixed effort in all.
        bound_per_stage: bounds with the P seen at `FINEST` stages, which is what coarser paths see at most.
        bound_total: the same for ``total``.
        uniform: the bound with the P that knows no targets, ``[n]``.
        slack: what the errors of the exact minimisers may add.
    """

    stages: np.ndarray
    shared: np.ndarray
    per_stage: np.ndarray
    total: np.ndarray
    bound_per_stage: np.ndarray
    bound_total: np.ndarray
    uniform: np.ndarray
    slack: float

    @classmethod
    def measured(cls, x: np.ndarray, p: np.ndarray, *, rows: int, subsets: int) -> "Curves":
        """Gradient descent on random subsets of the rows, each under every operator."""
        rng = np.random.default_rng(1)
        index = np.stack([rng.permutation(len(x))[:rows] for _ in range(subsets)])
        soft = np.stack([soften(op, p, TEMPERATURE)[index] for op in OPERATORS.values()])
        shape = soft.shape[:2]
        features = np.broadcast_to(x[index], (*shape, *x[index].shape[1:])).reshape(-1, *x[index].shape[1:])
        stages, shared = (2 ** np.arange(int(np.log2(most)) + 1) for most in (FINEST, TOTAL))

        def one(x: Array, q: Array) -> Any:
            path = penalty_path(x, q, MU, SPARSITY)
            finest = path.minimisers(jnp.arange(1, FINEST + 1) / FINEST)
            optima = jnp.concatenate([path.dense[None], finest.weights])
            chords = jnp.where(path.kept[None], jnp.diff(optima, axis=0), 0)
            speed = FINEST * jnp.max(jnp.sqrt(jnp.sum(chords**2, axis=(1, 2))))
            errors = [_lag(path, int(n), STEPS, optima[-1]) for n in stages]
            errors += [_lag(path, int(n), TOTAL // int(n), optima[-1]) for n in shared]
            slack = jnp.maximum(path.residual, jnp.max(finest.distance_bound))
            numbers = (path.problem.smoothness, speed, path.uniform_speed, path.residual, slack)
            return jnp.asarray(errors), jnp.stack(numbers)

        errors, numbers = jax.jit(jax.vmap(one))(
            jnp.asarray(features), jnp.asarray(soft.reshape(-1, *soft.shape[2:]))
        )
        errors = np.asarray(errors).reshape(*shape, -1)
        smooth, speed, uniform, start, slack = (a.reshape(*shape, 1) for a in np.asarray(numbers).T)

        def bound(n: np.ndarray, speed: np.ndarray, m: Any) -> np.ndarray:
            return tracking_error(n, mu=MU, eta=2 / (MU + smooth), m=m, P=speed, e0=start)

        return cls(
            stages,
            shared,
            errors[..., : len(stages)],
            errors[..., len(stages) :],
            bound(stages, speed, STEPS),
            bound(shared, speed, TOTAL // shared),
            bound(stages, uniform, STEPS).max((0, 1)),
            float(4 * FINEST * slack.max()),
        )

    def best(self) -> list[list[int]]:
        """The n of the smallest error at fixed total effort, for each operator and subset."""
        return [[int(n) for n in row] for row in self.shared[np.argmin(self.total, axis=-1)]]

    def evidence(self) -> tuple[Evidence, Evidence]:
        """What the curves say under each budget."""
        both = ((self.per_stage, self.bound_per_stage), (self.total, self.bound_total))
        above = sum(int(np.sum(e > b + self.slack)) for e, b in both)
        shares = self.per_stage[..., -1] / self.bound_per_stage[..., -1]
        halving = self.per_stage[..., -2] / self.per_stage[..., -1]  # 2 under 1/n, √2 under 1/√n
        count = self.per_stage.shape[0] * self.per_stage.shape[1]
        along = (
            f"{above} of {self.per_stage.size + self.total.size} errors lie above the bound with the P seen. "
            f"At {FINEST} stages the error is {show_range(100 * shares)} % of it, and the last doubling of "
            f"n divided it by {show_range(halving)}."
        )
        bound_best = self.shared[np.argmin(self.bound_total, axis=-1)]
        best = np.asarray(self.best())
        ones = int(np.sum(best == 1))
        total = (
            f"With {TOTAL} gradient steps in all, the bound is smallest at n = "
            f"{', '.join(map(str, sorted(set(bound_best.ravel().tolist()))))}; the runs tracked best at n = "
            f"1 in {ones} of {count} cases (best n: "
            f"{', '.join(map(str, sorted(set(best.ravel().tolist()))))})."
        )
        return (
            Evidence(
                "measurement",
                "On digits, e_n follows 1/n below the bound for every operator.",
                along,
                not above and bool(halving.min() > 1.9 and halving.max() < 2.1),
            ),
            Evidence(
                "measurement",
                "At a fixed total effort more stages do not help the bound; runs may differ.",
                total,
                bool(np.all(bound_best == 1)),
            ),
        )

    def table(self) -> Table:
        """Medians over subsets."""
        at = [0, len(self.stages) // 2, len(self.stages) - 1]
        shared = [0, len(self.shared) // 2, len(self.shared) - 1]
        rows = [
            [
                name,
                *(rounded(np.median(self.per_stage[i, :, k])) for k in at),
                *(rounded(np.median(self.total[i, :, k])) for k in shared),
                ", ".join(map(str, sorted(set(self.best()[i])))),
            ]
            for i, name in enumerate(OPERATORS)
        ]
        heads = [f"e_{self.stages[k]}, {STEPS} steps a stage" for k in at]
        heads += [f"e_{self.shared[k]}, {TOTAL} steps in all" for k in shared]
        caption = f"Distance to θ*(1) on digits, medians of {self.per_stage.shape[1]} subsets"
        return Table(caption, ["operator", *heads, f"best n, {TOTAL} steps in all"], rows)

    def picture(self) -> Picture:
        """Both budgets side by side."""
        above = self.per_stage.shape[1]
        return Picture(
            "rq3-stages",
            self._draw(),
            "Two log-log plots of the distance to the sparse optimum against the number of stages. Left, at "
            f"{STEPS} steps a stage, five operators fall like 1/n below a dashed bound and a dotted one far "
            f"above. Right, at {TOTAL} steps in all, the bound rises with n.",
            f"Median of {above} subsets of digits for each operator (thin: each of them). Dashed: the "
            "largest bound with the P seen. Dotted: the certified bound, the same for all operators. More "
            "stages help "
            "where each brings its own steps, not where they share a fixed number.",
        )

    def _draw(self) -> "Figure":
        import matplotlib as mpl

        with mpl.rc_context(FIGURE_STYLE):
            figure, axes = new_figure(9.2, 4.3, ncols=2)
            for ax, n, errors, bounds, title in (
                (
                    axes[0],
                    self.stages,
                    self.per_stage,
                    self.bound_per_stage,
                    f"{STEPS} gradient steps a stage",
                ),
                (axes[1], self.shared, self.total, self.bound_total, f"{TOTAL} steps in all"),
            ):
                for (name, (colour, marker)), e in zip(LOOKS.items(), errors, strict=True):
                    ax.plot(n, e.T, color=colour, lw=0.6, alpha=0.35)
                    ax.plot(n, np.median(e, 0), marker=marker, color=colour, ms=5.5, label=name)
                ax.plot(n, bounds.max((0, 1)), "k--", lw=1.4, label="bound, P as seen")
                ax.set_xscale("log", base=2)
                ax.set_yscale("log")
                ax.set_xlabel("stages n")
                ax.set_title(title, fontsize=10.5, color="#1c2430")
                ax.grid(axis="y")
                ax.set_axisbelow(True)
                ax.set_xticks(n, [str(k) for k in n])
            axes[0].plot(self.stages, self.uniform, "k:", lw=1.3, label="bound, certified P")
            axes[0].set_ylabel("distance to the sparse optimum θ*(1)")
            handles, labels = axes[0].get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
        return figure


def _lag(path: PenaltyPath, n: int, steps: int, end: Array) -> Array:
    """Distance to θ*(1) after n stages."""
    eta = 2 / (path.problem.mu + path.problem.smoothness)
    lambdas = jnp.arange(1, n + 1).astype(path.dense.dtype) / n
    theta = follow(path.gradient, path.dense, lambdas, steps, eta)[-1]
    return jnp.sqrt(jnp.sum(jnp.where(path.kept, theta - end, 0) ** 2))
