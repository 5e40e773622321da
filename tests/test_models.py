"""The MLP, against its formula in numpy."""

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
