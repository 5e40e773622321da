"""RQ1: when does a sparse student beat its dense teacher? A map of conditions, not one verdict."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import optax  # type: ignore[import-untyped]

from sparsekd_jax import data, distill, operators
from sparsekd_jax._page import OKABE_ITO, settle
from sparsekd_jax.studies.questions._digits import network
from sparsekd_jax.studies.questions.answer import Answer, Evidence, Picture, Table, contradicted
from sparsekd_jax.theory import bias_variance, variance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUESTION = "Under which conditions does a sparse student outperform its dense teacher?"
STATEMENT = (
    "Sparse beats dense exactly where ΔVar > ΔBias² (theory.md section 3): an identity between terms, which "
    "are estimated here under the Brier score, over teachers and students retrained as pairs on resampled "
    "digits. “Smoother targets reduce variance” is a conditional claim."
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """The conditions of the map, and the effort of a cell.

    Attributes:
        sizes: training examples a member draws.
        sparsities: of the students; 0 is the control, a dense student taught alike.
        temperatures: T ≥ 1; at T = 1 all operators are the identity and run once.
        operators: by name.
        members: pairs a cell, at least 3: two have no intervals.
        teacher_steps: steps of a teacher.
        steps: steps of a student.
        hidden: widths of the network.
        alpha: weight of the hard labels.
    """

    sizes: tuple[int, ...] = (100, 1347)
    sparsities: tuple[float, ...] = (0.0, 0.5, 0.8, 0.95)
    temperatures: tuple[float, ...] = (1.0, 4.0)
    operators: tuple[str, ...] = ("power", "mixture")
    members: int = 20
    teacher_steps: int = 300
    steps: int = 500
    hidden: tuple[int, ...] = (64, 64)
    alpha: float = 0.1

    def __post_init__(self) -> None:
        if self.members < 3:
            raise ValueError(f"members is {self.members}; intervals over pairs need at least 3 of them")

    def conditions(self) -> list[tuple[str, float, float]]:
        """Operator, temperature and sparsity of each student, the identity once."""
        softened = itertools.product(self.operators, [t for t in self.temperatures if t != 1])
        sides = [("identity", 1.0)] * (1.0 in self.temperatures) + list(softened)
        return [(operator, t, s) for (operator, t), s in itertools.product(sides, self.sparsities)]


FULL = Settings(
    sizes=(100, 400, 1347),
    sparsities=(0.0, 0.5, 0.8, 0.9, 0.95),
    operators=("power", "mixture", "tsallis(1.5)"),
    temperatures=(1.0, 2.0, 4.0),
)


def answer(
    *, full: bool = False, on_progress: Callable[[str], None] | None = None, settings: Settings | None = None
) -> Answer:
    """RQ1 answered.

    Args:
        full: the committed map in place of the small one; minutes instead of about one.
        on_progress: called with what is being trained.
        settings: conditions and sizes of your own.

    Returns:
        The answer, with its map.
    """
    settings = settings or (FULL if full else Settings())
    cells, gaps = _cells(settings, on_progress or (lambda _: None))
    sparse = [cell for cell in cells if cell["sparsity"] > 0]
    won, lost = (_of(sparse, verdict) for verdict in ("sparse wins", "dense wins"))
    evidence = [
        Evidence(
            "theorem",
            "ΔVar − ΔBias² is the difference of the risks, in every cell of the map",
            f"largest deviation {max(gaps):.1e} over {len(cells)} cells, the risks computed apart",
            max(gaps) < 1e-9,
        ),
        *_control(cells),
        Evidence(
            "measurement",
            "sparse students have less variance than their teachers",
            f"the interval of ΔVar is above 0 in {sum(c['delta_variance']['low'] > 0 for c in sparse)} of "
            f"{len(sparse)} cells, below it in {sum(c['delta_variance']['high'] < 0 for c in sparse)}",
            None,
        ),
        _witness(),
    ]
    return Answer(
        number=1,
        question=QUESTION,
        statement=STATEMENT,
        evidence=evidence,
        verdict=contradicted(evidence) or _verdict(settings, sparse, won, lost, cells),
        tables=[_table(settings, cells)],
        pictures=[
            Picture(
                "sparse-students",
                figure(settings, cells),
                "Maps, one a training size, of the advantage of students over their teachers by sparsity, "
                "operator and temperature; the numbers are in the table.",
                "Risk of the teacher minus risk of the student (Brier score × 1,000), "
                f"{settings.members} resampled pairs a cell. Blue: the student is better; orange: the "
                "teacher is. In bold: the 95 % interval excludes 0. At 0 % zeros stands the control, a dense "
                "student taught alike.",
            )
        ],
        settings=dataclasses.asdict(settings),
    )


def _cells(settings: Settings, say: Callable[[str], None]) -> tuple[list[dict[str, Any]], list[float]]:
    """Every cell of the map, and how far the identity of the risks is off in each."""
    digits = data.digits()
    optimizer = optax.adamw(1e-3)
    plans = {condition: _plan(settings, *condition) for condition in settings.conditions()}
    cells, gaps = [], []
    for size in settings.sizes:
        pairs = distill.ensemble(
            functools.partial(network, settings.hidden),
            digits,
            {str(condition): plan for condition, plan in plans.items()},
            members=settings.members,
            teacher_steps=settings.teacher_steps,
            optimizer=optimizer,
            seed=0,
            size=size,
            batch_size=min(64, size),
            on_progress=_saying(say, size),
        )
        teachers = _variance_and_risk(pairs.teachers, pairs.labels)
        for operator, temperature, sparsity in plans:
            students = pairs.students[str((operator, temperature, sparsity))]
            found = bias_variance.compare(students, pairs.teachers, labels=pairs.labels)
            control = pairs.students.get(str((operator, temperature, 0.0))) if sparsity else None
            gaps.append(abs(found.advantage.value - _risk_gap(students, pairs.teachers, pairs.labels)))
            cells.append(
                {
                    "size": size,
                    "operator": operator,
                    "temperature": temperature,
                    "sparsity": sparsity,
                    "verdict": found.verdict,
                    "teachers": teachers,
                    "students": _variance_and_risk(students, pairs.labels),
                    "control": _over_control(settings, students, control, pairs.labels),
                    **{
                        name: dataclasses.asdict(getattr(found, name))
                        for name in ("delta_variance", "delta_bias_squared", "advantage")
                    },
                }
            )
    return cells, gaps


def _variance_and_risk(probs: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Both that labels identify; bias² they do not, only its difference between two students."""
    found = bias_variance.decompose(probs, labels=labels)
    return found.variance.value, found.risk.value


