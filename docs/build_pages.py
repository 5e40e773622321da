"""Redraw what the pages show from a run of the library: ``python docs/build_pages.py``, in ``make docs``.

Writes docs/figures, docs/laws.md (from ``axioms.LAWS``), docs/verdicts.md and verdicts.json (from the
committed verdict table, tests/axioms/verdict_table.json, where it is there), docs/questions.md (from the
answers in docs/answers, which ``sparsekd theory --question N --out docs/answers/N`` writes), and
docs/private_labels.md (from docs/private_labels.json, which ``python docs/build_pages.py --private-labels``
trains anew first, in under a minute on two cores).
"""

import html
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.lines

from sparsekd_jax import operators, plots
from sparsekd_jax._page import FIGURE_STYLE, OKABE_ITO, new_figure
from sparsekd_jax.axioms import AXIOMS, LAWS, Witness
from sparsekd_jax.studies import private_labels
from sparsekd_jax.theory import variance

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCS = Path(__file__).parent
FIGURES = DOCS / "figures"
ANSWERS = DOCS / "answers"
PRIVATE_LABELS = DOCS / "private_labels.json"
TABLE = DOCS.parent / "tests" / "axioms" / "verdict_table.json"

SIDE_BY_SIDE = ("power", "mixture", "tsallis(3)", "euclidean-entropy-projection")
CURVES = (
    "power",
    "mixture",
    "tsallis(0.5)",
    "tsallis(3)",
    "entropy-projection",
    "euclidean-entropy-projection",
)
GENERATED = "<!-- written by docs/build_pages.py; edit that instead -->"


