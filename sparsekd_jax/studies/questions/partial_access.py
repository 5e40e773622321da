"""RQ5: what of the theory holds when the teacher is seen only in part: its top k, or its words."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]

from sparsekd_jax import data, distill, operators
from sparsekd_jax._page import FIGURE_STYLE, OKABE_ITO, new_figure
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.studies.questions._digits import digits_teachers, network, probabilities
from sparsekd_jax.studies.questions.answer import Answer, Evidence, Picture, Table, contradicted
from sparsekd_jax.theory import text_only

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "What guarantees remain when the teacher shows only its top k probabilities, or only sampled text?"
STATEMENT = (
    "From N sampled labels the softened target is unbiased at every p exactly for affine operators, so for "
    "the mixture; for power no unbiased estimator exists at any fixed N. From the top k the mixture is exact "
    "on what was seen; entropy projections have no certified bound (theory.md section 6)."
)
SOFTENERS = ("power", "mixture")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained.

    Attributes:
        labels: N, sampled labels an image.
        seeds: teachers, each with its own samples and students.
        teacher_steps: steps of a teacher.
        steps: steps of a student.
        hidden: widths of the network.
        temperature: T.
    """

    labels: tuple[int, ...] = (1, 4, 16, 64)
    seeds: int = 4
    teacher_steps: int = 600
    steps: int = 600
    hidden: tuple[int, ...] = (64, 64)
    temperature: float = 2.0


FULL = Settings(labels=(1, 2, 4, 8, 16, 32, 64, 256), seeds=20)


def answer(
    *, full: bool = False, on_progress: Callable[[str], None] | None = None, settings: Settings | None = None
) -> Answer:
    """RQ5 answered.

    Args:
        full: more numbers of labels, and twenty seeds.
        on_progress: called with what is being trained.
        settings: sizes of your own.

    Returns:
        The answer.
    """
    settings = settings or (FULL if full else Settings())
    biases = {name: _worst_bias(name, settings.temperature) for name in SOFTENERS}
    rows = _students(settings, on_progress or (lambda _: None))
    evidence = [
        Evidence(
            "theorem",
            "the mixture of sampled labels is unbiased, and power's is not",
            f"over all samples of 6 labels, summed exactly: largest bias {biases['mixture']:.1e} for "
            f"mixture, {biases['power']:.3f} for power, at T = {settings.temperature:g}",
            biases["mixture"] < 1e-6 < 1e-2 < biases["power"],
        ),
        _top_k(),
        _no_bound(),
        _blindness(),
        *_gaps(settings, rows),
    ]
    return Answer(
        number=5,
        question=QUESTION,
        statement=STATEMENT,
        evidence=evidence,
        verdict=contradicted(evidence) or _verdict(settings, rows, biases),
        tables=[_table(settings, rows)],
        pictures=[
            Picture(
                "text-only",
                _figure(settings, rows),
                "Loss of students taught by sampled labels against the number of labels an image.",
                f"Test NLL of students taught by N sampled labels an image, {settings.seeds} seeds, means "
                "with 95 % intervals; dashed: the same student taught by the teacher's probabilities.",
            )
        ],
        settings=dataclasses.asdict(settings),
    )


# -- theorems and witnesses ------------------------------------------------------------------------------


def _soften(name: str, p: np.ndarray, temperature: float) -> np.ndarray:
    return soften(operators.parse(name), p, temperature)


def _worst_bias(name: str, temperature: float) -> float:
    """Largest ``|E F(p̂) − F(p)|`` of 6 labels over a grid of p of three classes, all outcomes summed."""
    grid = np.array([(i, j, 12 - i - j) for i in range(1, 11) for j in range(1, 12 - i)]) / 12
    return text_only.bias(operators.parse(name), grid, temperature, 6).worst


_LISTED = np.array([0.4, 0.2])
"""What the top 2 of twelve probabilities show; the other ten share 0.4, each at most 0.2."""


def _with_tail(*tail: float) -> np.ndarray:
    rest = np.full(10 - len(tail), 0.0 if len(tail) == 10 else (0.4 - sum(tail)) / (10 - len(tail)))
    return np.concatenate([_LISTED, tail, rest])


