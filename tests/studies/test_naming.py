"""Operators from text: what an operator prints of itself leads back to it."""

import pytest

from sparsekd_jax import operators, studies


@pytest.mark.parametrize("row", operators.table_rows(), ids=lambda row: row.label)
def test_a_printed_name_leads_back(row):
    assert studies.operator_named(row.operator.name).name == row.operator.name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("powr", "did you mean 'power'"),
        ("tsalis(2)", "did you mean 'tsallis'"),
        ("tsallis", r"write tsallis\(1\.5\)"),
        ("tsallis(x)", "'x' is not a number"),
        ("tsallis(-1)", "alpha"),
        ("power(2)", "takes no number"),
    ],
)
def test_mistakes_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        studies.operator_named(text)