def main() -> None:
    FIGURES.mkdir(exist_ok=True)
    for name, draw in (
        ("softening.png", draw_softening),
        ("entropy.svg", draw_entropy),
        ("amplification.svg", draw_amplification),
    ):
        save(draw(), FIGURES / name)
    write(DOCS / "laws.md", laws_page())
    table = read_table()
    write(DOCS / "verdicts.md", verdicts_page(table))
    write(DOCS / "verdicts.json", json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    write(DOCS / "questions.md", questions_page())
    if "--private-labels" in sys.argv[1:]:
        found = private_labels.run(on_progress=print)
        write(PRIVATE_LABELS, json.dumps(found, indent=1) + "\n")
    found = json.loads(PRIVATE_LABELS.read_text(encoding="utf-8"))
    save(private_labels.figure(found), FIGURES / "private-labels.svg")
    write(DOCS / "private_labels.md", private_labels_page(found))


def write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    print(f"docs/{path.relative_to(DOCS)}")


def save(figure: "Figure", path: Path) -> None:
    """The same figure gives the same bytes: no date, fixed ids."""
    with mpl.rc_context({"svg.hashsalt": "sparsekd"}):
        if path.suffix == ".svg":
            figure.savefig(path, metadata={"Date": None, "Creator": None})
        else:
            figure.savefig(path, dpi=100, metadata={"Software": None})
            shrink(path)
    print(f"docs/{path.relative_to(DOCS)}")


def shrink(path: Path) -> None:
    """A palette of 64 colours holds a line drawing in a third of the bytes."""
    from PIL import Image

    with Image.open(path) as image:
        palette = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    palette.save(path, optimize=True)


# -- figures ----------------------------------------------------------------------------------------------


def draw_softening() -> "Figure":
    """Where four families send the same ternary points, side by side: the README's picture."""
    from matplotlib.figure import Figure

    with mpl.rc_context({"font.size": 12}):
        figure = Figure(figsize=(12, 3.6), facecolor="white", layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.02)
        for axes, name in zip(figure.subplots(ncols=len(SIDE_BY_SIDE)), SIDE_BY_SIDE, strict=True):
            plots.softening_field(operators.parse(name), 2.0, ax=axes)
            axes.set_ylim(top=0.9)
        blue, orange = (mpl.lines.Line2D([], [], color=OKABE_ITO[c], lw=1.6) for c in ("blue", "orange"))
        dot = mpl.lines.Line2D([], [], color="#1c2430", marker="o", ms=4, ls="")
        diamond = mpl.lines.Line2D([], [], color=OKABE_ITO["blue"], marker="D", ms=5, ls="")
        labels = (
            "p, which is T = 1",
            "T = 2",
            "T rising to 64",
            "T falling to 1/16, where the range allows it",
        )
        figure.legend(
            (dot, diamond, blue, orange),
            labels,
            loc="outside lower center",
            ncols=4,
            frameon=False,
            fontsize=11,
        )
    return figure


def draw_entropy() -> "Figure":
    """Entropy against temperature, for the operators of `CURVES`."""
    curves = {name: operators.parse(name) for name in CURVES}
    with mpl.rc_context(FIGURE_STYLE | {"font.size": 11}):
        figure, ax = new_figure(8.0, 4.2)
        plots.entropy_curves(curves, [0.85, 0.1, 0.04, 0.01], ax=ax)
    return figure


def draw_amplification() -> "Figure":
    """Where power and the mixture raise the variance of twenty labels."""
    with mpl.rc_context(FIGURE_STYLE):
        figure, axes = new_figure(10.4, 4.3, ncols=2)
        for ax, name in zip(axes, ("power", "mixture"), strict=True):
            found = variance.amplification_map(operators.get(name), 2.0, 20)
            plots.variance_map(found, largest=16, ax=ax)
    return figure


# -- laws -------------------------------------------------------------------------------------------------


def laws_page() -> str:
    """The laws as a table, from the objects that the checker runs."""
    lines = [GENERATED, "", "| id | law | statement | tolerance |", "|-|-|-|-|"]
    for law in LAWS.values():
        name = f"**{law.id}**" if law.id in AXIOMS else law.id
        tolerance = "by its trend" if law.limit else re.sub("e-0", "e-", f"{law.tolerance:g}")
        lines.append(f"| {name} | {law.title} | {cell(law.formula)} | {tolerance} |")
    return "\n".join(lines) + "\n"


def cell(text: str) -> str:
    """Text for a table cell: subscripts set, and nothing else in it read as markup."""
    escaped = re.sub(r"_(\w+)", r"<sub>\1</sub>", html.escape(text, quote=False))
    return "".join(f"&#{ord(c)};" if c in "|*[]`\\" else c for c in escaped)


# -- verdicts ---------------------------------------------------------------------------------------------


def read_table() -> dict[str, Any]:
    """The committed verdict table as ``{"rows": [...], "witnesses": {...}}``, empty where there is none."""
    if not TABLE.is_file():
        return {"rows": [], "witnesses": {}}
    read = json.loads(TABLE.read_text(encoding="utf-8"))
    rows = read.get("rows") if isinstance(read, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "operator" in row for row in rows):
        raise SystemExit(f"{TABLE.name}: 'rows' is not a list of rows that name their operator")
    witnesses = read.get("witnesses")
    return {"rows": rows, "witnesses": witnesses if isinstance(witnesses, dict) else {}}


LEGEND = """\
H: holds on the whole simplex; I: on its interior; F: fails, with a witness; =: an equality, because nothing
depends on T; –: not applicable. T ≥ 1, except A5c, the limit T → 0, and the row that says T < 1. "Holds"
means that no violation was found in the cases recorded; what is also proved is marked as a theorem in the
operator's claims. The tests recompute this table and compare it with the committed copy."""


def verdicts_page(table: dict[str, Any]) -> str:
    """The letters, and each failure's witness, operator by operator."""
    if not table["rows"]:
        return f"{GENERATED}\n\nThe table is not committed yet: `sparsekd axioms --all` computes it.\n"
    laws = [law for law in LAWS if any(law in row for row in table["rows"])]
    lines = [GENERATED, "", LEGEND, "", '<div class="verdicts" markdown>', ""]
    lines.append("| operator | " + " | ".join(laws) + " |")
    lines.append("|-" + "|:-:" * len(laws) + "|")
    for row in table["rows"]:
        letters = [mark(str(row.get(law, ""))) for law in laws]
        lines.append(f"| {cell(row['operator'])} | " + " | ".join(letters) + " |")
    lines += ["", "</div>", ""]
    found = [(operator, list(seen(by_law))) for operator, by_law in table["witnesses"].items()]
    found = [(operator, seen_here) for operator, seen_here in found if seen_here]
    if found:
        lines += ["## Witnesses", ""]
        lines += [
            "The smallest case the search found for each law that fails somewhere, in numbers to retype."
        ]
        lines += ["An operator may well claim no such law, or claim it on the interior alone.", ""]
    for operator, seen_here in found:
        lines += [f'??? note "{operator}: {len(seen_here)}"', "", '    <div class="witnesses" markdown>', ""]
        lines += ["    | law | witness |", "    |-|-|"]
        lines += [f"    | {law} | {cell(text)} |" for law, text in seen_here]
        lines += ["", "    </div>", ""]
    return "\n".join(lines) + "\n"


def mark(letter: str) -> str:
    """A letter with a class to colour it by; the letter alone carries the meaning."""
    return f'<span class="{letter}">{letter}</span>' if letter in ("F", "I") else letter


def seen(by_law: Any) -> Iterable[tuple[str, str]]:
    """(law, text) of an operator's witnesses; one that this version cannot read is printed as it stands."""
    readers: list[Callable[[Any], str]] = [lambda w: str(Witness.from_dict(w)), lambda w: str(w)]
    for law, witness in by_law.items() if isinstance(by_law, dict) else ():
        for read in readers:
            try:
                yield law, read(witness)
                break
            except (KeyError, TypeError, ValueError):
                continue


PICTURES = {
    "sparse-students": (
        "Maps, one a training size, of the advantage of students over their teachers by sparsity, operator "
        "and temperature; the numbers are in the table",
        "Risk of the teacher minus risk of the student (Brier score × 1,000), {members} resampled pairs a "
        "cell. Blue: the student is better; orange: the teacher is. In bold: the 95 % interval excludes 0. "
        "At 0 % zeros stands the control, a dense student taught alike.",
    ),
    "stage-paths": (
        "Distance to the teacher and step lengths along the paths of one-shot and staged pruning",
        "Pruned to the highest sparsity with {steps} steps in all, {seeds} seeds (pale) and their means. "
        "Every prune leaves the path for a hollow point; its recovery leads back.",
    ),
    "budgets-crossover": (
        "Test error of staged minus one-shot pruning against the sparsity, under both budgets",
        "The largest number of stages against one shot, {seeds} paired seeds with 95 % intervals, filled "
        "where they exclude 0: with the same steps in all, and with as many steps for each stage as one "
        "shot has for itself.",
    ),
    "prune-continuity": (
        "Modulus of continuity of two prune maps against the step in sparsity, for each teacher",
        "How far the function moves at most when the sparsity rises by h: cutting weights by magnitude, and "
        "fading the same weights out, for {seeds} teachers (pale) and their geometric means. A straight "
        "line of slope 1 is a Lipschitz map.",
    ),
    "rq3-stages": (
        "Two log-log plots of the distance to the sparse optimum against the number of stages. Left, under "
        "fixed steps a stage, five operators fall like 1/n below two bounds. Right, under fixed steps in "
        "all, the bound rises with n",
        "Median of {subsets} subsets of digits for each operator (thin: each of them). Dashed: the largest "
        "bound with the P seen. Dotted: the certified bound, the same for all operators. More stages help "
        "where each brings its own steps, not where they share a fixed number.",
    ),
    "rq3-hard-masks": (
        "The fastest chord of the path of minimisers against the number of stages, log-log: under hard "
        "masks it doubles with n, under the annealed penalty it stays",
        "P as n stages see it on {subsets} subsets of digits (pale) and their medians. Where it grows with "
        "n there is no finite P, and the bound says nothing.",
    ),
    "rq3-rates": (
        "Four plots over the number of stages: the lag of noisy gradient descent on a convex problem with "
        "little and with much noise, and the test loss and test error of trained networks",
        "Above: softmax regression, {runs} runs (pale), the floor solved exactly. Below: networks under "
        "hard masks and AdamW, {seeds} seeds (pale). Dashed: the fitted a + b·n^(−γ), where the data decide "
        "γ.",
    ),
    "rq4-capacity": (
        "Two plots of the relative gap of four operators to the power transform against the number of "
        "features, at the same temperature on the left and at the nearest temperature on the right",
        "What a linear student on d principal components of digits sees of the difference from power at T = "
        "{temperature:g}, in percent of the signal (its distance from uniform targets): {teachers} teachers "
        "(pale) and their means. The two scales differ.",
    ),
    "rq4-networks": (
        "Distance of trained networks against the gap of their operators on tangent features, with the "
        "distance between seeds as a horizontal line",
        "Networks trained by other operators against those trained by power at T = {temperature:g}, {seeds} "
        "seeds, 95 % intervals: hollow at the same temperature, filled at the nearest one. Below the dashed "
        "line another operator matters less than another seed.",
    ),
    "text-only": (
        "Loss of students taught by sampled labels against the number of labels an image",
        "Test NLL of students taught by N sampled labels an image, {seeds} seeds, means with 95 % "
        "intervals; dashed: the same student taught by the teacher's probabilities.",
    ),
}
"""What a figure shows, for one who does not see it, and how to read it; numbers from the settings."""


def questions_page() -> str:
    """The committed answers to the paper's questions, as `sparsekd theory` wrote them."""
    parts = [
        GENERATED,
        "",
        "# Five questions, answered",
        "",
        "What `sparsekd theory` found: theorems are checked on instances, witnesses replayed, and the rest",
        "is measured on digits, with intervals. ✓ came out as claimed, ✗ did not, · decides nothing alone.",
    ]
    for path in sorted(ANSWERS.glob("*/theory.json")):
        saved = json.loads(path.read_text(encoding="utf-8"))
        for answer in saved["answers"]:
            parts += ["", *answer_section(answer, path.parent.name, saved["command"])]
    return "\n".join(parts) + "\n"


def answer_section(answer: dict[str, Any], folder: str, command: str) -> list[str]:
    lines = [
        f'<a id="question-{answer["number"]}"></a>',
        "",
        f"## {answer['number']}. {prose(answer['question'])}",
    ]
    lines += ["", f"**{prose(answer['verdict'])}**", "", f"What was tested: {prose(answer['statement'])}", ""]
    lines += ['<div class="evidence" markdown>', "", "| | evidence | claim | found |", "|-|-|-|-|"]
    marks = {True: "✓", False: "✗", None: "·"}
    for item in answer["evidence"]:
        cells = [marks[item["stands"]], item["kind"], item["claim"], item["found"]]
        lines.append("| " + " | ".join(prose(as_cell(cell)) for cell in cells) + " |")
    lines += ["", "</div>"]
    for name in answer["pictures"]:
        shown, caption = (text.format(**answer["settings"]) for text in PICTURES[name])
        lines += ["", "<figure markdown>", f"![{shown}](answers/{folder}/{name}.svg)"]
        lines += [f"<figcaption>{caption}</figcaption>", "</figure>"]
    for table in answer["tables"]:
        lines += ["", f'??? note "{prose(table["caption"]).replace(chr(34), chr(39))}"', ""]
        rows = [table["columns"], ["-"] * len(table["columns"]), *table["rows"]]
        lines += ["    | " + " | ".join(as_cell(value) for value in row) + " |" for row in rows]
    numbers = f"[docs/answers/{folder}/theory.json](answers/{folder}/theory.json)"
    return [*lines, "", f"Made by `{command}`; every number is in {numbers}."]


def prose(text: str) -> str:
    """Text in which a star is a star, θ*, and a section of theory.md a link to it."""
    return re.sub(
        r"theory\.md section (\d)",
        lambda found: f"[theory.md section {found[1]}](theory.md#{theory_section(found[1])})",
        text.replace("*", "\\*"),
    )


def theory_section(number: str) -> str:
    """The anchor that the site gives to a section of theory.md."""
    headings = (DOCS / "theory.md").read_text(encoding="utf-8")
    heading = re.search(rf"^## ({number}\. .*)$", headings, re.MULTILINE)
    assert heading, f"docs/theory.md has no section {number}"
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading[1]).strip().lower())


def private_labels_page(found: dict[str, Any]) -> str:
    """The table of docs/privacy.md."""
    table = private_labels.table(found)
    rows = [table.columns, ["-"] * len(table.columns), *table.rows]
    lines = ["| " + " | ".join(as_cell(value) for value in row) + " |" for row in rows]
    return "\n".join([GENERATED, "", *lines, "", table.caption]) + "\n"


def as_cell(value: Any) -> str:
    if value is None:
        return "–"
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|")


if __name__ == "__main__":
    main()
