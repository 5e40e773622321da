"""RQ3: its evidence is computed, its words are its numbers, and a wrong theorem would be seen."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from sparsekd_jax import data
from sparsekd_jax.studies.questions import convergence
from sparsekd_jax.studies.questions._digits import principal_features
from sparsekd_jax.studies.questions._tracking_curves import Curves
from sparsekd_jax.studies.questions.answer import contradicted

SMALL = convergence.Settings(
    problems=100, rows=60, components=3, subsets=2, runs=10, stages=16, seeds=2, teacher_steps=100
)


@pytest.fixture(scope="module")
def answer():
    said = []
    found = convergence.answer(settings=SMALL, on_progress=said.append)
    assert said[0] == "teachers on digits"
    assert said[-1] == "neural students"
    return found


@pytest.fixture(scope="module")
def rows():
    x = principal_features(data.digits().train_inputs[:40], 2)
    p = np.random.default_rng(0).dirichlet(np.full(10, 0.3), 40) + 1e-6
    return x, p / p.sum(-1, keepdims=True)


def test_what_is_proved_stands(answer):
    assert answer.number == 3
    checked = [e for e in answer.evidence if e.kind != "measurement"]
    assert len(checked) == 5
    assert all(e.stands is True for e in checked)
    (tracked,) = (e for e in answer.evidence if e.claim.startswith("On digits, e_n follows 1/n"))
    assert tracked.stands is True
    assert answer.verdict.startswith("A 1/n guarantee holds")
    assert answer.settings["rows"] == 60
    assert answer.describe()["pictures"] == ["rq3-stages", "rq3-hard-masks", "rq3-rates"]
    assert json.loads(json.dumps(answer.describe(), allow_nan=False))["number"] == answer.number
    assert not jax.config.jax_enable_x64


def test_two_seeds_decide_nothing(answer):
    *_, neural = answer.evidence
    assert neural.stands is None
    assert "undecided" in neural.found
    assert neural.found in answer.verdict


def test_the_words_are_the_numbers_of_the_tables(answer):
    random, uniform = answer.evidence[:2]
    assert "have one set of constants" in uniform.found
    table, constants = answer.tables[:2]
    count, exceeded, _, halved, share = table.rows[0]
    assert f"{exceeded} of {count} random problems" in random.found
    assert f"exceeded {halved} times" in random.found
    assert f"{share:.3g} in the median" in random.found
    assert len({tuple(row[2:6]) for row in constants.rows}) == 1
    for name, value in zip("μLPG", constants.rows[0][2:6], strict=True):
        assert f"{name} = {value:.3g}" in uniform.found
    floors = [row[6] for row in constants.rows]
    assert f"from {min(floors):.3g} to {max(floors):.3g} nats" in uniform.found
    masks = next(t for t in answer.tables if t.columns[0] == "stages n")
    hard = next(e for e in answer.evidence if e.claim.startswith("Hard masks"))
    assert f"{masks.rows[0][1]:.3g} at 8 stages to {masks.rows[-1][1]:.3g} at 256" in hard.found


def test_the_picture_draws_both_budgets(answer):
    picture = answer.pictures[0]
    left, right = picture.figure.axes
    assert left.get_ylabel().startswith("distance")
    assert [ax.get_xlabel() for ax in (left, right)] == ["stages n"] * 2
    bounds = [line.get_ydata() for ax in (left, right) for line in ax.lines if line.get_linestyle() == "--"]
    assert (np.diff(bounds[0]) < 0).all()
    assert (np.diff(bounds[1]) > 0).all()


def test_the_pictures_draw_every_replicate_and_the_fit_only_where_it_is_decided(answer):
    _, masks, rates = (picture.figure.axes for picture in answer.pictures)
    table = next(t for t in answer.tables if t.columns[0] == "stages n")
    medians = [line.get_ydata() for line in masks[0].lines if line.get_marker() != "None"]
    np.testing.assert_allclose(medians, np.array([row[1:] for row in table.rows]).T, rtol=0.01)
    assert len(masks[0].lines) == 2 * (SMALL.subsets + 1)
    assert [len(ax.lines) >= n + 1 for ax, n in zip(rates, (10, 10, 2, 2), strict=True)] == [True] * 4
    for ax in rates:
        dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
        assert len(dashed) == (0 if "undecided" in ax.get_title() else 1)
    assert ["undecided" in ax.get_title() for ax in rates][2:] == [True, True]


def test_half_of_the_bound_is_seen_to_be_exceeded(monkeypatch, x64):
    whole = convergence.tracking_error
    monkeypatch.setattr(convergence, "tracking_error", lambda n, **args: whole(n, **args) / 2)
    (evidence,), (table,) = convergence.random_problems(100)
    assert evidence.stands is False
    assert table.rows[0][1] > 0
    verdict = contradicted([evidence])
    assert verdict.startswith("No answer")
    assert f"{table.rows[0][1]} of 100" in verdict


def test_constants_that_know_the_targets_are_seen(monkeypatch, x64, rows):
    real = convergence.penalty_path
    monkeypatch.setattr(
        convergence, "penalty_path", lambda x, q, mu, s: real(x * (1 + float(np.max(q))), q, mu, s)
    )
    (evidence,), _ = convergence.constants(*rows)
    assert evidence.stands is False
    assert "have 10 sets of constants" in evidence.found


def test_errors_that_fall_like_a_root_of_n_are_no_1_over_n_however_far_below_the_bound():
    stages = 2 ** np.arange(9)
    below = np.broadcast_to(1.0 / stages, (5, 2, 9))
    curves = Curves(stages, stages[:6], below, below[..., :6], 2 * below, 2 * below[..., :6], 9 / stages, 0.0)
    found, _ = curves.evidence()
    assert found.stands is True
    assert found.found.endswith("the error is 50 % of it, and the last doubling of n divided it by 2.")
    slower = dataclasses.replace(curves, per_stage=below**0.5, bound_per_stage=2 * below**0.5)
    found, _ = slower.evidence()
    assert found.stands is False
    assert found.found.startswith("0 of 150 errors lie above the bound")
    assert found.found.endswith("divided it by 1.41.")
    # One operator of five is enough.
    mixed = dataclasses.replace(curves, per_stage=np.concatenate([below[:4], below[4:] ** 2]))
    assert mixed.evidence()[0].stands is False


def test_a_path_that_does_not_jump_is_no_witness(monkeypatch, x64, rows):
    monkeypatch.setattr(convergence, "path_speed", lambda points: 1.0)
    (evidence,), _, _ = convergence.hard_masks(*rows, rows=30, subsets=2)
    assert evidence.stands is False
