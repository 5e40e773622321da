"""Many runs in one program against each of them alone, and what cannot share a program."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsekd_jax import distill, operators, sparsity
from tests.distill.small import Noisy, draw_blobs, flat, mlp

BLOBS = draw_blobs(1)
SETTINGS = {"optimizer": optax.adam(1e-2), "batch_size": 16, "record_every": 6}


def plan(**changes):
    settings = {"sparsity": 0.6, "num_stages": 2, "total_steps": 20, "temperature": 2.0, "alpha": 0.3}
    return distill.stages(**{**settings, **changes})


PLANS = [
    plan(operator=operators.lawless.LabelSmoothing(0.1), scale=1.0),
    plan(operator=operators.lawless.LabelSmoothing(0.4), temperature=[5.0, 3.0], scale=3.0),
    plan(operator=operators.lawless.LabelSmoothing(0.0), alpha=0.0, scale=2.0),
]


def test_each_member_is_the_run_it_stands_for():
    students, teachers, seeds = [mlp(1), mlp(2), mlp(3)], [mlp(4), mlp(5), mlp(6)], (7, 8, 9)
    together = distill.run_many(students, teachers, BLOBS, PLANS, seeds=seeds, **SETTINGS)
    for one, student, teacher, own, seed in zip(together, students, teachers, PLANS, seeds, strict=True):
        alone = distill.run(student, teacher, BLOBS, own, seed=seed, **SETTINGS)
        # Batched products round differently in float32; 20 steps of Adam at 1e-2 carry 1e-7 to about 1e-5.
        for got, wanted in zip(jax.tree.leaves(one.path), jax.tree.leaves(alone.path), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5)
            np.testing.assert_array_equal(np.asarray(got) == 0, np.asarray(wanted) == 0)
        for got, wanted in zip(jax.tree.leaves(one.masks), jax.tree.leaves(alone.masks), strict=True):
            np.testing.assert_array_equal(got, wanted)
        assert [row["step"] for row in one.history] == [row["step"] for row in alone.history]
        for got, wanted in zip(one.history, alone.history, strict=True):
            assert got.keys() == wanted.keys()
            assert got["nll"] == pytest.approx(wanted["nll"], abs=1e-5)
        assert one.final.mean_nll == pytest.approx(alone.final.mean_nll, abs=1e-5)
        logits = [np.asarray(result.student(BLOBS.train_inputs[:5])) for result in (one, alone)]
        np.testing.assert_allclose(*logits, rtol=0, atol=1e-4)


def test_members_that_learn_from_their_own_rows():
    rows = np.random.default_rng(1).integers(0, 60, (2, 40))
    given = {"students": [mlp(1)] * 2, "teachers": [mlp(4)] * 2, "plans": plan(), "seeds": (7, 7)}
    first, second = distill.run_many(data=BLOBS, rows=rows, **given, **SETTINGS)
    for result, own in ((first, rows[0]), (second, rows[1])):
        drawn = dataclasses.replace(
            BLOBS, train_inputs=BLOBS.train_inputs[own], train_labels=BLOBS.train_labels[own]
        )
        alone = distill.run(mlp(1), mlp(4), drawn, plan(), seed=7, **SETTINGS)
        for got, wanted in zip(jax.tree.leaves(result.path), jax.tree.leaves(alone.path), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5)
    assert abs(first.final.mean_nll - second.final.mean_nll) > 1e-3


def test_members_that_swap_their_seeds_differ():
    """The twin: the comparison above would see a member that got its neighbour's batches."""
    same = {"students": [mlp(1)] * 2, "teachers": [mlp(4)] * 2, "data": BLOBS, "plans": plan()}
    first, second = distill.run_many(**same, seeds=(7, 8), **SETTINGS)
    worst = max(
        np.abs(np.asarray(a) - np.asarray(b)).max()
        for a, b in zip(jax.tree.leaves(first.path[-1]), jax.tree.leaves(second.path[-1]), strict=True)
    )
    assert worst > 2e-3


def test_members_of_two_modes_train_alike_and_keep_theirs():
    """Such as ``result.model(k)`` beside a new model: it was refused as another architecture."""
    students = [Noisy(nnx.Rngs(0)), Noisy(nnx.Rngs(0))]
    students[1].eval()
    first, second = distill.run_many(students, [mlp(4)] * 2, BLOBS, plan(), seeds=(7, 7), **SETTINGS)
    np.testing.assert_array_equal(flat(first.path[-1]), flat(second.path[-1]))
    assert (first.student.dropout.deterministic, second.student.dropout.deterministic) == (False, True)


