"""Answers on disk: one page, its figures, and the numbers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsekd_jax import _page
from sparsekd_jax.studies.environment import environment
from sparsekd_jax.studies.questions.answer import Answer


def write_answers(answers: Sequence[Answer], out: str | Path, *, command: str) -> dict[str, Path]:
    """Write answers as theory.html (self-contained), theory.json, and an SVG a figure.

    Args:
        answers: in the order of the page.
        out: a directory; made if missing.
        command: the command line that made them, for the page.

    Returns:
        The path of each file by name.

    Raises:
        OSError: the directory cannot be written.
    """
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    described = [answer.describe() for answer in answers]
    numbers = {"command": command, "environment": environment(), "answers": described}
    paths = {name: folder / name for name in ("theory.html", "theory.json")}
    paths["theory.json"].write_text(json.dumps(_plain(numbers), indent=1, ensure_ascii=False) + "\n", "utf-8")
    page = _page.render(
        "theory.html",
        title="The paper's five questions, answered by running them",
        subtitle="Each with the statement that was tested, the evidence, and an answer in plain language.",
        answers=answers,
        uris={p.name: _page.figure_uri(p.figure) for answer in answers for p in answer.pictures},
        cell=_cell,
        command=command,
        environment=environment(),
    )
    paths["theory.html"].write_text(page, "utf-8")
    for answer in answers:
        for picture in answer.pictures:
            name = f"{picture.name}.svg"
            paths[name] = folder / name
            _page.write_svg(picture.figure, paths[name])
    return paths


def _cell(value: Any) -> str:
    """A table cell as a reader wants it."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _plain(value: Any) -> Any:
    """The value in JSON's types: numpy's numbers as Python's, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value
