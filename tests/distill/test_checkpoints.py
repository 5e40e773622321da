"""Resumed runs bit for bit, and every checkpoint that must be refused, with the words that say why."""

import dataclasses
import errno
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsekd_jax import data, distill, operators
from sparsekd_jax.distill import _trainer, checkpoints
from tests.distill.small import BLOBS, Noisy, assert_same, mlp

TEACHER = np.random.default_rng(2).normal(size=(60, 3)).astype(np.float32)
OPTIMIZER = optax.adam(optax.linear_schedule(1e-2, 1e-3, 20))
PLAN = distill.stages(sparsity=0.6, num_stages=2, total_steps=20, temperature=2.0, alpha=0.3)
SETTINGS = {"optimizer": OPTIMIZER, "batch_size": 16, "record_every": 4, "checkpoint_every": 0.0, "keep": 9}


@pytest.fixture(scope="module")
def student():
    with jax.numpy_dtype_promotion("standard"):  # flax's initialisers
        return Noisy(nnx.Rngs(0))


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # flax's BatchNorm
        yield


def run(student, folder, plan=PLAN, data=BLOBS, **changes):
    settings = {**SETTINGS, "seed": 0, "checkpoint_dir": folder, **changes}
    return distill.run(student, TEACHER, data, plan, **settings)


