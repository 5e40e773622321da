"""Batches by number, from a list and from Grain; weights of labels; sequences."""

import dataclasses
import shutil

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsekd_jax import data, distill, models
from sparsekd_jax.distill import _program
from sparsekd_jax.distill._sources import source_of, whole_seed
from tests.distill.small import BLOBS, assert_same, flat, mlp

PLAN = distill.stages(sparsity=0.6, num_stages=2, total_steps=20, temperature=2.0, alpha=0.3)
SETTINGS = {"optimizer": optax.adam(1e-2), "record_every": 4, "seed": 0}


def run(given, plan=PLAN, **changes):
    return distill.run(mlp(1), mlp(0), given, plan, **{**SETTINGS, **changes})


def in_batches(batches):
    return distill.Batches(batches, BLOBS.test_inputs, BLOBS.test_labels)


def test_batches_by_number_are_the_arrays_in_that_order():
    index = np.asarray(_program.epochs(jax.random.key(0), 60, 16, 20))
    batches = [{"inputs": BLOBS.train_inputs[r], "labels": BLOBS.train_labels[r]} for r in index]
    streamed, held = run(in_batches(batches)), run(BLOBS, batch_size=16, cache_teacher=False)
    np.testing.assert_allclose(flat(streamed.path[-1]), flat(held.path[-1]), atol=1e-6)
    assert [row["step"] for row in streamed.history] == [row["step"] for row in held.history]
    swapped = [*batches[1:], batches[0]]
    assert np.abs(flat(run(in_batches(swapped)).path[-1]) - flat(held.path[-1])).max() > 1e-4


@pytest.fixture(scope="module")
def pipeline():
    rows = [{"inputs": x, "labels": y} for x, y in zip(BLOBS.train_inputs, BLOBS.train_labels, strict=True)]
    return grain.MapDataset.source(rows).seed(3).shuffle().repeat().batch(16)


@pytest.mark.parametrize("score", ["magnitude", "taylor"])
def test_a_grain_pipeline_resumes_where_it_stopped(pipeline, tmp_path, score):
    plan = dataclasses.replace(PLAN, score=score)
    keeping = {"checkpoint_every": 0.0, "keep": 99}
    whole = run(in_batches(pipeline), plan, checkpoint_dir=tmp_path / "whole", **keeping)
    assert whole.history[-1]["loss"] < whole.history[2]["loss"]
    for step in (4, 10, 14):
        shutil.copytree(tmp_path / "whole", tmp_path / f"{step}")
        again = run(in_batches(pipeline), plan, checkpoint_dir=tmp_path / f"{step}", resume=step, **keeping)
        assert_same(again, whole)


def test_supervised_training_reads_grain_too(pipeline):
    fitted = distill.fit(mlp(1), in_batches(pipeline), steps=20, **SETTINGS)
    assert fitted.history[-1]["loss"] < fitted.history[1]["loss"]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([{"inputs": np.zeros((4, 4), np.float32)}] * 20, r"batch 0 .* inputs and labels, got \['inputs'\]"),
        ([(np.zeros((4, 4)), np.zeros(4))] * 20, "batch 0 .* got tuple"),
        ([{"inputs": BLOBS.train_inputs, "labels": BLOBS.train_labels}] * 19, "19 batches for 20 steps"),
        (iter([]), "such as a grain.MapDataset or a list; got list_iterator"),
        (
            [{"inputs": BLOBS.train_inputs[:n], "labels": BLOBS.train_labels[:n]} for n in (8, 8, 4) * 7],
            "batch 2 of train_batches has .*drop the remainder",
        ),
    ],
)
def test_what_is_no_source_of_batches_is_refused(batches, message):
    with pytest.raises(ValueError, match=message):
        run(in_batches(batches))


def test_the_teacher_of_batches_is_a_module(pipeline):
    with pytest.raises(ValueError, match=r"nnx\.Module where data comes in Batches"):
        distill.run(mlp(1), np.zeros((60, 3), np.float32), in_batches(pipeline), PLAN, **SETTINGS)


# -- weights of labels, and sequences --------------------------------------------------------------------


def weighted(weights, labels=BLOBS.train_labels, inputs=BLOBS.train_inputs):
    made = dataclasses.make_dataclass("Weighted", ["train_weights"], bases=(type(BLOBS),), frozen=True)
    return made(inputs, labels, BLOBS.test_inputs, BLOBS.test_labels, weights)


