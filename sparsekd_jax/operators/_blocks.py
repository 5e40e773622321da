"""Rows block by block, so that the sweeps of a root finder stay in the cache of a core."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

BLOCK = 2**17
"""Elements of a block of rows: 512 KiB in float32, which a core's cache holds beside what is made of it."""

Kernel = Callable[[Array, Array], tuple[Array, Array | None]]


def in_blocks(kernel: Kernel, x: Array, temperature: Array) -> Any:
    """A kernel of ``[..., K]`` rows and T ``[..., 1]``; on a CPU, of large batches, a block after another.

    The sweeps of a root finder over a block stay in the cache of a core.
    """
    if not isinstance(x.size, int) or x.size < 2 * BLOCK:  # to `jax.export`, a size may be a symbol
        return kernel(x, temperature)
    blocked = functools.partial(_block_by_block, kernel)
    return jax.lax.platform_dependent(x, temperature, cpu=blocked, default=kernel)


def _block_by_block(kernel: Kernel, x: Array, temperature: Array) -> Any:
    num_classes = x.shape[-1]
    rows, t = x.reshape(-1, num_classes), temperature.reshape(-1, 1)
    blocks = -(-rows.shape[0] // max(1, BLOCK // num_classes))
    size = rows.shape[0] // blocks
    whole = size * blocks

    def stacked(a: Array) -> Array:
        return a[:whole].reshape(blocks, size, a.shape[-1])

    done = jax.lax.map(lambda block: kernel(*block), (stacked(rows), stacked(t)))
    parts = [jax.tree.map(lambda a: a.reshape(whole, a.shape[-1]), done)]
    if whole < rows.shape[0]:
        parts.append(kernel(rows[whole:], t[whole:]))
    return jax.tree.map(lambda *a: jnp.concatenate(a).reshape(*x.shape[:-1], a[0].shape[-1]), *parts)
