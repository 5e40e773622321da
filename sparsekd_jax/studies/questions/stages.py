"""RQ2: how multi-stage pruning is a path of functions, and whether that makes it better than one shot."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx

from sparsekd_jax import data, distill, plots
from sparsekd_jax._page import FIGURE_STYLE, OKABE_ITO, new_figure, settle
from sparsekd_jax.studies.questions._digits import digits_teachers, network
from sparsekd_jax.studies.questions.answer import Answer, Evidence, Picture, Table, contradicted
from sparsekd_jax.theory import homotopy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = (
    "How is multi-stage pruning related to continuous paths in function space, and why does it beat one-shot?"
)
STATEMENT = (
    "A compression in n stages is a path S_0, …, S_n of functions; its length, its steps and its distance to "
    "the teacher can be computed (theory.md section 4). That stages beat one shot is a measured claim, and "
    "depends on the budget: fixed in total, or fixed a stage."
)
BUDGETS = ("total", "stage")
Moduli = dict[str, list[homotopy.Modulus]]
"""Of each prune map, one a teacher."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained.

    Attributes:
        sparsities: final shares of zeros.
        stages: numbers of stages; 1 is one shot.
        seeds: teachers, each with its own students.
        teacher_steps: steps of a teacher.
        steps: steps in all under the fixed total, and of each stage under the fixed stage.
        hidden: widths of the network.
        temperature: T of power softening.
    """

    sparsities: tuple[float, ...] = (0.8, 0.95)
    stages: tuple[int, ...] = (1, 3, 10)
    seeds: int = 5
    teacher_steps: int = 600
    steps: int = 600
    hidden: tuple[int, ...] = (128, 128)
    temperature: float = 4.0


FULL = Settings(sparsities=(0.5, 0.8, 0.95, 0.98), stages=(1, 2, 3, 5, 10), seeds=10)


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    sparsity: float
    stages: int
    budget: str
    seed: int
    accuracy: float
    path: homotopy.HomotopyPath
    barrier: float


def answer(
    *, full: bool = False, on_progress: Callable[[str], None] | None = None, settings: Settings | None = None
) -> Answer:
    """RQ2 answered.

    Args:
        full: more sparsities, stages and seeds; minutes instead of about one.
        on_progress: called with what is being trained.
        settings: sizes of your own.

    Returns:
        The answer, with paths and a table.
    """
    settings = settings or (FULL if full else Settings())
    runs, moduli = _runs(settings, on_progress or (lambda _: None))
    compared = _comparisons(settings, runs)
    worst = max(run.path.chord - run.path.length for run in runs)
    evidence = [
        Evidence(
            "theorem",
            "no path is shorter than the distance of its ends (Fisher–Rao, mean over the test images)",
            f"the largest chord minus length of {len(runs)} paths is {worst:.1e}",
            worst < 1e-6,
        ),
        *_continuity(moduli),
        *_evidence(settings, compared),
    ]
    hardest = max(settings.sparsities)
    return Answer(
        number=2,
        question=QUESTION,
        statement=STATEMENT,
        evidence=evidence,
        verdict=contradicted(evidence) or _verdict(compared, moduli),
        tables=[_table(settings, runs, compared)],
        pictures=[
            Picture(
                "stage-paths",
                _path_figure(
                    {_label(n): [r.path for r in _of(runs, hardest, n, "total")] for n in settings.stages}
                ),
                "Distance to the teacher and step lengths along the paths of one-shot and staged pruning.",
                f"Pruned to {100 * hardest:g} % with {settings.steps} steps in all, {settings.seeds} seeds "
                "(pale) and their means. Every prune leaves the path for a hollow point; its recovery leads "
                "back.",
            ),
            Picture(
                "budgets-crossover",
                _crossover_figure(settings, runs),
                "Test error of staged minus one-shot pruning against the sparsity, under both budgets.",
                f"{max(settings.stages)} stages against one shot, {settings.seeds} paired seeds with 95 % "
                "intervals, filled where they exclude 0: with the same steps in all, and with as many steps "
                "for each stage as one shot has for itself.",
            ),
            Picture(
                "prune-continuity",
                _modulus_figure(moduli),
                "Modulus of continuity of two prune maps against the step in sparsity, for each teacher.",
                "How far the function moves at most when the sparsity rises by h: cutting weights by "
                f"magnitude, and fading the same weights out, for {settings.seeds} teachers (pale) and their "
                "geometric means. A straight line of slope 1 is a Lipschitz map.",
            ),
        ],
        settings=dataclasses.asdict(settings),
    )


def _runs(settings: Settings, say: Callable[[str], None]) -> tuple[list[_Run], Moduli]:
    digits = data.digits()
    probes = jnp.asarray(digits.test_inputs)
    optimizer = optax.adamw(1e-3)
    loss = _loss_of(digits, settings)
    runs: list[_Run] = []
    moduli: Moduli = {}
    say("teachers")
    teachers = digits_teachers(
        range(settings.seeds), settings.teacher_steps, settings.hidden, learning_rate=1e-3
    )
    for seed, teacher in enumerate(teachers):
        for name, modulus in _moduli(teacher, probes).items():
            moduli.setdefault(name, []).append(modulus)
        for share in settings.sparsities:
            for n in settings.stages:
                for budget in BUDGETS if n > 1 else BUDGETS[:1]:
                    say(f"seed {seed + 1} of {settings.seeds}: {100 * share:g} % in {_label(n)}")
                    runs.append(_train(settings, digits, teacher, optimizer, loss, share, n, budget, seed))
    return runs, moduli


def _train(
    settings: Settings,
    digits: data.Arrays,
    teacher: nnx.Module,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Any], jax.Array],
    share: float,
    stages: int,
    budget: str,
    seed: int,
) -> _Run:
    steps = {"total_steps" if budget == "total" else "steps_per_stage": settings.steps}
    plan = distill.stages(
        sparsity=share,
        num_stages=stages,
        schedule="one-shot" if stages == 1 else "cubic",
        temperature=settings.temperature,
        **steps,  # type: ignore[arg-type]
    )
    result = distill.run(
        teacher, teacher, digits, plan, optimizer=optimizer, seed=seed, record_every=settings.steps
    )
    path = homotopy.path_of_result(result, jnp.asarray(digits.test_inputs))
    lines = zip(itertools.pairwise(result.path), result.masks[1:], strict=True)
    barriers = [homotopy.barrier(loss, a, b, points=7, masks=m).height for (a, b), m in lines]
    return _Run(share, stages, budget, seed, result.final.accuracy, path, max(barriers))


def _loss_of(digits: data.Arrays, settings: Settings) -> Callable[[Any], jax.Array]:
    """Training loss of the study's network as a function of its parameters; one object, compiled once."""
    inputs, labels = jnp.asarray(digits.train_inputs[:512]), jnp.asarray(digits.train_labels[:512])
    graphdef, state = nnx.split(network(settings.hidden, 0))

    def loss(pure: Any) -> jax.Array:
        own = jax.tree.map(lambda leaf: leaf, state)
        nnx.replace_by_pure_dict(own, pure)
        return jnp.mean(distill.cross_entropy(nnx.merge(graphdef, own)(inputs), labels))

    return loss


