"""The command line: ``sparsekd``. Heavy imports wait inside the commands, so that ``--help`` is instant."""

from typing import Annotated

import typer

from sparsekd_jax.cli.axioms import axioms
from sparsekd_jax.cli.bench import bench
from sparsekd_jax.cli.distill import distill
from sparsekd_jax.cli.targets import targets
from sparsekd_jax.cli.theory import compare, theory

app = typer.Typer(
    name="sparsekd",
    help="Sparse knowledge distillation in JAX, with axioms that are checked instead of assumed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # "rich", the default, takes [n, K] for a tag and drops it
)
for command in (axioms, distill, theory, compare, bench):
    app.command()(command)
app.add_typer(targets, name="targets")


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="sparsekd")


def _show_version(wanted: bool) -> None:
    if wanted:
        import platform
        from importlib import metadata

        from sparsekd_jax import __version__

        typer.echo(f"sparsekd {__version__}")
        for package in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint"):
            typer.echo(f"{package} {metadata.version(package)}")
        typer.echo(f"Python {platform.python_version()}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show versions and exit."),
    ] = False,
) -> None:
    pass
