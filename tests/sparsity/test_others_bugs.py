"""Mistakes seen in other people's sparsity code, each kept out by name, each beside the mistake itself.

From the list of examples to follow: jaxpruner 0.1, qwix, and what goes wrong with weight masks in optax.
"""

import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsekd_jax import sparsity
from tests.sparsity.steps import node, stepper, tree


def test_qwix_keeps_0_of_8_on_ties():
    """A mask by threshold, ``score > k-th score``, drops everything where all scores are equal."""
    ones = jnp.ones((1, 8))
    twin = ones > jnp.sort(ones.ravel())[3]
    assert int(twin.sum()) == 0
    for pattern in (
        *sparsity.PATTERNS.values(),
        sparsity.n_m(2, 4, axis=-1),
        sparsity.block((1, 2)),
        sparsity.channel(),
    ):
        for rate, kept in ((0.0, 8), (0.5, 4)):
            assert int(pattern({"w": ones}, rate)["w"].sum()) == kept


def test_jaxpruner_calls_what_jax_has_removed():
    """``jax.tree_map`` and its kin are gone: no file of the room may come to need them again."""
    removed = ("jax.tree_map", "jax.tree_leaves", "jax.tree_util.tree_multimap", "jax.tree_multimap")
    assert not hasattr(jax, "tree_map"), "the mistake is one no longer"
    for module in pkgutil.iter_modules(sparsity.__path__):
        source = inspect.getsource(__import__(f"{sparsity.__name__}.{module.name}", fromlist=["_"]))
        assert not [name for name in removed if name in source]


def test_a_mask_times_gradient_does_not_make_zeros():
    """Masking gradients before the optimizer leaves weights where they were, and weight decay moves them."""
    params, gradients = tree(0), tree(1)
    tx = sparsity.sparsify(optax.adamw(0.1, weight_decay=0.1))
    state = sparsity.update_masks(tx.init(params), params, 0.8)
    after, _ = stepper(tx)(gradients, state, params)
    assert int((np.asarray(after["w"]) == 0).sum()) == 800

    masked = jax.tree.map(lambda g: g, gradients) | {"w": jnp.where(state.masks["w"], gradients["w"], 0.0)}
    twin = optax.adamw(0.1, weight_decay=0.1)
    after, _ = stepper(twin)(masked, twin.init(params), params)
    assert int((np.asarray(after["w"]) == 0).sum()) == 0


def test_what_follows_the_wrapper_in_a_chain_undoes_its_zeros():
    """``where(mask, u, −w)`` has to be the last link: a learning rate after it would scale −w."""
    params = tree(0)

    def zeros(tx):
        state = sparsity.update_masks(tx.init(params), params, 0.8)
        return int((np.asarray(stepper(tx)(tree(1), state, params)[0]["w"]) == 0).sum())

    assert zeros(optax.chain(optax.scale_by_adam(), sparsity.sparsify(optax.scale(-0.01)))) == 800
    assert zeros(optax.chain(sparsity.sparsify(optax.scale_by_adam()), optax.scale(-0.01))) == 0


@pytest.mark.parametrize(("inside", "counted"), [(True, 2), (False, 8)])
def test_a_counter_inside_multisteps_counts_updates_and_outside_micro_steps(inside, counted):
    """A pruner that reads its step from the wrong side of MultiSteps prunes k times too early or late."""
    inner = optax.sgd(0.1)
    tx = (
        optax.MultiSteps(sparsity.sparsify(inner), 4).gradient_transformation()
        if inside
        else sparsity.sparsify(optax.MultiSteps(inner, 4).gradient_transformation())
    )
    step, params = stepper(tx), tree(0)
    state = tx.init(params)
    for seed in range(8):
        params, state = step(tree(seed), state, params)
    assert int(node(state).num_updates) == counted
    # Masks themselves do not count: they change when update_masks is called, on either side.
    state = sparsity.update_masks(state, params, 0.5)
    assert int(sparsity.current_masks(state)["w"].sum()) == 500


def test_stale_momentum_moves_a_weight_that_comes_back():
    """Moments that survive a prune push a regrown weight by the gradients of its former life."""
    params = tree(0)
    tx = sparsity.sparsify(optax.sgd(0.1, momentum=0.9))
    step = stepper(tx)
    params, state = step(tree(1), tx.init(params), params)
    state = sparsity.update_masks(state, params, 0.8)
    params = sparsity.apply_masks(params, state.masks)
    params, regrown = sparsity.regrow(state, params, tree(2), 0.3)
    grown = np.asarray(regrown.masks["w"] & ~state.masks["w"])
    still = {"w": jnp.zeros_like(params["w"]), "b": params["b"]}
    after, _ = step(still, regrown, params)
    assert (np.asarray(after["w"])[grown] == 0).all()  # no gradient, no move

    stale = jax.tree.map(lambda a: jnp.ones_like(a) if a.shape == (40, 25) else a, regrown.inner_state)
    after, _ = step(still, regrown._replace(inner_state=stale), params)
    assert (np.asarray(after["w"])[grown] != 0).all()
