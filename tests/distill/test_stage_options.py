"""What a stage may have of its own: an end before its steps, a rate, another teacher; and it resumes."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsekd_jax import distill, sparsity
from sparsekd_jax.distill import _program, loop
from tests.distill.small import BLOBS, Noisy, assert_same, flat, mlp

HELD_OUT = dataclasses.make_dataclass(
    "HeldOut", ["validation_inputs", "validation_labels"], bases=(type(BLOBS),), frozen=True
)(*dataclasses.astuple(BLOBS), BLOBS.test_inputs[:15], BLOBS.test_labels[:15])
INPUTS = jnp.asarray(BLOBS.test_inputs)
SETTINGS = {"optimizer": optax.adam(1e-2), "batch_size": 16, "record_every": 4, "seed": 0}


def plan(**changes):
    settings = {"sparsity": 0.6, "num_stages": 2, "steps_per_stage": 20, "temperature": 2.0, "alpha": 0.3}
    return distill.stages(**{**settings, **changes})


def run(given, data=HELD_OUT, student=None, teacher=None, **changes):
    student, teacher = student or mlp(1), mlp(0) if teacher is None else teacher
    return distill.run(student, teacher, data, given, **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def whole():
    return run(plan())


def ends(result):
    """For each stage its last step and why it ended there."""
    last = {row["stage"]: row for row in result.history if row["event"] == "train"}
    return [(row["step"], row.get("ended")) for row in last.values()]


def test_without_options_every_stage_takes_its_steps(whole):
    assert ends(whole) == [(20, None), (40, None)]
    for row in whole.history:
        assert 0 <= row["validation_accuracy"] <= 1
    final = distill.evaluate(whole.student, HELD_OUT.validation_inputs, HELD_OUT.validation_labels)
    assert whole.history[-1]["validation_nll"] == pytest.approx(final.mean_nll, rel=1e-6)


def test_a_stage_ends_when_it_has_recovered(whole):
    first = [r for r in whole.history if (r["event"], r["stage"]) == ("train", 1)]
    threshold = max(row["validation_accuracy"] for row in first[:-1])
    at = next(row["step"] for row in first if row["validation_accuracy"] >= threshold)
    result = run(plan(recover_to=[threshold, None]))
    assert ends(result) == [(at, "recovered"), (at + 20, None)]
    # The next stage goes on with the data where this one stopped.
    assert [r for r in result.history if r["stage"] == 1][: at // 4 + 1] == [
        r if r["step"] < at or r["event"] != "train" else {**r, "ended": "recovered"}
        for r in whole.history
        if r["stage"] == 1 and r["step"] <= at
    ]
    assert len(result.path) == 3
    assert sparsity.zero_fraction(nnx.state(result.student, nnx.Param)) == pytest.approx(0.6, abs=0.01)


def test_a_stage_ends_when_it_no_longer_improves():
    result = run(plan(patience=1, learning_rate=[1e-9, 1.0]))
    # Nothing moves in stage 1: its second record cannot be lower than its first by more than rounding.
    step, why = ends(result)[0]
    assert step < 20
    assert why == "no longer improving"


def test_ending_early_needs_a_validation_half():
    with pytest.raises(ValueError, match="data has no validation half, and stage 2 of the plan ends early"):
        run(plan(recover_to=[None, 0.9]), data=BLOBS)


def test_a_learning_rate_is_a_factor_on_the_updates():
    half = run(plan(num_stages=1, learning_rate=0.5))
    slower = run(plan(num_stages=1), optimizer=optax.adam(5e-3))
    np.testing.assert_allclose(flat(half.path[-1]), flat(slower.path[-1]), atol=1e-6)
    falling = run(plan(num_stages=1, decay="linear"))
    scheduled = run(plan(num_stages=1), optimizer=optax.adam(optax.linear_schedule(1e-2, 0.0, 20)))
    np.testing.assert_allclose(flat(falling.path[-1]), flat(scheduled.path[-1]), atol=1e-6)
    assert np.abs(flat(falling.path[-1]) - flat(half.path[-1])).max() > 1e-3


def test_weight_decay_is_under_the_rate_too_and_zeros_stay_zero():
    optimizer = optax.adamw(1e-2, weight_decay=0.5)
    half = run(plan(num_stages=1, learning_rate=0.5), optimizer=optimizer)
    slower = run(plan(num_stages=1), optimizer=optax.adamw(5e-3, weight_decay=0.5))
    np.testing.assert_allclose(flat(half.path[-1]), flat(slower.path[-1]), atol=1e-6)
    assert sparsity.zero_fraction(nnx.state(half.student, nnx.Param)) == pytest.approx(0.6, abs=0.01)


def test_the_previous_stage_teaches(whole):
    """Stage 2 of a chain is a run of its own with the student of stage 1 as its teacher."""
    chain = run(plan(teacher="previous"))
    np.testing.assert_array_equal(flat(chain.path[1]), flat(whole.path[1]))
    assert np.abs(flat(chain.path[2]) - flat(whole.path[2])).max() > 1e-3
    graphdef, params = nnx.split(mlp(0), nnx.Param)
    nnx.replace_by_pure_dict(params, chain.path[1])
    taught = np.asarray(nnx.merge(graphdef, params)(jnp.asarray(BLOBS.train_inputs)))
    honest, seen = loop._lesson, []

    def watched(plan, stage, taught_by, *rest):
        seen.append(taught_by)
        return honest(plan, stage, taught_by, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_lesson", watched)
        run(plan(teacher="previous"))
    np.testing.assert_allclose(seen[1], taught, atol=1e-6)


@pytest.mark.parametrize("teacher", ["original", "previous"])
def test_a_teacher_in_the_step_is_the_cached_one(teacher):
    cached = run(plan(teacher=teacher))
    online = run(plan(teacher=teacher), cache_teacher=False)
    np.testing.assert_allclose(flat(cached.path[-1]), flat(online.path[-1]), atol=1e-5)


def test_logits_cannot_be_evaluated_in_the_step():
    with pytest.raises(ValueError, match=r"teacher must be an nnx\.Module where cache_teacher is False"):
        run(plan(), teacher=np.zeros((60, 3), np.float32), cache_teacher=False)


def test_what_may_lose_weights_is_the_callers_choice():
    result = run(plan(), where=sparsity.by_path(exclude="layers.1.*"))
    layers = sparsity.layer_zeros(nnx.state(result.student, nnx.Param))
    assert layers["layers.0.kernel"][0] == round(0.6 * 32)
    assert layers.get("layers.1.kernel", (0, 24))[0] == 0


@pytest.fixture
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # flax's BatchNorm
        yield


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("cached", [True, False])
def test_a_chain_that_ends_early_resumes_with_the_same_bits(tmp_path, cached):
    """Batch statistics, dropout, a student for a teacher, a stage of unknown length."""
    student, teacher = Noisy(nnx.Rngs(0)), Noisy(nnx.Rngs(1))
    given = plan(teacher="previous", recover_to=[0.05, None, None], num_stages=3, decay="cosine")

    def go(folder, **more):
        keeping = {"checkpoint_dir": folder, "checkpoint_every": 0.0, "keep": 99, "cache_teacher": cached}
        return run(given, student=student, teacher=teacher, **keeping, **more)

    complete = go(tmp_path / "whole")
    assert ends(complete)[0][1] == "recovered"
    steps = sorted(int(path.name[5:]) for path in (tmp_path / "whole").glob("step-*"))
    for step in steps[1:-1:4]:
        folder = tmp_path / f"from-{step}"
        shutil.copytree(tmp_path / "whole", folder)
        again = go(folder, resume=step)
        assert_same(again, complete)
        for k in range(4):
            np.testing.assert_array_equal(again.model(k)(INPUTS), complete.model(k)(INPUTS))


@pytest.mark.usefixtures("standard_promotion")
def test_the_model_of_a_stage_has_the_statistics_of_its_time():
    student = Noisy(nnx.Rngs(0))
    result = run(plan(), student=student)
    student.eval()
    np.testing.assert_array_equal(result.model(0)(INPUTS), student(INPUTS))
    final = distill.evaluate(result.model(2), BLOBS.test_inputs, BLOBS.test_labels)
    np.testing.assert_array_equal(final.nll, result.final.nll)
    means = [np.asarray(result.model(k).norm.mean[...]) for k in range(3)]
    assert np.abs(means[1] - means[2]).max() > 1e-3, "and not those of the end"


def test_the_slices_of_an_evaluation_add_up(monkeypatch):
    """Many slices and a rest, against all at once."""
    inputs, labels = jnp.asarray(BLOBS.train_inputs), jnp.asarray(BLOBS.train_labels)
    split = _program.split_for_evaluation(mlp(3))
    at_once = _program.evaluate_all(*split, inputs, labels)
    for size in (7, 20, 60):
        monkeypatch.setattr(_program, "LABELS_AT_ONCE", size)
        _program.evaluate_all.clear_cache()  # the size of a slice is read while tracing
        sliced = _program.evaluate_all(*split, inputs, labels)
        for a, b in zip(jax.tree.leaves(sliced), jax.tree.leaves(at_once), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5)
        assert sliced[1] == len(labels)
        logits = _program.logits_of(*split, inputs, size)
        np.testing.assert_allclose(logits, mlp(3)(inputs), atol=1e-6)
