"""A writer that is killed, or whose disk is full, leaves a shorter cache, never a damaged one."""

import resource
import subprocess
import sys

import pytest

from sparsekd_jax.targets import cache
from sparsekd_jax.targets.cache.manifest import NAME
from sparsekd_jax.targets.cache.writer import Writer
from tests.targets.cached import WHOSE, assert_same, contents, part, topk


def killed(folder, kills, seed):
    command = [sys.executable, "-m", "tests.targets.kill_writer", str(folder), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert contents(folder / "killed") == contents(folder / "whole")
    return int(done.stdout)


def test_a_killed_writer_leaves_a_shorter_cache_and_resumes(tmp_path):
    assert killed(tmp_path, 3, seed=0) >= 1


@pytest.mark.nightly
def test_a_writer_killed_twenty_times(tmp_path):
    assert killed(tmp_path, 20, seed=1) >= 10


@pytest.mark.parametrize("place", ["partial shard", "shard without manifest", "partial manifest"])
def test_what_a_kill_leaves_half_done_is_cleaned(place, whole, tmp_path):
    """The three states between two manifests, each made by hand."""
    folder, target = tmp_path / "cut", topk(130)
    writer = Writer(folder, cache.Provenance(**WHOSE), shard_rows=30)
    writer.append(part(target, slice(0, 75)))  # and then it is forgotten
    stray = {
        "partial shard": ".shard-00002.parquet",
        "shard without manifest": "shard-00002.parquet",
        "partial manifest": f".{NAME}",
    }[place]
    (folder / stray).write_bytes(b"half")
    assert_same(cache.open_cache(folder, verify="open").read(), part(target, slice(0, 60)))
    assert not cache.describe(folder).complete
    with Writer(folder, cache.Provenance(**WHOSE), resume=True, shard_rows=30) as writer:
        assert not (folder / stray).exists()
        assert writer.rows == 60
        writer.append(part(target, slice(60, 130)))
    assert contents(folder) == contents(whole)


def test_a_full_disk_spoils_nothing(tmp_path):
    """A real limit on the size of files, reached inside a shard."""
    target = topk(4000, ragged=False)
    writer = Writer(tmp_path, cache.Provenance(**WHOSE), shard_rows=100)
    writer.append(part(target, slice(0, 100)))
    before, limits = contents(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))
    try:
        with pytest.raises(
            cache.CacheError, match=r"could not be written .*holds the 100 rows .*resume=True"
        ):
            writer.append(part(target, slice(100, 300)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before
    with pytest.raises(ValueError, match="closed"):
        writer.append(target)
    with Writer(tmp_path, cache.Provenance(**WHOSE), resume=True) as writer:
        writer.append(part(target, slice(100, 300)))
    assert_same(cache.open_cache(tmp_path).read(), part(target, slice(0, 300)))


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(cache.CacheError, match=r"cannot be written .*choose another directory"):
        Writer(tmp_path / "file", cache.Provenance(**WHOSE))
