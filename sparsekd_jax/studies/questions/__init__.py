"""The paper's five research questions, each answered by checks, witnesses and measurements on digits."""

import importlib
from collections.abc import Callable

from sparsekd_jax.studies.questions.answer import Answer, Evidence, Picture, Table
from sparsekd_jax.studies.questions.page import write_answers

__all__ = ["QUESTIONS", "Answer", "Evidence", "Picture", "Table", "answer", "write_answers"]

QUESTIONS = {1: "sparse_students", 2: "stages", 3: "convergence", 4: "equivalence", 5: "partial_access"}
"""The module of each question."""


def answer(number: int, *, full: bool = False, on_progress: Callable[[str], None] | None = None) -> Answer:
    """Answer a question, by running what its evidence needs.

    Args:
        number: 1 to 5.
        full: the committed sizes in place of the small ones: minutes a question, not about one.
        on_progress: called with what is being done.

    Returns:
        The answer. The same call gives the same numbers on the same machine and libraries.

    Raises:
        ValueError: there is no such question.
    """
    if number not in QUESTIONS:
        raise ValueError(f"question {number} is not one of {', '.join(map(str, QUESTIONS))}")
    module = importlib.import_module(f"{__name__}.{QUESTIONS[number]}")
    found: Answer = module.answer(full=full, on_progress=on_progress)
    return found