def _over_control(
    settings: Settings, students: np.ndarray, control: np.ndarray | None, labels: np.ndarray
) -> dict[str, Any] | None:
    """Sparse students beside dense ones of the same training, alone and as one of all such cells."""
    if control is None:
        return None
    cells = len(settings.sizes) * sum(sparsity > 0 for *_, sparsity in settings.conditions())
    alone = bias_variance.compare(students, control, labels=labels)
    jointly = bias_variance.compare(students, control, labels=labels, level=1 - 0.05 / cells)
    return {
        "advantage": dataclasses.asdict(alone.advantage),
        "verdict": alone.verdict,
        "joint_verdict": jointly.verdict,
    }


def _saying(say: Callable[[str], None], size: int) -> Callable[[int, int], None]:
    return lambda done, total: say(f"{size} examples, pair {done} of {total}")


def _plan(settings: Settings, operator: str, temperature: float, sparsity: float) -> distill.Plan:
    name = "power" if operator == "identity" else operator
    return distill.stages(
        operator=operators.parse(name),
        temperature=temperature,
        sparsity=sparsity,
        num_stages=1 if sparsity == 0 else 3,
        total_steps=settings.steps,
        alpha=settings.alpha,
    )


def _risk_gap(students: np.ndarray, teachers: np.ndarray, labels: np.ndarray) -> float:
    """Risk of the teachers minus that of the students, straight from the Brier score."""
    onehot = np.eye(students.shape[-1])[labels]

    def risk(probs: np.ndarray) -> float:
        wide = probs.astype(np.float64)
        wide /= wide.sum(-1, keepdims=True)
        return float(((wide - onehot) ** 2).sum(-1).mean())

    return risk(teachers) - risk(students)


def _of(cells: Sequence[dict[str, Any]], verdict: str) -> list[dict[str, Any]]:
    return [cell for cell in cells if cell["verdict"] == verdict]