def test_padding_weighs_nothing():
    """Rows of weight 0, whatever they hold, leave every gradient as it is without them."""
    plan = distill.stages(sparsity=0.0, num_stages=1, total_steps=6, temperature=2.0)
    alone = run(BLOBS, plan, batch_size=60)
    junk = np.full((40, 4), 1e3, np.float32)
    padded = weighted(
        np.r_[np.ones(60), np.zeros(40)].astype(np.float32),
        np.r_[BLOBS.train_labels, np.zeros(40, np.int32)],
        np.r_[BLOBS.train_inputs, junk],
    )
    seen = mlp(0)(jnp.asarray(padded.train_inputs))
    blank = distill.run(mlp(1), seen.at[60:].set(jnp.nan), padded, plan, batch_size=100, **SETTINGS)
    np.testing.assert_allclose(flat(blank.path[-1]), flat(alone.path[-1]), atol=1e-5)
    together = run(padded, plan, batch_size=100)
    np.testing.assert_allclose(flat(together.path[-1]), flat(alone.path[-1]), atol=1e-5)
    assert together.history[-1]["loss"] == pytest.approx(alone.history[-1]["loss"], rel=1e-4)
    counted = weighted(np.ones(100, np.float32), padded.train_labels, padded.train_inputs)
    assert np.abs(flat(run(counted, plan, batch_size=100).path[-1]) - flat(alone.path[-1])).max() > 1e-3


@pytest.mark.parametrize("padding", [0.0, np.nan])
def test_rows_of_padding_do_not_hide_probabilities(padding):
    live = np.arange(60) < 50
    taught = np.where(live[:, None], np.float32(1 / 3), np.full((60, 3), padding, np.float32))
    plan = distill.stages(sparsity=0.0, num_stages=1, total_steps=2)
    with pytest.raises(ValueError, match="teacher gives rows that are ≥ 0 and sum to 1"):
        distill.run(mlp(1), taught, weighted(live.astype(np.float32)), plan, batch_size=16, **SETTINGS)


def test_a_batch_of_padding_alone_changes_nothing():
    plan = distill.stages(sparsity=0.0, num_stages=1, total_steps=3, temperature=2.0)
    full = {"inputs": BLOBS.train_inputs[:8], "labels": BLOBS.train_labels[:8]}
    full["weights"] = np.ones(8, np.float32)
    empty = {**full, "labels": np.full(8, -1, np.int32), "weights": np.zeros(8, np.float32)}
    settings = {"optimizer": optax.sgd(0.1), "record_every": 1}
    padded = run(in_batches([full, empty, full]), plan, **settings)
    assert [padded.history[row][name] for row in (3,) for name in ("loss", "divergence")] == [0.0, 0.0]
    plan = distill.stages(sparsity=0.0, num_stages=1, total_steps=2, temperature=2.0)
    alone = run(in_batches([full, full]), plan, **settings)
    np.testing.assert_array_equal(flat(padded.path[-1]), flat(alone.path[-1]))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32, bool])
def test_the_loss_of_a_record_is_the_mean_over_the_labels_of_all_its_batches(dtype):
    """Not the mean over batches of each one's mean, to which a batch of padding would add a loss of 0."""
    weights = np.repeat([0, 1, 1], 20)
    weights[20:39] = 0  # batches of 0, 1 and 20 labels
    rows = [slice(start, start + 20) for start in (0, 20, 40)]
    batches = [
        {
            "inputs": BLOBS.train_inputs[own],
            "labels": BLOBS.train_labels[own],
            "weights": weights[own].astype(dtype),
        }
        for own in rows
    ]
    still = {"optimizer": optax.sgd(0.0), "seed": 0}
    (*_, row) = distill.fit(mlp(0), in_batches(batches), steps=3, **still).history
    log_p = np.asarray(jax.nn.log_softmax(mlp(0)(jnp.asarray(BLOBS.train_inputs))), np.float64)
    losses = -log_p[np.arange(60), BLOBS.train_labels]
    assert row["loss"] == pytest.approx(np.average(losses, weights=weights), rel=1e-5)
    assert row["cross_entropy"] == row["loss"]
    assert row["loss"] != pytest.approx(losses[40:].mean(), rel=1e-3)
    # Members of an ensemble record the same.
    plan = distill.stages(sparsity=0.0, num_stages=1, total_steps=3, temperature=2.0)
    data = weighted(weights.astype(dtype))
    (many,) = distill.run_many(
        [mlp(0)], [mlp(1)], data, plan, optimizer=optax.sgd(0.0), seeds=[0], batch_size=20
    )
    alone = distill.run(mlp(0), mlp(1), data, plan, batch_size=20, **still)
    whole = distill.run(mlp(0), mlp(1), data, plan, batch_size=60, **still)
    for name in ("loss", "divergence", "cross_entropy"):
        assert many.history[-1][name] == pytest.approx(alone.history[-1][name], rel=1e-5)
        assert whole.history[-1][name] == pytest.approx(alone.history[-1][name], rel=1e-5)


