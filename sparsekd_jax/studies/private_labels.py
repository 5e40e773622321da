"""What privacy costs: students of digits taught by one private label an image, at equal ε, several softeners.

A teacher is fitted to the labels. Of each training image one label is drawn from its softened probabilities,
`theory.privacy.sample_labels`, at the temperature that has a given ε; a student is trained on those alone.
The numbers are plain data, so that a page can keep them: `run` makes them, `table` and `figure` show them.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]

from sparsekd_jax import data, distill, operators
from sparsekd_jax._page import FIGURE_STYLE, OKABE_ITO, new_figure
from sparsekd_jax.studies.questions._digits import LOOKS, digits_teachers, network, probabilities
from sparsekd_jax.studies.questions.answer import Table
from sparsekd_jax.theory.privacy import clip, sample_labels, temperature_for

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is trained.

    Attributes:
        epsilons: ε of a label, in nats.
        floors: by operator, δ of the distributions that are softened; power has no ε without one.
        seeds: teachers, each with its own labels and students.
        teacher_steps: steps of a teacher.
        steps: steps of a student.
        hidden: widths of the network.
    """

    epsilons: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    floors: tuple[tuple[str, float], ...] = (("mixture", 0.0), ("power", 0.01), ("tsallis(1.5)", 0.0))
    seeds: int = 10
    teacher_steps: int = 400
    steps: int = 300
    hidden: tuple[int, ...] = (64, 64)


def run(
    settings: Settings | None = None, *, on_progress: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Train them all; under a minute on two cores.

    Args:
        settings: what is trained.
        on_progress: called with what is being trained.

    Returns:
        ``settings``; ``teacher`` and ``unsoftened`` (students of labels drawn at T = 1, no privacy), test
        accuracies by seed; and ``rows``, one an operator and ε: ``operator``, ``floor``, ``epsilon``,
        ``temperature``, and by seed ``accuracy`` and ``kept``, the share of labels that are the teacher's
        likeliest class.
    """
    s, say = settings or Settings(), on_progress or (lambda _: None)
    digits, optimizer = data.digits(), optax.adamw(1e-3)
    say("teachers")
    teachers = digits_teachers(range(s.seeds), s.teacher_steps, s.hidden, learning_rate=1e-3)
    rows: list[dict[str, Any]] = [
        {
            "operator": name,
            "floor": floor,
            "epsilon": epsilon,
            "temperature": temperature_for(operators.parse(name), epsilon, digits.num_classes, floor=floor),
            "accuracy": [],
            "kept": [],
        }
        for name, floor in s.floors
        for epsilon in s.epsilons
    ]
    found: dict[str, Any] = {
        "settings": dataclasses.asdict(s),
        "teacher": [],
        "unsoftened": [],
        "rows": rows,
    }

    def student(labels: np.ndarray, seed: int) -> float:
        noisy = dataclasses.replace(digits, train_labels=labels)
        fitted = distill.fit(
            network(s.hidden, 1000 + seed),
            noisy,
            steps=s.steps,
            optimizer=optimizer,
            seed=seed,
            record_every=s.steps,
        )
        return fitted.final.accuracy

    for seed, teacher in enumerate(teachers):
        say(f"students of teacher {seed + 1} of {s.seeds}")
        probs = jnp.asarray(probabilities(teacher, digits.train_inputs).astype(np.float32))
        right = np.asarray(teacher(jnp.asarray(digits.test_inputs))).argmax(-1) == digits.test_labels
        found["teacher"].append(float(right.mean()))
        keys = jax.random.split(jax.random.key(seed), len(rows) + 1)
        plain = sample_labels(keys[-1], operators.get("power"), probs, 1.0, 1)
        found["unsoftened"].append(student(np.asarray(plain)[:, 0], seed))
        for key, row in zip(keys, rows, strict=False):
            source = clip(probs, row["floor"]) if row["floor"] else probs
            op = operators.parse(row["operator"])
            labels = np.asarray(sample_labels(key, op, source, row["temperature"], 1))[:, 0]
            row["kept"].append(float((labels == np.asarray(probs).argmax(-1)).mean()))
            row["accuracy"].append(student(labels, seed))
    return found


def table(found: dict[str, Any]) -> Table:
    """Accuracy at each ε, and beside the first operator at the same ε, paired by seed.

    Args:
        found: what `run` returned.

    Returns:
        A `Table`, with 95 % Student-t intervals over seeds.
    """
    s, rows = found["settings"], found["rows"]
    first = {row["epsilon"]: row for row in rows if row["operator"] == rows[0]["operator"]}
    lines = [
        [
            f"{row['epsilon']:g}",
            row["operator"] + (f", p ≥ {row['floor']:g}" if row["floor"] else ""),
            f"{row['temperature']:.4g}",
            f"{100 * float(np.mean(row['kept'])):.1f}",
            _percent(distill.interval(row["accuracy"])),
            None
            if row is first[row["epsilon"]]
            else _percent(
                distill.paired_difference(row["accuracy"], first[row["epsilon"]]["accuracy"]), sign="+"
            ),
        ]
        for row in sorted(rows, key=lambda row: row["epsilon"])
    ]
    lines.append(["∞", "none, T = 1", "1", None, _percent(distill.interval(found["unsoftened"])), None])
    return Table(
        caption=f"One label an image, students of {s['steps']} steps on labels alone; {s['seeds']} seeds, "
        f"95 % Student-t intervals; the teachers reach {_percent(distill.interval(found['teacher']))} %.",
        columns=[
            "ε, nats",
            "softener",
            "T",
            "labels kept, %",
            "accuracy, %",
            f"minus {rows[0]['operator']}, points",
        ],
        rows=lines,
    )


def _percent(interval: distill.Interval, sign: str = "") -> str:
    return interval.show(factor=100.0, sign=sign)


def figure(found: dict[str, Any]) -> "Figure":
    """Test accuracy against ε, a line an operator, with intervals over seeds.

    Args:
        found: what `run` returned.

    Returns:
        A matplotlib figure.
    """
    import matplotlib as mpl

    names: Sequence[str] = dict.fromkeys(row["operator"] for row in found["rows"])  # type: ignore[assignment]
    with mpl.rc_context(FIGURE_STYLE):
        drawn, axes = new_figure(6.0, 3.8)
        reference = 100 * distill.interval(found["unsoftened"]).mean
        axes.axhline(reference, color="#8a94a0", lw=1.2, ls=(0, (4, 3)))
        axes.annotate(
            "no privacy", (found["rows"][0]["epsilon"], reference), (0, -12), textcoords="offset points"
        )
        for shift, name in enumerate(names):
            colour, marker = LOOKS.get(name, (OKABE_ITO["black"], "x"))
            rows = [row for row in found["rows"] if row["operator"] == name]
            intervals = [distill.interval(row["accuracy"]) for row in rows]
            half = [0.0 if i.high is None else 100 * (i.high - i.mean) for i in intervals]
            place = [row["epsilon"] * 1.04 ** (shift - (len(names) - 1) / 2) for row in rows]
            mean = [100 * i.mean for i in intervals]
            axes.errorbar(place, mean, yerr=half, color=colour, marker=marker, lw=1.6, label=name, capsize=2)
        axes.set_xscale("log", base=2)
        ticks = sorted({row["epsilon"] for row in found["rows"]})
        axes.set_xticks(ticks, [f"{e:g}" for e in ticks])
        axes.set_xlabel("ε of one label, nats")
        axes.set_ylabel("test accuracy, %")
        axes.set_ylim(0, 102)
        axes.grid(axis="y")
        axes.set_axisbelow(True)
        axes.legend(loc="lower right")
    return drawn
