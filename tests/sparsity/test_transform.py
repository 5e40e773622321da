"""sparsify: exact zeros through any optimizer, moments forgotten, masks only where asked."""

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


def params(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "w": jnp.asarray(rng.normal(size=(6, 5)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=5), jnp.float32),
    }


def gradients(seed):
    return jax.tree.map(lambda leaf: leaf * 3, params(seed + 100))


def train(tx, tree, state, steps=5):
    for step in range(steps):
        updates, state = tx.update(gradients(step), state, tree)
        tree = optax.apply_updates(tree, updates)
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
    with jax.numpy_dtype_promotion("standard"):
        plain, _ = train(inner, start, inner.init(start))
    ours, state = train(wrapped, start, wrapped.init(start))
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
    vector = {"w": start["w"][keep], "b": start["b"]}
    inner_state = inner.init(vector)
    for step in range(5):
        g = gradients(step)
        with jax.numpy_dtype_promotion("standard"):
            u, inner_state = inner.update({"w": g["w"][keep], "b": g["b"]}, inner_state, vector)
        vector = optax.apply_updates(vector, u)
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
        np.testing.assert_array_equal(getattr(new, moment)["w"][mask], getattr(old, moment)["w"][mask])
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
        return int((optax.apply_updates(start, updates)["w"] == 0).sum())

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

        stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *(gradients(s) for s in range(4)))
        return jax.lax.scan(step, (tree, state), stacked)[0][0]

    members = [params(seed) for seed in range(3)]
    together = jax.jit(jax.vmap(run))(jax.tree.map(lambda *xs: jnp.stack(xs), *members))
    for i, member in enumerate(members):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_allclose(a[i], b, atol=1e-6), together, run(member))


def test_nnx_states_are_parameters_like_any_other():
    _, state = nnx.split(models.MLP((5, 7, 3), rngs=nnx.Rngs(0)), nnx.Param)
    tx = sparsity.sparsify(optax.adamw(1e-2))
    opt_state = sparsity.update_masks(tx.init(state), state, 0.75)
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, state), opt_state, state)
    counts = sparsity.layer_zeros(optax.apply_updates(state, updates))
    assert set(counts) == {"layers.0.kernel", "layers.1.kernel"}
    assert sum(zeros for zeros, _ in counts.values()) == round(0.75 * 56)


def test_bfloat16_weights_reach_exact_zero():
    tree = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params())
    tx = sparsity.sparsify(optax.sgd(0.1))
    state = sparsity.update_masks(tx.init(tree), tree, 0.5)
    updates, _ = tx.update(tree, state, tree)
    assert int((optax.apply_updates(tree, updates)["w"] == 0).sum()) == 15


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
