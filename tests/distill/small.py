"""A small problem that many tests train on: three blobs of points, a model of 67 weights, and comparisons."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from sparsekd_jax import models


@dataclasses.dataclass(frozen=True)
class Blobs:
    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray


def draw_blobs(seed):
    """60 points to train on and 30 to test on, around three centres."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, 90).astype(np.int32)
    inputs = (rng.normal(size=(3, 4))[labels] * 2 + rng.normal(size=(90, 4))).astype(np.float32)
    return Blobs(inputs[:60], labels[:60], inputs[60:], labels[60:])


BLOBS = draw_blobs(0)


def mlp(seed):
    """An MLP whose weights come from numpy: the module's own initialiser would be compiled a shape."""
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: models.MLP((4, 8, 3), rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(seed)
    draw = lambda leaf: jnp.asarray((rng.normal(size=leaf.shape) / 2).astype(np.float32))  # noqa: E731
    return nnx.merge(graphdef, jax.tree.map(draw, shapes))


class Noisy(nnx.Module):
    """Everything that a state can hold: weights, batch statistics, a stream of random keys."""

    def __init__(self, rngs):
        self.first, self.last = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(8, rngs=rngs), nnx.Dropout(0.2, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(jax.nn.relu(self.norm(self.first(x)))))


class Narrow(nnx.Module):
    """bfloat16 logits, as a mixed-precision model gives them."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, inputs):
        return self.inner(inputs).astype(jnp.bfloat16)


def flat(params):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def leaves(result):
    trees = (nnx.state(result.student), result.path, result.masks, result.final)
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(trees)
    ]


def assert_same(one, other):
    """Two runs with the same bits and the same history."""
    for a, b in zip(leaves(one), leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.history == other.history
