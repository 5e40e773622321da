"""A byte that was altered anywhere is found: a clear error or the right rows, each time."""

import json

import numpy as np
import pytest

from sparsekd_jax import _durable
from sparsekd_jax.targets import cache
from sparsekd_jax.targets.cache.manifest import NAME
from tests.targets.cached import WHOSE, assert_same, contents, part, topk


@pytest.mark.parametrize("verify", ["lazily", "open"])
def test_a_flipped_byte_is_named_and_the_other_shards_still_read(verify, spoilt):
    shard = spoilt / "shard-00002.parquet"
    flip(shard, 100)
    says = r"shard-00002.parquet is not as written: its checksum differs; restore it"
    if verify == "open":
        with pytest.raises(cache.CacheError, match=says):
            cache.open_cache(spoilt, verify="open")
    else:
        reader = cache.open_cache(spoilt)
        assert_same(reader.rows(range(60)), part(topk(130), slice(0, 60)))
        for _ in range(2):  # not only the first time
            with pytest.raises(cache.CacheError, match=says):
                reader[75]
    found = cache.describe(spoilt)
    assert not found.ok
    assert len(found.faults) == 1
    assert "shard-00002" in found.faults[0]


def test_another_schema_version_is_refused(spoilt):
    record = json.loads((spoilt / NAME).read_text())
    del record["digest"]
    record["version"] = 2
    (spoilt / NAME).write_text(json.dumps({**record, "digest": _durable.seal(record)}, indent=1) + "\n")
    with pytest.raises(cache.CacheError, match=r"schema version 2, this library reads 1"):
        cache.open_cache(spoilt)


def test_every_byte_of_the_manifest_counts(spoilt):
    """Whitespace too: there is one text for a manifest."""
    honest = (spoilt / NAME).read_bytes()
    for text in (honest.replace(b"\n ", b"\n\t", 1), honest + b" ", honest.replace(b"topk", b"t\\u006fpk")):
        assert json.loads(text) == json.loads(honest)
        (spoilt / NAME).write_bytes(text)
        with pytest.raises(cache.CacheError, match="not as written"):
            cache.open_cache(spoilt)


def flip(path, at, mask=0x10):
    content = bytearray(path.read_bytes())
    content[at] ^= mask
    put(path, content)


def put(path, content):
    """Replace a file by a new one; some file systems wait for the disk where one is written over."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def mutate(folder, draw):
    """Change one cache in one way; returns what was done."""
    shards = sorted(folder.glob("shard-*"))
    file = draw.choice([*shards, folder / NAME])
    content = bytearray(file.read_bytes())
    what = draw.choice(["flip", "cut", "append", "swap", "delete", "edit", "zero"])
    if what == "flip":
        flip(file, draw.integers(len(content)), 1 << int(draw.integers(8)))
    elif what == "cut":
        put(file, content[: draw.integers(len(content))])
    elif what == "append":
        put(file, content + draw.bytes(int(draw.integers(1, 20))))
    elif what == "zero":
        at, size = draw.integers(len(content)), draw.integers(1, 64)
        content[at : at + size] = bytes(len(content[at : at + size]))
        put(file, content)
    elif what == "swap":
        one, other = draw.choice(shards, 2, replace=False)
        first, second = one.read_bytes(), other.read_bytes()
        put(one, second)
        put(other, first)
    elif what == "delete":
        file.unlink()
    else:
        record = json.loads((folder / NAME).read_text())
        field = draw.choice(sorted(record))
        record[field] = [None, 0, -1, "x", [], {}, 7.5, True][draw.integers(8)]
        if draw.integers(2):  # a forger who seals what he wrote
            del record["digest"]
            record["digest"] = _durable.seal(record)
        put(folder / NAME, (json.dumps(record, indent=1) + "\n").encode())
        what = f"edit {field} to {record[field]!r}"
    return what


def outcome(folder, verify):
    """What is read, or what is said."""
    try:
        return cache.open_cache(folder, verify=verify, **WHOSE).read()
    except cache.CacheError as error:
        return str(error)


def test_a_thousand_mutated_caches(spoilt):
    """A clear error or the right rows; of 1,000 none crashes, and none gives other numbers."""
    draw, target, honest, refused = np.random.default_rng(4), topk(130), contents(spoilt), 0
    for number in range(1000):
        done = mutate(spoilt, draw)
        found = outcome(spoilt, ("lazily", "open")[number % 2])
        if isinstance(found, str):
            refused += 1
            assert str(spoilt) in found
        else:
            assert contents(spoilt) == honest or done.startswith("edit"), done
            try:
                assert_same(found, target)
            except AssertionError as error:
                raise AssertionError(done) from error
        for name, content in honest.items() - contents(spoilt).items():
            put(spoilt / name, content)
    assert refused > 900


def test_without_checksums_the_fuzz_would_notice(spoilt, monkeypatch):
    """A reader that trusts its files gives other numbers without a word."""
    monkeypatch.setattr("sparsekd_jax.targets.cache.manifest.Shard.verify", lambda shard, folder: None)
    one, other = (spoilt / f"shard-0000{i}.parquet" for i in (0, 1))
    manifest = (spoilt / NAME).read_text()
    sizes = [str(file.stat().st_size) for file in (one, other)]
    one.write_bytes(other.read_bytes())
    record = json.loads(manifest)
    record["shards"][0]["bytes"] = int(sizes[1])
    del record["digest"]
    (spoilt / NAME).write_text(json.dumps({**record, "digest": _durable.seal(record)}, indent=1) + "\n")
    found = outcome(spoilt, "open")
    assert (found.ids[:30] == topk(130).ids[30:60]).all()
