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
            plots.variance_map(variance.amplification_map(operators.get(name), 2.0, 20), ax=ax)
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


def verdicts_page(table: dict[str, Any]) -> str:
    """The letters, and each failure's witness, operator by operator."""
    if not table["rows"]:
        return f"{GENERATED}\n\nThe table is not committed yet: `sparsekd axioms --all` computes it.\n"
    laws = [law for law in LAWS if any(law in row for row in table["rows"])]
    lines = [GENERATED, "", '<div class="verdicts" markdown>', "", "| operator | " + " | ".join(laws) + " |"]
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
    lines = [f"## {answer['number']}. {answer['question']}", "", f"**{answer['verdict']}**", ""]
    lines += [f"What was tested: {answer['statement']}", "", "| | evidence | claim | found |", "|-|-|-|-|"]
    marks = {True: "✓", False: "✗", None: "·"}
    for item in answer["evidence"]:
        cells = [marks[item["stands"]], item["kind"], item["claim"], item["found"]]
        lines.append("| " + " | ".join(as_cell(cell) for cell in cells) + " |")
    pictures = [f"![{name.replace('-', ' ')}](answers/{folder}/{name}.svg)" for name in answer["pictures"]]
    lines += ["", *pictures]
    for table in answer["tables"]:
        lines += ["", f'??? note "{table["caption"].replace(chr(34), chr(39))}"', ""]
        rows = [table["columns"], ["-"] * len(table["columns"]), *table["rows"]]
        lines += ["    | " + " | ".join(as_cell(value) for value in row) + " |" for row in rows]
    return [*lines, "", f"Made by `{command}`; every number is in `docs/answers/{folder}/theory.json`."]


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
