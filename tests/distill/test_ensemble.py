"""Pairs of teacher and student on data drawn anew: who learns from what."""

import dataclasses
import importlib

import numpy as np
import optax
import pytest

from sparsekd_jax import distill, sparsity
from tests.distill.small import BLOBS, Narrow, mlp

module = importlib.import_module("sparsekd_jax.distill.ensemble")  # distill.ensemble is the function

PLANS = {
    "sparse": distill.stages(sparsity=0.6, num_stages=1, total_steps=10, temperature=2.0),
    "dense": distill.stages(sparsity=0.0, num_stages=1, total_steps=10, temperature=2.0),
}
SETTINGS = {"members": 3, "teacher_steps": 10, "optimizer": optax.adam(1e-2), "seed": 5, "batch_size": 16}


def run(**changes):
    return distill.ensemble(mlp, BLOBS, PLANS, **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def found():
    return run()


def test_shapes_and_distributions(found):
    for probs in (found.teachers, *found.students.values()):
        assert probs.shape == (3, 30, 3)
        np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-6)
    np.testing.assert_array_equal(found.labels, BLOBS.test_labels)
    assert set(found.students) == set(PLANS)


def test_the_same_seed_gives_the_same_members_and_more_only_add(found):
    again = run(members=2)
    np.testing.assert_array_equal(again.teachers, found.teachers[:2])
    np.testing.assert_array_equal(again.students["sparse"], found.students["sparse"][:2])
    assert np.abs(run(seed=6, members=2).teachers - found.teachers[:2]).max() > 1e-3


def seen_by(monkeypatch, **changes):
    """The training rows of every call of `fit` and `run`, in order."""
    calls = []
    for name in ("fit", "run"):
        honest = getattr(module, name)

        def watched(*args, name=name, honest=honest, **kwargs):
            calls.append((name, args[1 if name == "fit" else 2]))
            return honest(*args, **kwargs)

        monkeypatch.setattr(module, name, watched)
    run(**changes)
    return calls


def test_teacher_and_students_of_a_member_learn_from_one_draw(monkeypatch):
    calls = seen_by(monkeypatch, size=40)
    assert [name for name, _ in calls] == ["fit", "run", "run"] * 3
    draws = []
    for k in range(3):
        teacher, *students = (own for _, own in calls[3 * k : 3 * k + 3])
        assert len(teacher.train_labels) == 40
        for student in students:
            np.testing.assert_array_equal(student.train_inputs, teacher.train_inputs)
        draws.append(teacher.train_inputs)
        rows = {row.tobytes() for row in BLOBS.train_inputs}
        drawn = [row.tobytes() for row in teacher.train_inputs]
        assert set(drawn) <= rows
        assert len(set(drawn)) < 40, "with replacement"
    assert not np.array_equal(draws[0], draws[1])


def test_seeds_alone_leave_the_data(monkeypatch):
    calls = seen_by(monkeypatch, resample="seed", size=40)
    for _, own in calls:
        np.testing.assert_array_equal(own.train_inputs, BLOBS.train_inputs[:40])


def test_what_varies_is_what_was_drawn():
    """One initial model and whole batches: without a draw of data there is nothing left to vary."""
    same = {"members": 2, "batch_size": 60}
    by_seed = distill.ensemble(lambda _: mlp(0), BLOBS, PLANS, **{**SETTINGS, **same, "resample": "seed"})
    by_data = distill.ensemble(lambda _: mlp(0), BLOBS, PLANS, **{**SETTINGS, **same})
    assert by_seed.teachers.var(axis=0).max() < 1e-10
    assert by_data.teachers.var(axis=0).max() > 1e-5


def test_weights_and_validation_go_along(monkeypatch):
    extras = ["train_weights", "validation_inputs", "validation_labels"]
    made = dataclasses.make_dataclass("Whole", extras, bases=(type(BLOBS),), frozen=True)
    weights = BLOBS.train_inputs[:, 0] ** 2
    whole = made(*dataclasses.astuple(BLOBS), weights, BLOBS.test_inputs, BLOBS.test_labels)
    early = {"early": distill.stages(sparsity=0.6, num_stages=1, total_steps=10, patience=1)}
    calls = []
    honest = module.run
    monkeypatch.setattr(module, "run", lambda *a, **k: calls.append(a[2]) or honest(*a, **k))
    distill.ensemble(mlp, whole, early, **{**SETTINGS, "members": 2})
    for own in calls:
        np.testing.assert_array_equal(own.train_weights, own.train_inputs[:, 0] ** 2)


@pytest.mark.parametrize("resample", ["data", "seed"])
def test_vmapped_members_are_those_trained_one_by_one(resample):
    weights = BLOBS.train_inputs[:, 0] ** 2
    made = dataclasses.make_dataclass("Weighted", ["train_weights"], bases=(type(BLOBS),), frozen=True)
    data = made(*dataclasses.astuple(BLOBS), weights)
    settings = {**SETTINGS, "resample": resample, "size": 40, "where": sparsity.by_path(exclude="layers.1.*")}
    done = []
    alone = distill.ensemble(mlp, data, PLANS, **settings)
    together = distill.ensemble(
        mlp, data, PLANS, vmap=True, on_progress=lambda *at: done.append(at), **settings
    )
    # Batched products round differently in float32; Adam carries 1e-7 to about 1e-5.
    np.testing.assert_allclose(together.teachers, alone.teachers, rtol=0, atol=2e-5)
    for name, probs in alone.students.items():
        np.testing.assert_allclose(together.students[name], probs, rtol=0, atol=2e-5)
    assert done == [(1, 3), (2, 3), (3, 3)]
    # The twin: a neighbour's draw is far outside that tolerance.
    assert np.abs(np.roll(together.teachers, 1, axis=0) - alone.teachers).max() > 1e-3


@pytest.mark.parametrize("vmap", [False, True])
def test_probabilities_of_bfloat16_logits_are_float32(vmap):
    """In bfloat16 a probability near 1 is off by up to 2e-3, and a row need not sum to 1."""
    pairs = distill.ensemble(lambda s: Narrow(mlp(s)), BLOBS, PLANS, vmap=vmap, **SETTINGS)
    for probs in (pairs.teachers, *pairs.students.values()):
        assert probs.dtype == np.float32
        np.testing.assert_allclose(probs.sum(-1), 1, atol=1e-6)


def test_numbers_and_names_of_another_kind_are_refused():
    for name, bad in (("members", 2.5), ("size", 40.5), ("seed", 0.5)):
        with pytest.raises(TypeError, match=f"{name} must be a whole number"):
            run(**{name: bad})
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        run(seed=-1)
    with pytest.raises(TypeError, match="plans is a list; give them by name"):
        distill.ensemble(mlp, BLOBS, list(PLANS.values()), **SETTINGS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": 1}, "members must be at least 2"),
        ({"size": 0}, r"size must lie in \[1, 60\]"),
        ({"size": 61, "resample": "seed"}, r"size must lie in \[1, 60\]"),
        ({"resample": "rows"}, "resample must be 'data' or 'seed'"),
        ({"batch_size": 50, "size": 40}, "batch_size"),
        ({"batch_size": 50, "size": 40, "vmap": True}, r"batch_size must lie in \[1, 40\]"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        run(**changes)
    batches = distill.Batches([], BLOBS.test_inputs, BLOBS.test_labels)
    with pytest.raises(ValueError, match="ensemble needs arrays in memory"):
        distill.ensemble(mlp, batches, PLANS, **SETTINGS)
    with pytest.raises(ValueError, match="plans is empty"):
        distill.ensemble(mlp, BLOBS, {}, **SETTINGS)
