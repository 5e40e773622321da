"""The loop against a plain one written here step by step, and its promises: seeds, zeros, paths, errors."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsekd_jax import distill, operators, sparsity
from sparsekd_jax.distill import _program
from tests.distill.small import BLOBS, Noisy, flat, mlp

OPTIMIZER = optax.adam(1e-2)
SETTINGS = {"optimizer": OPTIMIZER, "batch_size": 16, "record_every": 5}
PLAN = distill.stages(sparsity=0.6, num_stages=2, total_steps=20, temperature=2.0, alpha=0.3)


@pytest.fixture(scope="module")
def result():
    return distill.run(mlp(1), mlp(0), BLOBS, PLAN, seed=0, **SETTINGS)


def test_it_is_the_plain_loop(result):
    """One step after another in Python: numpy softmax targets, an argsort mask, plain Adam, masks by hand."""
    graphdef, params = nnx.split(mlp(1), nnx.Param)
    teacher_logits = np.asarray(mlp(0)(jnp.asarray(BLOBS.train_inputs)))
    targets = np.exp(teacher_logits / 2.0)
    targets = jnp.asarray(targets / targets.sum(-1, keepdims=True))
    per_epoch = 60 // 16
    keys = jax.random.split(jax.random.key(0), -(-20 // per_epoch))
    order = np.concatenate([np.asarray(jax.random.permutation(k, 60))[: per_epoch * 16] for k in keys])
    batches = order.reshape(-1, 16)[:20]

    @jax.jit
    @jax.grad
    def gradient_of(p, rows):
        logits = nnx.merge(graphdef, p)(jnp.asarray(BLOBS.train_inputs)[rows])
        soft = jax.nn.log_softmax(logits / 2.0)
        divergence = jnp.sum(targets[rows] * (jnp.log(targets[rows]) - soft), axis=-1)
        onehot = jax.nn.one_hot(jnp.asarray(BLOBS.train_labels)[rows], 3)
        hard = -jnp.sum(onehot * jax.nn.log_softmax(logits), axis=-1)
        return jnp.mean(0.7 * 4.0 * divergence + 0.3 * hard)

    def masked(tree, masks):
        return jax.tree.map(lambda leaf, mask: np.asarray(leaf) * mask, tree, masks)

    update = jax.jit(OPTIMIZER.update)
    with jax.numpy_dtype_promotion("standard"):
        state = OPTIMIZER.init(params)
        masks = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), params)
        for step, rows in enumerate(batches):
            if step % 10 == 0:
                rate = PLAN.stages[step // 10].sparsity
                kernels = np.concatenate(
                    [np.ravel(leaf) for leaf in jax.tree.leaves(params) if leaf.ndim == 2]
                )
                limit = np.sort(np.abs(kernels))[round(rate * kernels.size)]
                masks = jax.tree.map(
                    lambda leaf, low=limit: np.abs(leaf) >= low if leaf.ndim == 2 else leaf == leaf, params
                )
                params = masked(params, masks)
                adam = state[0]
                state = (adam._replace(mu=masked(adam.mu, masks), nu=masked(adam.nu, masks)), *state[1:])
            gradients = masked(gradient_of(params, rows), masks)
            updates, state = update(gradients, state, params)
            params = masked(optax.apply_updates(params, updates), masks)
    ours = nnx.state(result.student, nnx.Param)
    np.testing.assert_allclose(flat(ours), flat(params), atol=2e-5)
    assert np.abs(flat(result.path[0]) - flat(params)).max() > 0.05, "nothing was trained"


def test_the_path_has_every_stage_and_zeros_that_stay(result):
    assert len(result.path) == 3
    kernels = [flat([leaf for leaf in jax.tree.leaves(p) if leaf.ndim == 2]) for p in result.path]
    for weights, stage in zip(kernels[1:], PLAN.stages, strict=True):
        assert (weights == 0).sum() == round(stage.sparsity * weights.size)
    assert not (kernels[2][kernels[1] == 0]).any()
    np.testing.assert_array_equal(flat(result.path[0]), flat(nnx.state(mlp(1), nnx.Param)))
    np.testing.assert_array_equal(flat(result.path[2]), flat(nnx.state(result.student, nnx.Param)))


def test_an_optimizer_sees_the_loss_and_the_masked_gradient():
    """The rate falls on a plateau, and what is passed as ``grad`` is 0 where weights are dropped."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, rtol=0.0, atol=100.0)
    slow = optax.chain(optax.sgd(0.1), plateau)
    settings = {"steps": 20, "batch_size": 16, "seed": 0}
    ends = [distill.fit(mlp(1), BLOBS, optimizer=o, **settings).path for o in (slow, optax.sgd(0.1))]
    moved = [np.abs(flat(path[1]) - flat(path[0])).sum() for path in ends]
    assert moved[0] < moved[1] / 2

    def update(updates, state, params, *, grad, **extra):
        return jax.tree.map(jnp.negative, grad), jax.tree.map(lambda g: (g == 0).sum(), grad)

    def init(params):
        return jax.tree.map(lambda leaf: jnp.zeros((), jnp.int32), params)

    seen = optax.GradientTransformationExtraArgs(init, update)
    params = nnx.state(mlp(1), nnx.Param)
    wrapped = _program.sparsified(seen, sparsity.is_kernel)
    state = sparsity.update_masks(wrapped.init(params), params, 0.5)
    one = jnp.asarray(1.0)
    _, state = wrapped.update(jax.tree.map(jnp.ones_like, params), state, params, rate=one, value=one)
    assert sum(int(n) for n in jax.tree.leaves(state.inner_state)) == 28