def _control(cells: Sequence[dict[str, Any]]) -> list[Evidence]:
    """Whether it is the sparsity: sparse students against dense ones of the same training.

    Many cells are asked at once, so the claim is decided by intervals that hold jointly (Bonferroni's).
    """
    sparse = [c for c in cells if c["control"]]
    if not sparse:
        return []
    won = [c for c in sparse if c["verdict"] == "sparse wins"]
    found = []
    for name, group in (
        (f"all {len(sparse)} sparse cells", sparse),
        (f"the {len(won)} that beat their teacher", won),
    ):
        better, worse, jointly_better, jointly_worse = (
            len(_against_control(group, verdict, by))
            for by in ("verdict", "joint_verdict")
            for verdict in ("sparse wins", "dense wins")
        )
        found.append(
            f"of {name}, {better} beat the dense student of the same training and {worse} lose to it "
            f"(jointly over the map {jointly_better} and {jointly_worse})"
        )
    joint = [c["control"]["joint_verdict"] for c in won]
    stands = False if "dense wins" in joint else True if won and set(joint) == {"sparse wins"} else None
    return [
        Evidence(
            "measurement",
            "it is the sparsity that wins, where a sparse student wins, not the further training under soft "
            "targets",
            "; ".join(found),
            stands,
        )
    ]


def _against_control(
    cells: Sequence[dict[str, Any]], verdict: str, by: str = "verdict"
) -> list[dict[str, Any]]:
    return [cell for cell in cells if cell["control"][by] == verdict]


def _witness() -> Evidence:
    """Smoother is not less variable: power at T = 2 where a probability is small, beside the mixture."""
    ratios = [
        variance.variance_amplification(op, np.array([0.01, 0.99]), 2.0, 1000, method="exact").ratio()[0]
        for op in (operators.PowerTransform(), operators.ConvexMixture())
    ]
    power, mixture = map(float, ratios)
    return Evidence(
        "witness",
        "smoother targets can have more variance: p = (.01, .99), T = 2, 1,000 labels",
        f"power multiplies the variance of the first probability by {power:.1f}, mixture by {mixture:.2f}",
        power > 1 > mixture,
    )


def _verdict(
    settings: Settings,
    sparse: Sequence[dict[str, Any]],
    won: Sequence[dict[str, Any]],
    lost: Sequence[dict[str, Any]],
    cells: Sequence[dict[str, Any]],
) -> str:
    undecided = len(sparse) - len(won) - len(lost)
    parts = [
        f"Of {len(sparse)} conditions with a sparse student, it beats its dense teacher in {len(won)}, loses "
        f"in {len(lost)}, and {undecided} are undecided at {settings.members} pairs."
    ]
    for size in settings.sizes:
        here = [c for c in sparse if c["size"] == size]
        wins = sorted({c["sparsity"] for c in _of(here, "sparse wins")})
        losses = sorted({c["sparsity"] for c in _of(here, "dense wins")})
        parts.append(
            f"With {size:,} examples: sparse wins at {_shares(wins)}, dense wins at {_shares(losses)} "
            "(under some operator and temperature)."
        )
    control = [c for c in cells if c["sparsity"] == 0 and c["verdict"] == "sparse wins"]
    if control and won:
        parts.append(
            f"Read with the control: in {len(control)} conditions a DENSE student of the same training beats "
            "the teacher as well, so a win over the teacher is not by itself a merit of sparsity."
        )
    beside = [c for c in sparse if c["control"]]
    if beside:
        better, worse = (_against_control(beside, verdict) for verdict in ("sparse wins", "dense wins"))
        parts.append(
            f"Against that dense student itself, the sparse one is better in {len(better)} of {len(beside)} "
            f"conditions{_where(better)}, worse in {len(worse)}, undecided in the rest."
        )
    parts.append(
        "The condition ΔVar > ΔBias² is the definition of winning, not a prediction of when it happens: that "
        "has to be measured, as here."
    )
    return " ".join(parts)


def _shares(values: Sequence[float]) -> str:
    return " and ".join(f"{100 * v:g} %" for v in values) if values else "none"


def _where(cells: Sequence[dict[str, Any]]) -> str:
    """In brackets, the training sizes of the cells with the sparsities found there."""
    sizes = sorted({c["size"] for c in cells})
    shares = [
        f"{size:,} examples: {_shares(sorted({c['sparsity'] for c in cells if c['size'] == size}))}"
        for size in sizes
    ]
    return f" ({'; '.join(shares)})" if shares else ""