def _top_k() -> Evidence:
    """The mixture needs nothing of the tail."""
    rows = np.stack([_with_tail(), _with_tail(0.095, 0.095, 0.095, 0.095), _with_tail(0.2)])
    spread, moved = (np.ptp(_soften(name, rows, 2.0)[:, :2], axis=0).max() for name in ("mixture", "power"))
    return Evidence(
        "theorem",
        "from the top k the mixture is exact on every token that was seen",
        f"three tails of one mass change its softened top 2 by {spread:.1e}, power's by {moved:.3f}, which "
        "is why power needs bounds",
        bool(spread < 1e-12 < moved),
    )


def _no_bound() -> Evidence:
    """The flat and the concentrated tail bound power, and do not bound the entropy projection."""
    small = 1e-9  # the projection is defined on the interior
    flat = _with_tail()
    concentrated = _with_tail(0.2, 0.2 - 8 * small)
    between = _with_tail(0.095, 0.095, 0.095, 0.095)
    rows = np.stack([flat, concentrated, between])
    second = {name: _soften(name, rows, 2.0)[:, 1] for name in ("entropy-projection", "power")}

    def inside(name: str) -> bool:
        low, high = sorted(second[name][:2].tolist())
        return bool(low <= second[name][2] <= high)

    e = second["entropy-projection"]
    return Evidence(
        "witness",
        "extreme tails do not bound the entropy projection, as they do power",
        f"second coordinate at T = 2: {e[0]:.4f} under the flat tail, {e[1]:.4f} under the concentrated one, "
        f"{e[2]:.4f} under (.095 four times, .02/6 six times)",
        inside("power") and not inside("entropy-projection"),
    )


def _blindness() -> Evidence:
    """Student and teacher renormalised on the teacher's top k: mass elsewhere is not seen."""
    teacher = np.full(8, 0.01 / 6)
    teacher[:2] = [0.6, 0.39]
    student = np.full(8, 1e-7 / 7)
    student[7] = 1 - 1e-7
    student[:2] = teacher[:2] / teacher[:2].sum() * 1e-7
    student /= student.sum()
    true = float((teacher * np.log(teacher / student)).sum())
    cut_teacher, cut_student = (p[:2] / p[:2].sum() for p in (teacher, student))
    seen = float((cut_teacher * np.log(cut_teacher / cut_student)).sum())
    return Evidence(
        "witness",
        "renormalising both sides on the top k is blind to the student's mass elsewhere",
        f"eight tokens, k = 2, a student that puts all on another token: loss {abs(seen):.1e} nats, "
        f"true divergence {true:.2f}",
        abs(seen) < 1e-6 < 1 < true,
    )


# -- students of sampled labels --------------------------------------------------------------------------


def _students(settings: Settings, say: Callable[[str], None]) -> list[dict[str, Any]]:
    digits = data.digits()
    optimizer = optax.adamw(1e-3)
    found: dict[tuple[str, int | None], list[tuple[float, float]]] = {}
    say("teachers")
    teachers = digits_teachers(
        range(settings.seeds), settings.teacher_steps, settings.hidden, learning_rate=1e-3
    )
    for seed, teacher in enumerate(teachers):
        say(f"students of teacher {seed + 1} of {settings.seeds}")
        probs = probabilities(teacher, digits.train_inputs)
        draw = np.random.default_rng(seed)
        for count in (None, *settings.labels):
            seen = probs if count is None else draw.multinomial(count, probs) / count
            with np.errstate(divide="ignore"):  # a label never drawn has probability 0
                targets = np.log(seen).astype(np.float32)
            for name in SOFTENERS:
                plan = distill.stages(
                    operator=name,
                    temperature=settings.temperature,
                    sparsity=0.0,
                    num_stages=1,
                    total_steps=settings.steps,
                    alpha=0.0,
                    soften_student=True,
                )
                final = distill.run(
                    network(settings.hidden, 1000 + seed),
                    jnp.asarray(targets),
                    digits,
                    plan,
                    optimizer=optimizer,
                    seed=seed,
                    record_every=settings.steps,
                ).final
                found.setdefault((name, count), []).append((final.mean_nll, final.accuracy))
    return [
        {
            "operator": name,
            "labels": count,
            "nll": distill.interval([nll for nll, _ in values]),
            "accuracy": distill.interval([accuracy for _, accuracy in values]),
            "values": [nll for nll, _ in values],
        }
        for (name, count), values in found.items()
    ]


