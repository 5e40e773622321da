"""The models, against their formulas in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparsekd_jax import models


def test_logits_follow_the_formula():
    model = models.MLP((4, 8, 3), rngs=nnx.Rngs(0))
    inputs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    first, last = (np.asarray(layer.kernel[...]) for layer in model.layers)
    hidden = np.maximum(inputs @ first + np.asarray(model.layers[0].bias[...]), 0)
    expected = hidden @ last + np.asarray(model.layers[1].bias[...])
    np.testing.assert_allclose(model(jnp.asarray(inputs)), expected, atol=1e-5)
    linear = inputs @ first @ last
    assert np.abs(linear - expected).max() > 0.01, "without the ReLU the same check must fail"


def test_the_default_has_the_stated_shape():
    model = nnx.eval_shape(lambda: models.MLP(rngs=nnx.Rngs(0)))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))["layers"]
    assert [params[i]["kernel"].shape for i in range(3)] == [(64, 256), (256, 256), (256, 10)]


def test_a_seed_fixes_the_weights_and_another_changes_them():
    def kernel(seed):
        return np.asarray(models.MLP((4, 8, 3), rngs=nnx.Rngs(seed)).layers[0].kernel[...])

    np.testing.assert_array_equal(kernel(1), kernel(1))
    assert np.abs(kernel(1) - kernel(2)).max() > 0


@pytest.mark.parametrize("sizes", [(4,), (4, 0, 2)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="sizes"):
        models.MLP(sizes, rngs=nnx.Rngs(0))


SMALL = {"width": 8, "num_layers": 2, "num_heads": 2, "context": 6, "num_classes": 11}


@pytest.fixture(scope="module")
def transformer():
    with jax.numpy_dtype_promotion("standard"):  # flax's initialisers
        model = models.Transformer(**SMALL, rngs=nnx.Rngs(0))
    # Off their initial ones and zeros, so that a norm or a bias left out would show.
    graph, state = nnx.split(model)
    draw = np.random.default_rng(1)
    return nnx.merge(
        graph, jax.tree.map(lambda x: x + 0.3 * draw.normal(size=x.shape).astype(np.float32), state)
    )


def in_numpy(model, tokens):
    """The formula of the docstring, one sequence, head by head, in float64."""
    state = nnx.to_pure_dict(nnx.state(model))
    at = jax.tree.map(lambda x: np.asarray(x, np.float64), state)

    def norm(x, p):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    x = at["tokens"]["embedding"][tokens] + at["positions"]["embedding"][: len(tokens)]
    for i in range(SMALL["num_layers"]):
        block = at["blocks"][i]
        q, k, v = np.split(norm(x, block["attention_norm"]) @ block["qkv"]["kernel"], 3, axis=-1)
        heads = []
        for h in np.split(np.arange(SMALL["width"]), SMALL["num_heads"]):
            scores = q[:, h] @ k[:, h].T / np.sqrt(len(h))
            scores[np.triu_indices(len(tokens), 1)] = -np.inf
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, h])
        x = x + np.concatenate(heads, -1) @ block["out"]["kernel"]
        up = gelu(norm(x, block["mlp_norm"]) @ block["up"]["kernel"] + block["up"]["bias"])
        x = x + up @ block["down"]["kernel"] + block["down"]["bias"]
    return norm(x, at["norm"]) @ at["head"]["kernel"] + at["head"]["bias"]


def test_the_transformer_follows_the_formula(transformer):
    tokens = np.random.default_rng(0).integers(0, 11, (3, 6))
    logits = transformer(jnp.asarray(tokens))
    expected = np.stack([in_numpy(transformer, row) for row in tokens])
    np.testing.assert_allclose(logits, expected, atol=2e-5)


def test_the_future_is_not_seen(transformer):
    tokens = np.random.default_rng(0).integers(0, 11, (1, 6))
    changed = tokens.copy()
    changed[0, 4] = (changed[0, 4] + 1) % 11
    one, other = (np.asarray(transformer(jnp.asarray(t))) for t in (tokens, changed))
    np.testing.assert_array_equal(one[0, :4], other[0, :4])
    assert np.abs(one[0, 4:] - other[0, 4:]).max() > 1e-3


def test_impossible_transformers_and_sequences_are_refused(transformer):
    with pytest.raises(ValueError, match="width 8 is not a multiple of num_heads 3"):
        models.Transformer(**{**SMALL, "num_heads": 3}, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="num_layers must be at least 1"):
        models.Transformer(**{**SMALL, "num_layers": 0}, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="context is 6"):
        transformer(jnp.zeros((1, 7), jnp.int32))
