"""sparsify: exact zeros through any optimizer, moments forgotten, masks only where asked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsekd_jax import models, sparsity

OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.1),
    "momentum": lambda: optax.sgd(0.1, momentum=0.9),
    "adamw": lambda: optax.adamw(1e-2, weight_decay=0.1),
    "lion": lambda: optax.lion(1e-2),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)),
    "noisy": lambda: optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1)),
}


def params(seed=0, scale=1):
    rng = np.random.default_rng(seed)
    arrays = {"w": rng.normal(size=(6, 5)), "b": rng.normal(size=5)}
    return {name: jnp.asarray((scale * array).astype(np.float32)) for name, array in arrays.items()}


def gradients(seed):
    return params(seed + 100, scale=3)


@functools.cache
def step_of(tx):
    @jax.jit
    def step(gradient, state, tree):
        updates, state = tx.update(gradient, state, tree)
        return optax.apply_updates(tree, updates), state

    return step


def train(tx, tree, state, steps=5):
    for seed in range(steps):
        tree, state = step_of(tx)(gradients(seed), state, tree)
    return tree, state


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_dropped_weights_are_exactly_zero_and_others_move(name):
    tx = sparsity.sparsify(OPTIMIZERS[name]())
    start = params()
    trained, state = train(tx, start, tx.init(start))
    state = sparsity.update_masks(state, trained, 0.8)
    after, state = train(tx, trained, state)
    mask = np.asarray(sparsity.current_masks(state)["w"])
    assert (~mask).sum() == 24
    np.testing.assert_array_equal(np.asarray(after["w"]) == 0, ~mask)
    assert (np.asarray(after["b"]) != np.asarray(trained["b"])).all()


def test_without_masks_it_is_the_inner_optimizer():
    inner = optax.adamw(1e-2)
    wrapped = sparsity.sparsify(inner)
    start = params()

    def train_eagerly(tx):  # bit for bit: nothing fused, so nothing rounded differently
        tree, state = start, tx.init(start)
        for seed in range(3):
            updates, state = tx.update(gradients(seed), state, tree)
            tree = optax.apply_updates(tree, updates)
        return tree, state

    with jax.numpy_dtype_promotion("standard"):
        plain, _ = train_eagerly(inner)
    ours, state = train_eagerly(wrapped)
    jax.tree.map(np.testing.assert_array_equal, plain, ours)
    # Rate 0 drops nothing, and forgets nothing.
    same = sparsity.update_masks(state, ours, 0.0)
    jax.tree.map(np.testing.assert_array_equal, same, state)


def test_kept_weights_follow_the_optimizer_of_the_kept_weights_alone():
    """Reference: gather the kept weights into a vector and run plain Adam on that vector."""
    start = params()
    tx = sparsity.sparsify(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2)))
    state = sparsity.update_masks(tx.init(start), start, 0.5)
    keep = np.asarray(sparsity.current_masks(state)["w"])
    ours, _ = train(tx, sparsity.apply_masks(start, sparsity.current_masks(state)), state)

    inner = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    vector = {"w": jnp.asarray(np.asarray(start["w"])[keep]), "b": start["b"]}
    inner_state = inner.init(vector)
    for seed in range(5):
        g = jax.tree.map(np.asarray, gradients(seed))
        with jax.numpy_dtype_promotion("standard"):
            vector, inner_state = step_of(inner)({"w": g["w"][keep], "b": g["b"]}, inner_state, vector)
    np.testing.assert_allclose(np.asarray(ours["w"])[keep], vector["w"], atol=1e-6)
    np.testing.assert_allclose(ours["b"], vector["b"], atol=1e-6)


def test_moments_of_dropped_weights_are_forgotten_and_others_kept():
    tx = sparsity.sparsify(optax.adam(1e-2))
    start = params()
    trained, before = train(tx, start, tx.init(start))
    after = sparsity.update_masks(before, trained, 0.8)
    mask = np.asarray(sparsity.current_masks(after)["w"])
    old, new = before.inner_state[0], after.inner_state[0]
    for moment in ("mu", "nu"):
        assert (np.asarray(getattr(old, moment)["w"])[~mask] != 0).all(), (
            "nothing to forget: the test is void"
        )
        assert (np.asarray(getattr(new, moment)["w"])[~mask] == 0).all()
        kept = [np.asarray(getattr(moments, moment)["w"])[mask] for moments in (new, old)]
        np.testing.assert_array_equal(*kept)
        np.testing.assert_array_equal(getattr(new, moment)["b"], getattr(old, moment)["b"])
    assert int(new.count) == int(old.count) == 5


def test_masks_only_shrink_as_the_rate_rises():
    tx = sparsity.sparsify(optax.adam(1e-1))
    tree = params()
    state = tx.init(tree)
    before = np.ones((6, 5), bool)
    for rate in (0.3, 0.6, 0.9):
        state = sparsity.update_masks(state, tree, rate)
        mask = np.asarray(sparsity.current_masks(state)["w"])
        assert not (mask & ~before).any()
        assert (~mask).sum() == round(rate * 30)
        tree, state = train(tx, tree, state)
        before = mask


def test_as_the_last_link_of_a_chain_and_not_before_it():
    start = params()

    def zeros(tx):
        state = sparsity.update_masks(tx.init(start), start, 0.5)
        updates, _ = tx.update(gradients(0), state, start)
        return int((np.asarray(optax.apply_updates(start, updates)["w"]) == 0).sum())

    assert zeros(optax.chain(optax.scale(0.5), sparsity.sparsify(optax.sgd(0.1)))) == 15
    # The broken order: a link after it scales −w, and no weight lands on zero.
    assert zeros(optax.chain(sparsity.sparsify(optax.sgd(0.1)), optax.scale(0.5))) == 0


def test_scan_and_vmap_over_an_ensemble_agree_with_one_at_a_time():
    tx = sparsity.sparsify(optax.adam(1e-2))

    def run(tree):
        state = sparsity.update_masks(tx.init(tree), tree, 0.5)

        def step(carry, g):
            updates, state = tx.update(g, carry[1], carry[0])
            return (optax.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(step, (tree, state), inputs)[0][0]

    def stack(trees):
        return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *trees)

    inputs = stack(gradients(seed) for seed in range(4))
    members = [params(seed) for seed in range(3)]
    together = jax.device_get(jax.jit(jax.vmap(run))(stack(members)))
    alone = jax.jit(run)
    for i, member in enumerate(members):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-6), together, alone(member)
        )


def test_nnx_states_are_parameters_like_any_other():
    rng = np.random.default_rng(0)  # shapes are the module's, values are free: no initialiser to compile
    _, shapes = nnx.split(nnx.eval_shape(lambda: models.MLP((5, 7, 3), rngs=nnx.Rngs(0))), nnx.Param)
    state = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape).astype(np.float32)), shapes)
    tx = sparsity.sparsify(optax.adamw(1e-2))
    opt_state = jax.jit(sparsity.update_masks, static_argnums=2)(tx.init(state), state, 0.75)
    after, _ = step_of(tx)(state, opt_state, state)
    counts = sparsity.layer_zeros(after)
    assert set(counts) == {"layers.0.kernel", "layers.1.kernel"}
    assert sum(zeros for zeros, _ in counts.values()) == round(0.75 * 56)


def test_bfloat16_weights_reach_exact_zero():
    tree = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params())
    tx = sparsity.sparsify(optax.sgd(0.1))
    state = sparsity.update_masks(tx.init(tree), tree, 0.5)
    updates, _ = tx.update(tree, state, tree)
    assert int((np.asarray(optax.apply_updates(tree, updates)["w"]) == 0).sum()) == 15


def test_a_wide_update_of_a_narrow_weight_is_rounded_once():
    """Rounded to bfloat16 before it is added, momentum in float32 moved a third of the weights elsewhere."""
    rng = np.random.default_rng(0)
    start, slope = ({"w": jnp.asarray(rng.normal(size=(64, 64)), jnp.bfloat16)} for _ in range(2))
    plain = optax.sgd(0.1, momentum=0.9, accumulator_dtype=jnp.float32)

    def after(tx, state):
        params = start
        with jax.numpy_dtype_promotion("standard"):  # optax adds float32 to bfloat16
            for _ in range(20):
                updates, state = tx.update(slope, state, params)
                params = optax.apply_updates(params, updates)
        return np.asarray(params["w"])

    masked = sparsity.sparsify(plain)
    state = sparsity.update_masks(masked.init(start), start, 0.5)
    alone, kept = after(plain, plain.init(start)), np.asarray(state.masks["w"])
    held = after(masked, state)
    np.testing.assert_array_equal(held[kept], alone[kept])
    assert not held[~kept].any()


def test_mistakes_are_named():
    tx = sparsity.sparsify(optax.sgd(0.1))
    tree = params()
    with pytest.raises(ValueError, match="update\\(gradients, state, params\\)"):
        tx.update(tree, tx.init(tree))
    with pytest.raises(ValueError, match="nothing to prune"):
        tx.init({"b": jnp.ones(3)})
    with pytest.raises(ValueError, match="sparsify\\(optimizer\\)"):
        sparsity.update_masks(optax.adam(1e-3).init(tree), tree, 0.5)
    with pytest.raises(ValueError, match="pattern 'globl' is unknown"):
        sparsity.update_masks(tx.init(tree), tree, 0.5, pattern="globl")
    with pytest.raises(ValueError, match="score"):
        sparsity.update_masks(tx.init(tree), tree, 0.5, score="size")