def _moduli(teacher: nnx.Module, probes: jax.Array) -> dict[str, homotopy.Modulus]:
    """Continuity of pruning a trained network: weights cut by magnitude, and the same weights faded out."""
    graphdef, params = nnx.split(teacher)
    ranks, size = _magnitude_ranks(params)

    @jax.jit
    def probs(count: jax.Array, keep: jax.Array) -> jax.Array:
        """The network with its ``count`` smallest weights multiplied by ``keep``."""

        def scaled(weights: jax.Array, rank: jax.Array) -> jax.Array:
            return jnp.where(rank < count, keep * weights, weights)

        return jax.nn.softmax(nnx.merge(graphdef, jax.tree.map(scaled, params, ranks))(probes))

    def at(count: int, keep: float) -> jax.Array:
        return probs(jnp.int32(count), jnp.float32(keep))

    grid: dict[str, Any] = {"num_points": 8, "num_steps": 9}
    up_to = 0.95
    return {
        "weights cut": homotopy.modulus_of_continuity(
            lambda share: at(round(share * size), 0.0), up_to=up_to, **grid
        ),
        "weights faded": homotopy.modulus_of_continuity(
            lambda share: at(round(up_to * size), 1 - share / up_to), up_to=up_to, **grid
        ),
    }


def _magnitude_ranks(params: Any) -> tuple[Any, int]:
    """The rank of every weight of the kernels among all of them, from the smallest; elsewhere all of them."""
    leaves, structure = jax.tree.flatten(params)
    kernels = [np.abs(np.asarray(leaf)).ravel() for leaf in leaves if leaf.ndim >= 2]
    size = sum(kernel.size for kernel in kernels)
    ranks = np.empty(size, np.int32)
    ranks[np.argsort(np.concatenate(kernels), kind="stable")] = np.arange(size, dtype=np.int32)
    placed, start = [], 0
    for leaf in leaves:
        if leaf.ndim < 2:
            placed.append(jnp.full(leaf.shape, size, jnp.int32))
            continue
        placed.append(jnp.asarray(ranks[start : start + leaf.size].reshape(leaf.shape)))
        start += leaf.size
    return jax.tree.unflatten(structure, placed), size


