"""RQ4: which operators a student cannot tell apart, and how that depends on what the student can see."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx

from sparsekd_jax import data, distill
from sparsekd_jax._page import FIGURE_STYLE, new_figure
from sparsekd_jax.distill.metrics import interval
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.studies.questions._capacity_curves import (
    OTHERS,
    REFERENCE,
    TEMPERATURE,
    TOLERANCE,
    Capacity,
)
from sparsekd_jax.studies.questions._digits import (
    LOOKS,
    OPERATORS,
    digits_teachers,
    network,
    principal_features,
    probabilities,
    rounded,
    show,
)
from sparsekd_jax.studies.questions.answer import Answer, Evidence, Picture, Table, contradicted
from sparsekd_jax.theory.equivalence import (
    compare_students,
    equivalent_teacher,
    gap,
    nearest_temperature,
    tangent_features,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "When do distinct softening operators yield identical students under capacity constraints?"

_MU = 0.01
_HIDDEN = (32,)

Progress = Callable[[str], None]
Section = tuple[list[Evidence], list[Table]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is run: rows of digits and of the tangent features; teachers; width and seeds of networks."""

    rows: int = 300
    teacher_steps: int = 500
    teachers: int = 3
    capacities: tuple[int, ...] = (1, 2, 5, 10, 20, 40, 64)
    fitted: int = 10
    tangent_rows: int = 60
    hidden: int = 8
    seeds: int = 4
    steps: int = 500


FULL = Settings(rows=1000, teachers=8, tangent_rows=120, hidden=16, seeds=12, steps=1500)


def answer(
    *, full: bool = False, on_progress: Progress | None = None, settings: Settings | None = None
) -> Answer:
    """RQ4 answered: gaps of five operators on digits, students fitted to prove them, networks to compare.

    Args:
        full: more rows, seeds and steps; some minutes instead of one.
        on_progress: called with the name of each part before it runs.
        settings: sizes of your own.

    Returns:
        An `Answer`; its words are made from its numbers.

    Reference: theory.md section 5.
    """
    settings = settings or (FULL if full else Settings())
    say = on_progress or (lambda _: None)
    say("teachers on digits")
    digits = data.digits()
    teachers = digits_teachers(range(settings.teachers), settings.teacher_steps, _HIDDEN)
    chosen = np.random.default_rng(0).permutation(len(digits.train_inputs))[: settings.rows]
    inputs = digits.train_inputs[chosen]
    several = [probabilities(teacher, inputs) for teacher in teachers]
    p = several[0]
    x = principal_features(inputs, settings.fitted)
    say("teachers made for equal students")
    evidence, tables = constructed(x[:60])
    say("independent rows")
    evidence += independent_rows(inputs[:30].astype(np.float64), p[:30])
    evidence += two_classes()
    say("fitted students")
    fitted, more = fitted_students(p, x)
    evidence, tables = evidence + fitted, tables + more
    say("nearest temperatures and capacity")
    capacity = Capacity.measured(several, inputs, settings.capacities)
    evidence.append(capacity.evidence())
    say("networks")
    networks, more, picture = neural_students(teachers[0], digits, inputs, p, settings)
    evidence, tables = evidence + networks, [*tables, capacity.table(), *more]
    return Answer(
        number=4,
        question=QUESTION,
        statement=(
            "Linear-softmax students on features X (N×d), the student side unsoftened: two operators train "
            "the same student iff Xᵀ(F(P) − G(P)) = 0. With N independent rows that forces F(P) = G(P); with "
            "a ridge μ the weights of the two differ by at most ‖Xᵀ(F(P) − G(P))‖/(Nμ) (theory.md section "
            "5). For networks the same gap on tangent features is a measurement."
        ),
        evidence=evidence,
        verdict=contradicted(evidence) or _verdict(evidence, capacity),
        tables=tables,
        pictures=[capacity.picture(), picture],
        settings={
            **dataclasses.asdict(settings),
            "capacities": list(settings.capacities),
            "mu": _MU,
            "temperature": TEMPERATURE,
            "tolerance": TOLERANCE,
        },
    )


