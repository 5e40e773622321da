"""``python -m benchmarks [operators|losses|axioms|training|reading|cache|all] [--json F]``: measure it."""

import enum
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


class What(enum.StrEnum):
    """What can be measured."""

    OPERATORS = "operators"
    LOSSES = "losses"
    AXIOMS = "axioms"
    TRAINING = "training"
    READING = "reading"
    CACHE = "cache"
    ALL = "all"


@app.command()
def main(
    what: Annotated[What, typer.Argument(help="What to measure.")] = What.ALL,
    json_path: Annotated[
        Path | None,
        typer.Option("--json", help="Also write the numbers here, such as benchmarks/results.json."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of the operators' batch.")] = 8192,
    classes: Annotated[int, typer.Option(min=2, help="Classes of the operators' batch.")] = 1024,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved rounds of the operators.")] = 7,
    temperature: Annotated[float, typer.Option(min=1.0, help="T of the operators, from 1 up.")] = 4.0,
    only: Annotated[
        list[str] | None, typer.Option(help="Operator to time, by name or label; repeat for several.")
    ] = None,
) -> None:
    """Time operators and losses against plain ones, axiom checks against their bound, training and reading.

    And weigh a cache of targets.
    """
    if json_path is not None and not json_path.parent.is_dir():
        raise typer.BadParameter(f"the directory {json_path.parent} does not exist", param_hint="'--json'")
    # jax loads here, after the mistakes that need no jax to see.
    from benchmarks import axiom_checks, fused_loss, machine, operators, reading, target_cache, training

    console = Console()
    found = machine.describe()
    console.print(machine.sentence(found), highlight=False)
    result: dict[str, object] = {"machine": found}
    named = tuple(only) if only else None
    parts = {
        What.OPERATORS: (
            operators,
            {
                "shape": (rows, classes),
                "temperature": temperature,
                "rounds": rounds,
                "families": named or operators.FAMILIES,
            },
        ),
        What.LOSSES: (fused_loss, {}),
        What.AXIOMS: (axiom_checks, {"only": named}),
        What.TRAINING: (training, {}),
        What.READING: (reading, {}),
        What.CACHE: (target_cache, {}),
    }
    with console.status("") as status:
        for name, (part, options) in parts.items():
            if what in (name, What.ALL):
                measured = part.measure(progress=status.update, **options)
                result[name] = measured
                console.print(part.table(measured))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        console.print(f"Numbers: {json_path}", soft_wrap=True)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
