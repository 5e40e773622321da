"""The verdict table of theory.md section 2, reproduced by running the checker."""

import json

import pytest

from sparsekd_jax.axioms import LAWS, Witness, check
from sparsekd_jax.operators import table_rows
from tests.axioms.make_verdict_table import COPY, README, markdown, readme_with

ROWS = {row.label: row for row in table_rows()}
COMMITTED = json.loads(COPY.read_text(encoding="utf-8"))
CELLS = {row["operator"]: row for row in COMMITTED["rows"]}

# The table as theory.md prints it. H on the simplex, I on its interior, F fails, – not applicable, = an
# equality because nothing depends on T. Columns: A1 A1s A2 A3 A3s A4 A5h A5c majorization semigroup affine
# L1 L2 support.
THEORY = """
power                         H H H H H H I H H H F F F H
mixture                       H H H H H H H H H H H H H I
mixture, T < 1                H F H H F H – H H H F F F F
tsallis(0.5)                  H H H H H H I H H H F F F H
tsallis(1.5)                  H H H H H H H H H H F F F I
tsallis(2.5)                  H H H H H H H H H H F H F I
tsallis(3)                    H H H H H H H H H H F H F I
entropy-projection            I I I I I I I – I I F F F I
euclidean-entropy-projection  H H H H H H H – H F F F F I
label-smoothing               H H H = F F F F = F H H H I
top-k                         F F F = F F F F = H F F F F
prior-directed                F F H F F H F F F H F F F H
clamped-power                 H H H H F H F H H F F F F H
argmax                        H F F = F F F H = H F F F F
"""
COLUMNS = [
    "A1",
    "A1s",
    "A2",
    "A3",
    "A3s",
    "A4",
    "A5h",
    "A5c",
    "majorization",
    "semigroup",
    "affine",
    "L1",
    "L2",
    "support",
]


def theory():
    for line in THEORY.strip().splitlines():
        label, letters = line[:30].strip(), line[30:].split()
        yield from ((label, law, letter) for law, letter in zip(COLUMNS, letters, strict=True))


def test_the_committed_copy_is_the_theorys_table():
    """Entry by entry, where the theory has a column."""
    assert {(row, law): CELLS[row][law] for row, law, _ in theory()} == {
        (row, law): letter for row, law, letter in theory()
    }


def test_the_readme_shows_the_committed_copy():
    assert README.read_text(encoding="utf-8") == readme_with(markdown(COMMITTED["rows"]))


LIKE_ANOTHER = {"tsallis(2.5)": pytest.mark.nightly}  # the row of tsallis(3)


@pytest.mark.parametrize("label", [pytest.param(row, marks=LIKE_ANOTHER.get(row, ())) for row in ROWS])
def test_the_computed_row_is_the_committed_one(label):
    row = ROWS[label]
    report = check(row.operator, temperature_range=row.temperatures, name=label)
    computed = {law: report[law].cell for law in LAWS}
    assert computed == {law: CELLS[label][law] for law in LAWS}
    assert report.ok, report.explain()
    for result in report:  # a failure without a witness is an opinion
        assert (result.witness is not None) == (result.cell in "FI"), result


@pytest.mark.parametrize("label", ROWS)
def test_every_committed_failure_replays(label):
    row = ROWS[label]
    witnesses = COMMITTED["witnesses"][label]
    assert set(witnesses) == {law for law in LAWS if CELLS[label][law] in "FI"}
    for law, data in witnesses.items():
        witness = Witness.from_dict(data)
        assert witness.replay(row.operator) < -LAWS[law].tolerance, witness
        if CELLS[label][law] == "F":
            assert min(witness.p) > 0, witness  # a failure is shown in the interior