def _verdict(evidence: Sequence[Evidence], capacity: Capacity) -> str:
    *_, seen, networks = evidence
    before, after = (np.stack(list(kind.values())).ravel() for kind in (capacity.same, capacity.matched))
    least, most = capacity.dimensions[0], capacity.dimensions[-1]
    ends = [
        " to ".join(
            show(100 * pick(m[:, k].mean() for m in capacity.matched.values())) for pick in (min, max)
        )
        for k in (0, -1)
    ]
    matters = (
        "Less capacity does hide differences"
        if seen.stands
        else "Less capacity hardly hides differences, against what one may expect"
    )
    return (
        "Exactly when the student cannot see where the softened teachers differ: Xᵀ(F(P) − G(P)) = 0. That "
        "happens on teachers made for it, and never once the student has as many independent features as "
        f"there are rows. On digits {_count(v < 1e-9 for v in before)} of the other families and capacities "
        f"coincide with {REFERENCE} at the same temperature. Much of what seems a choice of operator is a "
        f"choice of temperature: the gap, {show(100 * min(before))} to {show(100 * max(before))} % of the "
        f"signal at the same temperature, falls to {show(100 * min(after))} to {show(100 * max(after))} % at "
        f"the nearest one. {matters}: of that remainder a student of {least} principal component(s) sees "
        f"{ends[0]} %, one of {most} sees {ends[1]} %. {networks.found}"
    )


def _count(these: Iterable[bool]) -> str:
    number = sum(these)
    return str(number) if number else "none"


# -- theorems ----------------------------------------------------------------------------------------------


def constructed(x: np.ndarray) -> Section:
    """Teachers on which two operators differ and their students coincide, and the same rows reordered."""
    rows: list[list[Any]] = []
    for name in OTHERS[:3]:
        ops = OPERATORS[REFERENCE], OPERATORS[name]
        made = equivalent_teacher(*ops, x, 10, TEMPERATURE)
        equal = compare_students(*ops, made.probabilities, x, TEMPERATURE, _MU)
        apart = compare_students(*ops, np.roll(made.probabilities, 1, axis=0), x, TEMPERATURE, _MU)
        numbers = (
            made.gap.target_distance,
            equal.gap.value,
            equal.predictions,
            apart.gap.value,
            apart.predictions,
        )
        rows.append([f"{REFERENCE}, {name}", *map(rounded, numbers)])
    targets, same, other = ([row[k] for row in rows] for k in (1, 3, 5))
    found = (
        f"On teachers built for {len(rows)} pairs of operators, targets {show(min(targets))} or more apart "
        f"(RMS) train students whose probabilities agree to {show(max(same))}; with the teacher's rows in "
        f"another order they differ by {show(min(other))} or more."
    )
    claim = "At gap 0 two different operators train the same student."
    heads = [
        "operators",
        "‖F(P) − G(P)‖ RMS",
        "gap",
        "students differ by",
        "gap, reordered",
        "differ by, reordered",
    ]
    stands = max(same) < 1e-9 and min(targets) > 1e-4 and min(other) > 1e-6
    caption = f"Teachers made for equal students, {len(x)} digits, {x.shape[1]} features; probabilities"
    return [Evidence("theorem", claim, found, stands)], [Table(caption, heads, rows)]


def independent_rows(x: np.ndarray, p: np.ndarray) -> list[Evidence]:
    """As many independent features as rows: the gap bounds the distance of the targets, and is never 0."""
    shares, gaps, full = [], [], True
    for first, second in itertools.combinations(OPERATORS.values(), 2):
        found = gap(first, second, p, x, TEMPERATURE)
        full &= found.full_rank
        shares.append(found.target_distance / (found.value * found.distance_per_gap))
        gaps.append(found.value)
    try:
        equivalent_teacher(OPERATORS["power"], OPERATORS["mixture"], x, 10, TEMPERATURE)
        refused = False
    except ValueError as error:
        refused = "independent rows" in str(error)
    words = (
        f"On {len(x)} digits with all {x.shape[1]} pixels, over {len(gaps)} pairs, the smallest gap is "
        f"{show(min(gaps))} and ‖F(P) − G(P)‖ at most {show(max(shares))} of what the gap allows; a teacher "
        f"made for equal students {'does not exist' if refused else 'was found all the same'}."
    )
    claim = "With as many independent features as rows a gap of 0 forces equal targets."
    stands = full and refused and max(shares) <= 1 + 1e-9 and min(gaps) > 0
    return [Evidence("theorem", claim, words, stands)]


