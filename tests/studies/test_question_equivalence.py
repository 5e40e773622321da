"""RQ4: its evidence is computed, its words are its numbers, and a wrong theorem would be seen."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from sparsekd_jax import data
from sparsekd_jax.studies.questions import equivalence
from sparsekd_jax.studies.questions._digits import OPERATORS, principal_features

SMALL = equivalence.Settings(
    rows=60,
    teachers=2,
    capacities=(1, 5),
    fitted=3,
    tangent_rows=10,
    hidden=4,
    seeds=2,
    steps=60,
    teacher_steps=100,
)


@pytest.fixture(scope="module")
def answer():
    return equivalence.answer(settings=SMALL)


@pytest.fixture(scope="module")
def rows():
    inputs = data.digits().train_inputs[:30]
    p = np.random.default_rng(0).dirichlet(np.full(10, 0.3), 30) + 1e-6
    return inputs, p / p.sum(-1, keepdims=True)


def test_what_is_proved_stands(answer):
    assert answer.number == 4
    checked = [e for e in answer.evidence if e.kind == "theorem"]
    assert len(checked) == 4
    assert all(e.stands is True for e in checked)
    assert answer.verdict.startswith("Exactly when")
    assert answer.evidence[-1].found in answer.verdict
    assert json.loads(json.dumps(answer.describe(), allow_nan=False))["number"] == answer.number
    assert not jax.config.jax_enable_x64


def test_the_words_are_the_numbers_of_the_tables(answer):
    made, fitted, capacity, networks = answer.tables
    by_claim = {e.claim: e.found for e in answer.evidence}
    assert f"agree to {max(r[3] for r in made.rows):.3g}" in by_claim[answer.evidence[0].claim]
    bound = by_claim["Two ridge students differ by at most gap/μ."]
    assert f"0 of {len(fitted.rows)} pairs" in bound
    assert f"up to {max(r[5] for r in fitted.rows):.3g}" in bound
    assert all(r[4] <= r[3] for r in fitted.rows)
    assert [r[0] for r in capacity.rows] == [1, 5]
    ratios = [r[6] for r in networks.rows]
    assert f"{min(ratios):.3g} to {max(ratios):.3g} of it" in answer.evidence[-1].found
    assert f"{sum(r < 1 for r in ratios)} of 8 operators" in answer.evidence[-1].found


def test_the_picture_draws_the_gaps_of_the_table(answer):
    _, right = answer.pictures[0].figure.axes
    drawn = [f"{line.get_ydata()[0]:.3g}" for line in right.lines if line.get_marker() != "None"]
    assert drawn == [cell.split("→ ")[1] for cell in answer.tables[2].rows[0][1:5]]
    assert len(right.lines) == 4 * (SMALL.teachers + 1), "every teacher and their mean"


def test_the_picture_of_networks_draws_every_operator_twice(answer):
    (axes,) = answer.pictures[1].figure.axes
    points = [
        (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() != "None"
    ]
    assert points == [(row[2], row[3]) for row in answer.tables[3].rows]
    (yardstick,) = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    assert f"{yardstick:.3g}" in answer.evidence[-1].found


def test_half_of_the_bound_is_seen_to_be_exceeded(monkeypatch, rows):
    real = equivalence.compare_students

    def halved(*args):
        found = real(*args)
        return dataclasses.replace(found, bound=found.weights / 2)

    monkeypatch.setattr(equivalence, "compare_students", halved)
    inputs, p = rows
    (evidence,), _ = equivalence.fitted_students(p, principal_features(inputs, 2))
    assert evidence.stands is False
    assert evidence.found.startswith("20 of 20")


def test_a_teacher_that_does_not_make_students_equal_is_seen(monkeypatch, rows):
    real = equivalence.equivalent_teacher

    def another(*args):
        made = real(*args)
        return dataclasses.replace(made, probabilities=made.probabilities[::-1])

    monkeypatch.setattr(equivalence, "equivalent_teacher", another)
    (evidence,), _ = equivalence.constructed(principal_features(rows[0], 3))
    assert evidence.stands is False


def test_dependent_rows_are_seen(rows):
    inputs, p = rows
    (evidence,) = equivalence.independent_rows(principal_features(inputs, 3), p)
    assert evidence.stands is False
    assert "was found all the same" in evidence.found


def test_the_same_operator_twice_needs_no_other_temperature(monkeypatch):
    monkeypatch.setitem(OPERATORS, "mixture", OPERATORS["power"])
    (evidence,) = equivalence.two_classes()
    assert evidence.stands is False
    assert "mixture 4 to 4" in evidence.found


def test_the_verdict_follows_the_capacity(answer, rows):
    inputs, p = rows
    capacity = equivalence.Capacity.measured([p], inputs, (1, 5))
    *others, seen, networks = answer.evidence
    for stands, words in ((True, "does hide"), (False, "hardly hides")):
        evidence = [*others, dataclasses.replace(seen, stands=stands), networks]
        assert words in equivalence._verdict(evidence, capacity)