@pytest.fixture(scope="module")
def finished(student, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return run(student, folder), folder


@pytest.fixture
def folder(finished, tmp_path):
    """A copy of the finished run's checkpoints that a test may spoil."""
    shutil.copytree(finished[1], tmp_path / "run")
    return tmp_path / "run"


def cut(folder, last):
    """Leave the checkpoints up to a step, as a killed run would have."""
    for path in folder.glob("step-*"):
        if int(path.name[5:]) > last:
            shutil.rmtree(path)


STEPS = [4, 8, 10, 14, 18, 20]


def test_it_saves_at_every_record_and_at_the_end(finished):
    result, folder = finished
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["history.jsonl", *(f"step-{step:08d}" for step in STEPS)]
    rows = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    assert rows == result.history


@pytest.mark.parametrize("step", STEPS)
def test_resumed_anywhere_it_ends_with_the_same_bits(step, student, finished, folder):
    cut(folder, step)
    assert_same(run(student, folder, resume=True), finished[0])


def test_a_run_without_checkpoints_has_the_same_bits(student, finished):
    settings = {k: v for k, v in SETTINGS.items() if k not in ("checkpoint_every", "keep")}
    assert_same(distill.run(student, TEACHER, BLOBS, PLAN, seed=0, **settings), finished[0])


def test_a_resume_that_forgets_the_moments_is_noticed(student, finished, folder, monkeypatch):
    """The twin: everything is restored but the optimizer."""
    cut(folder, 10)
    honest = _trainer.Trainer.keep_in

    def forgetful(self, *args):
        before = self.carry[2]
        honest(self, *args)
        self.carry = (*self.carry[:2], before)

    monkeypatch.setattr(_trainer.Trainer, "keep_in", forgetful)
    with pytest.raises(AssertionError):
        assert_same(run(student, folder, resume=True), finished[0])


@pytest.mark.parametrize("score", ["taylor", "random"])
def test_a_prune_after_the_resume_drops_the_same_weights(score, student, tmp_path):
    plan = dataclasses.replace(PLAN, score=score)
    whole = run(student, tmp_path, plan)
    cut(tmp_path, 10)  # the end of the first stage: what comes next is the prune of the second
    assert_same(run(student, tmp_path, plan, resume=True), whole)


def test_only_the_newest_are_kept(student, tmp_path):
    run(student, tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.glob("step-*")) == ["step-00000018", "step-00000020"]


@pytest.mark.parametrize("name", ["run[1]", "st*r", "a?[x]"])
def test_the_directory_may_be_a_pattern(name, student, finished, tmp_path):
    run(student, tmp_path / name / "here")
    cut(tmp_path / name / "here", 10)
    assert_same(run(student, tmp_path / name / "here", resume=True), finished[0])


def test_what_orbax_cannot_read_is_a_checkpoint_error(student, folder, monkeypatch):
    def broken(path, shapes):
        raise ValueError("NOT_FOUND: a chunk\nand more")

    monkeypatch.setattr(checkpoints, "_read_arrays", broken)
    with pytest.raises(distill.CheckpointError, match=r"step 20 .* cannot read it \(NOT_FOUND: a chunk\); "):
        run(student, folder, resume=True)


def test_resume_from_nothing_begins(student, finished, tmp_path):
    assert_same(run(student, tmp_path / "new", resume=True), finished[0])


def test_a_supervised_run_resumes_too(student, tmp_path):
    def fit(folder, **more):
        settings = {**SETTINGS, "steps": 12, "seed": 1, "checkpoint_dir": folder}
        return distill.fit(student, BLOBS, **{**settings, **more})

    whole = fit(tmp_path)
    cut(tmp_path, 8)
    assert_same(fit(tmp_path, resume=True), whole)


def every_other(scores, rate):
    raise AssertionError("it is only named")


SMOOTHING = operators.lawless.LabelSmoothing(0.3)
OTHER_PLAN = dataclasses.replace(PLAN, stages=(PLAN.stages[0], dataclasses.replace(PLAN.stages[1], steps=11)))
OTHER_DATA = dataclasses.replace(BLOBS, train_inputs=BLOBS.train_inputs + 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"plan": OTHER_PLAN}, r"plan\.stages\[1\]\.steps is 10 there and 11 here"),
        ({"seed": 5}, "seed is 0 there and 5 here"),
        ({"batch_size": 8}, "batch_size is 16 there and 8 here"),
        ({"data": OTHER_DATA}, "data is "),
        (
            {"plan": dataclasses.replace(PLAN, pattern=every_other)},
            r"plan\.pattern is 'global' there and 'tests\.dis",
        ),
        ({"plan": dataclasses.replace(PLAN, operator=SMOOTHING)}, r"plan\.operator is 'power' there"),
        ({"optimizer": optax.sgd(0.1)}, r"optimizer\..* is .* there and None here"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(changes, says, student, folder):
    with pytest.raises(distill.CheckpointError, match=says):
        run(student, folder, resume=True, **changes)


def test_other_data_are_named_before_the_logits_that_change_with_them(student, tmp_path):
    def taught(data, **more):
        return distill.run(student, student, data, PLAN, seed=0, checkpoint_dir=tmp_path, **SETTINGS, **more)

    taught(BLOBS)
    with pytest.raises(distill.CheckpointError, match="refused: data is "):
        taught(OTHER_DATA, resume=True)


@pytest.mark.parametrize(
    ("kept", "changed", "says"),
    [
        (
            {"operator": operators.lawless.PriorDirected(jnp.array([0.2, 0.3, 0.5]))},
            {"operator": operators.lawless.PriorDirected(jnp.array([0.5, 0.3, 0.2]))},
            "operator is '[0-9a-f]+' there and '[0-9a-f]+' here",
        ),
        (
            {"operator": operators.lawless.LabelSmoothing(0.1)},
            {"operator": operators.lawless.LabelSmoothing(0.9)},
            r"plan\.operator is 'label-smoothing' there and 'label-smoothing\(0\.9\)' here",
        ),
    ],
)
def test_an_operator_with_other_numbers_is_another(kept, changed, says, student, tmp_path):
    plan = distill.stages(sparsity=0.5, num_stages=1, total_steps=2, scale=1.0)
    run(student, tmp_path, dataclasses.replace(plan, **kept))
    with pytest.raises(distill.CheckpointError, match=says):
        run(student, tmp_path, dataclasses.replace(plan, **changed), resume=True)


def test_another_start_or_half_to_judge_by_is_refused(student, folder, tmp_path):
    """Resumed, a path would begin at weights it never had, and a finished run tell of another test half."""
    another = Noisy(nnx.Rngs(9))
    with pytest.raises(
        distill.CheckpointError, match=r"began with another student, whose .*kernel had other"
    ):
        run(another, folder, resume=8)
    assert len(list(folder.glob("step-*"))) == len(STEPS)  # nothing was dropped for it
    drops = Noisy(nnx.Rngs(0, dropout=9))  # the same weights, another random stream
    with pytest.raises(
        distill.CheckpointError, match=r"began with another student, whose dropout.*key had other"
    ):
        run(drops, folder, resume=True)
    swapped = dataclasses.replace(BLOBS, test_inputs=BLOBS.test_inputs[::-1])
    with pytest.raises(distill.CheckpointError, match="refused: test_data is "):
        run(student, folder, data=swapped, resume=True)
    held = data_with_validation(BLOBS.test_inputs)
    run(student, tmp_path / "held", data=held)
    with pytest.raises(distill.CheckpointError, match="refused: validation_data is "):
        run(student, tmp_path / "held", data=data_with_validation(BLOBS.test_inputs + 1), resume=True)


def test_a_start_of_other_last_bits_goes_on_from_the_one_that_was_saved(student, folder):
    """As another device initialises it; the path begins where the run did."""
    whole = run(student, folder, resume=True)
    near = nnx.clone(student)
    nnx.update(near, jax.tree.map(lambda leaf: leaf * (1 + 1e-6), nnx.state(near, nnx.Param)))
    assert_same(run(near, folder, resume=True), whole)


class Scaled(nnx.Module):
    """A teacher of the same parameters that says something else, or the same in other last bits."""

    def __init__(self, scale):
        self.inner, self.scale = mlp(7), scale
        self.dropout = nnx.Dropout(0.1, rngs=nnx.Rngs(3))

    def __call__(self, x):
        return self.scale * self.dropout(self.inner(x))


@pytest.mark.parametrize("cached", [True, False])
def test_a_module_teacher_is_told_by_its_parameters(student, tmp_path, cached):
    """Its logits hang on the device: of another, they are near, and the run goes on."""

    def taught(teacher, **more):
        options = {"seed": 0, "checkpoint_dir": tmp_path, "cache_teacher": cached, **SETTINGS, **more}
        return distill.run(student, teacher, BLOBS, PLAN, **options)

    whole = taught(Scaled(1.0))
    cut(tmp_path, 10)
    drawn = Scaled(1.0)
    drawn(BLOBS.train_inputs[:2])  # moves its random stream, which evaluation does not touch
    assert_same(taught(drawn, resume=True), whole)
    cut(tmp_path, 10)
    near = taught(Scaled(1.0 + 1e-6), resume=True)
    for one, other in zip(*(jax.tree.leaves(result.path) for result in (near, whole)), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-3)  # AdamW divides by small gradients
    another = Scaled(1.0)
    another.inner = mlp(8)
    with pytest.raises(distill.CheckpointError, match="refused: teacher is "):
        taught(another, resume=True)
    if cached:
        cut(tmp_path, 10)
        with pytest.raises(
            distill.CheckpointError, match="a teacher of the same parameters that gave other log"
        ):
            taught(Scaled(1.1), resume=True)


class Holding(nnx.Module):
    """A model with a variable that is not trained: a count in Python, a mask of attention, a blank."""

    def __init__(self, inner, held):
        self.inner, self.held = inner, nnx.Variable(held)

    def __call__(self, x):
        return self.inner(x)


@pytest.mark.parametrize("held", [3, 0.5, np.array([0, -np.inf, 2], np.float32), np.full(3, np.nan)])
def test_a_run_goes_on_with_numbers_infinities_and_blanks(held, tmp_path):
    """A number has no dtype, and NaN is not equal to itself: neither is a reason to refuse."""
    whole = run(Holding(mlp(0), held), tmp_path / "run")
    cut(tmp_path / "run", 10)
    assert_same(run(Holding(mlp(0), held), tmp_path / "run", resume=True), whole)
    assert_same(run(Holding(mlp(0), held), tmp_path / "run", resume=True), whole)


def test_beside_an_infinity_other_numbers_are_seen(tmp_path):
    """A thousandth of the largest was infinite too."""
    mask = np.array([0, -np.inf, 2], np.float32)
    run(Holding(mlp(0), mask), tmp_path / "run")
    for other in (mask + 1, -mask):
        with pytest.raises(distill.CheckpointError, match="another student, whose held had other numbers"):
            run(Holding(mlp(0), other), tmp_path / "run", resume=True)


def data_with_validation(inputs):
    return data.Arrays(
        BLOBS.train_inputs,
        BLOBS.train_labels,
        BLOBS.test_inputs,
        BLOBS.test_labels,
        num_classes=3,
        name="blobs",
        validation_inputs=inputs,
        validation_labels=BLOBS.test_labels,
    )


def test_another_model_and_version_are_refused(student, folder, monkeypatch):
    with jax.numpy_dtype_promotion("standard"):
        wider = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    with pytest.raises(distill.CheckpointError, match=r"model\.bias is None there and 'float32"):
        run(wider, folder, resume=True)
    monkeypatch.setattr(_trainer.metadata, "version", lambda name: "9.9")
    with pytest.raises(distill.CheckpointError, match=r"version is .0\.1\.0. there and .9\.9. here"):
        run(student, folder, resume=True)


def files_of(folder, step=20):
    found = [p for p in (folder / f"step-{step:08d}").rglob("*") if p.is_file() and p.stat().st_size > 8]
    return sorted(found)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def alter(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [truncate, alter, lambda path: path.unlink()])
def test_damage_is_refused_and_the_last_good_one_offered(damage, student, finished, folder):
    for index in (0, -1):
        spoiled = files_of(folder)[index]
        whole = spoiled.read_bytes()
        damage(spoiled)
        with pytest.raises(distill.CheckpointError, match=r"step 20 .* refused: .*resume=18 goes on"):
            run(student, folder, resume=True)
        spoiled.write_bytes(whole)
    damage(files_of(folder)[0])
    assert_same(run(student, folder, resume=18), finished[0])  # … and the offer holds


def test_an_unreadable_manifest_is_refused(student, folder):
    (folder / "step-00000020" / "manifest.json").write_text("{")
    with pytest.raises(distill.CheckpointError, match=r"manifest.json is unreadable"):
        run(student, folder, resume=True)
    manifest = folder / "step-00000018" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(distill.CheckpointError, match="its format is 99, this library reads 5; resume=14"):
        checkpoints.CheckpointStore(folder, identity(folder)).load(18)


def test_where_no_good_one_is_left_the_remedy_is_that_of_the_fault(tmp_path):
    store = checkpoints.CheckpointStore(tmp_path, {"seed": 0})
    store.save(10, [jnp.arange(3)], {})
    with pytest.raises(distill.CheckpointError, match="seed is 0 there and 1 here; go on with the settings"):
        checkpoints.CheckpointStore(tmp_path, {"seed": 1}).load(10)
    manifest = tmp_path / "step-00000010" / "manifest.json"
    said = manifest.read_text()
    manifest.write_text(json.dumps(json.loads(said) | {"format": 4}))
    with pytest.raises(distill.CheckpointError, match="reads 5; go on with the version of the library"):
        store.load(10)
    manifest.write_text(said.replace("int32", "int16"))
    with pytest.raises(distill.CheckpointError, match=r"not as written; it is damaged, .* start anew"):
        store.load(10)
    manifest.write_text(said)
    alter(files_of(tmp_path, 10)[0])
    with pytest.raises(distill.CheckpointError, match=r"not as written; it is damaged, .* start anew"):
        store.load(10)


def identity(folder):
    return json.loads((folder / "step-00000014" / "manifest.json").read_text())["identity"]


def test_a_used_directory_wants_a_word(student, folder):
    with pytest.raises(distill.CheckpointError, match=r"holds a run up to step 20: pass resume=True"):
        run(student, folder)
    with pytest.raises(distill.CheckpointError, match=r"no checkpoint of step 7 .*there are \[4, 8"):
        run(student, folder, resume=7)


def test_a_directory_that_cannot_be_written_is_refused_before_training(student, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(distill.CheckpointError, match=r"cannot be written .*choose another directory"):
        run(student, tmp_path / "file", on_progress=lambda *_: pytest.fail("it trained"))


def test_a_full_disk_spoils_nothing(student, finished, folder, monkeypatch):
    cut(folder, 8)
    honest = checkpoints._write_arrays

    def full(path, _):
        if path.name == "arrays":
            path.mkdir()
            (path / "part").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write_arrays", full)
    with pytest.raises(distill.CheckpointError, match=r"step 10 .*No space .* last whole one is of step 8"):
        run(student, folder, resume=True)
    assert sorted(path.name for path in folder.iterdir()) == [
        "history.jsonl",
        "step-00000004",
        "step-00000008",
    ]
    monkeypatch.setattr(checkpoints, "_write_arrays", honest)
    with monkeypatch.context() as full_now:
        full_now.setattr(checkpoints._durable, "replace", full)
        with pytest.raises(distill.CheckpointError, match=r"history\.jsonl .*No space .*Make room and"):
            run(student, folder, resume=True)
    assert_same(run(student, folder, resume=True), finished[0])


def test_divergence_names_its_step_and_keeps_the_last_good_state(student, tmp_path):
    explosive = optax.chain(optax.scale_by_schedule(lambda step: jnp.where(step < 13, -0.01, jnp.nan)))
    with pytest.raises(distill.DivergedError, match=r"step 14 of 20; the checkpoint of step 10 is") as caught:
        run(student, tmp_path, optimizer=explosive)
    assert (caught.value.stage, caught.value.step, caught.value.tensor) == (2, 14, "first.bias")
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(caught.value.params))
    assert (tmp_path / "step-00000010").exists()
    # Without checkpoints it is found at the end of the stage, and what is kept is the same.
    with pytest.raises(distill.DivergedError, match="loss is not finite in stage 2, at step 15") as late:
        run(student, None, optimizer=explosive)
    for a, b in zip(*(jax.tree.leaves(found.value.params) for found in (late, caught)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_divergence_keeps_is_of_the_last_good_record(student):
    """One stage, no checkpoint: not the parameters that the run began with."""
    explosive = optax.chain(optax.scale_by_schedule(lambda step: jnp.where(step < 13, -0.01, jnp.nan)))
    plan = distill.stages(sparsity=0.0, num_stages=1, total_steps=20)
    with pytest.raises(distill.DivergedError) as caught:
        run(student, None, plan, optimizer=explosive)
    still = optax.chain(optax.scale_by_schedule(lambda step: jnp.where(step < 12, -0.01, 0.0)))
    wanted = run(student, None, plan, optimizer=still).path[-1]
    for a, b in zip(*map(jax.tree.leaves, (caught.value.params, wanted)), strict=True):
        np.testing.assert_array_equal(a, b)
