"""Patterns that hardware can use: n of every m weights, whole blocks, whole channels.

They are frozen dataclasses: equal where their numbers are equal, so that jit finds its compiled program.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from sparsekd_jax._refusals import whole
from sparsekd_jax.sparsity._trees import path_name, widened
from sparsekd_jax.sparsity.patterns import count_to_drop, keep_best

_LEAVE_OUT = "leave the layer out by where=by_path(exclude=...)"


def n_m(n: int, m: int, axis: int = -2) -> "NM":
    """N:M sparsity: of every m consecutive weights along an axis, the n with the highest scores stay.

    The rate of the pattern is ``1 − n/m``. On the way there a rate r below it keeps ``⌈m·(1 − r)⌉ ≥ n`` of
    every m: a stage never drops more than its rate says, rate 0 drops nothing, and n:m itself is reached
    exactly when r = 1 − n/m. So give a schedule ``sparsity = 1 − n/m``; its early stages are (m−1):m, ….

    Args:
        n: kept in each group, in [1, m].
        m: size of a group.
        axis: along which groups lie. The default, −2, is the input axis of Flax kernels, ``[in, out]`` and
            ``[height, width, in, out]``: the axis that is summed over, as sparse tensor cores want it.

    Returns:
        A pattern with attributes n, m, axis and rate. It raises ValueError where the size of the axis is
        no multiple of m, or where the rate exceeds 1 − n/m.

    Raises:
        ValueError: not 1 ≤ n ≤ m.

    Reference:
        Mishra et al., "Accelerating sparse deep neural networks", arXiv 2104.08378.

    >>> scores = {"w": jnp.array([[1.0], [4.0], [3.0], [2.0]])}
    >>> n_m(2, 4)(scores, 0.5)["w"].ravel().tolist()
    [False, True, True, False]
    >>> n_m(2, 4)(scores, 0.4)["w"].ravel().tolist()
    [False, True, True, True]
    """
    n, m = whole("n", n, 0), whole("m", m, 0)
    if not 1 <= n <= m:
        raise ValueError(f"n_m keeps n of every m: 1 ≤ n ≤ m, got n = {n}, m = {m}")
    return NM(n, m, whole("axis", axis, -math.inf))


def block(shape: tuple[int, int]) -> "Block":
    """Whole blocks of each matrix are dropped, those with the lowest sum of scores, the same share in each.

    Args:
        shape: rows and columns of a block. Both must divide the matrix.

    Returns:
        A pattern whose masks have exactly ``count_to_drop(rate, number of blocks)`` dropped blocks in each
        layer. It raises ValueError where a layer has not two axes, where the blocks do not tile it, or where
        no block would be left.

    Raises:
        ValueError: a shape that is not two positive numbers.

    >>> scores = {"w": jnp.arange(8.0).reshape(2, 4)}
    >>> block((2, 2))(scores, 0.5)["w"].tolist()
    [[False, False, True, True], [False, False, True, True]]
    """
    if not isinstance(shape, tuple | list) or len(shape) != 2:
        raise ValueError(f"block shape must be two positive numbers (rows, columns), got {shape}")
    rows, columns = (whole(f"block shape[{i}]", number, -math.inf) for i, number in enumerate(shape))
    if min(rows, columns) < 1:
        raise ValueError(f"block shape must be two positive numbers (rows, columns), got {shape}")
    return Block(rows, columns)


def channel(axis: int = -1) -> "Channel":
    """Whole channels of each kernel are dropped, those with the lowest sum of scores, the same share in each.

    Leave the last layer out (``where=by_path(exclude=...)``): its output channels are the classes.

    Args:
        axis: of the channels; −1, the default, is the output axis of Flax kernels.

    Returns:
        A pattern whose masks have exactly ``count_to_drop(rate, size of the axis)`` dropped channels in each
        layer. It raises ValueError where no channel would be left, or where a layer has no such axis.

    >>> channel()({"w": jnp.array([[1.0, 5.0, 2.0], [1.0, 5.0, 3.0]])}, 1 / 3)["w"].tolist()
    [[False, True, True], [False, True, True]]
    """
    return Channel(whole("axis", axis, -math.inf))


@dataclasses.dataclass(frozen=True)
class NM:
    """What `n_m` returns."""

    n: int
    m: int
    axis: int

    @property
    def rate(self) -> float:
        """The rate at which exactly n of m stay: ``1 − n/m``."""
        return 1.0 - self.n / self.m

    def __str__(self) -> str:
        return f"{self.n}:{self.m} along axis {self.axis}"

    def __call__(self, scores: PyTree, rate: float) -> PyTree:
        """Masks of the scores at a rate."""
        count_to_drop(rate, self.m)  # refuses a rate outside [0, 1)
        if rate > self.rate + 1e-6:
            raise ValueError(
                f"rate = {rate:g} is more than {self.n}:{self.m} reaches, 1 − {self.n}/{self.m} = "
                f"{self.rate:g}: make that the final sparsity, or choose a smaller n"
            )
        keep = max(self.n, math.ceil(self.m * (1.0 - rate) - self.m * 1e-6))

        def one(name: str, leaf: Array) -> Array:
            size = _axis_size(name, leaf, self.axis)
            if size % self.m:
                raise ValueError(
                    f"m = {self.m} does not divide axis {self.axis} of {name}, which has size {size}: "
                    f"choose an m that does, or {_LEAVE_OUT}"
                )
            along = jnp.moveaxis(leaf, self.axis, -1)
            kept = jax.vmap(lambda group: keep_best(group, keep))(along.reshape(-1, self.m))
            return jnp.moveaxis(kept.reshape(along.shape), -1, self.axis)

        return _map_named(one, scores)


@dataclasses.dataclass(frozen=True)
class Block:
    """What `block` returns."""

    rows: int
    columns: int

    def __str__(self) -> str:
        return f"block {self.rows}×{self.columns}"

    def __call__(self, scores: PyTree, rate: float) -> PyTree:
        """Masks of the scores at a rate."""
        rows, columns = self.rows, self.columns

        def one(name: str, leaf: Array) -> Array:
            if leaf.ndim != 2 or leaf.shape[0] % rows or leaf.shape[1] % columns:
                raise ValueError(
                    f"block shape {(rows, columns)} does not tile {name}, which has shape {leaf.shape}: "
                    f"choose numbers that divide its two axes, or {_LEAVE_OUT}"
                )
            tiles = leaf.reshape(leaf.shape[0] // rows, rows, leaf.shape[1] // columns, columns)
            return _drop_units(name, "blocks", tiles, (1, 3), rate).reshape(leaf.shape)

        return _map_named(one, scores)


@dataclasses.dataclass(frozen=True)
class Channel:
    """What `channel` returns."""

    axis: int

    def __str__(self) -> str:
        return f"channel {self.axis}"

    def __call__(self, scores: PyTree, rate: float) -> PyTree:
        """Masks of the scores at a rate."""

        def one(name: str, leaf: Array) -> Array:
            _axis_size(name, leaf, self.axis)
            others = tuple(a for a in range(leaf.ndim) if a != self.axis % leaf.ndim)
            return _drop_units(name, "channels", leaf, others, rate)

        return _map_named(one, scores)


def _map_named(function: Callable[[str, Array], Array], scores: PyTree) -> PyTree:
    """Map a function of name and scores over the leaves that are not None."""

    def one(path: tuple[Any, ...], leaf: Array | None) -> Array | None:
        return None if leaf is None else function(path_name(path), leaf)

    return jax.tree_util.tree_map_with_path(one, scores, is_leaf=lambda leaf: leaf is None)


def _axis_size(name: str, leaf: Array, axis: int) -> int:
    if not -leaf.ndim <= axis < leaf.ndim:
        raise ValueError(
            f"axis = {axis} is not an axis of {name}, which has shape {leaf.shape}: choose another, or "
            f"{_LEAVE_OUT}"
        )
    return leaf.shape[axis]


def _drop_units(name: str, units: str, scores: Array, axes: tuple[int, ...], rate: float) -> Array:
    """Drop whole units, the slices that share their place on all but ``axes``, by their sums of scores."""
    (wide,) = widened(scores)
    sums = jnp.sum(wide, axis=axes, keepdims=True)
    # A unit that lost a weight before ranks lowest, also where −∞ + ∞ would make it NaN, hence highest.
    sums = jnp.where(jnp.any(jnp.isneginf(wide), axis=axes, keepdims=True), -jnp.inf, sums)
    keep = sums.size - count_to_drop(rate, sums.size)
    if keep == 0:
        raise ValueError(
            f"rate = {rate:g} drops all {sums.size} {units} of {name}, and nothing would pass it: lower the "
            f"final sparsity, or {_LEAVE_OUT}"
        )
    return jnp.broadcast_to(keep_best(sums.ravel(), keep).reshape(sums.shape), scores.shape)
