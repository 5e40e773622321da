"""What a teacher reveals of a distribution over V tokens: all of it, its top k, or samples. Pytrees."""

import dataclasses
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from sparsekd_jax import simplex
from sparsekd_jax._numerics import at_least_float32
from sparsekd_jax._refusals import is_traced, refuse
from sparsekd_jax.targets import _lists
from sparsekd_jax.targets._lists import PADDING as PADDING


def static_field() -> Any:
    """A field of a registered dataclass that is no leaf."""
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
        wide = logits.astype(at_least_float32(logits.dtype))
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

    >>> row = TopK.observed(np.array([7, 2]), np.log(np.array([0.5, 0.25], np.float32)), vocab_size=9)
    >>> float(row.tail_mass), int(row.num_unseen)
    (0.25, 7)
    """

    ids: Int[Array, "*batch k"]
    log_probs: Float[Array, "*batch k"]
    tail_mass: Float[Array, "*batch"]
    num_ranked: Int[Array, "*batch"]
    vocab_size: int = static_field()

    @classmethod
    def observed(
        cls,
        ids: Int[ArrayLike, "*batch k"],
        log_probs: Float[ArrayLike, "*batch k"],
        vocab_size: int,
        num_ranked: Int[ArrayLike, "*batch"] | int | None = None,
    ) -> Self:
        """From lists as a server gives them, on the host: ``tail_mass = 1 − Σ exp(log_probs)`` in float64.

        A sum above 1 by no more than the rounding of the dtype leaves a tail of 0.

        Args:
            ids: ``[..., k]`` whole numbers in [0, V), distinct in a row; −1 pads.
            log_probs: ``[..., k]`` in nats, of the whole distribution; −inf at padding.
            vocab_size: V.
            num_ranked: how many entries at the front of a row are the teacher's likeliest, in falling order;
                by default all.

        Raises:
            ValueError: what `require_consistent` refuses, or a sum above 1.
            TypeError: ids, vocab_size or num_ranked that are no whole numbers, log_probs that are no floats.
        """
        ids, given = np.asarray(ids), np.asarray(log_probs)
        stored = jnp.asarray(given)
        if stored.dtype.name not in simplex.SUM_TOLERANCE:
            raise TypeError(
                f"log_probs has dtype {given.dtype}; log-probabilities are floating point: "
                "pass log_probs.astype(np.float32)"
            )
        if not np.issubdtype(ids.dtype, np.integer):
            raise TypeError(
                f"ids has dtype {ids.dtype}; token ids are whole numbers: pass ids.astype(np.int32)"
            )
        if not isinstance(vocab_size, int | np.integer):
            raise TypeError(f"vocab_size is {vocab_size!r}; pass a whole number (an int)")
        if num_ranked is not None and not np.issubdtype(np.asarray(num_ranked).dtype, np.integer):
            raise TypeError(f"num_ranked is {num_ranked!r}; it counts entries: pass whole numbers")
        _lists.require_entries(ids, given.astype(np.float64), vocab_size)
        counts = (ids >= 0).sum(-1)
        ranked = np.broadcast_to(counts if num_ranked is None else np.asarray(num_ranked), counts.shape)
        tail = 1 - np.exp(given.astype(np.float64)).sum(-1)
        tolerance = _lists.tolerance(stored)
        refuse(
            tail < -tolerance,
            "log_probs",
            lambda i: (
                f"sums to {1 - tail[i]:.9g} after exp, above 1 by more than rounding ({tolerance:g} in "
                f"{stored.dtype}); was a temperature applied, or another row's list appended?"
            ),
        )
        refuse(
            (counts == vocab_size) & (tail > tolerance),
            "log_probs",
            lambda i: (
                f"lists all {vocab_size} tokens, but sums to {1 - tail[i]:.9g} after exp; is vocab_size "
                "right?"
            ),
        )
        # Where rounding alone takes the tail out of [0, m·p_k] it is the nearer end.
        most = (vocab_size - counts) * np.exp(_lists.last_ranked(given.astype(np.float64), ranked))
        tail = np.where(tail <= most + tolerance, np.clip(tail, 0, most), tail)
        found = cls(
            jnp.asarray(ids, jnp.int32),
            stored,
            jnp.asarray(tail, at_least_float32(stored.dtype)),
            jnp.asarray(ranked, jnp.int32),
            vocab_size,
        )
        require_consistent(found)
        return found

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
    vocab_size: int = static_field()

    @classmethod
    def from_counts(cls, counts: Int[ArrayLike, "*batch V"]) -> Self:
        """Counts of every token of a small vocabulary, as `Samples` with all V ids.

        Raises:
            TypeError: counts that are no whole numbers.
            ValueError: a negative count, a row without a draw, or one of more draws than int32 holds.
        """
        counts = np.asarray(counts)
        if not np.issubdtype(counts.dtype, np.integer):
            raise TypeError(f"counts has dtype {counts.dtype}; counts are whole numbers of draws")
        if counts.ndim == 0:
            raise ValueError("counts has shape (); the last axis holds the tokens, a count each")
        refuse((counts < 0).any(-1), "counts", lambda i: f"holds {counts[i].min()}; counts are ≥ 0")
        draws, most = counts.sum(-1), np.iinfo(np.int32).max
        refuse(
            counts.sum(-1, dtype=np.float64) > most,  # a sum of int64 may wrap round
            "counts",
            lambda i: f"sums to more draws than num_draws, int32, can hold: {most}",
        )
        refuse(draws == 0, "counts", lambda _: "no draw at all; leave the row out, or mask it")
        ids = np.broadcast_to(np.arange(counts.shape[-1], dtype=np.int32), counts.shape)
        weights = jnp.asarray(counts / draws[..., None], jnp.float32)
        return cls(jnp.asarray(ids), weights, jnp.asarray(draws, jnp.int32), counts.shape[-1])

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """``[...]``, the shape without the last axis."""
        return self.ids.shape[:-1]


def top_k(log_probs: Float[ArrayLike, "*batch V"], k: int) -> TopK:
    """The k likeliest tokens of dense distributions; the tail mass is summed from the tail itself.

    ``1 − Σ`` would be rounding noise where the tail is small. Goes under jit, k static.

    Args:
        log_probs: ``[..., V]`` in nats, −inf allowed.
        k: in [1, V].

    Raises:
        TypeError: k is no whole number.
        ValueError: k outside [1, V]; log_probs are no log-probabilities (seen in eager code only).

    >>> row = top_k(jnp.log(jnp.array([0.125, 0.5, 0.25, 0.125])), 2)
    >>> row.ids.tolist(), float(row.tail_mass)
    ([1, 2], 0.25)
    """
    simplex.require_log_probabilities(log_probs, "log_probs")
    log_probs = jnp.asarray(log_probs)
    size = log_probs.shape[-1]
    if not isinstance(k, int | np.integer):
        raise TypeError(f"k is {k!r}; pass a whole number (an int)")  # jax remembers a 2.0 for the next 2
    if not 1 <= k <= size:
        raise ValueError(f"k must lie in [1, {size}] (the vocabulary), got {k}")
    values, ids = jax.lax.top_k(log_probs, k)
    wide = log_probs.astype(at_least_float32(log_probs.dtype))
    tail = jnp.sum(jnp.exp(without(wide, ids, -jnp.inf)), axis=-1)
    return TopK(ids.astype(jnp.int32), values, tail, jnp.full(tail.shape, k, jnp.int32), size)


def without(
    x: Float[Array, "*batch V"], ids: Int[Array, "*batch k"], value: float
) -> Float[Array, "*batch V"]:
    """``x`` with ``value`` at the ids of each row; padding ids change nothing."""
    index = jnp.where(ids < 0, x.shape[-1], ids)  # out of range, so dropped
    return jnp.put_along_axis(x, index, jnp.asarray(value, x.dtype), axis=-1, inplace=False, mode="drop")


def require_consistent(target: TopK | Samples) -> None:
    """Refuse lists that no distribution over V tokens can have shown, naming the row and a remedy.

    Traced values pass unseen. The tolerance for sums is that of the dtype (4e-5 in float32).

    Raises:
        ValueError: ids out of range or repeated; padding before the end; log-probabilities above 0, NaN, or
            not in falling order where ranked; an unranked entry above the last ranked one; a tail mass that
            is negative, that does not complete the sum to 1, or that is more than m unseen tokens of at most
            the last ranked probability can hold. Of `Samples`: a weight that is negative, NaN or infinite, or
            not 0 at padding.

    >>> from sparsekd_jax import targets
    >>> targets.TopK.observed(np.array([0, 1]), np.log(np.array([0.5, 0.1], np.float32)), vocab_size=4)
    Traceback (most recent call last):
    ValueError: tail_mass: is 0.4, more than 2 unseen tokens of at most 0.1 (the last ranked entry) can...
    """
    if is_traced(target):
        return
    if isinstance(target, Samples):
        _lists.require_weights(np.asarray(target.ids), np.asarray(target.weights), target.vocab_size)
        return
    ids, log_probs = np.asarray(target.ids), np.asarray(target.log_probs).astype(np.float64)
    _lists.require_entries(ids, log_probs, target.vocab_size)
    tail, ranked = np.asarray(target.tail_mass, np.float64), np.asarray(target.num_ranked)
    tolerance = _lists.tolerance(target.log_probs)
    counts = (ids >= 0).sum(-1)
    for name, value in (("tail_mass", tail), ("num_ranked", ranked)):
        if value.shape != counts.shape:
            raise ValueError(f"{name} has shape {value.shape}, the rows of ids {counts.shape}: one a row")
    refuse(
        (ranked < 0) | (ranked > counts),
        "num_ranked",
        lambda i: f"is {ranked[i]}, of {counts[i]} entries; it counts those at the front of the row",
    )
    place = np.arange(ids.shape[-1])
    with np.errstate(invalid="ignore"):  # −inf − −inf
        rises = (np.diff(log_probs, axis=-1) > 0) & (place[1:] < ranked[..., None])
    refuse(
        rises.any(-1),
        "log_probs",
        lambda i: (
            f"rises at entry {int(np.argmax(rises[i])) + 1}, but the first {ranked[i]} are said to be "
            "ranked; sort them, and put entries that were appended after them, outside num_ranked"
        ),
    )
    last = _lists.last_ranked(log_probs, ranked)
    above = (place >= ranked[..., None]) & (log_probs > last[..., None] + tolerance)
    refuse(
        above.any(-1),
        "log_probs",
        lambda i: (
            f"entry {int(np.argmax(above[i]))} is not ranked and has more than the last ranked entry; then "
            "those are not the likeliest: lower num_ranked"
        ),
    )
    refuse(~(tail >= 0), "tail_mass", lambda i: f"is {tail[i]:.6g}; a mass is ≥ 0: use TopK.observed")
    total = np.exp(log_probs).sum(-1) + tail
    refuse(
        ~(np.abs(total - 1) <= tolerance),
        "tail_mass",
        lambda i: (
            f"is {tail[i]:.6g}, which completes the row to {total[i]:.9g} instead of 1: use TopK.observed"
        ),
    )
    unseen = target.vocab_size - counts
    bound = np.exp(last)
    refuse(
        tail > unseen * bound * (1 + tolerance) + tolerance * (unseen > 0) * (bound > 0),
        "tail_mass",
        lambda i: (
            f"is {tail[i]:.6g}, more than {unseen[i]} unseen tokens of at most {bound[i]:.6g} (the last "
            "ranked entry) can hold; are these log-probabilities of the whole distribution, is vocab_size "
            "right, and is an appended entry counted in num_ranked?"
        ),
    )


Target = Dense | TopK | Samples
"""What a teacher reveals."""
