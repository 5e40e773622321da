"""How every part of the bench prints."""

from rich import box
from rich.table import Table


def bare_table(title: str) -> Table:
    """A table with one rule under its heads, narrow enough for 80 columns."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
