"""Runs taught by what a teacher revealed: the whole teacher where nothing is lost, refused where wrong."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsekd_jax import distill, operators, targets
from sparsekd_jax.distill import _program
from sparsekd_jax.targets import Dense, Samples, TopK
from tests.distill.small import BLOBS, flat, mlp

OPTIMIZER = optax.adam(1e-2)
ROWS = len(BLOBS.train_labels)


def plan(operator="power", temperature=2.0, **options):
    settings = {"sparsity": 0.6, "num_stages": 2, "total_steps": 20, "alpha": 0.3, "soften_student": False}
    return distill.stages(
        operator=operators.parse(operator), temperature=temperature, **{**settings, **options}
    )


def run(teacher, plan, **options):
    settings = {"optimizer": OPTIMIZER, "batch_size": 16, "record_every": 5, "seed": 0}
    return distill.run(mlp(1), teacher, BLOBS, plan, **{**settings, **options})


@pytest.fixture(scope="module")
def log_probs():
    return jax.nn.log_softmax(mlp(0)(jnp.asarray(BLOBS.train_inputs)))


@pytest.fixture(scope="module")
def top_two(log_probs):
    return targets.top_k(log_probs, 2)


@pytest.mark.parametrize("soften_student", [False, True])
def test_two_of_three_classes_are_the_whole_teacher(log_probs, top_two, soften_student):
    """One class unseen has all the tail: uniform is exact, with the student softened by power or not."""
    both = plan(soften_student=soften_student)
    whole = run(log_probs, both)
    seen = run(top_two, both, tail="uniform")
    np.testing.assert_allclose(flat(seen.path[2]), flat(whole.path[2]), atol=2e-5)
    assert seen.history[-1]["divergence"] == pytest.approx(whole.history[-1]["divergence"], rel=1e-4)
    other = run(targets.top_k(log_probs, 1), both, tail="uniform")
    assert np.abs(flat(other.path[2]) - flat(whole.path[2])).max() > 1e-3, "the tail does not matter here"


def test_dense_is_its_logits(log_probs):
    np.testing.assert_array_equal(
        flat(run(Dense(log_probs), plan()).path[2]), flat(run(log_probs, plan()).path[2])
    )


def test_every_class_sampled_with_its_probability_is_the_whole_teacher(log_probs):
    ids = jnp.broadcast_to(jnp.arange(3, dtype=jnp.int32), log_probs.shape)
    seen = Samples(ids, jnp.exp(log_probs), jnp.full(ROWS, 10, jnp.int32), 3)
    whole = run(log_probs, plan("mixture"))
    np.testing.assert_allclose(
        flat(run(seen, plan("mixture"), tail="uniform").path[2]), flat(whole.path[2]), atol=2e-5
    )


def test_policies_differ_and_operators_share_a_program(log_probs, top_two):
    one = targets.top_k(log_probs, 1)
    ends, before = {}, None
    for tail in ("uniform", "bounds", "bucket", "renormalized-top-k"):
        ends[tail] = flat(run(one, plan(), tail=tail).path[2])
    before = _program.scan_steps._cache_size()
    run(one, plan("mixture", 3.0, alpha=0.1), tail="bounds")
    assert _program.scan_steps._cache_size() == before
    found = list(ends.values())
    assert all(np.abs(a - b).max() > 1e-4 for i, a in enumerate(found) for b in found[:i])


def test_a_resumed_run_asks_for_the_same_teacher_and_tail(top_two, tmp_path):
    whole = run(top_two, plan(), tail="uniform", checkpoint_dir=tmp_path, checkpoint_every=0, keep=9)
    again = run(top_two, plan(), tail="uniform", checkpoint_dir=tmp_path, resume=10)
    np.testing.assert_array_equal(flat(again.path[2]), flat(whole.path[2]))
    with pytest.raises(distill.CheckpointError, match="tail is 'uniform' there and 'bucket' here"):
        run(top_two, plan(), tail="bucket", checkpoint_dir=tmp_path, resume=True)
    moved = dataclasses.replace(top_two, ids=top_two.ids[:, ::-1])
    with pytest.raises(distill.CheckpointError, match="teacher is"):
        run(moved, plan(), tail="uniform", checkpoint_dir=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("changes", "tail", "message"),
    [
        ({}, None, "teacher is a TopK: say what its unseen tokens are.*uniform"),
        ({}, "unifrm", "unknown tail policy"),
        ({}, "sampled", "needs a key a step"),
        ({"divergence": "reverse-kl"}, "uniform", "with a TopK teacher it is 'forward-kl'"),
        ({"operator": "mixture", "soften_student": True}, "uniform", "both sides by power"),
        ({"operator": "tsallis(1.5)"}, "bounds", "needs a TopK teacher and power or mixture"),
        ({"operator": "mixture", "temperature": (2.0, 0.5)}, "uniform", "for T ≥ 1 only"),
        ({"operator": "tsallis(1.5)", "temperature": 0.5}, "uniform", "for T ≥ 1 only"),
    ],
)
def test_plans_that_a_list_cannot_serve(top_two, changes, tail, message):
    with pytest.raises(ValueError, match=message):
        run(top_two, plan(**changes), tail=tail)


def test_teachers_that_do_not_fit(top_two, log_probs):
    with pytest.raises(ValueError, match="one row a label"):
        run(jax.tree.map(lambda x: x[1:], top_two), plan(), tail="uniform")
    with pytest.raises(ValueError, match="the teacher shows all its classes"):
        run(log_probs, plan(), tail="uniform")
    with pytest.raises(TypeError, match="no certified bound"):
        run(top_two, plan("entropy-projection"), tail="uniform")
    with pytest.raises(ValueError, match="tail_mass, row 0"):
        run(dataclasses.replace(top_two, tail_mass=-top_two.tail_mass), plan(), tail="uniform")
    with pytest.raises(ValueError, match=r"cache_teacher is False, got TopK"):
        run(top_two, plan(), tail="uniform", cache_teacher=False)
    wider = dataclasses.replace(top_two, vocab_size=4)
    with pytest.raises(ValueError, match="teacher has 4 classes and student 3"):
        run(wider, plan(), tail="uniform")
    one = TopK.observed(np.zeros((ROWS, 1), np.int32), np.zeros((ROWS, 1), np.float32), 3)
    with pytest.raises(TypeError, match=r"teacher is a TopK.*use distill\.run"):
        distill.run_many([mlp(1)], [one], BLOBS, plan(), optimizer=OPTIMIZER, seeds=[0], batch_size=16)