def _table(settings: Settings, cells: Sequence[dict[str, Any]]) -> Table:
    def shown(estimate: dict[str, Any]) -> str:
        value, low, high = (1000 * estimate[key] for key in ("value", "low", "high"))
        return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"

    return Table(
        caption=f"Brier score × 1,000, {settings.members} resampled pairs a row; differences are teacher "
        "minus student (ΔBias² student minus teacher), in brackets 95 % two-way jackknife intervals (pairs × "
        "test images). The labels' noise is part of both risks, and of no difference. The last column is the "
        "risk of the dense student of the same training minus that of the sparse one.",
        columns=[
            "examples",
            "operator",
            "T",
            "zeros, %",
            "variance, teacher → student",
            "risk, teacher → student",
            "ΔVar",
            "ΔBias²",
            "ΔVar − ΔBias²",
            "verdict",
            "over the dense student",
        ],
        rows=[
            [
                cell["size"],
                cell["operator"],
                cell["temperature"],
                100 * cell["sparsity"],
                *(
                    f"{1000 * before:.1f} → {1000 * after:.1f}"
                    for before, after in zip(cell["teachers"], cell["students"], strict=True)
                ),
                *(shown(cell[name]) for name in ("delta_variance", "delta_bias_squared", "advantage")),
                cell["verdict"].replace("sparse", "student") if cell["sparsity"] == 0 else cell["verdict"],
                shown(cell["control"]["advantage"]) if cell["control"] else None,
            ]
            for cell in cells
        ],
    )


def figure(settings: Settings, cells: Sequence[dict[str, Any]]) -> "Figure":
    """The map: a panel a training size, rows operator and temperature, columns sparsity.

    Args:
        settings: its conditions.
        cells: as the answer's table has them.

    Returns:
        A matplotlib figure.
    """
    import matplotlib as mpl
    from matplotlib.colors import LinearSegmentedColormap, SymLogNorm
    from matplotlib.figure import Figure

    sides = list(dict.fromkeys((c["operator"], c["temperature"]) for c in cells))
    values = 1000 * np.array([c["advantage"]["value"] for c in cells])
    reach = max(1.0, float(np.abs(values).max()))
    colours = LinearSegmentedColormap.from_list(
        "advantage", [OKABE_ITO["orange"], "white", OKABE_ITO["blue"]]
    )
    norm = SymLogNorm(linthresh=1.0, vmin=-reach, vmax=reach)
    with mpl.rc_context({"font.size": 9.5}):
        drawn = Figure(
            figsize=(1.6 + 0.72 * len(settings.sparsities) * len(settings.sizes), 1.4 + 0.42 * len(sides)),
            layout="constrained",
        )
        panels = np.atleast_1d(drawn.subplots(ncols=len(settings.sizes), sharey=True))
        for axes, size in zip(panels, settings.sizes, strict=True):
            here = [c for c in cells if c["size"] == size]
            field = np.full((len(sides), len(settings.sparsities)), np.nan)
            for c in here:
                at = sides.index((c["operator"], c["temperature"])), settings.sparsities.index(c["sparsity"])
                field[at] = 1000 * c["advantage"]["value"]
                decided = c["verdict"] != "undecided"
                axes.text(
                    at[1],
                    at[0],
                    f"{field[at]:+.0f}" if abs(field[at]) >= 9.95 else f"{field[at]:+.1f}",
                    ha="center",
                    va="center",
                    weight="bold" if decided else "normal",
                    color="black" if decided else "#5a6675",
                    fontsize=8.5,
                )
            image: Any = axes.imshow(field, cmap=colours, norm=norm, aspect="auto")
            axes.set_title(f"{size:,} examples", fontsize=10)
            axes.set_xticks(range(len(settings.sparsities)), [f"{100 * s:g}" for s in settings.sparsities])
            axes.set_xlabel("zeros, %")
            axes.tick_params(length=0)
            for side in axes.spines.values():
                side.set_visible(False)
        labels = [f"{operator}, T = {t:g}" if operator != "identity" else "T = 1" for operator, t in sides]
        panels[0].set_yticks(range(len(sides)), labels)
        drawn.colorbar(image, ax=list(panels), label="advantage over the teacher", shrink=0.9)
        settle(drawn)
    return drawn
