"""The small models of the studies, as Flax NNX modules."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


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
        _require_rngs(rngs)
        if not isinstance(sizes, Sequence):
            raise TypeError(f"sizes is {sizes!r}; list the widths, such as (64, 256, 10)")
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

        Raises:
            ValueError: inputs of another width.
        """
        width = self.layers[0].in_features
        if inputs.shape[-1] != width:
            raise ValueError(
                f"inputs have shape {inputs.shape}, and the model takes {width} numbers on the last axis: "
                "reshape them, or change the first of sizes"
            )
        hidden = inputs
        for layer in self.layers[:-1]:
            hidden = jax.nn.relu(layer(hidden))
        return self.layers[-1](hidden)


class Transformer(nnx.Module):
    """A decoder-only Transformer over bytes: logits of the next byte at every place, from those before it.

    Pre-norm blocks, ``x ← x + W_o·attention(LN(x))``, ``x ← x + W_2 gelu(W_1 LN(x))``, causal attention,
    learned positions, an output matrix of its own. Only ``blocks.*`` and ``head`` hold kernels.

    Args:
        width: of the residual stream; a multiple of ``num_heads``.
        num_layers: blocks.
        num_heads: heads of attention.
        context: longest sequence.
        num_classes: bytes, 256.
        rngs: ``nnx.Rngs(seed)``; the seed is the caller's to choose, there is no default.

    Raises:
        ValueError: a size below 1, or a width that the heads do not divide.

    Reference:
        Vaswani et al., arXiv 1706.03762; Xiong et al., arXiv 2002.04745, for the place of the norm.

    >>> model = Transformer(width=8, num_layers=1, num_heads=2, context=16, rngs=nnx.Rngs(0))
    >>> model(jnp.zeros((3, 16), jnp.int32)).shape
    (3, 16, 256)
    """

    def __init__(
        self,
        *,
        width: int = 96,
        num_layers: int = 2,
        num_heads: int = 4,
        context: int = 64,
        num_classes: int = 256,
        rngs: nnx.Rngs,
    ):
        _require_rngs(rngs)
        sizes = {
            "width": width,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "context": context,
            "num_classes": num_classes,
        }
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}")
        if width % num_heads:
            raise ValueError(f"width {width} is not a multiple of num_heads {num_heads}: change one")
        small = nnx.initializers.normal(0.02)
        self.tokens = nnx.Embed(num_classes, width, embedding_init=small, rngs=rngs)
        self.positions = nnx.Embed(context, width, embedding_init=small, rngs=rngs)
        self.blocks = nnx.List([_Block(width, num_heads, rngs) for _ in range(num_layers)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, num_classes, rngs=rngs)

    def __call__(self, inputs: Int[Array, "*batch L"]) -> Float[Array, "*batch L K"]:
        """Logits of the next byte, at every place of every sequence.

        Args:
            inputs: ``[..., L]`` bytes, L at most ``context``.

        Returns:
            Logits ``[..., L, K]``.

        Raises:
            ValueError: sequences longer than the context.
        """
        length, context = inputs.shape[-1], self.positions.num_embeddings
        if length > context:
            raise ValueError(f"inputs are {length} long; the model's context is {context}: cut them")
        places = jnp.broadcast_to(jnp.arange(length), inputs.shape)
        hidden = self.tokens(inputs) + self.positions(places)
        for block in self.blocks:
            hidden = block(hidden)
        return self.head(self.norm(hidden))


def _require_rngs(rngs: nnx.Rngs) -> None:
    if not isinstance(rngs, nnx.Rngs):
        raise TypeError(f"rngs is {rngs!r}; pass nnx.Rngs(seed)")


class _Block(nnx.Module):
    """Attention and a feed-forward layer, each normalised before and added after."""

    def __init__(self, width: int, num_heads: int, rngs: nnx.Rngs):
        self.num_heads = num_heads
        self.attention_norm, self.mlp_norm = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)
        self.qkv = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.out = nnx.Linear(width, width, use_bias=False, rngs=rngs)
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, hidden: Float[Array, "*batch L d"]) -> Float[Array, "*batch L d"]:
        shape = hidden.shape
        heads = (*shape[:-1], 3, self.num_heads, shape[-1] // self.num_heads)
        q, k, v = jnp.moveaxis(self.qkv(self.attention_norm(hidden)).reshape(heads), -3, 0)
        attended = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        hidden = hidden + self.out(attended.reshape(shape))
        return hidden + self.down(jax.nn.gelu(self.up(self.mlp_norm(hidden))))
