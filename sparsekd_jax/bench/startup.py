"""What the first seconds cost: importing the library beside importing jax, and the command line's answer."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from rich.table import Table

from sparsekd_jax.bench._tables import bare_table

JAX, OPERATORS = "import jax", "import jax, then operators"
COMMANDS = {
    JAX: ("-c", "import jax"),
    OPERATORS: ("-c", "import jax, sparsekd_jax.operators"),
    "sparsekd --help": ("-m", "sparsekd_jax", "--help"),
}


def measure(*, rounds: int = 9, progress: Callable[[str], None] = lambda label: None) -> dict[str, Any]:
    """Time fresh interpreters, interleaved, after one round that fills the disk's cache.

    Args:
        rounds: of each command.
        progress: called with what runs.

    Returns:
        ``{"rounds", "rows", "operators_over_jax_s"}``; a row has ``command`` and ``median_s``; the last is
        the median over rounds of what the operators add to jax.
    """
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            progress(f"{name}, round {number} of {rounds}")
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - start)
    own = {name: taken[1:] for name, taken in times.items()}
    added = [ours - plain for plain, ours in zip(own[JAX], own[OPERATORS], strict=True)]
    return {
        "rounds": rounds,
        "rows": [
            {"command": name, "median_s": round(statistics.median(taken), 3)} for name, taken in own.items()
        ],
        "operators_over_jax_s": round(statistics.median(added), 3),
    }


def table(result: dict[str, Any]) -> Table:
    """The result for a terminal."""
    out = bare_table(f"Start-up, {result['rounds']} fresh interpreters each")
    out.add_column("command")
    out.add_column("s", justify="right")
    for row in result["rows"]:
        out.add_row(row["command"], f"{row['median_s']:.2f}")
    out.add_section()
    out.add_row("what operators add to jax", f"{result['operators_over_jax_s']:.2f}")
    return out
