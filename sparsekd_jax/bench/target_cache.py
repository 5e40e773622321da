"""Bytes a token of a cache of top-k targets, and what storing log-probabilities in float16 costs.

The teacher is Zipf's law over V tokens plus independent noise on every logit of every token, so that lists
differ from row to row; its ids are shuffled, so that an id says nothing of a frequency. The more noise, the
sharper the teacher, and the less do lists share their tokens, up to ids that are all but uniform. Bytes are
those of the files, manifest included. The cost is KL(p ‖ p̂) in nats a token, p in float64 and p̂ as read
back, over the k tokens and the tail as one more.
"""

import tempfile
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special
from rich.table import Table
from rich.text import Text

from sparsekd_jax.targets import TopK, cache

BOUND_BYTES = 260.0
_CHUNK = 128


def teacher(rows: int, vocab_size: int, k: int, noise: float, seed: int) -> tuple[TopK, np.ndarray]:
    """The targets in float32, and their log-probabilities ``[rows, k]`` in float64.

    Args:
        rows: distributions.
        vocab_size: V.
        k: tokens of a list.
        noise: standard deviation of the noise on a logit, in nats; the larger, the sharper the teacher.
        seed: of everything.
    """
    draw = np.random.default_rng(seed)
    zipf = -np.log(np.arange(1, vocab_size + 1) + 2.7)
    name = draw.permutation(vocab_size).astype(np.int32)
    ids, exact = [], []
    for start in range(0, rows, _CHUNK):
        size = min(_CHUNK, rows - start)
        logits = zipf + noise * draw.standard_normal((size, vocab_size), dtype=np.float32)
        top = np.argpartition(-logits, k, axis=-1)[:, :k]
        values = np.take_along_axis(logits, top, -1)
        order = np.argsort(-values, axis=-1)
        ids.append(name[np.take_along_axis(top, order, -1)])
        exact.append(
            np.take_along_axis(values, order, -1) - scipy.special.logsumexp(logits, axis=-1, keepdims=True)
        )
    log_probs = np.concatenate(exact)
    tail = 1 - np.exp(log_probs).sum(-1)
    return (
        TopK(
            jnp.asarray(np.concatenate(ids)),
            jnp.asarray(log_probs, jnp.float32),
            jnp.asarray(tail, jnp.float32),
            jnp.full(rows, k, jnp.int32),
            vocab_size,
        ),
        log_probs,
    )


def divergence(log_probs: np.ndarray, stored: TopK) -> np.ndarray:
    """``KL(p ‖ p̂)`` in nats, ``[rows]``, over the listed tokens and the tail."""
    listed, found = log_probs, np.asarray(stored.log_probs, np.float64)
    tail, tail_found = 1 - np.exp(listed).sum(-1), np.asarray(stored.tail_mass, np.float64)
    p, q = np.append(np.exp(listed), tail[:, None], -1), np.append(np.exp(found), tail_found[:, None], -1)
    return scipy.special.kl_div(p, q).sum(-1)  # p log(p/q) − p + q: no cancellation where p ≈ q


def measure(
    *,
    rows: int = 8192,
    vocab_size: int = 50_000,
    k: int = 50,
    noises: tuple[float, ...] = (1.0, 2.0, 4.0),
    progress: Callable[[str], None] = lambda label: None,
) -> dict[str, Any]:
    """Write caches of three teachers in float32 and in float16, and read them back.

    Returns:
        ``{"bound_bytes", "vocab_size", "k", "tokens", "plain_bytes", "rows"}``; a row has ``noise``,
        ``tail_mass`` (the mean), ``dtype``, ``bytes_per_token``, ``kl_mean`` and ``kl_max`` in nats.
    """
    out = []
    for noise in noises:
        progress(f"teacher of noise {noise:g}")
        target, exact = teacher(rows, vocab_size, k, noise, seed=0)
        for dtype in ("float32", "float16"):
            with tempfile.TemporaryDirectory() as folder:
                cache.write_targets(folder, target, dtype=dtype, teacher="zipf", tokenizer=None, data=None)
                size = cache.describe(folder).bytes_per_token
                kept = cache.open_cache(folder).read()
                assert isinstance(kept, TopK)
                kl = divergence(exact, kept)
            out.append(
                {
                    "noise": noise,
                    "tail_mass": float(f"{target.tail_mass.mean():.3g}"),
                    "dtype": dtype,
                    "bytes_per_token": round(size, 1),
                    "kl_mean": float(f"{kl.mean():.3g}"),
                    "kl_max": float(f"{kl.max():.3g}"),
                }
            )
    return {
        "bound_bytes": BOUND_BYTES,
        "vocab_size": vocab_size,
        "k": k,
        "tokens": rows,
        "plain_bytes": k * (4 + 4) + 4 + 4,
        "rows": out,
    }


def table(result: dict[str, Any]) -> Table:
    """The result for a terminal."""
    out = Table(
        title=(
            f"A cache of {result['tokens']:,} tokens, V = {result['vocab_size']:,}, k = {result['k']}; "
            f"plain int32 and float32 are {result['plain_bytes']} bytes a token, the bound is "
            f"{result['bound_bytes']:g}"
        ),
        title_justify="left",
    )
    for head in ("noise", "tail", "dtype", "bytes", "of plain", "mean KL", "largest KL", "bound"):
        out.add_column(head, justify="left" if head == "dtype" else "right", no_wrap=True)
    for row in result["rows"]:
        within = row["bytes_per_token"] <= result["bound_bytes"]
        out.add_row(
            f"{row['noise']:g}",
            f"{row['tail_mass']:.2g}",
            row["dtype"],
            f"{row['bytes_per_token']:.0f}",
            f"{row['bytes_per_token'] / result['plain_bytes']:.2f}",
            f"{row['kl_mean']:.1e}",
            f"{row['kl_max']:.1e}",
            "within" if within else Text("over", style="red"),
        )
    return out
