"""The command line: ``sparsekd``. Heavy imports wait inside the commands, so that ``--help`` is instant."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from sparsekd_jax.studies import Settings

DATA_SETS = ("digits", "pydoc")  # the names of studies.WORKLOADS, known before jax loads

app = typer.Typer(
    name="sparsekd",
    help="Sparse knowledge distillation in JAX, with axioms that are checked instead of assumed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="sparsekd")


def _refuse(option: str, message: str) -> NoReturn:
    """A usage error: exit status 2, the option named."""
    raise typer.BadParameter(message, param_hint=f"'{option}'")


def _show_version(wanted: bool) -> None:
    if wanted:
        from sparsekd_jax import __version__

        typer.echo(f"sparsekd {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    pass


# -- axioms -----------------------------------------------------------------------------------------------


@app.command()
def axioms(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Operators by name, such as power or 'tsallis(1.5)', or your own as module:attribute.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every row of the verdict table.")] = False,
    laws: Annotated[
        str | None, typer.Option(help="Only these laws, such as A1,A3; 'list' shows them.")
    ] = None,
    classes: Annotated[str | None, typer.Option(help="Numbers of classes to try, such as 2,10,50.")] = None,
    temperatures: Annotated[
        str | None, typer.Option(help="Range LOW:HIGH of the temperature, such as 1:20 or 1:inf.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the reports as JSON to this file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write one self-contained page to this file.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Try ten times as many cases.")] = False,
) -> None:
    """Check the axioms of operators: ours by name, or any function (p, temperature) -> q of yours.

    Exit status: 0 all claims hold, 1 a claim fails (its witness is printed), 2 usage.
    """
    _require_writable(json, "--json")
    _require_writable(html, "--html")
    options: dict[str, Any] = {
        "num_classes": _whole_numbers(classes, "--classes"),
        "temperature_range": _range_of(temperatures),
    }
    if not names and not every and laws != "list":
        _refuse("NAMES", "no operator is named; name some, or pass --all")

    from rich.console import Console

    from sparsekd_jax import axioms as checker
    from sparsekd_jax.operators import table_rows

    console = Console()
    if laws == "list":
        for law in checker.LAWS.values():
            console.print(f"{law.id:14}{law.title}: {law.formula}", highlight=False, soft_wrap=True)
        return
    chosen = None if laws is None else [law.strip() for law in laws.split(",") if law.strip()]
    unknown = [law for law in chosen or () if law not in checker.LAWS]
    if unknown:
        _refuse("--laws", f"{unknown[0]!r} is not a law; the laws are {', '.join(checker.LAWS)}")
    rows: list[tuple[str | None, Any, Any]] = []
    if every:
        rows = [(row.label, row.operator, row.temperatures) for row in table_rows()]
    rows += [(None, _operator_of(name), None) for name in names or ()]

    reports = []
    with console.status("") as status:
        for label, operator, at in rows:
            status.update(f"checking {label or getattr(operator, 'name', 'operator')} …")
            given = {k: v for k, v in options.items() if v is not None}
            if at is not None:
                given["temperature_range"] = at
            budget = checker.Budget.deep() if deep else None
            try:
                report = checker.check(operator, name=label, laws=chosen, budget=budget, **given)
            except (TypeError, ValueError) as error:
                _refuse("NAMES", str(error))
            reports.append(report)
            if every:
                console.print(report.summary(), highlight=False, soft_wrap=True)
    if len(reports) == 1:
        console.print(reports[0].table())
        if reports[0].ok:
            console.print(reports[0].witnesses(), highlight=False, markup=False, soft_wrap=True)
            console.print(reports[0].summary(), highlight=False)
    else:
        wide = Console(width=max(console.width, checker.TABLE_WIDTH))
        wide.print(checker.verdict_table(reports))
    broken = [report for report in reports if not report.ok]
    for report in broken:
        console.print(
            f"\n{report.summary()}\n{report.explain()}", highlight=False, markup=False, soft_wrap=True
        )
    if json is not None:
        from json import dumps

        plain = [report.to_dict() for report in reports]
        json.write_text(dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if html is not None:
        html.write_text(checker.page(reports), encoding="utf-8")
        console.print(f"Page: {html}", soft_wrap=True)
    raise typer.Exit(1 if broken else 0)


def _operator_of(name: str) -> Any:
    """A registered operator, or ``module:attribute`` from the Python path and the working directory."""
    from sparsekd_jax import operators

    if ":" not in name:
        try:
            return operators.parse(name)
        except ValueError as error:
            _refuse("NAMES", str(error))
    import importlib

    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, "")  # as `python -m` does: a file in the working directory is a module
    try:
        operator = importlib.import_module(module_name)
        for part in attribute.split("."):
            operator = getattr(operator, part)
    except ImportError as error:
        _refuse("NAMES", f"{module_name!r} cannot be imported ({error}); give module:attribute")
    except AttributeError:
        _refuse("NAMES", f"module {module_name!r} has no {attribute!r}")
    if not callable(operator):
        _refuse("NAMES", f"{name} is {type(operator).__name__}; it must be a function (p, temperature) -> q")
    return operator


def _whole_numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        _refuse(option, f"{text!r} is not a list of whole numbers such as 2,10,50")
    if min(numbers) < 2:
        _refuse(option, f"{min(numbers)} is below 2, the smallest number of classes")
    return numbers


def _range_of(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        _refuse("--temperatures", f"{text!r} is not LOW:HIGH, such as 1:20 or 0:inf")
    if not 0 <= low < high:
        _refuse("--temperatures", f"{text} is empty or negative; it needs 0 ≤ LOW < HIGH")
    return low, high


def _require_writable(path: Path | None, option: str) -> None:
    if path is not None and not path.parent.is_dir():
        _refuse(option, f"the directory {path.parent} does not exist; make it first")


# -- distill ----------------------------------------------------------------------------------------------


def _operator_names(given: list[str]) -> tuple[str, ...]:
    """Names from repeated options and comma lists, in order, without repeats; unknown ones are refused."""
    from sparsekd_jax.operators import parse

    names = list(dict.fromkeys(name.strip() for item in given for name in item.split(",") if name.strip()))
    if not names:
        _refuse("--operator", "no operator is named; name one, such as power")
    try:
        return tuple(dict.fromkeys(parse(name).name for name in names))
    except ValueError as error:
        _refuse("--operator", str(error))


@app.command()
def distill(
    data: Annotated[
        str, typer.Option(help="digits (ships with scikit-learn) or pydoc (Python's manual, byte by byte).")
    ] = "digits",
    operator: Annotated[
        list[str] | None,
        typer.Option(help="Softening operator, such as power or 'tsallis(1.5)'; repeat, or use commas."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Temperature T of the softening.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Final share of zero weights, in [0, 1).")] = None,
    stages: Annotated[int | None, typer.Option(help="Stages of the staged student.")] = None,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds; intervals need two.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of each student, over all stages.")] = None,
    teacher_steps: Annotated[int | None, typer.Option(help="Steps of each teacher.")] = None,
    targets_only: Annotated[
        bool, typer.Option("--targets-only", help="Soften the teacher's side of the loss only.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="A plan as JSON for the staged student (a run writes one), in place of its options."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the report; out/DATA by default.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the interrupted run that --out holds.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard the interrupted run that --out holds.")
    ] = False,
) -> None:
    """Train a dense teacher, distil it into sparse students, and write a report.

    Compares a student pruned in stages with one-shot pruning and with a dense student at the same number of
    steps. What is left out has the default of its data set. Writes report.html, report.json, history.jsonl,
    the plan and the sparse weights.
    """
    if data not in DATA_SETS:
        _refuse("--data", f"{data!r} is not a data set this command knows; known: {', '.join(DATA_SETS)}")
    if sparsity is not None and not 0.0 <= sparsity < 1.0:
        hint = f"; did you mean {sparsity / 100:g}?" if 1.0 < sparsity < 100.0 else ""
        _refuse("--sparsity", f"{sparsity:g} is not a share in [0, 1){hint}")
    for option, value in (
        ("--stages", stages),
        ("--seeds", seeds),
        ("--steps", steps),
        ("--teacher-steps", teacher_steps),
    ):
        if value is not None and value < 1:
            _refuse(option, f"{value} is less than 1")
    in_plan = {
        "--operator": operator,
        "--temperature": temperature,
        "--sparsity": sparsity,
        "--stages": stages,
        "--steps": steps,
        "--targets-only": targets_only or None,
    }
    given = [option for option, value in in_plan.items() if value is not None]
    if config is not None and given:
        _refuse(given[0], f"the plan of --config says it; leave {given[0]} out, or edit {config}")
    out = Path("out", data) if out is None else out
    _require_folder(out)
    _require_plots()

    # jax loads here, after the mistakes that need no jax to see.
    chosen = {
        "temperature": temperature,
        "sparsity": sparsity,
        "num_stages": stages,
        "num_seeds": seeds,
        "steps": steps,
        "teacher_steps": teacher_steps,
    }
    settings = _settings(data, operator or ["power"], not targets_only, config, chosen)
    _run_study(settings, out, resume=_what_is_left(out / "checkpoints", resume, restart))


def _settings(
    data: str, operator: list[str], soften_student: bool, config: Path | None, chosen: dict[str, Any]
) -> "Settings":
    """The settings of a run, validated; what is wrong is refused by the option that said it."""
    names = _operator_names(operator)
    from dataclasses import replace

    from sparsekd_jax import studies
    from sparsekd_jax.distill import Plan

    changes = {name: value for name, value in chosen.items() if value is not None}
    option = "--config"
    try:
        if config is not None:
            settings = studies.Settings.of_plan(Plan.from_json(config.read_text("utf-8")), data, **changes)
        else:
            settings = studies.Settings.of_data(
                data, operators=names, soften_student=soften_student, **changes
            )
            if settings.steps < settings.num_stages:
                least = f"give at least {settings.num_stages}"
                _refuse("--steps", f"{settings.steps} leaves some stages without a step; {least}")
            option = "--operator"
        settings.validate()
    except OSError as error:
        _refuse("--config", f"{config} cannot be read ({error.strerror})")
    except ValueError as error:
        hint = "; on this command line: --targets-only" if "gradient_scale" in str(error) else ""
        if config is None and "temperature" in str(error):
            option = "--temperature"
        _refuse(option, f"{error}{hint}")
    shortest = min(settings.steps // settings.num_stages, settings.teacher_steps, settings.record_every)
    return replace(settings, record_every=max(1, shortest))


def _what_is_left(checkpoints: Path, resume: bool, restart: bool) -> bool:
    """Whether to go on with an interrupted run; one that is there is neither taken up nor lost in silence."""
    from shutil import rmtree

    if resume and restart:
        _refuse("--resume", "contradicts --restart; give one of them")
    if restart:
        rmtree(checkpoints, ignore_errors=True)
    elif checkpoints.exists() and not resume:
        _refuse("--out", f"{checkpoints.parent} holds an interrupted run; add --resume or --restart")
    return resume


def _require_folder(out: Path) -> None:
    """Make the directory now: minutes of training should not end at a path that cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".sparsekd-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        _refuse("--out", f"{out} cannot be written ({error.strerror}); choose another directory")


