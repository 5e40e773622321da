"""The verdict table of theory.md section 2, reproduced by running the checker."""

import json
from pathlib import Path

import pytest

from sparsekd_jax.axioms import LAWS, Witness, check
from sparsekd_jax.operators import table_rows
from tests.axioms.make_verdict_table import COPY, README, markdown, readme_with

ROWS = {row.label: row for row in table_rows()}
COMMITTED = json.loads(COPY.read_text(encoding="utf-8"))
CELLS = {row["operator"]: row for row in COMMITTED["rows"]}

THEORY = Path(__file__).parents[2] / "docs" / "theory.md"
STANDS_FOR = {
    "power": ["power"],
    "mixture": ["mixture"],
    "proj_Δ(p/T), T < 1": ["mixture, T < 1"],
    "Tsallis α < 1": ["tsallis(0.5)"],
    "Tsallis 1 < α < 2": ["tsallis(1.5)"],
    "Tsallis α > 2": ["tsallis(2.5)", "tsallis(3)"],
    "entropy projection": ["entropy-projection"],
    "Euclidean entropy projection": ["euclidean-entropy-projection"],
    "label smoothing, constant ε": ["label-smoothing"],
    "top-k and renormalise": ["top-k"],
    "prior-directed q ∝ p^(1/T) π^(1−1/T)": ["prior-directed"],
    "power with T clamped at 5": ["clamped-power"],
    "argmax, ties shared": ["argmax"],
}
"""Rows of the theory, and the operators of the library that they speak of."""
BEYOND = {("mixture", "A5c"): "H"}
"""The theory's mixture starts at T = 1; the library's goes on below it."""
UNCLAIMED = {("mixture, T < 1", "semigroup"), ("mixture, T < 1", "gradients")}
"""What holds in the sweep of a row below T = 1, and not for every S, or not by a theorem."""


def cell(text):
    """H, I, F, – or = (equal: nothing depends on T), without footnotes and provisos."""
    return "=" if text.startswith("equal") else text.strip()[0]


def theory():
    """Operator, law and letter of every entry of the theory's table."""
    lines = THEORY.read_text(encoding="utf-8").splitlines()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    start = next(i for i, row in enumerate(rows) if row[:2] == ["operator", "A1w"])
    laws = ["A1" if law == "A1w" else law for law in rows[start][1:]]
    for label, *letters in rows[start + 2 : start + 2 + len(STANDS_FOR)]:
        for law, text in zip(laws, letters, strict=True):
            split = zip(("A3", "A3s"), text.split("/"), strict=True) if law == "A3w/s" else [(law, text)]
            for name in STANDS_FOR[label]:
                yield from ((name, each, BEYOND.get((name, each), cell(part))) for each, part in split)


def test_the_committed_copy_is_the_theorys_table():
    """Entry by entry, where the theory has a column."""
    entries = list(theory())
    assert {name for name, _, _ in entries} == set(ROWS)
    assert {(name, law): CELLS[name][law] for name, law, _ in entries} == {
        (name, law): letter for name, law, letter in entries
    }


def test_the_readme_shows_the_committed_copy():
    assert README.read_text(encoding="utf-8") == readme_with(markdown(COMMITTED["rows"]))


@pytest.mark.parametrize("label", ROWS)
def test_an_operator_claims_what_its_row_says(label):
    """In a moment, where the next test takes minutes: H on the simplex, I on its interior, the others not."""
    row = ROWS[label]
    claimed = {
        law: claim.domain
        for law, claim in row.operator.claims.laws.items()
        if law == "A5c" or claim.temperatures.intersect(row.temperatures)
    }
    domains = {"H": "simplex", "=": "simplex", "I": "interior"}
    # On the interior A5f says what A5h says.
    assert claimed == {
        law: domains[letter]
        for law, letter in CELLS[label].items()
        if letter in domains and (law, letter) != ("A5f", "I") and (label, law) not in UNCLAIMED
    }


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
