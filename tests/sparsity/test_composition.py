"""Inside chains, around and inside MultiSteps: what is zero when, and what is counted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsekd_jax import sparsity
from tests.sparsity.steps import node, stepper, tree

EVERY = 4
INNERS = {
    "momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: optax.adamw(1e-2, weight_decay=0.1),
    "noisy": lambda: optax.chain(optax.add_noise(0.1, 0.5, 0), optax.sgd(0.1)),
}
WRAPPINGS = {
    "alone": lambda inner: sparsity.sparsify(inner),
    "last in a chain": lambda inner: optax.chain(
        optax.clip_by_global_norm(1.0), optax.add_decayed_weights(0.1), sparsity.sparsify(inner)
    ),
    "around a chain": lambda inner: sparsity.sparsify(optax.chain(inner, optax.scale(0.5))),
    "around MultiSteps": lambda inner: sparsity.sparsify(
        optax.MultiSteps(inner, EVERY).gradient_transformation()
    ),
    "inside MultiSteps": lambda inner: optax.MultiSteps(
        sparsity.sparsify(inner), EVERY
    ).gradient_transformation(),
    "inside both": lambda inner: optax.MultiSteps(
        optax.chain(optax.scale(2.0), sparsity.sparsify(inner)), EVERY
    ).gradient_transformation(),
}


@pytest.mark.parametrize("wrapping", list(WRAPPINGS))
@pytest.mark.parametrize("name", list(INNERS))
def test_zeros_are_exact_at_every_micro_step_once_masks_are_applied(name, wrapping):
    tx = WRAPPINGS[wrapping](INNERS[name]())
    step, params = stepper(tx), tree(0)
    state = tx.init(params)
    seed = 0
    for rate in (0.5, 0.9):
        state = sparsity.update_masks(state, params, rate)
        mask = np.asarray(sparsity.current_masks(state)["w"])
        assert (~mask).sum() == round(rate * 1000)
        params = sparsity.apply_masks(params, sparsity.current_masks(state))
        for _ in range(2 * EVERY):
            seed += 1
            params, state = step(tree(seed), state, params)
            np.testing.assert_array_equal(np.asarray(params["w"]) == 0, ~mask)


@pytest.mark.parametrize("wrapping", list(WRAPPINGS))
def test_without_apply_masks_the_first_update_makes_the_zeros(wrapping):
    tx = WRAPPINGS[wrapping](INNERS["adamw"]())
    step, params = stepper(tx), tree(0)
    state = sparsity.update_masks(tx.init(params), params, 0.5)
    zeros = []
    for seed in range(1, 2 * EVERY + 1):
        params, state = step(tree(seed), state, params)
        zeros.append(int((np.asarray(params["w"]) == 0).sum()))
    first = EVERY - 1 if wrapping.startswith("inside") else 0
    assert zeros == [0] * first + [500] * (2 * EVERY - first)


@pytest.mark.parametrize("wrapping", list(WRAPPINGS))
def test_num_updates_counts_updates_inside_multisteps_and_micro_steps_around_it(wrapping):
    tx = WRAPPINGS[wrapping](INNERS["adamw"]())
    step, params = stepper(tx), tree(0)
    state = tx.init(params)
    counts, first = [], params
    for seed in range(1, 2 * EVERY + 1):
        params, state = step(tree(seed), state, params)
        counts.append(int(node(state).num_updates))
    micro = list(range(1, 2 * EVERY + 1))
    assert counts == ([k // EVERY for k in micro] if wrapping.startswith("inside") else micro)
    assert (np.asarray(params["w"]) != np.asarray(first["w"])).all()
    before = counts[-1]
    state = sparsity.update_masks(state, params, 0.5)
    params, state = sparsity.regrow(state, params, tree(9), 0.1)
    assert int(node(state).num_updates) == before, "changing masks is no update"


def test_multisteps_inside_and_around_train_alike():
    """With zeros held from the start the two orders are the same training, up to the mean's rounding."""
    results = []
    for wrapping in ("around MultiSteps", "inside MultiSteps"):
        tx = WRAPPINGS[wrapping](optax.adam(1e-2))
        step, params = stepper(tx), tree(0)
        state = sparsity.update_masks(tx.init(params), params, 0.8)
        params = sparsity.apply_masks(params, sparsity.current_masks(state))
        for seed in range(1, 3 * EVERY + 1):
            params, state = step(tree(seed), state, params)
        results.append(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *results)


def test_gradients_accumulated_before_a_prune_are_forgotten_with_the_moments():
    tx = WRAPPINGS["around MultiSteps"](optax.adam(1e-2))
    step, params = stepper(tx), tree(0)
    params, state = step(tree(1), tx.init(params), params)
    state = sparsity.update_masks(state, params, 0.5)
    dropped = ~np.asarray(state.masks["w"])
    accumulated = np.asarray(state.inner_state.acc_grads["w"])
    assert (accumulated[dropped] == 0).all()
    assert (accumulated[~dropped] != 0).all()


