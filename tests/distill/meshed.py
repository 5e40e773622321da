"""Runs over eight devices made of one CPU, against one; `test_meshed.py` starts it. Usage: PART."""

import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sparsekd_jax import data, distill, models, operators

STEPS = 60
PLAN = distill.stages(sparsity=0.9, num_stages=2, total_steps=STEPS)
ROUNDING = {"rtol": 2e-4, "atol": 2e-5}
"""float32, some dozens of AdamW steps: sums over a batch in another order, and what steps make of that."""


def network(seed, out=10):
    return models.MLP((64, 32, out), rngs=nnx.Rngs(seed))


def run(mesh=None, student=None, plan=PLAN, examples=None, **options):
    return distill.run(
        student or network(1),
        network(0),
        examples or data.digits(),
        plan,
        optimizer=options.pop("optimizer", None) or optax.adamw(1e-3),
        seed=3,
        record_every=20,
        mesh=mesh,
        **options,
    )


def params_of(result):
    return nnx.to_pure_dict(nnx.state(result.student, nnx.Param))


def agree(here, there):
    """Parameters to rounding, the same zeros, the same history."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **ROUNDING), params_of(here), params_of(there))
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a) == 0, np.asarray(b) == 0),
        here.path[-1],
        there.path[-1],
    )
    assert [row["step"] for row in here.history] == [row["step"] for row in there.history]
    for a, b in zip(here.history, there.history, strict=True):
        assert a["sparsity"] == b["sparsity"]
        np.testing.assert_allclose(a["nll"], b["nll"], rtol=1e-4)


def data_parallel():
    mesh = jax.make_mesh((8,), ("data",))
    there = run(mesh)
    for leaf in jax.tree.leaves(params_of(there)):
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == 8
    agree(run(), there)
    with pytest.raises(AssertionError):  # the twin: another start is told apart
        agree(run(student=network(2)), there)
    # The rows of a batch are really split: a device holds an eighth of the products with the batch.
    from sparsekd_jax.distill._trainer import Trainer

    trainer = Trainer(
        network(1),
        data.digits(),
        optax.adamw(1e-3),
        STEPS,
        seed=3,
        batch_size=128,
        record_every=20,
        on_progress=None,
        mesh=mesh,
    )
    arrays, index = trainer.source.steps(0, 4)
    assert index.sharding.shard_shape(index.shape) == (4, 16)
    from sparsekd_jax.distill import _program

    lowered = _program.scan_steps.lower(
        trainer.graphdef,
        trainer.optimizer,
        _program.supervised,
        trainer.carry,
        arrays,
        {},
        index,
        jnp.ones(4),
    )
    text = lowered.compile().as_text()
    assert "all-reduce" in text
    assert "f32[16,64]" in text
    assert "f32[128,64]" not in text


def teacher_in_every_step():
    """A teacher that is not cached, and data that comes in batches: both are evaluated where the rows lie."""
    mesh = jax.make_mesh((8,), ("data",))
    whole = run()
    agree(whole, run(mesh, cache_teacher=False))
    digits = data.digits()
    order = np.random.default_rng(0).integers(0, len(digits.train_labels), (STEPS, 64))
    batches = [{"inputs": digits.train_inputs[i], "labels": digits.train_labels[i]} for i in order]
    streamed = distill.Batches(batches, digits.test_inputs, digits.test_labels)
    there = run(mesh, examples=streamed)
    agree(run(examples=streamed), there)
    with pytest.raises(AssertionError):  # the twin: other batches are told apart
        agree(whole, there)
    with tempfile.TemporaryDirectory() as folder:
        kept = {"checkpoint_dir": folder, "checkpoint_every": 0.0, "keep": 9, "examples": streamed}
        optimizer = optax.adamw(1e-3)
        run(mesh, **kept, optimizer=optimizer)
        agree(run(**kept, optimizer=optimizer, resume=50), there)
    odd = [{name: array[:60] for name, array in batch.items()} for batch in batches]
    streamed = distill.Batches(odd, digits.test_inputs, digits.test_labels)
    with pytest.raises(ValueError, match="batch_size 60 does not divide over the 8 devices"):
        run(mesh, examples=streamed)


def vocabulary_split():
    """The output layer split by classes over one axis, batches over the other; thresholds are global."""
    mesh = jax.make_mesh((4, 2), ("data", "vocab"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    student = network(1)
    last = student.layers[-1]
    last.kernel[...] = jax.device_put(last.kernel[...], NamedSharding(mesh, P(None, "vocab")))
    last.bias[...] = jax.device_put(last.bias[...], NamedSharding(mesh, P("vocab")))
    there = run(mesh, student)
    kernel = there.student.layers[-1].kernel[...]
    assert kernel.sharding.shard_shape(kernel.shape) == (32, 5)
    agree(run(), there)


def losses_split():
    """Plain and fused losses with the vocabulary split over all devices: value and gradients."""
    mesh = jax.make_mesh((8,), ("vocab",), axis_types=(jax.sharding.AxisType.Auto,))
    rng = np.random.default_rng(0)
    h, ht = (jnp.asarray(rng.normal(size=(24, 16)), jnp.float32) for _ in range(2))
    w, wt = (jnp.asarray(rng.normal(size=(16, 4096)), jnp.float32) for _ in range(2))
    y = jnp.asarray(rng.integers(0, 4096, 24))
    options = {"operator": operators.get("power"), "temperature": 2.0, "alpha": 0.1}

    def fused(h, w, ht, wt):
        student, teacher = distill.LinearLogits(h, w), distill.LinearLogits(ht, wt)
        return distill.linear_distillation_loss(student, teacher, y, **options).mean

    def plain(h, w, ht, wt):
        return distill.distillation_loss(h @ w, ht @ wt, y, **options).mean()

    split = NamedSharding(mesh, P(None, "vocab"))
    for loss in (plain, fused):
        both = jax.jit(jax.value_and_grad(loss, (0, 1)))
        here = both(h, w, ht, wt)
        there = both(h, jax.device_put(w, split), ht, jax.device_put(wt, split))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), here, there)


def resume_elsewhere():
    """Eight devices until the middle, then one; and one, then two."""
    optimizer = optax.adamw(1e-3)
    whole = run(optimizer=optimizer)
    meshes = [jax.make_mesh((8,), ("data",)), None, jax.make_mesh((2,), ("data",), devices=jax.devices()[:2])]
    for first, second in ((meshes[0], None), (None, meshes[2])):
        with tempfile.TemporaryDirectory() as folder:
            kept = {"checkpoint_dir": folder, "checkpoint_every": 0.0, "keep": 9, "optimizer": optimizer}
            run(first, **kept)
            resumed = run(second, **kept, resume=50)
        agree(whole, resumed)


if __name__ == "__main__":
    assert jax.device_count() == 8
    globals()[sys.argv[1]]()
    print("agreed")
