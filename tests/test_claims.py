"""The table of claims in docs/claims.md names functions and tests that exist."""

import importlib
import re
from pathlib import Path

import pytest

from sparsekd_jax import theory

ROOT = Path(__file__).parents[1]
PACKAGE = Path(theory.__file__).parents[1]
LINES = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8").splitlines()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in LINES
    if line.startswith("| ") and "`" in line
]


def test_the_table_is_read():
    assert len(ROWS) > 35
    assert {row[1] for row in ROWS} == {"T", "C", "M"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_function_and_tests_exist(row):
    _, _, function, *tests, stands = row
    room, name = function.strip("`").split(".")
    assert callable(getattr(getattr(theory, room), name))
    assert len(tests) == 2, "a test, and the twin or witness beside it"
    for test in tests:
        module, _, case = test.strip("`").partition("::")
        assert callable(getattr(importlib.import_module(f"tests.theory.{module}"), case))
    assert stands


def test_every_section_that_a_docstring_refers_to_is_there():
    headings = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")]
    named = {number for text in sources for number in re.findall(r"theory\.md section (\d)", text)}
    assert named >= {"1", "2", "3", "4", "5", "6", "7"}
    assert [number for number in sorted(named) if f"\n## {number}. " not in headings] == []
