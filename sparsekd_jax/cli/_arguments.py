"""What the commands share: usage errors, and what must be there before minutes of work begin."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console


def refuse(option: str, message: str) -> NoReturn:
    """A usage error: exit status 2, the option named."""
    raise typer.BadParameter(message, param_hint=f"'{option}'")


def terminal(**options: Any) -> "Console":
    """A console that prints what it is given: a name such as mixture[cosine] holds no tag of rich's."""
    from rich.console import Console

    return Console(markup=False, **options)


def require_folder(out: Path) -> None:
    """Make the directory now: minutes of training should not end at a path that cannot be written."""
    from sparsekd_jax._durable import probe

    try:
        probe(out)
    except OSError as error:
        refuse("--out", f"{out} cannot be written ({error.strerror}); choose another directory")


def require_file(path: Path | None, option: str) -> None:
    """Refuse now what cannot become a file after the work."""
    if path is None:
        return
    if path.is_dir():
        refuse(option, f"{path} is a directory; name a file in it")
    if not path.parent.is_dir():
        refuse(option, f"the directory {path.parent} does not exist; make it first")
    new = not path.exists()
    try:
        path.open("ab").close()  # what is there stays
        if new:
            path.resolve().unlink()
    except OSError as error:
        refuse(option, f"{path} cannot be written ({error.strerror}); choose another file")


def require_plots() -> None:
    require_package("matplotlib", "plots", "The report")


def require_package(name: str, extra: str, what: str) -> None:
    """Say now, before the work, that an optional package is missing, and what to install."""
    from importlib.util import find_spec

    if find_spec(name) is None:
        typer.echo(f"{what} needs {name}: pip install 'sparsekd_jax[{extra}]'", err=True)
        raise typer.Exit(1)