def test_data_without_labels_is_told_what_to_give():
    bare = data.Arrays(BLOBS.train_inputs, None, BLOBS.test_inputs, BLOBS.test_labels, 3, "bare")
    with pytest.raises(TypeError, match=r"without train_labels; pass .* take zeros and alpha=0"):
        run(bare)
    untold = dataclasses.replace(bare, train_labels=np.zeros(60, np.int32))
    plan = distill.stages(sparsity=0.0, num_stages=1, total_steps=3, temperature=2.0, alpha=0.0)
    labelled = run(BLOBS, plan, batch_size=16)
    np.testing.assert_array_equal(flat(run(untold, plan, batch_size=16).path[-1]), flat(labelled.path[-1]))


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"train_weights has shape \(59,\), train_labels \(60,\)"):
        run(weighted(np.ones(59, np.float32)))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_weights_that_are_none_are_refused_before_training(bad):
    """Negative ones climbed the loss in silence."""
    weights = np.ones(60, np.float32)
    weights[7] = bad
    with pytest.raises(ValueError, match=rf"train_weights, row 7: is {bad}; weights are ≥ 0"):
        run(weighted(weights))
    with pytest.raises(ValueError, match="train_weights is 0 throughout"):
        run(weighted(np.zeros(60, np.float32)))
    batch = {"inputs": BLOBS.train_inputs, "labels": BLOBS.train_labels, "weights": weights}
    plan = distill.stages(sparsity=0.0, num_stages=1, total_steps=2)
    with pytest.raises(ValueError, match=rf"weights of batch 0, row 7: is {bad}"):
        run(in_batches([batch] * 2), plan)


@pytest.fixture(scope="module")
def text():
    whole = data.pydoc(context=8)
    return dataclasses.replace(
        whole,
        train_inputs=whole.train_inputs[:64],
        train_labels=whole.train_labels[:64],
        test_inputs=whole.test_inputs[:16],
        test_labels=whole.test_labels[:16],
    )


def test_sequences_are_taught_label_by_label(text):
    """A table of bytes sees one place at a time: sequences, or their places as rows, are the same to it."""

    class Table(nnx.Module):
        def __init__(self, seed):
            draw = np.random.default_rng(seed).normal(size=(256, 256)).astype(np.float32)
            self.kernel = nnx.Param(jnp.asarray(draw))

        def __call__(self, inputs):
            return self.kernel[...][inputs]

    flattened = dataclasses.replace(
        text,
        **{
            n: getattr(text, n).ravel()
            for n in ("train_inputs", "train_labels", "test_inputs", "test_labels")
        },
    )
    plan = distill.stages(sparsity=0.5, num_stages=1, total_steps=3, temperature=2.0)
    settings = {"optimizer": optax.sgd(1.0), "record_every": 3, "seed": 0}
    rows = distill.run(Table(0), Table(1), text, plan, batch_size=64, **settings)
    labels = distill.run(Table(0), Table(1), flattened, plan, batch_size=64 * 8, **settings)
    np.testing.assert_allclose(flat(rows.path[-1]), flat(labels.path[-1]), atol=1e-5)
    assert rows.final.count == 16 * 8
    for name in ("accuracy", "nll", "calibration_error"):
        assert rows.history[-1][name] == pytest.approx(labels.history[-1][name], rel=1e-5)


def test_a_transformer_learns_from_its_teacher(text):
    with jax.numpy_dtype_promotion("standard"):
        models_ = [
            models.Transformer(width=16, num_layers=1, num_heads=2, context=8, rngs=nnx.Rngs(seed))
            for seed in (0, 1)
        ]
    plan = distill.stages(sparsity=0.5, num_stages=2, total_steps=20, alpha=0.0)
    settings = {"optimizer": optax.adam(1e-2), "record_every": 10, "seed": 0, "batch_size": 16}
    result = distill.run(*models_, text, plan, **settings)
    assert result.history[-1]["divergence"] < result.history[2]["divergence"]
    with pytest.raises(ValueError, match=r"64 training inputs need \(64, 8, num_classes\)"):
        distill.run(models_[0], np.zeros((64, 256), np.float32), text, plan, **settings)


def test_with_x64_a_seed_has_64_bits(x64):
    low, high = (source_of(BLOBS, whole_seed("seed", seed), 16, 2).steps(0, 2)[1] for seed in (3, 2**40 + 3))
    assert (low != high).any()