def _require_plots() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        typer.echo("The report needs matplotlib: pip install 'sparsekd_jax[plots]'", err=True)
        raise typer.Exit(1)


def _run_study(settings: "Settings", out: Path, *, resume: bool) -> None:
    from shutil import rmtree

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Table

    from sparsekd_jax import studies
    from sparsekd_jax.distill import CheckpointError

    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("compiling", total=None)

        def advance(label: str, done: int, total: int) -> None:
            progress.update(bar, description=label, completed=done, total=total)

        checkpoints = out / "checkpoints"
        try:
            report = studies.run(settings, on_progress=advance, checkpoint_dir=checkpoints, resume=resume)
        except CheckpointError as error:
            _refuse("--resume" if resume else "--out", str(error))
        progress.update(bar, description="done")
    paths = studies.write_report(report, out)
    rmtree(checkpoints)  # all that they held is in the report

    metric = settings.workload.metrics[0]
    difference_title = f"minus its teacher, {metric.difference_unit}"
    table = Table("model", metric.title, difference_title, "zeros, %", box=SIMPLE_HEAD, pad_edge=False)
    for row in report["summary"]:
        difference = row["difference"]
        table.add_row(
            row["label"],
            escape(metric.show_interval(row[metric.key])),
            escape(metric.show_interval(difference, "+")) if difference else "–",
            f"{100 * row['zero_fraction']['max']:.2f}",
        )
    console.print(table)
    console.print(f"Report: {paths['report.html']}", soft_wrap=True)


