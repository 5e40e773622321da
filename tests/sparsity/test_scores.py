"""Scores: their formulas in float64, what they ask for, and what a user's own function gets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sparsekd_jax import sparsity
from tests.sparsity import reference

SHAPES = {"bias": (30,), "one": (40, 30), "two": (30, 40)}


def tree(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}


def start(params):
    return sparsity.sparsify(optax.adam(1e-3)).init(params)


FORMULAS = {
    "magnitude": lambda w, g: np.abs(w),
    "taylor": lambda w, g: np.abs(w * g),
    "movement": lambda w, g: -w * g,
}


@pytest.mark.parametrize("name", list(FORMULAS))
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_masks_keep_what_the_formula_ranks_highest(name, dtype):
    params, gradients = tree(0, dtype), tree(1, dtype)
    state = sparsity.update_masks(start(params), params, 0.8, score=name, gradients=gradients)
    flat = np.concatenate(
        [
            FORMULAS[name](np.asarray(params[k], np.float32), np.asarray(gradients[k], np.float32)).ravel()
            for k in ("one", "two")
        ]
    )
    expected = reference.keep(flat, flat.size - round(0.8 * flat.size))
    masks = sparsity.current_masks(state)
    assert masks["bias"] is None
    np.testing.assert_array_equal(np.concatenate([np.ravel(masks[k]) for k in ("one", "two")]), expected)


def test_the_scores_differ_from_one_another():
    """Broken twins of one another: a test above that passed for the wrong score would be void."""
    params, gradients = tree(0), tree(1)
    masks = [
        np.asarray(
            sparsity.update_masks(
                start(params), params, 0.8, score=s, gradients=gradients, key=jax.random.key(0)
            ).masks["one"]
        )
        for s in sparsity.SCORES
    ]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert (one != other).mean() > 0.05


def test_bfloat16_products_are_taken_in_float32():
    params, gradients = tree(0, jnp.bfloat16), tree(1, jnp.bfloat16)
    score = sparsity.taylor(params["one"], gradients=gradients["one"])
    assert score.dtype == jnp.float32
    distinct = len(np.unique(np.asarray(score)))
    twin = np.asarray((params["one"] * gradients["one"]).astype(jnp.float32))
    assert len(np.unique(np.abs(twin))) < 0.8 * distinct


def test_taylor_is_the_change_of_the_loss():
    """L(w) − L(w without w_i) for a small weight, by evaluation, not by derivative."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        inputs, labels = jnp.asarray(rng.normal(size=(50, 20))), jnp.asarray(rng.normal(size=50))
        weights = jnp.asarray(1e-6 * rng.normal(size=20))

        def loss(w):
            return jnp.mean((inputs @ w - labels) ** 2)

        score = sparsity.taylor(weights, gradients=jax.grad(loss)(weights))
        changes = [abs(loss(weights.at[i].set(0.0)) - loss(weights)) for i in range(20)]
    np.testing.assert_allclose(score, changes, rtol=1e-3, atol=1e-11)


def test_movement_is_positive_where_a_step_grows_the_weight():
    w, g = tree(0)["one"], tree(1)["one"]
    grows = np.abs(np.asarray(w - 1e-3 * g)) > np.abs(np.asarray(w))
    score = np.asarray(sparsity.movement(w, gradients=g))
    clear = np.abs(np.asarray(w)) > 1e-2
    np.testing.assert_array_equal((score > 0)[clear], grows[clear])


def test_random_drops_independently_in_each_layer_and_only_by_its_key():
    params = {"a": jnp.ones((40, 30)), "b": jnp.ones((40, 30))}

    def masks(seed):
        state = sparsity.update_masks(
            start(params), params, 0.5, score="random", pattern="layer", key=jax.random.key(seed)
        )
        return {k: np.asarray(m) for k, m in state.masks.items()}

    first, again, other = masks(0), masks(0), masks(1)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    # The broken twin, one key for all: equal masks in layers of equal shape.
    for agreement in ((first["a"] == first["b"]).mean(), (first["a"] == other["a"]).mean()):
        assert abs(agreement - 0.5) < 4 * 0.5 / np.sqrt(1200)
    assert sparsity.random(params["a"].astype(jnp.bfloat16), key=jax.random.key(0)).dtype == jnp.float32


def test_scores_jit_and_vmap_with_their_arguments():
    update = jax.jit(
        jax.vmap(functools.partial(sparsity.update_masks, rate=0.5, score="random"), in_axes=0),
    )
    members = [tree(seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    keys = jax.random.split(jax.random.key(0), 3)
    states = jax.vmap(start)(stacked)
    together = update(states, stacked, key=keys).masks
    for i, member in enumerate(members):
        alone = sparsity.update_masks(start(member), member, 0.5, score="random", key=keys[i]).masks
        np.testing.assert_array_equal(together["one"][i], alone["one"])


class Wanda:
    """A score as an object, with a default that nobody has to offer."""

    def __call__(self, weights, gradients=None, *, scale=2.0):
        return scale * jnp.abs(weights) if gradients is None else jnp.abs(gradients)


def test_a_function_is_given_what_it_names():
    params, gradients = tree(0), tree(1)

    def masks(score, **given):
        return np.asarray(
            sparsity.update_masks(start(params), params, 0.5, score=score, **given).masks["one"]
        )

    by_size = masks("magnitude")
    for score in (jnp.abs, np.abs, lambda w: w**2, lambda key: jnp.abs(key), Wanda()):
        np.testing.assert_array_equal(masks(score), by_size)
    np.testing.assert_array_equal(masks(lambda w: jnp.abs(w), gradients=gradients), by_size)
    by_gradient = masks(lambda w, *, gradients: jnp.abs(gradients), gradients=gradients)
    np.testing.assert_array_equal(masks(Wanda(), gradients=gradients), by_gradient)
    assert (by_gradient != by_size).any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"score": "taylor"},
            r"taylor needs gradients, which is None: pass update_masks\(\.\.\., gradients=g\)",
        ),
        ({"score": "movement"}, "movement needs gradients"),
        ({"score": "random"}, r"random needs key, which is None: .*jax\.random\.key"),
        ({"score": "magnitud"}, r"score 'magnitud' is unknown; did you mean 'magnitude'\?"),
        ({"score": "taylor", "gradients": {"one": jnp.ones((40, 30))}}, "structure of params.*bias"),
        (
            {"score": "taylor", "gradients": {**tree(0), "two": jnp.ones((1, 40))}},
            r"shapes of params: two is \(1, 40\), not \(30, 40\)",
        ),
        ({"score": lambda w: jnp.mean(w)}, r"score must return one worth a weight: .*\(40, 30\) to \(\)"),
    ],
)
def test_mistakes_are_named_with_their_remedy(given, message):
    params = tree(0)
    with pytest.raises(ValueError, match=message):
        sparsity.update_masks(start(params), params, 0.5, **given)
