"""``sparsekd targets inspect``: what is in a log of served log-probabilities, and what is refused."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sparsekd_jax.cli._arguments import refuse, require_file

targets = typer.Typer(help="Look into what a teacher revealed.", no_args_is_help=True)


@targets.callback()
def _group() -> None:
    pass


@targets.command()
def inspect(
    file: Annotated[
        Path,
        typer.Argument(
            help="A log (JSON lines, or one JSON list), or a directory of targets.", metavar="FILE"
        ),
    ],
    format: Annotated[
        str | None, typer.Option(help="The form of the records, such as chat; found by default.")
    ] = None,
    sum_tolerance: Annotated[
        float, typer.Option(help="How far above 1 the probabilities of a position may sum.", min=0.0, max=1.0)
    ] = 1e-4,
    json: Annotated[Path | None, typer.Option(help="Write the report as JSON to this file.")] = None,
) -> None:
    """Say what is in a log: records, positions, k, tail masses, quirks, and what cannot be read.

    Exit status: 0 every record can be read, 1 some are refused (the first of each kind is shown), 2 usage.
    """
    require_file(json, "--json")
    if file.is_dir():
        report = _of_cache(file)
    elif file.is_file():
        report = _of_log(file, format, sum_tolerance)
    else:
        refuse("FILE", f"{file} does not exist")
    typer.echo(str(report))
    if json is not None:
        from json import dumps

        json.write_text(dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    raise typer.Exit(1 if report.num_refused else 0)


def _of_log(file: Path, format: str | None, sum_tolerance: float) -> Any:
    from sparsekd_jax.targets import readers

    try:
        return readers.inspect(file, format=format, sum_tolerance=sum_tolerance)
    except ValueError as error:
        refuse("--format", str(error))
    except OSError as error:
        refuse("FILE", f"{file} cannot be read ({error.strerror})")


def _of_cache(folder: Path) -> Any:
    from sparsekd_jax.targets import cache

    try:
        return cache.describe(folder)
    except (cache.CacheError, ImportError) as error:
        refuse("FILE", str(error))
