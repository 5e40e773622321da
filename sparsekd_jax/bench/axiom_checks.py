"""The wall time of ``axioms.check`` for each row of the verdict table, compilation included.

The bound is 20 s on two cores for one operator. Caches are emptied before each row, so that no row profits
from what an earlier one compiled; importing the library is not part of it.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
from rich.table import Table
from rich.text import Text

from sparsekd_jax import axioms, operators

BOUND_SECONDS = 20.0
PLAIN = "a plain function"


def escort(p: jax.Array, temperature: jax.Array) -> jax.Array:
    """What a user brings: no claims, no log form."""
    powered = p ** (1 / temperature)
    return powered / powered.sum()


def labels() -> tuple[str, ...]:
    """What the rows are called."""
    return tuple(label for label, _, _ in _cases())


def _cases() -> list[tuple[str, Any, Any]]:
    rows = [(row.label, row.operator, row.temperatures) for row in operators.table_rows()]
    return [*rows, (PLAIN, escort, (1.0, float("inf")))]


def measure(
    *,
    only: tuple[str, ...] | None = None,
    progress: Callable[[str], None] = lambda label: None,
    **options: Any,
) -> dict[str, Any]:
    """Time one check a row.

    Args:
        only: labels of the rows to time; all by default, and a plain function.
        progress: called with each label.
        **options: passed to `axioms.check`, such as ``laws`` or ``num_classes``.

    Returns:
        ``{"bound_s", "rows"}``; a row has ``operator``, ``wall_s``, ``cpu_s``, ``evaluations``, ``ok``.
    """
    rows = []
    for label, operator, temperatures in _cases():
        if only is not None and label not in only:
            continue
        progress(label)
        jax.clear_caches()
        wall, cpu = time.perf_counter(), time.process_time()
        report = axioms.check(operator, name=label, temperature_range=temperatures, **options)
        rows.append(
            {
                "operator": label,
                "wall_s": round(time.perf_counter() - wall, 2),
                "cpu_s": round(time.process_time() - cpu, 2),
                "evaluations": report.evaluations,
                "ok": report.ok,
            }
        )
    return {"bound_s": BOUND_SECONDS, "rows": rows}


def table(result: dict[str, Any]) -> Table:
    """The result for a terminal."""
    out = Table(
        title=f"axioms.check, compilation included; bound {result['bound_s']:g} s on two cores",
        title_justify="left",
    )
    out.add_column("operator", no_wrap=True)
    for head in ("wall s", "CPU s", "outputs", "claims", "bound"):
        out.add_column(head, justify="right", no_wrap=True)
    for row in result["rows"]:
        within = row["wall_s"] <= result["bound_s"]
        out.add_row(
            row["operator"],
            f"{row['wall_s']:.1f}",
            f"{row['cpu_s']:.1f}",
            f"{row['evaluations']:,}",
            "hold" if row["ok"] else Text("broken", style="red"),
            "within" if within else Text("over", style="red"),
        )
    return out
