"""The axioms of softening operators, checked instead of assumed: ours and those of any operator you bring.

>>> from sparsekd_jax import operators
>>> check(operators.ConvexMixture(), laws=("A4",), num_classes=(2,)).ok
True
"""

from sparsekd_jax.axioms.cases import Cases, distributions, sweep, temperatures
from sparsekd_jax.axioms.check import NUM_CLASSES, Budget, check, check_table
from sparsekd_jax.axioms.laws import AXIOMS, LAWS
from sparsekd_jax.axioms.observation import Law
from sparsekd_jax.axioms.parametrize import parametrize
from sparsekd_jax.axioms.report import (
    TABLE_WIDTH,
    LawResult,
    Report,
    cells,
    markdown_table,
    page,
    verdict_table,
)
from sparsekd_jax.axioms.witness import Witness

__all__ = [
    "AXIOMS",
    "LAWS",
    "NUM_CLASSES",
    "TABLE_WIDTH",
    "Budget",
    "Cases",
    "Law",
    "LawResult",
    "Report",
    "Witness",
    "cells",
    "check",
    "check_table",
    "distributions",
    "markdown_table",
    "page",
    "parametrize",
    "sweep",
    "temperatures",
    "verdict_table",
]
