"""``sparsekd axioms``: the checker, for operators by name or of your own."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsekd_jax.cli._arguments import refuse, require_file, terminal

if TYPE_CHECKING:
    from traceback import FrameSummary


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
    require_file(json, "--json")
    require_file(html, "--html")
    options: dict[str, Any] = {
        "num_classes": _whole_numbers(classes, "--classes"),
        "temperature_range": _range_of(temperatures),
    }
    if not names and not every and laws != "list":
        refuse("NAMES", "no operator is named; name some, or pass --all")

    from sparsekd_jax import axioms as checker
    from sparsekd_jax.operators import table_rows
    from sparsekd_jax.operators.base import operator_name

    console = terminal()
    if laws == "list":
        for law in checker.LAWS.values():
            console.print(f"{law.id:14}{law.title}: {law.formula}", highlight=False, soft_wrap=True)
        return
    chosen = None if laws is None else [law.strip() for law in laws.split(",") if law.strip()]
    unknown = [law for law in chosen or () if law not in checker.LAWS]
    if unknown:
        refuse("--laws", f"{unknown[0]!r} is not a law; the laws are {', '.join(checker.LAWS)}")
    if chosen == []:
        refuse("--laws", "no law is named; name some, such as A1,A3, or leave the option out for all")
    rows: list[tuple[str | None, Any, Any]] = []
    if every:
        rows = [(row.label, row.operator, row.temperatures) for row in table_rows()]
    rows += [(None, _operator_of(name), None) for name in names or ()]

    reports = []
    with console.status("") as status:
        for label, operator, at in rows:
            status.update(f"checking {label or operator_name(operator)} …")
            given = {k: v for k, v in options.items() if v is not None}
            if at is not None:
                given["temperature_range"] = at
            budget = checker.Budget.deep() if deep else None
            try:
                report = checker.check(operator, name=label, laws=chosen, budget=budget, **given)
            except Exception as error:  # the checker's own words, or whatever a function of the user's raises
                checkers = isinstance(error, TypeError | ValueError) and not _own_frames(error)
                said = str(error) if checkers else f"{label or operator_name(operator)} {_raised(error)}"
                refuse("NAMES", said)
            reports.append(report)
            if every:
                console.print(report.summary(), highlight=False, soft_wrap=True)
    if len(reports) == 1:
        console.print(reports[0].table())
        if reports[0].ok:
            console.print(reports[0].witnesses(), highlight=False, soft_wrap=True)
            console.print(reports[0].summary(), highlight=False)
    else:
        wide = terminal(width=max(console.width, checker.TABLE_WIDTH))
        table = checker.verdict_table(reports)
        legend, table.caption = table.caption, None  # a caption is as narrow as its table
        wide.print(table)
        console.print(legend, highlight=False, soft_wrap=True)
    broken = [report for report in reports if not report.ok]
    for report in broken:
        console.print(f"\n{report.summary()}\n{report.explain()}", highlight=False, soft_wrap=True)
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
            stem, py, _ = name.rpartition(".py")
            refuse("NAMES", f"{name} is a file; give {stem}:function" if py else str(error))
    import importlib

    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, "")  # as `python -m` does: a file in the working directory is a module
    try:
        operator = importlib.import_module(module_name)
        for part in attribute.split("."):
            operator = getattr(operator, part)
    except ImportError as error:
        refuse("NAMES", f"{module_name!r} cannot be imported ({error}); give module:attribute, no .py")
    except AttributeError:
        refuse(
            "NAMES", f"module {module_name!r} has no {attribute!r}; give module:attribute of a function in it"
        )
    except Exception as error:  # whatever a module of the user's does when it is imported
        refuse("NAMES", f"{module_name!r} cannot be imported: it {_raised(error)}")
    if not callable(operator):
        refuse("NAMES", f"{name} is {type(operator).__name__}; it must be a function (p, temperature) -> q")
    return operator


def _raised(error: Exception) -> str:
    """What an exception says, and the last line of the user's own code that it passed."""
    if isinstance(error, SyntaxError):
        return f"raised SyntaxError: {error}"
    own = _own_frames(error)
    where = f" at {own[-1].filename}:{own[-1].lineno}: {own[-1].line}" if own else ""
    return f"raised {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}{where}"


def _own_frames(error: Exception) -> "list[FrameSummary]":
    """What of the user's own code an exception passed: neither this package, nor Python's, nor a library."""
    import sysconfig
    import traceback

    others = (str(Path(__file__).parents[1]), sysconfig.get_path("stdlib"), "<frozen")
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith(others)
    ]


def _whole_numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        refuse(option, f"{text!r} is not a list of whole numbers such as 2,10,50")
    if min(numbers) < 2:
        refuse(option, f"{min(numbers)} is below 2, the smallest number of classes")
    return numbers


def _range_of(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        refuse("--temperatures", f"{text!r} is not LOW:HIGH, such as 1:20 or 0:inf")
    if not 0 <= low < high:
        refuse("--temperatures", f"{text} is empty or negative; it needs 0 ≤ LOW < HIGH")
    return low, high