PURE = nnx.to_pure_dict(nnx.state(mlp(1), nnx.Param))


def test_lists_of_examples_are_arrays_too():
    inputs, labels = BLOBS.test_inputs, BLOBS.test_labels
    listed = distill.evaluate(mlp(0), inputs.tolist(), labels.tolist())
    assert repr(listed) == repr(distill.evaluate(mlp(0), inputs, labels))


@pytest.mark.parametrize(
    ("optimizer", "need"),
    [
        (optax.lbfgs(), "argument: 'value_fn'"),
        (
            optax.masked(OPTIMIZER, jax.tree.map(lambda leaf: True, PURE)),
            "give masked or partition a function",
        ),
        (
            optax.partition({"a": OPTIMIZER}, jax.tree.map(lambda leaf: "a", PURE)),
            "a function of the parameters",
        ),
    ],
)
def test_an_optimizer_that_cannot_step_is_refused_before_training(optimizer, need):
    many = {"seeds": (0,), "record_every": 5, "batch_size": 16}
    for train in (
        lambda: distill.fit(mlp(1), BLOBS, steps=2, optimizer=optimizer, seed=0, batch_size=16),
        lambda: distill.run_many([mlp(1)], [mlp(0)], BLOBS, PLAN, optimizer=optimizer, **many),
    ):
        with pytest.raises(ValueError, match=f"optimizer cannot take a step .*{need}"):
            train()


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.MultiSteps(optax.sgd(0.1), 2),
        optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.01)),
        optax.masked(optax.sgd(0.1), lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)),
        optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
    ],
)
def test_other_optimizers_train(optimizer):
    found = distill.fit(mlp(1), BLOBS, steps=2, optimizer=optimizer, seed=0, batch_size=16)
    assert found.history[-1]["step"] == 2


