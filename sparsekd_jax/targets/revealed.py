"""What a teacher reveals of a distribution over V tokens: all of it, its top k, or samples. Pytrees."""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from sparsekd_jax import simplex

PADDING = -1
"""The id of an entry that is none."""


def _static() -> Any:
    return dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """All of a teacher's distributions.

    Attributes:
        log_probs: ``[..., V]`` in nats, −inf for a token that the teacher excludes.

    >>> Dense.from_logits(jnp.zeros((3, 4))).vocab_size
    4
    """

    log_probs: Float[Array, "*batch V"]

    @classmethod
    def from_logits(cls, logits: Float[ArrayLike, "*batch V"]) -> Self:
        """``log softmax(z)``, in float32 at least."""
        logits = jnp.asarray(logits)
        wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return cls(jax.nn.log_softmax(wide, axis=-1))

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.log_probs.shape[-1]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """``[...]``, the shape without the last axis."""
        return self.log_probs.shape[:-1]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class TopK:
    """The k likeliest tokens of each distribution with their log-probabilities, and the mass of the others.

    The first ``num_ranked`` entries of a row are the teacher's likeliest, in falling order: no unseen token
    has more than the last of them. Entries after those were revealed for another reason (the sampled token
    that a server appends), and say nothing of unseen tokens. Then padding: id −1, log-probability −inf.

    Attributes:
        ids: ``[..., k]`` int32 in [0, V), distinct in a row; −1 pads.
        log_probs: ``[..., k]`` in nats, of the whole distribution (not renormalised on the k).
        tail_mass: ``[...]`` = 1 − Σ exp(log_probs) ≥ 0, what all V − k other tokens have together.
        num_ranked: ``[...]`` int32.
        vocab_size: V, static.
    """

    ids: Int[Array, "*batch k"]
    log_probs: Float[Array, "*batch k"]
    tail_mass: Float[Array, "*batch"]
    num_ranked: Int[Array, "*batch"]
    vocab_size: int = _static()

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """``[...]``, the shape without the last axis."""
        return self.ids.shape[:-1]

    @property
    def num_observed(self) -> Int[Array, "*batch"]:
        """Entries of a row that are no padding."""
        return jnp.sum(self.ids >= 0, axis=-1)

    @property
    def num_unseen(self) -> Int[Array, "*batch"]:
        """m = V − observed."""
        return self.vocab_size - self.num_observed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Samples:
    """Tokens drawn from each distribution, or from a proposal with importance weights.

    The estimate of p is ``p̂ = Σ_i weights_i · e_{ids_i}``: for N draws from p itself the weight of a token is
    its count over N; for N draws from a proposal r, ``count/N · p/r``.

    Attributes:
        ids: ``[..., n]`` int32 in [0, V), distinct in a row; −1 pads.
        weights: ``[..., n]`` ≥ 0, 0 at padding.
        num_draws: ``[...]`` int32, N.
        vocab_size: V, static.

    >>> seen = Samples.from_counts(np.array([[3, 0, 1]]))
    >>> seen.weights.tolist(), seen.num_draws.tolist()
    ([[0.75, 0.0, 0.25]], [4])
    """

    ids: Int[Array, "*batch n"]
    weights: Float[Array, "*batch n"]
    num_draws: Int[Array, "*batch"]
    vocab_size: int = _static()

    @classmethod
    def from_counts(cls, counts: Int[ArrayLike, "*batch V"]) -> Self:
        """Counts of every token of a small vocabulary, as `Samples` with all V ids.

        Raises:
            ValueError: a negative count, or a row without a draw.
        """
        counts = np.asarray(counts)
        if not np.issubdtype(counts.dtype, np.integer):
            raise TypeError(f"counts has dtype {counts.dtype}; counts are whole numbers of draws")
        simplex.refuse((counts < 0).any(-1), "counts", lambda i: f"holds {counts[i].min()}; counts are ≥ 0")
        draws = counts.sum(-1)
        simplex.refuse(draws == 0, "counts", lambda _: "no draw at all; leave the row out, or mask it")
        ids = np.broadcast_to(np.arange(counts.shape[-1], dtype=np.int32), counts.shape)
        weights = jnp.asarray(counts / draws[..., None], jnp.float32)
        return cls(jnp.asarray(ids), weights, jnp.asarray(draws, jnp.int32), counts.shape[-1])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """``[...]``, the shape without the last axis."""
        return self.ids.shape[:-1]


Target = Dense | TopK | Samples
"""What a teacher reveals."""
