"""``sparsekd theory`` and ``sparsekd compare``: questions answered, ensembles compared."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsekd_jax.cli._arguments import refuse, require_folder, require_plots, terminal


def theory(
    question: Annotated[
        list[int] | None, typer.Option(help="Only this question, 1 to 5; repeat for several.", min=1, max=5)
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="The sizes of the committed answers: many minutes.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Directory of the page; made if missing.")] = Path("out/theory"),
) -> None:
    """Answer the paper's five research questions by running them, on one page.

    Theorems are checked, counterexamples replayed, and the rest measured on digits with intervals. Answers
    that go against the paper's broad claims are stated as plainly as those that support them.
    """
    require_folder(out)
    require_plots()
    from functools import partial

    from sparsekd_jax.studies import questions

    numbers = sorted(set(question or questions.QUESTIONS))
    console = terminal()
    answers = []
    with console.status("") as status:
        for number in numbers:
            label = f"question {number}"
            status.update(label)
            found = questions.answer(number, full=full, on_progress=partial(_report, status, label))
            answers.append(found)
            console.print(f"{number}. {found.question}", style="bold", highlight=False)
            console.print(f"{found.verdict}\n", highlight=False)
    words = ["sparsekd theory", *(f"--question {n}" for n in question or ()), *(["--full"] if full else [])]
    paths = questions.write_answers(answers, out, command=" ".join([*words, "--out DIR"]))
    console.print(f"Page: {paths['theory.html']}", soft_wrap=True)


def _report(status: Any, label: str, what: str) -> None:
    status.update(f"{label}: {what}")


def compare(
    sparse: Annotated[
        Path, typer.Argument(help="Probabilities of the sparse models: .npy, or .npz with one.")
    ],
    dense: Annotated[Path, typer.Argument(help="Probabilities of the dense models, in the same order.")],
    labels: Annotated[Path, typer.Argument(help="Classes of the examples, [n]; or the true [n, K].")],
    loss: Annotated[str, typer.Option(help="brier or kl.")] = "brier",
    level: Annotated[float, typer.Option(help="Coverage of the intervals, in (0, 1).")] = 0.95,
) -> None:
    """Decide whether sparse models beat dense ones: ΔVar against ΔBias², with intervals.

    Both arrays are [members, examples, classes]: member i of both was trained on the same resample of the
    data. Any framework can have made them.
    """
    arrays = {
        name: _array_of(path, name)
        for name, path in (("SPARSE", sparse), ("DENSE", dense), ("LABELS", labels))
    }
    from sparsekd_jax.theory import bias_variance

    truth = arrays["LABELS"]
    given = {"labels" if truth.ndim == 1 else "truth": truth}
    try:
        found = bias_variance.compare(
            arrays["SPARSE"],
            arrays["DENSE"],
            loss=loss,  # type: ignore[arg-type]
            level=level,
            **given,
        )
    except (TypeError, ValueError) as error:
        refuse("SPARSE DENSE LABELS", str(error))
    terminal().print(str(found), highlight=False, soft_wrap=True)


def _array_of(path: Path, name: str) -> Any:
    """The one array of a .npy or .npz file; nothing in it is unpickled."""
    import zipfile
    import zlib

    import numpy as np

    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded
            if len(loaded.files) == 1:
                return loaded[loaded.files[0]]
            held = ", ".join(loaded.files) or "none"
    # An empty file ends too early, and an archive is damaged in words of its own.
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        refuse(name, f"{path} cannot be read as .npy or .npz ({error})")
    refuse(name, f"{path} holds the arrays {held}; give a file with one")