def two_classes() -> list[Evidence]:
    """K = 2: the temperature of power that gives each family's target, row by row."""
    a = np.linspace(0.55, 0.99, 12)
    p = np.stack([a, 1 - a], axis=-1)
    worst, spans = 0.0, []
    for name in OTHERS:
        q = soften(OPERATORS[name], p, TEMPERATURE)
        s = np.log(a / (1 - a)) / np.log(q[:, 0] / q[:, 1])
        again = np.concatenate(
            [soften(OPERATORS[REFERENCE], row[None], float(t)) for row, t in zip(p, s, strict=True)]
        )
        worst = max(worst, float(np.abs(again - q).max()))
        spans.append((name, float(s.min()), float(s.max())))
    words = ", ".join(f"{name} {show(low)} to {show(high)}" for name, low, high in spans)
    found = (
        f"Power at a temperature of its own for each p gives the target of every family at T = "
        f"{show(TEMPERATURE)} to {show(worst)}; for p_1 from {show(a[0])} to {show(a[-1])} it is: {words}."
    )
    claim = "With two classes families differ by a temperature that depends on p."
    stands = worst < 1e-9 and all(high > 1.001 * low for _, low, high in spans)
    return [Evidence("theorem", claim, found, stands)]


def fitted_students(p: np.ndarray, x: np.ndarray) -> Section:
    """Ridge students of every pair, their distance beside the bound."""
    rows: list[list[Any]] = []
    ratios = []
    for (a, first), (b, second) in itertools.combinations(OPERATORS.items(), 2):
        for t in (2.0, TEMPERATURE):
            found = compare_students(first, second, p, x, t, _MU)
            ratios.append((found.weights - found.uncertainty) / found.bound)
            numbers = (found.gap.value, found.bound, found.weights, found.predictions)
            rows.append([f"{a}, {b}", t, *map(rounded, numbers)])
    above = sum(ratio > 1 for ratio in ratios)
    words = (
        f"{above} of {len(rows)} pairs and temperatures lie above gap/μ; the distance of the weights is "
        f"{show(min(ratios))} to {show(max(ratios))} of it, and probabilities differ by up to "
        f"{show(max(row[5] for row in rows))}."
    )
    claim = "Two ridge students differ by at most gap/μ."
    caption = f"Softmax regression on {len(x)} digits, {x.shape[1]} features, μ = {show(_MU)}"
    heads = ["operators", "T", "gap", "gap/μ", "‖w_F − w_G‖", "largest difference of a probability"]
    return [Evidence("theorem", claim, words, above == 0)], [Table(caption, heads, rows)]


# -- networks ----------------------------------------------------------------------------------------------