# -- theory -----------------------------------------------------------------------------------------------


@app.command()
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
    _require_folder(out)
    _require_plots()
    from functools import partial

    from rich.console import Console

    from sparsekd_jax.studies import questions

    numbers = sorted(set(question or questions.QUESTIONS))
    console = Console()
    answers = []
    with console.status("") as status:
        for number in numbers:
            label = f"question {number}"
            status.update(label)
            found = questions.answer(number, full=full, on_progress=partial(_report, status, label))
            answers.append(found)
            console.print(f"[bold]{number}. {found.question}[/bold]\n{found.verdict}\n", highlight=False)
    words = ["sparsekd theory", *(f"--question {n}" for n in question or ()), *(["--full"] if full else [])]
    paths = questions.write_answers(answers, out, command=" ".join([*words, "--out DIR"]))
    console.print(f"Page: {paths['theory.html']}", soft_wrap=True)


def _report(status: Any, label: str, what: str) -> None:
    status.update(f"{label}: {what}")


# -- compare ----------------------------------------------------------------------------------------------


@app.command()
def compare(
    dense: Annotated[Path, typer.Argument(help="Probabilities of the dense models: .npy, or .npz with one.")],
    sparse: Annotated[Path, typer.Argument(help="Probabilities of the sparse models, in the same order.")],
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
        for name, path in (("DENSE", dense), ("SPARSE", sparse), ("LABELS", labels))
    }
    from rich.console import Console

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
        _refuse("DENSE SPARSE LABELS", str(error))
    Console().print(str(found), highlight=False, markup=False, soft_wrap=True)


def _array_of(path: Path, name: str) -> Any:
    """The one array of a .npy or .npz file; nothing in it is unpickled."""
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        _refuse(name, f"{path} cannot be read as .npy or .npz ({error})")
    if isinstance(loaded, np.ndarray):
        return loaded
    if len(loaded.files) != 1:
        _refuse(name, f"{path} holds the arrays {', '.join(loaded.files) or 'none'}; give a file with one")
    return loaded[loaded.files[0]]
