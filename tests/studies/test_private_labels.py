"""Students of private labels in small: what is recorded, at which ε, and what the table makes of it."""

import json
import math

import pytest

from sparsekd_jax import operators
from sparsekd_jax.studies import private_labels
from sparsekd_jax.theory.privacy import local_epsilon

SMALL = private_labels.Settings(
    epsilons=(0.5, 8.0),
    floors=(("mixture", 0.0), ("power", 0.01)),
    seeds=2,
    teacher_steps=60,
    steps=60,
    hidden=(16,),
)


@pytest.fixture(scope="module")
def found():
    return private_labels.run(SMALL)


def test_every_row_has_its_epsilon(found):
    assert [(row["operator"], row["epsilon"]) for row in found["rows"]] == [
        ("mixture", 0.5),
        ("mixture", 8.0),
        ("power", 0.5),
        ("power", 8.0),
    ]
    for row in found["rows"]:
        op = operators.parse(row["operator"])
        certified = local_epsilon(op, row["temperature"], 10, floor=row["floor"])
        assert certified.kind == "exact"
        assert certified.epsilon == pytest.approx(row["epsilon"], rel=1e-7)
        assert certified.epsilon <= row["epsilon"]
        # A kept label is no likelier than K-ary randomised response of that ε makes it, give or take 4 sd.
        most = 1 / (1 + 9 * math.exp(-certified.epsilon))
        assert max(row["kept"]) < most + 4 * (0.25 / 1347) ** 0.5


def test_privacy_costs_accuracy(found):
    strict, loose = (row["accuracy"] for row in found["rows"][:2])
    assert max(strict) < min(loose)
    assert len(found["teacher"]) == len(found["unsoftened"]) == len(strict) == 2


def test_the_table_and_the_figure_follow_the_numbers(found):
    found = json.loads(json.dumps(found))
    table = private_labels.table(found)
    assert [row[0] for row in table.rows] == ["0.5", "0.5", "8", "8", "∞"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.rows[0][-1] is None
    assert table.rows[1][-1][0] in "+-"
    found["rows"][2]["accuracy"] = found["rows"][0]["accuracy"]  # equal students: no difference
    assert private_labels.table(found).rows[1][-1] == "+0.00 [+0.00, +0.00]"
    axes = private_labels.figure(found).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["mixture", "power"]