@pytest.mark.parametrize("wrapping", list(WRAPPINGS))
def test_a_diverged_weight_is_dropped_by_apply_masks_and_stays_zero(wrapping):
    tx = WRAPPINGS[wrapping](optax.sgd(0.1))
    step, params = stepper(tx), tree(0)
    masks_only = sparsity.update_masks(tx.init(params), params, 0.5)
    mask = np.asarray(sparsity.current_masks(masks_only)["w"])
    spoiled = {**params, "w": jnp.where(mask, params["w"], jnp.nan)}
    # The broken twin, no apply_masks: NaN + −NaN is NaN.
    assert np.isnan(np.asarray(step(tree(1), masks_only, spoiled)[0]["w"])[~mask]).all()
    params, state = sparsity.apply_masks(spoiled, sparsity.current_masks(masks_only)), masks_only
    for seed in range(EVERY):
        params, state = step(tree(seed), state, params)
        np.testing.assert_array_equal(np.asarray(params["w"]) == 0, ~mask)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_zeros_are_positive_zeros_also_for_negative_zero_weights(dtype):
    tx = sparsity.sparsify(optax.adamw(1e-2))
    params = {**tree(0, dtype), "w": tree(0, dtype)["w"].at[::2].set(-0.0)}
    state = sparsity.update_masks(tx.init(params), params, 0.5)
    assert not np.asarray(state.masks["w"])[::2].any()
    after, _ = stepper(tx)(tree(1, dtype), state, params)
    zeros = np.asarray(after["w"], np.float32)[::2]
    assert after["w"].dtype == dtype
    assert (zeros == 0).all()
    assert not np.signbit(zeros).any()


def test_masks_are_chosen_between_scans_and_never_inside_update():
    """No sort, no top_k, no branch in the compiled step: under vmap a branch would cost both its sides."""
    tx, params = sparsity.sparsify(optax.adam(1e-2)), tree(0)

    def primitives(function, *arguments):
        return {
            word
            for word in ("sort", "top_k", "cond")
            if f"{word}[" in str(jax.make_jaxpr(function)(*arguments))
        }

    state = tx.init(params)
    assert primitives(tx.update, params, state, params) == set()
    assert "top_k" in primitives(lambda s, p: sparsity.update_masks(s, p, 0.5), state, params)


LAYERS = {"enc": {"w": jnp.array([[1.0, -3.0, 0.5, 2.0]])}, "dec": {"w": jnp.array([[4.0, 1.0, -2.0, 0.5]])}}
SLOPES = jax.tree.map(lambda w: jnp.full_like(w, 0.5), LAYERS)


def moments(state):
    """The first moments of adam by layer, wherever optax keeps them."""
    found = [
        leaf for leaf in jax.tree.leaves(state, is_leaf=lambda n: hasattr(n, "mu")) if hasattr(leaf, "mu")
    ]
    return {
        name: np.asarray(adam.mu[name]["w"])
        for adam in found
        for name in adam.mu
        if not isinstance(adam.mu[name], optax.MaskedNode)
        and not isinstance(adam.mu[name]["w"], optax.MaskedNode)
    }


def test_an_optimizer_a_layer_forgets_as_one_for_all():
    """optax.partition inside sparsify: its states have holes, and what they hold of a dropped weight goes."""
    label = {"enc": "a", "dec": "b"}
    parted = sparsity.sparsify(optax.partition({"a": optax.adam(0.1), "b": optax.adam(0.1)}, label))
    plain, states = sparsity.sparsify(optax.adam(0.1)), []
    for tx in (plain, parted):
        state = sparsity.update_masks(tx.init(LAYERS), LAYERS, 0.5)
        params, state = stepper(tx)(SLOPES, state, LAYERS)
        grown = jax.tree.map(lambda g, w: jnp.where(w == 0, 9.0, g), SLOPES, params)
        states.append(sparsity.regrow(state, params, grown, 0.5)[1])
    for name, wanted in moments(states[0]).items():
        np.testing.assert_array_equal(moments(states[1])[name], wanted)
        assert (wanted == 0).sum() > 2
        assert (wanted != 0).any()


def test_a_sparsify_a_layer_has_masks_of_its_own():
    label = {"enc": "a", "dec": "b"}
    tx = optax.partition({key: sparsity.sparsify(optax.adam(0.1)) for key in "ab"}, label)
    state = sparsity.update_masks(tx.init(LAYERS), LAYERS, 0.5)
    params, state = stepper(tx)(SLOPES, state, LAYERS)
    for name in LAYERS:
        assert int((params[name]["w"] == 0).sum()) == 2
    params, state = sparsity.regrow(state, params, jax.tree.map(lambda g: 0.1 + g, SLOPES), 0.5)
    with pytest.raises(ValueError, match=r"masks of 2 sparsify; give the state of one"):
        sparsity.current_masks(state)
    masks = sparsity.current_masks(state.inner_states["a"])
    assert masks["dec"] is None or masks["dec"]["w"] is None
    assert int(sparsity.apply_masks(LAYERS, masks)["enc"]["w"].astype(bool).sum()) == 2


def test_under_optax_masked_the_others_stay():
    tx = optax.masked(sparsity.sparsify(optax.adam(0.1)), {"enc": True, "dec": False})
    state = sparsity.update_masks(tx.init(LAYERS), LAYERS, 0.75, score="taylor", gradients=SLOPES)
    params, _ = stepper(tx)(SLOPES, state, LAYERS)
    assert int((params["enc"]["w"] == 0).sum()) == 3
    np.testing.assert_array_equal(params["dec"]["w"], LAYERS["dec"]["w"] + SLOPES["dec"]["w"])
