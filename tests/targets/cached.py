"""Targets to keep in a cache, and comparisons of what comes back."""

import jax
import numpy as np

from sparsekd_jax.targets import Dense, Samples, TopK

WHOSE = {"teacher": "bytes-2M", "tokenizer": "tok-1", "data": "text-1"}
V = 300


def topk(rows, k=6, vocab_size=V, seed=0, ragged=True):
    """Rows of a Dirichlet teacher; where ragged, some lists are shorter than k, and one is empty."""
    draw = np.random.default_rng(seed)
    probs = draw.dirichlet(np.full(vocab_size, 0.3), size=rows)
    ids = np.argsort(-probs, axis=-1)[:, :k].astype(np.int32)
    log_probs = np.log(np.take_along_axis(probs, ids, -1)).astype(np.float32)
    length = draw.integers(1, k + 1, rows) if ragged else np.full(rows, k)
    length[rows // 2] = 0 if ragged else k
    padding = np.arange(k) >= length[:, None]
    log_probs[padding], ids[padding] = -np.inf, -1
    tail = np.clip(1 - np.exp(log_probs.astype(np.float64)).sum(-1), 0, 1).astype(np.float32)
    return TopK(ids, log_probs, tail, length.astype(np.int32), vocab_size)


def samples(rows, vocab_size=V):
    counts = np.random.default_rng(1).multinomial(7, np.full(vocab_size, 1 / vocab_size), size=rows)
    ids = np.argsort(-counts, axis=-1, kind="stable")[:, :7].astype(np.int32)
    seen = np.take_along_axis(counts, ids, -1)
    weights = (seen / 7).astype(np.float32)
    return Samples(np.where(seen > 0, ids, -1), weights, np.full(rows, 7, np.int32), vocab_size)


def dense(rows, vocab_size=10):
    logits = np.random.default_rng(2).normal(size=(rows, vocab_size)).astype(np.float32)
    logits[0, 3] = -np.inf
    return Dense.from_logits(logits)


def assert_same(found, wanted):
    assert type(found) is type(wanted)
    assert found.vocab_size == wanted.vocab_size
    for here, there in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(here, there, strict=True)


def part(target, rows):
    return jax.tree.map(lambda leaf: np.asarray(leaf)[rows], target)


def sequences(target, length):
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape((-1, length, *leaf.shape[1:])), target)


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}
