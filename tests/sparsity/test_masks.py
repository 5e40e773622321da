"""Masks: exact counts, ties, exclusions, against a plain numpy sort."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsekd_jax import sparsity

RATES = [0.0, 1 / 3, 0.95]


def weights(seed=0):
    rng = np.random.default_rng(seed)
    return {"a": rng.normal(size=(20, 30)), "b": 0.1 * rng.normal(size=(30, 7))}


def scores(tree):
    return {name: jnp.asarray(np.abs(w).astype(np.float32)) for name, w in tree.items()}


@pytest.mark.parametrize("rate", RATES)
def test_global_masks_keep_what_a_sort_keeps(rate):
    tree = scores(weights())
    masks = sparsity.global_masks({**tree, "bias": None}, rate)
    assert masks["bias"] is None
    flat = np.concatenate([np.ravel(tree[name]) for name in "ab"])
    dropped = round(rate * flat.size)
    expected = np.ones(flat.size, bool)
    expected[np.argsort(flat, kind="stable")[:dropped]] = False
    np.testing.assert_array_equal(np.concatenate([np.ravel(masks[name]) for name in "ab"]), expected)


@pytest.mark.parametrize("rate", RATES)
def test_layer_masks_meet_the_rate_in_each_layer(rate):
    tree = scores(weights())
    masks = sparsity.layer_masks({**tree, "bias": None}, rate)
    assert masks["bias"] is None
    for name in "ab":
        mask, score = np.asarray(masks[name]), np.asarray(tree[name])
        assert (~mask).sum() == round(rate * score.size)
        if round(rate * score.size) not in (0, score.size):
            assert score[~mask].max() <= score[mask].min()


def test_global_and_layer_differ_where_layers_differ_in_scale():
    tree = scores(weights())
    dropped = {name: float((~np.asarray(m)).mean()) for name, m in sparsity.global_masks(tree, 0.5).items()}
    assert dropped["b"] > 0.9 > 0.5 > dropped["a"]


@pytest.mark.parametrize("pattern", list(sparsity.PATTERNS.values()))
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("size", [8, 9])
def test_ties_do_not_change_the_count(pattern, rate, size):
    masks = pattern({"w": jnp.ones((1, size))}, rate)
    assert (~np.asarray(masks["w"])).sum() == round(rate * size)
    # The broken twin, a threshold at the k-th score, keeps all or nothing here.
    threshold = np.sort(np.ones(size))[min(round(rate * size), size - 1)]
    if 0 < round(rate * size) < size:
        assert int((np.ones(size) > threshold).sum()) != size - round(rate * size)


@pytest.mark.parametrize("rate", [1.0, -0.1, 95.0, float("nan")])
def test_a_rate_outside_the_range_is_named(rate):
    with pytest.raises(ValueError, match="rate"):
        sparsity.global_masks({"w": jnp.ones((2, 2))}, rate)
    if rate == 95.0:
        with pytest.raises(ValueError, match=r"did you mean 0\.95"):
            sparsity.count_to_drop(rate, 10)


def test_masks_vmap_over_an_ensemble():
    stacked = {"w": jnp.asarray(np.random.default_rng(0).normal(size=(3, 4, 5)), jnp.float32)}
    together = jax.vmap(lambda s: sparsity.global_masks(s, 0.7))(stacked)["w"]
    for member in range(3):
        alone = sparsity.global_masks({"w": stacked["w"][member]}, 0.7)["w"]
        np.testing.assert_array_equal(together[member], alone)


def test_zeros_are_counted_where_weights_may_be_dropped():
    params = {"w": jnp.array([[0.0, 1.0], [0.0, 0.0]]), "b": jnp.zeros(2)}
    assert sparsity.layer_zeros(params) == {"w": (3, 4)}
    assert sparsity.zero_fraction(params) == 0.75
    assert sparsity.layer_zeros(params, lambda name, _: name == "b") == {"b": (2, 2)}


def test_a_dropped_nan_becomes_zero():
    out = sparsity.apply_masks(
        {"w": jnp.array([jnp.nan, -1.0]), "b": jnp.ones(1)}, {"w": jnp.array([False, False]), "b": None}
    )
    np.testing.assert_array_equal(out["w"], [0.0, 0.0])
    assert not np.signbit(np.asarray(out["w"])).any()
    assert out["b"].tolist() == [1.0]


@pytest.mark.parametrize("mask", [jnp.ones(2, bool), jnp.ones((3, 1, 1), bool), jnp.full((2, 2), 0.5), True])
def test_masks_that_are_not_a_bool_a_weight_are_refused(mask):
    """Broadcast, a mask [2] spoke for every row, one of [3, 1, 1] made new weights, and 0.5 kept all."""
    params = {"w": jnp.ones((2, 2))}
    says = r"masks holds .* for w of shape \(2, 2\); give a bool for each weight"
    for function in (sparsity.apply_masks, sparsity.straight_through):
        with pytest.raises(ValueError, match=says):
            function(params, {"w": mask})
    for straight_through in (False, True):
        state = sparsity.sparsify(optax.sgd(0.1), straight_through=straight_through).init(params)
        with pytest.raises(ValueError, match=says):
            sparsity.update_masks(state, params, 0.5, pattern=lambda scores, rate: {"w": mask})


def test_masks_and_params_in_each_others_place_are_refused():
    params = {"b": jnp.ones(2), "w": jnp.ones((2, 2))}
    masks = {"b": None, "w": jnp.ones((2, 2), bool)}
    with pytest.raises(ValueError, match=r"masks holds float32.* for b of what has no shape; give a bool"):
        sparsity.apply_masks(masks, params)
    with pytest.raises(ValueError, match=r"masks holds bool.* for layer of what has no shape; give a bool"):
        sparsity.apply_masks({"layer": params}, {"layer": masks["w"]})
