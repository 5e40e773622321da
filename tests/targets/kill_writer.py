"""A writer that is killed by SIGKILL at random moments and resumes. Usage: DIR KILLS SEED.

One process forks the writers, so that the library is imported once. ``DIR/whole`` is written by one that is
left alone, ``DIR/killed`` by the others; after each kill the cache there is read and compared.
"""

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import numpy as np

from sparsekd_jax.targets import TopK, cache
from sparsekd_jax.targets.cache.columns import pyarrow
from sparsekd_jax.targets.cache.manifest import NAME

ROWS, SHARD_ROWS, CHUNK = 500, 25, 60
PROBS = np.random.default_rng(7).dirichlet(np.ones(300), size=ROWS).astype(np.float32)
PROVENANCE = cache.Provenance(teacher="t", tokenizer="tok", data="d")


def chunk(start: int) -> TopK:
    """Rows from a number on."""
    draw = PROBS[start : start + CHUNK]
    ids = np.argsort(-draw, axis=-1)[:, :20].astype(np.int32)
    kept = np.take_along_axis(draw, ids, -1)
    tail = np.clip(1 - kept.sum(-1), 0, 1)
    return TopK(ids, np.log(kept), tail, np.full(len(draw), 20, np.int32), 300)


def write(folder: Path) -> None:
    with cache.Writer(folder, PROVENANCE, resume=True, shard_rows=SHARD_ROWS) as writer:
        for start in range(writer.rows, ROWS, CHUNK):
            writer.append(chunk(start))


def forked(folder: Path) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            write(folder)
            code = 0
        finally:
            os._exit(code)
    return child


def main(folder: Path, kills: int, seed: int) -> None:
    warnings.simplefilter("ignore")  # of jax, about forks; the children do not compute with it
    pyarrow()  # once for all
    started = time.perf_counter()
    assert os.waitpid(forked(folder / "whole"), 0)[1] == 0
    shard_time = (time.perf_counter() - started) * SHARD_ROWS / ROWS
    truth = cache.open_cache(folder / "whole").read()
    draw, partial = random.Random(seed), 0
    for kill in range(kills):
        child = forked(folder / "killed")
        goal, patience = kill * ROWS // SHARD_ROWS // (kills + 1), time.monotonic() + 60
        while len([*(folder / "killed").glob("shard-*")]) < goal and time.monotonic() < patience:
            time.sleep(1e-3)
        time.sleep(draw.uniform(0, 2 * shard_time))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        partial += verified(folder / "killed", truth)
    assert os.waitpid(forked(folder / "killed"), 0)[1] == 0
    print(partial)


def verified(folder: Path, truth: TopK) -> bool:
    """Whether the cache, which must be whole as far as it goes, ends early."""
    if not (folder / NAME).exists():
        return False
    reader = cache.open_cache(folder, verify="open", teacher="t")
    here = reader.read()
    for name in ("ids", "log_probs", "tail_mass", "num_ranked"):
        assert np.array_equal(getattr(here, name), getattr(truth, name)[: len(reader)])
    assert len(reader) % SHARD_ROWS == 0
    return len(reader) < ROWS and not reader.manifest.complete


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
