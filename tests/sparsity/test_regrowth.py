"""regrow: counts, choices and moments against RigL in plain numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsekd_jax import sparsity
from tests.sparsity import reference

SHAPES = {"bias": (50,), "one": (60, 50), "two": (50, 20)}


def draw(seed, levels=None, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    tree = {name: rng.normal(size=shape) for name, shape in SHAPES.items()}
    if levels is not None:
        tree = {name: np.round(levels * leaf) / levels for name, leaf in tree.items()}
    return {name: jnp.asarray(leaf, dtype) for name, leaf in tree.items()}


TX = sparsity.sparsify(optax.adam(1e-2))


@functools.cache
def trained(rate=0.8, levels=None, dtype=jnp.float32):
    """Parameters and state after a prune and some steps, so that there are moments to forget."""
    params = draw(0, levels, dtype)
    state = TX.init(params)
    state = sparsity.update_masks(state, params, rate)
    params = sparsity.apply_masks(params, state.masks)
    step = jax.jit(TX.update)
    for seed in range(3):
        updates, state = step(draw(10 + seed, dtype=dtype), state, params)
        params = optax.apply_updates(params, updates) if levels is None else params
    return params, state


@pytest.mark.parametrize("levels", [None, 2])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("rate", [0.1, 0.8])
def test_it_moves_what_rigl_moves(fraction, rate, levels):
    params, state = trained(rate, levels)
    gradients = draw(5, levels)
    after, new_state = jax.jit(sparsity.regrow)(state, params, gradients, fraction)
    assert new_state.masks["bias"] is None
    np.testing.assert_array_equal(after["bias"], params["bias"])
    for name in ("one", "two"):
        mask, new = np.asarray(state.masks[name]), np.asarray(new_state.masks[name])
        count = min(round(fraction * int(mask.sum())), int((~mask).sum()))
        expected, dropped, grown = reference.regrow(
            mask, np.asarray(params[name]), np.asarray(gradients[name]), count
        )
        np.testing.assert_array_equal(new, expected)
        assert new.sum() == mask.sum()
        assert len(dropped) == len(grown) == count == (new & ~mask).sum() == (mask & ~new).sum()
        weights = np.asarray(after[name])
        np.testing.assert_array_equal(weights, np.where(mask & new, np.asarray(params[name]), 0.0))
        for moment in ("mu", "nu"):
            before = np.asarray(getattr(state.inner_state[0], moment)[name])
            now = np.asarray(getattr(new_state.inner_state[0], moment)[name])
            np.testing.assert_array_equal(now, np.where(mask & new, before, 0.0))
            if count:
                assert (before[mask & ~new] != 0).any(), "nothing to forget: the test is void"


def test_a_weight_dropped_now_is_not_regrown_now():
    """The broken twin grows by gradient among all that is not kept, and takes back what it dropped."""
    params, state = trained()
    mask, w = np.asarray(state.masks["one"]), np.abs(np.asarray(params["one"]))
    weakest = mask & (w <= np.sort(w[mask])[99])
    gradients = {**draw(5), "one": jnp.asarray(np.where(weakest, 100.0, draw(5)["one"]).astype(np.float32))}
    _, new_state = sparsity.regrow(state, params, gradients, 100 / mask.sum())
    new = np.asarray(new_state.masks["one"])
    assert not (new & weakest).any()
    assert (new & ~mask).sum() == 100
    stayed = mask & ~weakest
    twin = stayed | reference.keep(np.where(stayed, -1.0, np.abs(np.asarray(gradients["one"]))), 100)
    assert (twin & weakest).sum() == 100


def test_training_goes_on_and_zeros_stay_exact():
    params, state = trained()
    total = {name: int((~np.asarray(m)).sum()) for name, m in state.masks.items() if m is not None}
    step = jax.jit(TX.update)
    for seed in range(4):
        params, state = sparsity.regrow(state, params, draw(20 + seed), 0.3)
        grown = np.asarray(params["one"] == 0) & np.asarray(state.masks["one"])
        assert grown.sum() > 100
        updates, state = step(draw(30 + seed), state, params)
        params = optax.apply_updates(params, updates)
        assert (np.asarray(params["one"])[grown] != 0).all(), "a regrown weight trains"
        zeros = sparsity.layer_zeros(params)
        assert {name: count for name, (count, _) in zeros.items()} == total


def test_a_regrown_weight_starts_at_zero_though_its_old_value_was_there_still():
    params = draw(0)
    state = sparsity.update_masks(TX.init(params), params, 0.8)  # parameters not masked yet
    after, new_state = sparsity.regrow(state, params, draw(5), 0.3)
    grown = np.asarray(new_state.masks["one"]) & ~np.asarray(state.masks["one"])
    assert (np.asarray(params["one"])[grown] != 0).all()
    assert (np.asarray(after["one"])[grown] == 0).all()


def test_each_member_of_an_ensemble_moves_its_own_count():
    members = [trained(rate) for rate in (0.5, 0.9)]
    stack = functools.partial(jax.tree.map, lambda *leaves: jnp.stack(leaves))
    params, states = (stack(*parts) for parts in zip(*members, strict=True))
    gradients = stack(draw(5), draw(6))
    together, _ = jax.jit(jax.vmap(sparsity.regrow, in_axes=(0, 0, 0, None)))(states, params, gradients, 0.3)
    for i, (member, state) in enumerate(members):
        alone, _ = sparsity.regrow(state, member, draw(5 + i), 0.3)
        np.testing.assert_array_equal(together["one"][i], alone["one"])


def test_a_decaying_fraction_compiles_once():
    traces = []

    @jax.jit
    def move(state, params, gradients, fraction):
        traces.append(1)
        return sparsity.regrow(state, params, gradients, fraction)

    params, state = trained()
    for fraction in (0.3, 0.2, 0.1):
        params, state = move(state, params, draw(5), fraction)
    assert len(traces) == 1


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -0.0])
def test_nan_infinity_and_signed_zeros_do_not_push_the_count_off(bad):
    params, state = trained()
    spoiled = {**params, "one": jnp.where(state.masks["one"], params["one"].at[::7].set(bad), 0.0)}
    gradients = {**draw(5), "one": draw(5)["one"].at[::3].set(bad)}
    after, new_state = sparsity.regrow(state, spoiled, gradients, 0.3)
    mask, new = np.asarray(state.masks["one"]), np.asarray(new_state.masks["one"])
    assert new.sum() == mask.sum()
    assert (new & ~mask).sum() == round(0.3 * mask.sum())
    assert (np.asarray(after["one"])[~new] == 0).all()


def test_bfloat16_counts_are_exact_as_well():
    params, state = trained(dtype=jnp.bfloat16)
    after, new_state = sparsity.regrow(state, params, draw(5, dtype=jnp.bfloat16), 0.3)
    assert after["one"].dtype == jnp.bfloat16
    assert int(new_state.masks["one"].sum()) == int(state.masks["one"].sum())


def test_mistakes_are_named_with_their_remedy():
    params, state = trained()
    with pytest.raises(
        ValueError, match=r"fraction must be a share in \[0, 1\], got 30; did you mean 0\.3\?"
    ):
        sparsity.regrow(state, params, params, 30)
    with pytest.raises(ValueError, match="fraction"):
        sparsity.regrow(state, params, params, float("nan"))
    with pytest.raises(ValueError, match="gradients must have the tree structure of params"):
        sparsity.regrow(state, params, {"one": params["one"]}, 0.3)
    with pytest.raises(ValueError, match=r"sparsify\(optimizer\)"):
        sparsity.regrow(optax.adam(1e-3).init(params), params, params, 0.3)
    dense = sparsity.sparsify(optax.sgd(0.1), straight_through=True).init(params)
    with pytest.raises(ValueError, match=r"straight_through: .* come back by update_masks"):
        sparsity.regrow(dense, params, params, 0.3)