def test_a_second_call_compiles_nothing():
    from sparsekd_jax.distill import _program, many

    same = {"students": [mlp(1)] * 2, "teachers": [mlp(4)] * 2, "data": BLOBS}
    distill.run_many(**same, plans=plan(), seeds=(7, 8), **SETTINGS)
    wrapped = _program.sparsified(SETTINGS["optimizer"], sparsity.is_kernel)
    program = many._members(nnx.split(mlp(1), nnx.Param, ...)[0], wrapped, "forward-kl")
    before = program._cache_size()
    assert before > 0
    distill.run_many(**same, plans=plan(temperature=3.0, alpha=0.1), seeds=(1, 2), **SETTINGS)
    assert program._cache_size() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"students": []}, "students is empty"),
        ({"seeds": (1,)}, "seeds has 1 entries for 2 students"),
        ({"teachers": [mlp(1)]}, "teachers has 1"),
        (
            {"students": [mlp(1), nnx.Linear(4, 3, rngs=nnx.Rngs(0))]},
            r"students\[1\] has another architecture",
        ),
        ({"plans": [plan(), plan(total_steps=30)]}, r"plans\[1\] has other steps"),
        ({"plans": [plan(), plan(sparsity=0.5)]}, r"plans\[1\] has other sparsity"),
        ({"plans": [plan(), plan(pattern="layer")]}, r"plans\[1\] has another pattern"),
        ({"plans": [plan(), plan(operator="mixture")]}, "once a family"),
        ({"plans": plan(teacher="previous")}, "the stage before, cannot share one program"),
        ({"plans": plan(patience=2)}, "end early, .* one by one"),
        ({"batch_size": 61}, r"batch_size must lie in \[1, 60\]"),
        ({"rows": np.zeros((3, 40), int)}, r"rows is int64 \(3, 40\); give \[2, m\] integers"),
        ({"rows": np.zeros((2, 40))}, r"rows is float64 \(2, 40\); give"),
        (
            {"rows": np.zeros((2, 8), int)},
            r"batch_size must lie in \[1, 8\] \(the rows of a member\), got 16",
        ),
        ({"rows": np.full((2, 40), 60)}, r"rows\[0, 0\] is 60; the training examples are 0 to 59"),
    ],
)
def test_what_cannot_share_a_program_is_named(change, message):
    given = {"students": [mlp(1), mlp(2)], "teachers": [mlp(3), mlp(4)], "plans": plan(), "seeds": (1, 2)}
    with pytest.raises(ValueError, match=message):
        distill.run_many(data=BLOBS, **{**SETTINGS, **given, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"record_every": 0}, ValueError, "record_every must be at least 1, got 0"),
        ({"record_every": 2.5}, TypeError, r"record_every must be a whole number \(an int\), got 2.5"),
        ({"seeds": (1, 2.5)}, TypeError, r"seeds\[1\] must be a whole number \(an int\), got 2.5"),
        ({"plans": "cubic"}, TypeError, r"plans\[0\] is a str; make one by distill.stages"),
        ({"where": "head"}, TypeError, r"where is the text 'head'; pass sparsity.by_path\('head'\)"),
        (
            {"data": dataclasses.replace(BLOBS, test_labels=BLOBS.test_labels + 1000)},
            ValueError,
            r"test_labels holds 1002, and students\[0\] has classes in \[0, 3\)",
        ),
    ],
)
def test_what_run_refuses_run_many_refuses(change, error, message):
    given = {"students": [mlp(1), mlp(2)], "teachers": [mlp(3), mlp(4)], "plans": plan(), "seeds": (1, 2)}
    with pytest.raises(error, match=message):
        distill.run_many(**{"data": BLOBS, **SETTINGS, **given, **change})


def test_batches_are_not_taken_for_their_first():
    given = {"students": [mlp(1)], "teachers": [mlp(3)], "plans": plan(), "seeds": (1,)}
    batches = distill.Batches([], BLOBS.test_inputs, BLOBS.test_labels)
    with pytest.raises(ValueError, match="run_many needs arrays in memory: run the members one by one"):
        distill.run_many(data=batches, **{**SETTINGS, **given})


def test_a_diverging_member_is_named():
    broken = dataclasses.replace(BLOBS, train_inputs=np.full_like(BLOBS.train_inputs, np.nan))
    teachers = [np.zeros((60, 3), np.float32)] * 2
    with pytest.raises(distill.DivergedError, match="member 0 is not finite in stage 1, at step 1 of") as met:
        distill.run_many([mlp(1), mlp(2)], teachers, broken, plan(), seeds=(1, 2), **SETTINGS)
    assert (met.value.stage, met.value.step, met.value.tensor) == (1, 1, "loss")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(met.value.params))


class Unlike(nnx.Module):
    """NaN in evaluation alone, where it has as many rows as the test half."""

    def __init__(self, broken):
        self.layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        self.broken = nnx.Variable(jnp.asarray(broken))

    def __call__(self, inputs):
        return self.layer(inputs) + jnp.where((len(inputs) == 30) & self.broken[...], jnp.nan, 0.0)


def test_a_member_whose_evaluation_is_nan_is_named():
    with jax.numpy_dtype_promotion("standard"):
        members = [Unlike(False), Unlike(True)]
    teachers = [np.zeros((60, 3), np.float32)] * 2
    with pytest.raises(distill.DivergedError, match="nll of member 1 is not finite in stage 0, at step 0 of"):
        distill.run_many(members, teachers, BLOBS, plan(), seeds=(1, 2), **SETTINGS)
    with pytest.raises(distill.DivergedError, match="nll is not finite in stage 0, at step 0 of"):
        distill.run(members[1], teachers[1], BLOBS, plan(), seed=1, **SETTINGS)


class NarrowSighted(nnx.Module):
    """NaN in evaluation alone, from the stage on that drops more than half of its weights."""

    def __init__(self):
        self.inner = mlp(1)

    def __call__(self, inputs):
        dropped = jnp.mean(self.inner.layers[0].kernel[...] == 0)
        return self.inner(inputs) + jnp.where((len(inputs) == 30) & (dropped > 0.5), jnp.nan, 0.0)


def test_the_error_holds_the_parameters_of_the_stage_before():
    own = distill.stages(sparsity=0.9, schedule="linear", num_stages=3, total_steps=18)
    with pytest.raises(
        distill.DivergedError, match="nll of member 0 is not finite in stage 2, at step 6"
    ) as met:
        distill.run_many([NarrowSighted()], [mlp(4)], BLOBS, own, seeds=(1,), **SETTINGS)
    kernels = [leaf for leaf in jax.tree.leaves(met.value.params) if leaf.ndim == 2]
    zeros = sum(int((leaf == 0).sum()) for leaf in kernels) / sum(leaf.size for leaf in kernels)
    assert zeros == pytest.approx(0.3, abs=0.02)  # the end of stage 1; 0.9 at the end of the run