def shrink(amount):
    """A proximal step of the L1 norm: makes zeros that no prune made."""

    def update(updates, state, params):
        def soft(step, weight):
            there = weight + step
            return jnp.sign(there) * jnp.maximum(jnp.abs(there) - amount, 0) - weight

        return jax.tree.map(soft, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


SHRINKING = optax.chain(optax.sgd(0.01), shrink(0.05))


def test_a_pruned_model_has_the_zeros_of_its_prune_alone():
    found = distill.run(mlp(1), mlp(0), BLOBS, PLAN, seed=0, **{**SETTINGS, "optimizer": SHRINKING})
    assert sparsity.zero_fraction(found.path[1]) > PLAN.stages[0].sparsity + 0.2  # so the test is not vacuous
    for k, stage in enumerate(PLAN.stages, start=1):
        cut = nnx.to_pure_dict(nnx.state(found.model(k, pruned=True), nnx.Param))
        masks = jax.tree.leaves(found.masks[k])
        assert {mask.dtype.name for mask in masks} == {"bool"}
        kept = sum(int(mask.sum()) for mask in masks)
        assert kept == round((1 - stage.sparsity) * 56)
        np.testing.assert_array_equal(
            flat(cut), flat(sparsity.apply_masks(found.path[k - 1], found.masks[k]))
        )
    cut = nnx.to_pure_dict(nnx.state(found.model(1, pruned=True), nnx.Param))
    assert sparsity.zero_fraction(cut) == pytest.approx(PLAN.stages[0].sparsity, abs=1 / 56)
    assert all(mask.all() for mask in jax.tree.leaves(found.masks[0]))


def test_a_result_prints_short(result):
    assert repr(result).startswith("Result(stages=2, steps=20, sparsity=0.6, accuracy=")
    assert len(repr(result)) < 90


def test_history_tells_steps_stages_and_events(result):
    rows = [(row["event"], row["stage"], row["step"]) for row in result.history]
    assert rows == [
        ("start", 0, 0),
        ("pruned", 1, 0),
        ("train", 1, 5),
        ("train", 1, 10),
        ("pruned", 2, 10),
        ("train", 2, 15),
        ("train", 2, 20),
    ]
    trained = [row for row in result.history if row["event"] == "train"]
    assert all({"loss", "divergence", "cross_entropy"} <= row.keys() for row in trained)
    last = result.history[-1]
    assert last["loss"] == pytest.approx(0.7 * 4 * last["divergence"] + 0.3 * last["cross_entropy"], rel=1e-5)


def test_metrics_are_those_of_the_returned_student(result):
    logits = np.asarray(result.student(jnp.asarray(BLOBS.test_inputs)))
    accuracy = (logits.argmax(-1) == BLOBS.test_labels).mean()
    assert result.final.accuracy == result.history[-1]["accuracy"] == pytest.approx(accuracy)
    again = distill.evaluate(result.student, BLOBS.test_inputs, BLOBS.test_labels)
    assert again.accuracy == result.final.accuracy


def test_a_seed_repeats_bit_for_bit_and_another_differs(result):
    again = distill.run(mlp(1), mlp(0), BLOBS, PLAN, seed=0, **SETTINGS)
    assert again.history == result.history
    np.testing.assert_array_equal(flat(again.path[2]), flat(result.path[2]))
    other = distill.run(mlp(1), mlp(0), BLOBS, PLAN, seed=1, **SETTINGS)
    assert np.abs(flat(other.path[2]) - flat(result.path[2])).max() > 1e-4


def test_neither_model_passed_in_is_changed(result):
    student, teacher = mlp(1), mlp(0)
    distill.run(student, teacher, BLOBS, PLAN, seed=0, **SETTINGS)
    np.testing.assert_array_equal(flat(nnx.state(student)), flat(nnx.state(mlp(1))))
    np.testing.assert_array_equal(flat(nnx.state(teacher)), flat(nnx.state(mlp(0))))


def test_how_often_is_recorded_changes_no_number(result):
    coarser = distill.run(mlp(1), mlp(0), BLOBS, PLAN, seed=0, **{**SETTINGS, "record_every": 10})
    assert len(coarser.history) < len(result.history)
    np.testing.assert_allclose(flat(coarser.path[2]), flat(result.path[2]), atol=1e-6)


def test_a_teacher_can_be_its_logits(result):
    logits = mlp(0)(jnp.asarray(BLOBS.train_inputs))
    given = distill.run(mlp(1), logits, BLOBS, PLAN, seed=0, **SETTINGS)
    np.testing.assert_allclose(flat(given.path[2]), flat(result.path[2]), atol=1e-6)


def test_a_second_run_compiles_nothing(result):
    before = _program.scan_steps._cache_size()
    hotter = distill.stages(
        sparsity=0.6, num_stages=4, schedule="one-shot", total_steps=20, temperature=3.0, alpha=0.1
    )
    distill.run(mlp(5), mlp(6), BLOBS, hotter, seed=3, **SETTINGS)
    assert _program.scan_steps._cache_size() == before


def test_operators_that_soften_targets_alone_share_a_program():
    counts = []
    for operator in ("power", "mixture", "tsallis(1.5)"):
        plan = distill.stages(
            operator=operators.parse(operator),
            temperature=2.0,
            sparsity=0.6,
            num_stages=2,
            total_steps=20,
            soften_student=False,
        )
        distill.run(mlp(1), mlp(0), BLOBS, plan, seed=0, **SETTINGS)
        counts.append(_program.scan_steps._cache_size())
    assert counts[0] == counts[1] == counts[2]


def test_sparsity_zero_trains_a_dense_student():
    plan = distill.stages(sparsity=0.0, num_stages=1, total_steps=20)
    dense = distill.run(mlp(1), mlp(0), BLOBS, plan, seed=0, **SETTINGS)
    assert sparsity.zero_fraction(nnx.state(dense.student, nnx.Param)) == 0.0


def test_a_plain_function_softens_too(result):
    def escort(p, temperature):
        powered = p ** (1 / temperature)
        return powered / powered.sum()

    plan = dataclasses.replace(PLAN, operator=escort)
    ours = distill.run(mlp(1), mlp(0), BLOBS, plan, seed=0, **SETTINGS)
    np.testing.assert_allclose(flat(ours.path[2]), flat(result.path[2]), atol=1e-4)


def test_batch_statistics_move_in_training_and_dropout_is_off_in_evaluation():
    model = Noisy(nnx.Rngs(0))
    trained = distill.fit(model, BLOBS, steps=20, seed=0, **SETTINGS).student
    assert np.abs(np.asarray(trained.norm.mean[...]) - np.asarray(model.norm.mean[...])).max() > 1e-3
    first, second = (distill.evaluate(trained, BLOBS.test_inputs, BLOBS.test_labels) for _ in range(2))
    assert float(first.nll) == float(second.nll)


def test_a_student_in_evaluation_mode_trains_in_training_mode():
    """Such as ``result.model(k)``: it trained without dropout, its batch statistics as they were."""
    awake, asleep = Noisy(nnx.Rngs(0)), Noisy(nnx.Rngs(0))
    asleep.eval()
    alone = [distill.run(m, mlp(0), BLOBS, PLAN, seed=0, **SETTINGS) for m in (awake, asleep)]
    many = {"seeds": (0,), **SETTINGS}
    alone += [distill.run_many([m], [mlp(0)], BLOBS, PLAN, **many)[0] for m in (awake, asleep)]
    for one, other in (alone[:2], alone[2:]):
        np.testing.assert_array_equal(flat(one.path[-1]), flat(other.path[-1]))
        np.testing.assert_array_equal(one.student.norm.mean[...], other.student.norm.mean[...])
        assert (one.student.dropout.deterministic, other.student.dropout.deterministic) == (False, True)
    fitted = [distill.fit(m, BLOBS, steps=5, seed=0, **SETTINGS) for m in (awake, asleep)]
    np.testing.assert_array_equal(flat(fitted[0].path[-1]), flat(fitted[1].path[-1]))


class Attention(nnx.Module):
    """`nnx.MultiHeadAttention` cannot be called before a mode is chosen."""

    def __init__(self, rngs):
        self.attention, self.last = nnx.MultiHeadAttention(2, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.attention(x[:, None], decode=False)[:, 0])


def test_a_student_of_no_mode_yet_trains():
    result = distill.run(Attention(nnx.Rngs(0)), mlp(0), BLOBS, PLAN, seed=0, **SETTINGS)
    assert result.history[-1]["step"] == 20


def test_progress_counts_to_the_end():
    seen = []
    distill.run(mlp(1), mlp(0), BLOBS, PLAN, seed=0, on_progress=lambda *at: seen.append(at), **SETTINGS)
    assert seen == [(5, 20), (10, 20), (15, 20), (20, 20)]


def test_a_diverging_loss_stops_the_run_and_says_where():
    broken = dataclasses.replace(BLOBS, train_inputs=np.full_like(BLOBS.train_inputs, np.nan))
    with pytest.raises(FloatingPointError, match="loss is not finite in stage 1, at step 1 of 20"):
        distill.run(mlp(1), jnp.zeros((60, 3)), broken, PLAN, seed=0, **SETTINGS)


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="batch_size"):
        distill.run(mlp(1), mlp(0), BLOBS, PLAN, seed=0, optimizer=OPTIMIZER, batch_size=61)
    with pytest.raises(ValueError, match="record_every"):
        distill.run(mlp(1), mlp(0), BLOBS, PLAN, seed=0, optimizer=OPTIMIZER, batch_size=8, record_every=0)
    with pytest.raises(ValueError, match=r"need \(60, num_classes\)"):
        distill.run(mlp(1), jnp.zeros((59, 3)), BLOBS, PLAN, seed=0, **SETTINGS)
    with pytest.raises(ValueError, match="steps"):
        distill.fit(mlp(1), BLOBS, steps=0, seed=0, **SETTINGS)
    inputs, labels = BLOBS.test_inputs, BLOBS.test_labels
    for changed, message in (
        ({"labels": np.eye(3)[labels]}, "^labels has dtype float64"),
        ({"labels": labels + 1}, "^labels holds 3"),
        ({"labels": labels[:-1]}, "^labels has shape"),
        ({"inputs": np.where(inputs > 0, np.nan, inputs)}, "^inputs, row 0: holds NaN"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            distill.evaluate(mlp(0), **{"inputs": inputs, "labels": labels, **changed})


def test_an_operator_that_does_not_normalise_is_refused():
    """It would train, towards a divergence from what is no distribution."""

    def unnormalized(p, temperature):
        return p ** (1 / temperature)

    plan = distill.stages(
        operator=unnormalized, sparsity=0.5, num_stages=1, total_steps=5, soften_student=False
    )
    for options in ({}, {"cache_teacher": False}):
        with pytest.raises(
            ValueError, match=r"operator unnormalized.*: makes probabilities that sum to \d\.\d"
        ):
            distill.run(mlp(1), mlp(0), BLOBS, plan, seed=0, **SETTINGS, **options)
    with pytest.raises(ValueError, match="operator unnormalized"):
        distill.run_many([mlp(1)], [mlp(0)], BLOBS, plan, optimizer=OPTIMIZER, seeds=[0], batch_size=16)


@pytest.mark.parametrize("before", [[], [optax.clip(1.0)]])
def test_an_optimizer_that_has_masks_of_its_own_is_refused(before):
    """Its where went unheard: the default one, of the masks around it, pruned what it left out."""
    own = sparsity.sparsify(OPTIMIZER, where=sparsity.by_path("layers.0.*"))
    with pytest.raises(ValueError, match=r"wrapped by sparsify already.*where as an argument"):
        distill.run(mlp(1), mlp(0), BLOBS, PLAN, optimizer=optax.chain(*before, own), seed=0, batch_size=16)


def test_the_gradients_of_a_score_are_averaged_in_float32():
    """bfloat16 holds a sum of 32 to a hundredth, and weights of nearly equal scores change places."""
    model = mlp(1)
    nnx.update(model, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.state(model)))
    graphdef, params, rest = _program.split(model)
    arrays = {
        "inputs": jnp.asarray(BLOBS.train_inputs, jnp.bfloat16),
        "labels": jnp.asarray(BLOBS.train_labels),
    }
    index = _program.epochs(jax.random.key(0), 60, 8, 32)
    average = lambda rows: _program.mean_gradients(  # noqa: E731
        graphdef, _program.supervised, params, rest, arrays, {}, rows
    )
    each = np.stack([flat(average(index[i : i + 1])) for i in range(32)]).astype(np.float64)
    np.testing.assert_allclose(flat(average(index)), each.mean(axis=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("score", ["taylor", "movement", "random"])
def test_every_score_reaches_the_count(score):
    plan = dataclasses.replace(PLAN, score=score)
    result = distill.run(mlp(1), mlp(0), BLOBS, plan, seed=0, **SETTINGS)
    assert sparsity.zero_fraction(result.path[-1]) == pytest.approx(0.6, abs=0.5 / 56)
    other = distill.run(mlp(1), mlp(0), BLOBS, PLAN, seed=0, **SETTINGS)
    assert (flat(result.path[1]) != flat(other.path[1])).any()


def test_taylor_ranks_by_the_mean_gradient_of_the_first_batches():
    """With a learning rate of 0 the mask is that of |w · mean gradient|, of a loss written here."""
    plan = distill.stages(
        sparsity=0.5, num_stages=1, total_steps=3, temperature=2.0, alpha=1.0, score="taylor", pattern="layer"
    )
    settings = {**SETTINGS, "optimizer": optax.sgd(0.0)}
    result = distill.run(mlp(1), mlp(0), BLOBS, plan, seed=0, **settings)
    graphdef, params = nnx.split(mlp(1), nnx.Param)
    order = np.asarray(jax.random.permutation(jax.random.split(jax.random.key(0), 1)[0], 60))[:48]

    def loss(params):  # alpha = 1: cross-entropy to the labels; three batches of one epoch are one mean
        log_p = jax.nn.log_softmax(nnx.merge(graphdef, params)(BLOBS.train_inputs[order]))
        return -log_p[np.arange(48), BLOBS.train_labels[order]].mean()

    gradients = nnx.to_pure_dict(jax.grad(loss)(params))
    for layer in (0, 1):
        weights = nnx.to_pure_dict(params)["layers"][layer]["kernel"]
        worth = np.abs(np.asarray(weights * gradients["layers"][layer]["kernel"])).ravel()
        kept = np.argsort(-worth)[: worth.size // 2]
        found = np.flatnonzero(np.asarray(result.path[1]["layers"][layer]["kernel"]).ravel())
        assert set(found) == set(kept)


def test_two_of_four_holds_in_every_group():
    plan = distill.stages(
        sparsity=0.5,
        num_stages=2,
        total_steps=20,
        temperature=2.0,
        pattern=sparsity.n_m(2, 4),
        schedule="linear",
    )
    result = distill.run(mlp(1), mlp(0), BLOBS, plan, seed=0, **SETTINGS)
    for layer in (0, 1):
        kernel = np.asarray(result.path[-1]["layers"][layer]["kernel"])
        groups = (kernel.reshape(-1, 4, kernel.shape[1]) != 0).sum(1)
        assert (groups == 2).all()
    with pytest.raises(ValueError, match=r"sparsity ends at 0\.6; the pattern .* has sparsity 0\.5"):
        distill.stages(sparsity=0.6, pattern=sparsity.n_m(2, 4))
    assert distill.Plan.from_json(plan.to_json()).pattern == plan.pattern