def neural_students(
    teacher: Any, digits: data.Arrays, inputs: np.ndarray, p: np.ndarray, settings: Settings
) -> tuple[list[Evidence], list[Table], Picture]:
    """Gaps on the tangent features of a network, beside the distance of trained ones and that of seeds."""
    students = [network((settings.hidden,), seed) for seed in range(settings.seeds)]
    graphdef, params = nnx.split(students[0])
    rows = settings.tangent_rows
    x = np.asarray(
        tangent_features(lambda w, v: nnx.merge(graphdef, w)(v), params, jnp.asarray(inputs[:rows])),
        np.float64,
    )
    first = OPERATORS[REFERENCE]
    signal = gap(first, lambda row, t: jnp.full_like(row, 1 / row.size), p[:rows], x, TEMPERATURE).value
    logits = jnp.asarray(teacher(jnp.asarray(digits.train_inputs)))
    optimizer = optax.adamw(3e-3)

    def train(name: str, temperature: float) -> np.ndarray:
        """Test probabilities ``[seed, M, K]`` of students of the targets alone."""
        plan = distill.stages(
            operator=OPERATORS[name],
            temperature=temperature,
            sparsity=0.0,
            num_stages=1,
            total_steps=settings.steps,
            alpha=0.0,
            soften_student=False,
            scale=1.0,
            decay="linear",
        )
        results = distill.run_many(
            students,
            [logits] * settings.seeds,
            digits,
            plan,
            optimizer=optimizer,
            seeds=range(settings.seeds),
            record_every=settings.steps,
        )
        return np.stack([probabilities(r.student, digits.test_inputs) for r in results])

    base = train(REFERENCE, TEMPERATURE)
    seeds = [_variation(a, b) for a, b in itertools.combinations(base, 2)]
    yardstick = float(np.mean(seeds))
    table: list[list[Any]] = []
    for name in OTHERS:
        found = nearest_temperature(first, TEMPERATURE, OPERATORS[name], p[:rows], x)
        assert found.identified, found
        assert found.same is not None
        for t, value in ((TEMPERATURE, found.same / signal), (found.temperature, found.relative)):
            apart = interval([_variation(a, b) for a, b in zip(base, train(name, t), strict=True)])
            numbers = (apart.mean, apart.low, apart.high, apart.mean / yardstick)
            cells = (None if v is None else rounded(v) for v in numbers)
            table.append([name, rounded(t), rounded(100 * value), *cells])
    within = [row for row in table if row[6] < 1]
    order = _rank_correlation([row[2] for row in table], [row[3] for row in table])
    words = (
        f"For a network of {settings.hidden} hidden units trained with {settings.seeds} seeds, {len(within)} "
        f"of {len(table)} operators and temperatures end nearer to {REFERENCE} than another seed of "
        f"{REFERENCE} does (mean total variation {show(rounded(yardstick))}): "
        f"{show(min(row[6] for row in table))} to {show(max(row[6] for row in table))} of it. Tangent gap "
        f"and distance have rank correlation {show(order)}."
    )
    claim = "Operators nearer on the tangent features train nearer networks."
    heads = ["operator", "T", "tangent gap, %", "total variation", "low", "high", "over that of seeds"]
    caption = (
        f"Trained networks against {REFERENCE} at T = {show(TEMPERATURE)}, same seeds; each operator at "
        f"that T and at the nearest one; seed to seed {show(rounded(yardstick))}"
    )
    evidence = Evidence("measurement", claim, words, order > 0.5)
    picture = Picture(
        "rq4-networks",
        _draw_networks(table, yardstick),
        "Distance of trained networks against the gap of their operators on tangent features, with the "
        "distance between seeds as a horizontal line.",
        f"Networks trained by other operators against those trained by {REFERENCE} at T = "
        f"{show(TEMPERATURE)}, {settings.seeds} seeds, 95 % intervals: hollow at the same temperature, "
        "filled at the nearest one. Below the dashed line another operator matters less than another seed.",
    )
    return [evidence], [Table(caption, heads, table)], picture


def _draw_networks(rows: Sequence[Sequence[Any]], yardstick: float) -> "Figure":
    import matplotlib as mpl

    with mpl.rc_context(FIGURE_STYLE):
        figure, axes = new_figure(6.2, 4.2)
        axes.axhline(yardstick, color="#5a6675", lw=1.2, ls="--", label=f"seed to seed, {REFERENCE}")
        for k, (name, _, x, mean, low, high, _) in enumerate(rows):
            colour, marker = LOOKS[name]
            nearest = k % 2 == 1
            if low is not None:
                axes.plot([x, x], [low, high], color=colour, lw=1.4)
            axes.plot(
                x,
                mean,
                marker,
                color=colour,
                ms=7,
                mfc=colour if nearest else "white",
                label=name if nearest else None,
                ls="",
            )
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("gap on tangent features, % of the signal")
        axes.set_ylabel("mean total variation on test images")
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _variation(a: np.ndarray, b: np.ndarray) -> float:
    """Mean over rows of ``½‖a − b‖₁``."""
    return float(np.mean(0.5 * np.abs(a - b).sum(-1)))


def _rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    from scipy import stats

    return float(stats.spearmanr(a, b).statistic)
