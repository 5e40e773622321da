"""The small models of the studies, as Flax NNX modules."""

import itertools
from collections.abc import Sequence

import jax
from flax import nnx
from jaxtyping import Array, Float


class MLP(nnx.Module):
    """Fully connected layers with ReLU between them: logits = W_n relu(… relu(W_1 x + b_1) …) + b_n.

    Weights start as Lecun normal (variance 1/fan-in), biases as zero, both drawn from ``rngs``.

    Args:
        sizes: width of the input, of each hidden layer, and of the output.
        rngs: ``nnx.Rngs(seed)``; the seed is the caller's to choose, there is no default.

    Raises:
        ValueError: fewer than two sizes, or a size below 1.

    >>> import jax.numpy as jnp
    >>> MLP((64, 256, 256, 10), rngs=nnx.Rngs(0))(jnp.zeros((5, 64))).shape
    (5, 10)
    """

    def __init__(self, sizes: Sequence[int] = (64, 256, 256, 10), *, rngs: nnx.Rngs):
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(
                f"sizes must name at least an input and an output width, each >= 1, got {tuple(sizes)}"
            )
        pairs = itertools.pairwise(sizes)
        self.layers = nnx.List([nnx.Linear(fan_in, fan_out, rngs=rngs) for fan_in, fan_out in pairs])

    def __call__(self, inputs: Float[Array, "*batch d"]) -> Float[Array, "*batch K"]:
        """Logits of a batch of inputs.

        Args:
            inputs: ``[..., d]``, d the first of ``sizes``.

        Returns:
            Logits ``[..., K]``, K the last of ``sizes``.
        """
        hidden = inputs
        for layer in self.layers[:-1]:
            hidden = jax.nn.relu(layer(hidden))
        return self.layers[-1](hidden)
