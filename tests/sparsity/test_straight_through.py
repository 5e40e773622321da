"""The straight-through variant: masked values, gradients for all, masks that come back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsekd_jax import sparsity


def regression(seed=0):
    rng = np.random.default_rng(seed)
    truth = np.where(rng.random((20, 10)) < 0.3, rng.normal(size=(20, 10)), 0.0)
    inputs = rng.normal(size=(200, 20))
    params = {"w": rng.normal(size=(20, 10)), "b": np.zeros(10)}
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, inputs, inputs @ truth, truth))
    return single


def loss(params, inputs, labels):
    return jnp.mean((inputs @ params["w"] + params["b"][None] - labels) ** 2)


def test_the_value_is_masked_and_the_gradient_passes():
    params, inputs, labels, _ = regression()
    masks = {"w": jnp.asarray(np.random.default_rng(1).random((20, 10)) < 0.5), "b": None}

    def forward(p):
        return loss(sparsity.straight_through(p, masks), inputs, labels)

    masked = sparsity.apply_masks(params, masks)
    jax.tree.map(np.testing.assert_array_equal, sparsity.straight_through(params, masks), masked)
    assert forward(params) == loss(masked, inputs, labels)
    through = jax.jit(jax.grad(forward))(params)
    at_the_masked_point = jax.grad(loss)(masked, inputs, labels)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), through, at_the_masked_point
    )
    # The broken twin: the gradient of apply_masks is zero where a weight is dropped.
    blocked = jax.grad(lambda p: loss(sparsity.apply_masks(p, masks), inputs, labels))(params)
    assert (np.asarray(blocked["w"])[~np.asarray(masks["w"])] == 0).all()
    assert (np.asarray(through["w"])[~np.asarray(masks["w"])] != 0).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.0])
def test_dropped_values_are_zero_whatever_they_were(bad):
    params = {"w": jnp.array([[bad, 1.5]])}
    masks = {"w": jnp.array([[False, True]])}
    out = np.asarray(sparsity.straight_through(params, masks)["w"])
    np.testing.assert_array_equal(out, [[0.0, 1.5]])
    assert not np.signbit(out).any()
    if not np.isfinite(bad):  # the usual form, w + stop_gradient(masked − w), is the broken twin
        w = params["w"]
        assert np.isnan(np.asarray(w + jax.lax.stop_gradient(jnp.where(masks["w"], w, 0) - w))[0, 0])


def train(tx, params, state, inputs, labels, steps):
    @jax.jit
    def step(params, state):
        masks = sparsity.current_masks(state)
        gradients = jax.grad(lambda p: loss(sparsity.straight_through(p, masks), inputs, labels))(params)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def test_dense_weights_train_and_dropped_ones_come_back():
    params, inputs, labels, truth = regression()
    tx = sparsity.sparsify(optax.adam(3e-2), straight_through=True)
    state = sparsity.update_masks(tx.init(params), params, 0.7)
    first = np.asarray(sparsity.current_masks(state)["w"])
    for _ in range(8):
        params, state = train(tx, params, state, inputs, labels, 25)
        assert sparsity.zero_fraction(params) == 0.0, "dense until export"
        state = sparsity.update_masks(state, params, 0.7)
        assert (~np.asarray(sparsity.current_masks(state)["w"])).sum() == 140
    last = np.asarray(sparsity.current_masks(state)["w"])
    assert (last & ~first).sum() > 10, "masks come back"
    exported = sparsity.apply_masks(params, sparsity.current_masks(state))
    assert sparsity.zero_fraction(exported) == 0.7
    support = np.asarray(truth) != 0
    assert (last & support).sum() > (first & support).sum() + 10, "and towards the true support"


def test_it_is_the_inner_optimizer_and_forgets_nothing():
    params, inputs, labels, _ = regression()
    inner, tx = optax.adamw(1e-2), sparsity.sparsify(optax.adamw(1e-2), straight_through=True)
    gradients = jax.grad(loss)(params, inputs, labels)
    state = sparsity.update_masks(tx.init(params), params, 0.7)
    ours, state = tx.update(gradients, state, params)
    with jax.numpy_dtype_promotion("standard"):
        plain, inner_state = inner.update(gradients, inner.init(params), params)
    jax.tree.map(np.testing.assert_array_equal, ours, plain)
    state = sparsity.update_masks(state, params, 0.9)
    jax.tree.map(np.testing.assert_array_equal, state.inner_state, inner_state)
    assert isinstance(state, sparsity.StraightThroughState)
    assert isinstance(jax.jit(lambda s: s)(state), sparsity.StraightThroughState)


def test_params_are_asked_for_as_without_it():
    params = regression()[0]
    tx = sparsity.sparsify(optax.sgd(0.1), straight_through=True)
    with pytest.raises(ValueError, match=r"update\(gradients, state, params\)"):
        tx.update(params, tx.init(params))