def _of(runs: Sequence[_Run], share: float, stages: int, budget: str) -> list[_Run]:
    budget = "total" if stages == 1 else budget  # one stage is the same under both
    return [r for r in runs if (r.sparsity, r.stages, r.budget) == (share, stages, budget)]


def _comparisons(settings: Settings, runs: Sequence[_Run]) -> list[dict[str, Any]]:
    """Staged minus one-shot, paired by seed: accuracy, and distance to the teacher."""
    found = []
    for share in settings.sparsities:
        one = _of(runs, share, 1, "total")
        for n in settings.stages:
            for budget in BUDGETS if n > 1 else ():
                many = _of(runs, share, n, budget)
                gain = distill.paired_difference([r.accuracy for r in many], [r.accuracy for r in one])
                nearer = distill.paired_difference(
                    [float(r.path.from_teacher[-1]) for r in one],
                    [float(r.path.from_teacher[-1]) for r in many],
                )
                found.append(
                    {"sparsity": share, "stages": n, "budget": budget, "gain": gain, "nearer": nearer}
                )
    return found


def _wins(found: Sequence[dict[str, Any]], key: str) -> tuple[int, int]:
    """How many intervals are above 0, and below."""
    bounds = [(c[key].low, c[key].high) for c in found if c[key].low is not None]
    return sum(low > 0 for low, _ in bounds), sum(high < 0 for _, high in bounds)


def _evidence(settings: Settings, compared: Sequence[dict[str, Any]]) -> list[Evidence]:
    evidence = []
    words = {"total": "with the same steps in all", "stage": "with steps of its own for every stage"}
    for budget in BUDGETS:
        here = [c for c in compared if c["budget"] == budget]
        up, down = _wins(here, "gain")
        near, far = _wins(here, "nearer")
        evidence.append(
            Evidence(
                "measurement",
                f"stages beat one shot {words[budget]}",
                f"of {len(here)} comparisons over {settings.seeds} paired seeds accuracy is higher in {up}, "
                f"lower in {down} (95 % intervals off 0); the student ends nearer to its teacher in {near}, "
                f"farther in {far}",
                # Intervals that hold 0 speak neither for nor against.
                True if here and up == len(here) else False if down and not up else None,
            )
        )
    return evidence


def _continuity(moduli: Moduli) -> list[Evidence]:
    cut, fade = moduli["weights cut"], moduli["weights faded"]
    return [
        Evidence(
            "measurement",
            "the path of a magnitude prune is continuous in the sparsity",
            f"at the smallest step, h = {cut[0].steps[-1]:.1e}, cutting moves the function by "
            f"{_smallest(cut):.1e} and fading by {_smallest(fade):.1e} (geometric means of {len(cut)} "
            f"teachers); exponents over the grid {_exponent(cut)} and {_exponent(fade)}",
            None,
        )
    ]


def _smallest(found: Sequence[homotopy.Modulus]) -> float:
    """Geometric mean of what is left at the smallest step."""
    return float(np.exp(np.mean(np.log([max(m.smallest, 1e-12) for m in found]))))


def _exponent(found: Sequence[homotopy.Modulus]) -> str:
    exponents = [m.exponent for m in found]
    if not np.isfinite(exponents).all():
        return "undefined (a map that does not move at some step)"
    return distill.interval(exponents).show()


def _verdict(compared: Sequence[dict[str, Any]], moduli: Moduli) -> str:
    total = [c for c in compared if c["budget"] == "total"]
    stage = [c for c in compared if c["budget"] == "stage"]
    (up, down), (up_own, down_own) = _wins(total, "gain"), _wins(stage, "gain")
    parts = [
        "Stages are a path, and its numbers can be computed; whether the path helps depends on the budget.",
        f"With the same steps in all, stages are measurably better than one shot in {up} of {len(total)} "
        f"comparisons and worse in {down}; with steps of its own for every stage better in {up_own} of "
        f"{len(stage)}, worse in {down_own}.",
    ]
    easy = [c for c in total if c["sparsity"] == min(c["sparsity"] for c in total)] if total else []
    if easy and not any(_wins(easy, "gain")):
        parts.append(
            f"At {100 * easy[0]['sparsity']:g} % zeros no difference is measurable under the fixed total: "
            "“one-shot pruning fails” is not what these data say."
        )
    cut, fade = (_smallest(moduli[name]) for name in ("weights cut", "weights faded"))
    parts.append(
        "The path of functions is a chain of jumps, not a continuous one: at the smallest step looked at a "
        f"hard mask moves the function {cut / fade:.0f} times as far as fading."
        if cut > 2 * fade
        else "At the smallest step looked at, cutting and fading weights move the function about equally: "
        "the jumps of single weights are small in a network of this size."
    )
    return " ".join(parts)