def _row(rows: Sequence[dict[str, Any]], name: str, count: int | None) -> dict[str, Any]:
    return next(r for r in rows if (r["operator"], r["labels"]) == (name, count))


def _gaps(settings: Settings, rows: Sequence[dict[str, Any]]) -> list[Evidence]:
    """What sampling costs, against the same student taught by the probabilities."""
    words = []
    for name in SOFTENERS:
        for count in (min(settings.labels), max(settings.labels)):
            cost = distill.paired_difference(
                _row(rows, name, count)["values"], _row(rows, name, None)["values"]
            )
            words.append(f"{name}, N = {count}: {cost.show(decimals=3, sign='+')}")
    return [
        Evidence(
            "measurement",
            "what sampling costs a student, test NLL against the same student taught by probabilities",
            "; ".join(words),
            None,
        )
    ]


def _verdict(settings: Settings, rows: Sequence[dict[str, Any]], biases: dict[str, float]) -> str:
    fewest = min(settings.labels)
    nll = {name: _row(rows, name, fewest)["nll"] for name in SOFTENERS}
    paired = distill.paired_difference(
        _row(rows, "mixture", fewest)["values"], _row(rows, "power", fewest)["values"]
    )
    if paired.low is not None and paired.low > 0:
        better = "power's student has the lower loss all the same"
    elif paired.high is not None and paired.high < 0:
        better = "the mixture's student has the lower loss"
    else:
        better = "which student has the lower loss is undecided"
    return (
        "The guarantees do not survive as they are. Only an affine operator, the mixture, keeps its target "
        f"unbiased from text alone; power's is off by up to {biases['power']:.2f} at six labels. "
        f"Unbiased targets are not the same as a good student: at {fewest} label an image {better} "
        f"(NLL {nll['mixture'].mean:.3f} for mixture, {nll['power'].mean:.3f} for power). From the top k the "
        "mixture is exact on what it saw, power and Tsallis need bounds on the tail, the entropy projections "
        "have none."
    )


def _table(settings: Settings, rows: Sequence[dict[str, Any]]) -> Table:
    return Table(
        caption=f"Students of {settings.steps} steps under T = {settings.temperature:g}, both sides "
        f"softened, no hard labels; {settings.seeds} seeds, 95 % Student-t intervals.",
        columns=["operator", "labels an image", "test NLL, nats", "accuracy, %"],
        rows=[
            [
                row["operator"],
                "all (probabilities)" if row["labels"] is None else row["labels"],
                row["nll"].show(decimals=3),
                row["accuracy"].show(factor=100.0),
            ]
            for row in sorted(rows, key=lambda r: (r["operator"], r["labels"] or math.inf))
        ],
    )


def _figure(settings: Settings, rows: Sequence[dict[str, Any]]) -> "Figure":
    import matplotlib as mpl

    styles = {"power": ("blue", "o"), "mixture": ("vermillion", "^")}
    with mpl.rc_context(FIGURE_STYLE):
        drawn, axes = new_figure(6.0, 3.8)
        for name, (colour, marker) in styles.items():
            intervals = [_row(rows, name, count)["nll"] for count in settings.labels]
            means = [i.mean for i in intervals]
            axes.plot(settings.labels, means, marker=marker, color=OKABE_ITO[colour], lw=1.8, label=name)
            if all(i.low is not None for i in intervals):
                axes.fill_between(
                    settings.labels,
                    [i.low for i in intervals],
                    [i.high for i in intervals],
                    color=OKABE_ITO[colour],
                    alpha=0.15,
                    lw=0,
                )
            axes.axhline(_row(rows, name, None)["nll"].mean, color=OKABE_ITO[colour], lw=1.2, ls=(0, (4, 3)))
        axes.set_xscale("log", base=2)
        axes.set_xticks(settings.labels, [str(n) for n in settings.labels])
        axes.set_xlabel("sampled labels an image, N")
        axes.set_ylabel("test NLL, nats")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.legend()
    return drawn
