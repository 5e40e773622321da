"""``sparsekd distill``: the main job, from options or from a plan."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsekd_jax.cli._arguments import refuse, require_folder, require_plots, terminal

if TYPE_CHECKING:
    from rich.table import Table

    from sparsekd_jax.studies import Settings
    from sparsekd_jax.studies.workloads import Metric

DATA_SETS = ("digits", "pydoc")  # the names of studies.WORKLOADS, known before jax loads


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
    teacher_log: Annotated[
        Path | None,
        typer.Option(
            help="Distil from this log of a served teacher alone: a position a training label, in order."
        ),
    ] = None,
    tail: Annotated[
        str | None,
        typer.Option(help="With --teacher-log: uniform, bucket, bounds or renormalized-top-k."),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="With --teacher-log: entries of a position, k.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Directory of the report; out/DATA by default.")] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the interrupted run that --out holds, or start if it holds none."
        ),
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Discard the interrupted run that --out holds.")
    ] = False,
) -> None:
    """Train a dense teacher, distil it into sparse students, and write a report.

    Compares a student pruned in stages with one-shot pruning and with a dense student at the same number of
    steps. What is left out has the default of its data set. Writes report.html, report.json, history.jsonl,
    the plan and the sparse weights.

    With --teacher-log there is no teacher to train: one student a seed, and no page. What is left out is then
    power at T = 2, 80 % zeros in 3 stages, 400 steps and 3 seeds, whatever the data set.
    """
    if data not in DATA_SETS:
        refuse("--data", f"{data!r} is not a data set this command knows; known: {', '.join(DATA_SETS)}")
    if sparsity is not None and not 0.0 <= sparsity < 1.0:
        hint = f"; did you mean {sparsity / 100:g}?" if 1.0 < sparsity < 100.0 else ""
        refuse("--sparsity", f"{sparsity:g} is not a share in [0, 1){hint}")
    for option, value in (
        ("--stages", stages),
        ("--seeds", seeds),
        ("--steps", steps),
        ("--teacher-steps", teacher_steps),
    ):
        if value is not None and value < 1:
            refuse(option, f"{value} is less than 1")
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
        refuse(given[0], f"the plan of --config says it; leave {given[0]} out, or edit {config}")
    for option, missing in (("--tail", tail is None), ("--top", top is None)):
        if (teacher_log is None) != missing:
            remedy = "leave it out, or give --teacher-log" if teacher_log is None else "give it"
            refuse(option, f"belongs with --teacher-log; {remedy}")
    out = Path("out", data) if out is None else out
    require_folder(out)
    if teacher_log is not None and tail is not None and top is not None:
        for option, given_too in (("--config", config), ("--teacher-steps", teacher_steps)):
            if given_too is not None:
                refuse(option, "says nothing of a student of --teacher-log; leave it out")
        names = _operator_names(operator or ["power"])
        if len(names) > 1:
            refuse("--operator", "give one operator with --teacher-log")
        from sparsekd_jax.cli._from_log import distil

        numbers = {
            "temperature": temperature,
            "sparsity": sparsity,
            "num_stages": stages,
            "seeds": seeds,
            "steps": steps,
        }
        said = {name: value for name, value in numbers.items() if value is not None}
        resume = _what_is_left(out / "checkpoints", resume, restart)
        distil(teacher_log, tail, top, out, {"data": data, "operator": names[0], **said}, resume=resume)
        return
    require_plots()

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
                refuse("--steps", f"{settings.steps} leaves some stages without a step; {least}")
            option = "--operator"
        settings.validate()
    except OSError as error:
        refuse("--config", f"{config} cannot be read ({error.strerror})")
    except ValueError as error:
        hint = "; on this command line: --targets-only" if "gradient_scale" in str(error) else ""
        if config is None and "temperature" in str(error):
            option = "--temperature"
        refuse(option, f"{error}{hint}")
    shortest = min(settings.steps // settings.num_stages, settings.teacher_steps, settings.record_every)
    return replace(settings, record_every=max(1, shortest))


def _what_is_left(checkpoints: Path, resume: bool, restart: bool) -> bool:
    """Whether to go on with an interrupted run; one that is there is neither taken up nor lost in silence."""
    from shutil import rmtree

    if resume and restart:
        refuse("--resume", "contradicts --restart; give one of them")
    if restart:
        rmtree(checkpoints, ignore_errors=True)
    elif checkpoints.exists() and not resume:
        refuse("--out", f"{checkpoints.parent} holds an interrupted run; add --resume or --restart")
    return resume


def _operator_names(given: list[str]) -> tuple[str, ...]:
    """Names from repeated options and comma lists, in order, without repeats; unknown ones are refused."""
    from sparsekd_jax.operators import parse

    names = list(dict.fromkeys(name.strip() for item in given for name in item.split(",") if name.strip()))
    if not names:
        refuse("--operator", "no operator is named; name one, such as power")
    try:
        return tuple(dict.fromkeys(parse(name).name for name in names))
    except ValueError as error:
        refuse("--operator", str(error))


def _run_study(settings: "Settings", out: Path, *, resume: bool) -> None:
    from shutil import rmtree

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from sparsekd_jax import studies
    from sparsekd_jax.distill import CheckpointError

    console = terminal()
    columns = (
        TextColumn("{task.description}", markup=False),
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
            refuse("--resume" if resume else "--out", str(error))
        progress.update(bar, description="done")
    paths = studies.write_report(report, out)
    rmtree(checkpoints)  # all that they held is in the report

    console.print(_summary(report["summary"], settings.workload.metrics[0]))
    console.print(f"Report: {paths['report.html']}", soft_wrap=True)


def _summary(rows: list[dict[str, Any]], metric: "Metric") -> "Table":
    """A row a model. What a narrow terminal has no room for is folded: a number cut is another one."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for head in ("model", metric.title, f"minus its teacher, {metric.difference_unit}", "zeros, %"):
        table.add_column(head, overflow="fold")
    for row in rows:
        difference = row["difference"]
        table.add_row(
            row["label"],
            metric.show_interval(row[metric.key]),
            metric.show_interval(difference, "+") if difference else "–",
            f"{100 * row['zero_fraction']['max']:.2f}",
        )
    return table