def _label(stages: int) -> str:
    return "one shot" if stages == 1 else f"{stages} stages"


def _table(settings: Settings, runs: Sequence[_Run], compared: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for share in settings.sparsities:
        for n in settings.stages:
            for budget in BUDGETS if n > 1 else BUDGETS[:1]:
                here = _of(runs, share, n, budget)
                match = [
                    c for c in compared if (c["sparsity"], c["stages"], c["budget"]) == (share, n, budget)
                ]
                rows.append(
                    [
                        100 * share,
                        _label(n),
                        "–" if n == 1 else f"fixed {budget}",
                        100 * float(np.mean([r.accuracy for r in here])),
                        match[0]["gain"].show(factor=100.0, sign="+") if match else "–",
                        float(np.mean([r.path.largest_step[1] for r in here])),
                        float(np.mean([r.path.length for r in here])),
                        float(np.mean([r.path.from_teacher[-1] for r in here])),
                        float(np.mean([r.barrier for r in here])),
                    ]
                )
    return Table(
        caption=f"Means over {settings.seeds} seeds. Gain: accuracy minus that of one shot, points, paired "
        "by seed, with 95 % Student-t intervals. Lengths: Fisher–Rao, radians, mean over test images. "
        "Barrier: nats of training loss above the chord from the pruned student to the recovered one, the "
        "largest of its stages.",
        columns=[
            "zeros, %",
            "stages",
            "budget",
            "accuracy, %",
            "gain over one shot",
            "longest step",
            "length",
            "teacher to student",
            "barrier",
        ],
        rows=rows,
    )


def _path_figure(paths: dict[str, list[homotopy.HomotopyPath]]) -> "Figure":
    import matplotlib as mpl

    with mpl.rc_context(FIGURE_STYLE):
        ratios = {"height_ratios": [2.2, 1]}
        drawn, axes = new_figure(7.6, 5.0, nrows=2, sharex=True, gridspec_kw=ratios)
        plots.stage_path(paths, axes=axes)
    return drawn


def _crossover_figure(settings: Settings, runs: Sequence[_Run]) -> "Figure":
    import matplotlib as mpl

    def errors(share: float, stages: int, budget: str) -> np.ndarray:
        return 100 * (1 - np.array([run.accuracy for run in _of(runs, share, stages, budget)]))

    shares, most = sorted(settings.sparsities), max(settings.stages)
    differences = {
        words: np.stack([errors(s, most, budget) - errors(s, 1, "total") for s in shares])
        for budget, words in (("total", "the same steps in all"), ("stage", "steps of its own a stage"))
    }
    with mpl.rc_context(FIGURE_STYLE):
        drawn, ax = new_figure(6.6, 4.0)
        plots.crossover([100 * s for s in shares], differences, first=_label(most), second="one shot", ax=ax)
        # At the highest sparsity one shot can lose everything: beyond one point the scale is logarithmic.
        ax.set_yscale("symlog", linthresh=1.0)
        ax.set_ylim(min(1.7 * ax.get_ylim()[0], -3.0), max(1.7 * ax.get_ylim()[1], 3.0))
        ax.set_xlabel("zeros, %")
        ax.set_ylabel("difference of test errors, points")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:+g}".replace("-", "−") if value else "0")
        settle(drawn)
    return drawn


def _modulus_figure(moduli: Moduli) -> "Figure":
    import matplotlib as mpl

    styles = {"weights cut": ("vermillion", "^"), "weights faded": ("blue", "o")}
    with mpl.rc_context(FIGURE_STYLE):
        drawn, axes = new_figure(5.4, 3.6)
        for name, found in moduli.items():
            colour, marker = styles[name]
            line = {"color": OKABE_ITO[colour]}
            values = np.stack([m.values for m in found])
            axes.loglog(found[0].steps, values.T, lw=0.7, alpha=0.4, **line)
            with np.errstate(divide="ignore"):  # a map that does not move at all is 0 on average too
                mean = np.exp(np.mean(np.log(values), axis=0))
            axes.loglog(found[0].steps, mean, marker=marker, label=name, lw=1.8, **line)
        axes.set_xlabel("step h in sparsity")
        axes.set_ylabel("ω(h), Fisher–Rao, radians")
        axes.grid()
        axes.set_axisbelow(True)
        axes.legend()
    return drawn
