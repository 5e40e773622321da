"""``sparsekd bench``: time what the library does on this machine, beside what one would use instead."""

import enum
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsekd_jax.cli._arguments import refuse, require_file, require_package, require_plots, terminal


class What(enum.StrEnum):
    """What can be measured."""

    OPERATORS = "operators"
    GROWTH = "growth"
    LOSSES = "losses"
    AXIOMS = "axioms"
    TRAINING = "training"
    READING = "reading"
    CACHE = "cache"
    STARTUP = "startup"
    ALL = "all"


_OF_OPERATORS = (What.OPERATORS, What.ALL)
_TAKEN_BY = {
    "rows": _OF_OPERATORS,
    "classes": _OF_OPERATORS,
    "rounds": _OF_OPERATORS,
    "temperature": (*_OF_OPERATORS, What.GROWTH),
    "only": (*_OF_OPERATORS, What.GROWTH, What.AXIOMS),
    "members": (What.TRAINING, What.ALL),
}
_WIDTH = 110
"""Columns that every table has: in a narrower terminal lines break, and no number loses its digits."""
_PACKAGES = {What.READING: "orjson", What.CACHE: "pyarrow"}


def bench(
    context: typer.Context,
    what: Annotated[What, typer.Argument(help="What to measure.")] = What.ALL,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", help="Also write the numbers here; of one part, into what the file has."),
    ] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables of --json here.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Also draw the growth here, such as F.svg.")] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Rows of the operators' batch; both shapes by default.")
    ] = None,
    classes: Annotated[int, typer.Option(min=2, help="With --rows: classes of that batch.")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds of the operators.")] = 5,
    temperature: Annotated[float, typer.Option(min=1.0, help="T of operators and growth, from 1 up.")] = 4.0,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Operator to time, by name, or by label of axioms; repeat for several."),
    ] = None,
    members: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Size of an ensemble of training; repeat for several (1, 4 and 16)."),
    ] = None,
) -> None:
    """Time operators, losses, axiom checks, training and reading, beside what one would use instead.

    Medians of interleaved rounds in one run, compilation apart. PyTorch and the entmax package take part
    where they are installed (`pip install 'sparsekd_jax[bench]'`).
    """
    for option, path in (("--json", json_path), ("--markdown", markdown), ("--figure", figure)):
        require_file(path, option)
    if figure is not None:
        if what not in (What.GROWTH, What.ALL):
            refuse("--figure", f"it draws the growth, which `sparsekd bench {what.value}` does not measure")
        require_plots()
    given = [name for name in _TAKEN_BY if _is_given(context, name)]
    for name in given:
        if what not in _TAKEN_BY[name]:
            takers = " and ".join(part.value for part in _TAKEN_BY[name] if part is not What.ALL)
            refuse(f"--{name}", f"`sparsekd bench {what.value}` does not take it, but {takers}; leave it out")
    if "classes" in given and rows is None:
        refuse("--classes", "is of the batch of --rows; give both, or neither for the usual batches")
    if temperature == float("inf"):
        refuse("--temperature", "inf is no T to soften at; give a finite one, from 1 up")
    for part, package in _PACKAGES.items():
        if what in (part, What.ALL):
            require_package(package, "bench", f"`sparsekd bench {part.value}`")
    # jax loads here, after the mistakes that need no jax to see.
    from sparsekd_jax.bench import (
        axiom_checks,
        fused_loss,
        growth,
        machine,
        operators,
        reading,
        startup,
        target_cache,
        training,
    )

    labels = axiom_checks.labels()
    for name in only or ():
        _require_timed(name, what, labels)
    console = terminal()
    console.width = max(console.width, _WIDTH)
    found = machine.describe()
    console.print(machine.sentence(found), highlight=False)
    result: dict[str, Any] = {"machine": found}
    if what is not What.ALL and json_path is not None and json_path.exists():
        result = _kept(json_path, found) | result
    chosen = tuple(only) if only else None
    shapes = operators.SHAPES if rows is None else ((rows, classes),)
    parts: dict[What, tuple[Any, dict[str, Any]]] = {
        What.OPERATORS: (
            operators,
            {"shapes": shapes, "temperature": temperature, "rounds": rounds, "families": chosen},
        ),
        What.GROWTH: (growth, {"temperature": temperature, "families": chosen or operators.FAMILIES}),
        What.LOSSES: (fused_loss, {}),
        What.AXIOMS: (axiom_checks, {"only": chosen}),
        What.TRAINING: (training, {"members": tuple(sorted(set(members or training.MEMBERS)))}),
        What.READING: (reading, {}),
        What.CACHE: (target_cache, {}),
        What.STARTUP: (startup, {}),
    }
    with console.status("") as status:
        for name, (part, options) in parts.items():
            if what in (name, What.ALL):
                began = machine.moment()
                measured = part.measure(progress=status.update, **options)
                result[name.value] = measured | began
                console.print(part.table(measured))
                # After every part: half an hour that is interrupted keeps what it has measured.
                if json_path is not None:
                    json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
                if markdown is not None:
                    had = {of: result[of.value] for of in parts if of.value in result}
                    tables = [parts[of][0].table(measured) for of, measured in had.items()]
                    moments = machine.moments({of.value: measured for of, measured in had.items()})
                    markdown.write_text(
                        _as_markdown(machine.sentence(found), moments, tables), encoding="utf-8"
                    )
    for label, path in (("Numbers", json_path), ("Tables", markdown)):
        if path is not None:
            console.print(f"{label}: {path}", soft_wrap=True)
    if figure is not None:
        growth.figure(result[What.GROWTH.value], result.get(What.LOSSES.value)).savefig(
            figure, bbox_inches="tight"
        )
        console.print(f"Figure: {figure}", soft_wrap=True)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"  # by name: of click, or of typer's copy of it


def _require_timed(name: str, what: What, labels: tuple[str, ...]) -> None:
    """Refuse a name of --only that cannot be timed: the axioms go by label, the other parts by name."""
    from sparsekd_jax.operators import parse

    if what is What.AXIOMS:
        if name not in labels:
            refuse("--only", f"{name!r} is no row of the checks; the rows are {'; '.join(labels)}")
        return
    try:
        parse(name)
    except ValueError as error:
        refuse("--only", str(error))


def _kept(path: Path, machine: dict[str, Any]) -> dict[str, Any]:
    """The parts that a file has of earlier runs on this machine."""
    try:
        earlier: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        of = dict(earlier["machine"])
    except (ValueError, KeyError, TypeError):
        refuse("--json", f"{path} holds something else than numbers of `sparsekd bench`; choose another file")
    other = [
        f"{key} {of.get(key)}, here {machine.get(key)}"
        for key in of | machine
        if of.get(key) != machine.get(key)
    ]
    if other:
        refuse("--json", f"{path} is of another machine or version ({'; '.join(other)}); choose another file")
    return earlier


def _as_markdown(machine: str, moments: str, tables: list[Any]) -> str:
    from io import StringIO

    plain = terminal(file=StringIO(), width=_WIDTH, force_terminal=False, color_system=None)
    for table in tables:
        plain.print(table)
    assert isinstance(plain.file, StringIO)
    text = "\n".join(line.rstrip() for line in plain.file.getvalue().splitlines())
    return f"Made by `sparsekd bench` on {machine}. {moments}\n\n```text\n{text.strip()}\n```\n"
