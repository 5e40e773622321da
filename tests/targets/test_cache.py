"""Caches come back bit for bit; what was altered, killed or meant for another teacher is refused in words."""

import json
import pickle
import resource
import shutil
import subprocess
import sys
import types

import grain
import jax
import jax.numpy as jnp
import numpy as np
import pandas
import pytest
import scipy.special
from absl import flags

from sparsekd_jax import _durable
from sparsekd_jax.targets import Dense, Samples, TopK, cache
from sparsekd_jax.targets.cache import columns
from sparsekd_jax.targets.cache.manifest import NAME
from sparsekd_jax.targets.cache.writer import Writer

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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A cache of five shards, the last of them short."""
    folder = tmp_path_factory.mktemp("cache") / "whole"
    cache.write_targets(folder, topk(130), shard_rows=30, **WHOSE)
    return folder


@pytest.fixture
def spoilt(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "spoilt")


@pytest.mark.parametrize("target", [topk(70), topk(70, vocab_size=70_000), samples(70), dense(70)])
@pytest.mark.parametrize("length", [None, 5])
def test_what_is_read_is_what_was_written(target, length, tmp_path):
    target = target if length is None else sequences(target, length)
    cache.write_targets(tmp_path, target, shard_rows=9, **WHOSE)
    reader = cache.open_cache(tmp_path, verify="open", **WHOSE)
    assert len(reader) == target.batch_shape[0]
    assert_same(reader.read(), target)
    for row in (0, len(reader) // 2, -1):
        assert_same(reader[row], part(target, row))
    assert_same(reader.rows([11, 2, 11, -3]), part(target, np.array([11, 2, 11, -3])))
    assert reader.rows([]).batch_shape == (0, *target.batch_shape[1:])


@pytest.mark.parametrize("rows", [(65_536, np.uint16), (65_537, np.int32)])
def test_the_largest_ids_fit(rows, tmp_path):
    vocab_size, dtype = rows
    top = TopK(
        np.array([[vocab_size - 1, 0, -1]], np.int32),
        np.array([[-1, -2, -np.inf]], np.float32),
        np.array([0.4], np.float32),
        np.array([1], np.int32),
        vocab_size,
    )
    cache.write_targets(tmp_path, top, **WHOSE)
    assert_same(cache.open_cache(tmp_path).read(), top)
    assert pandas.read_parquet(tmp_path).ids[0].dtype == dtype


def test_blocks_do_not_show(tmp_path, monkeypatch):
    """Rows across shards and row groups, with room for one block at a time."""
    monkeypatch.setattr("sparsekd_jax.targets.cache.writer._BLOCK_POSITIONS", 8)
    target = topk(200)
    cache.write_targets(tmp_path, target, shard_rows=37, **WHOSE)
    reader = cache.open_cache(tmp_path, memory_bytes=1)
    order = np.random.default_rng(3).permutation(200)
    assert_same(reader.rows(order), part(target, order))
    assert len(reader._blocks) == 1
    assert reader._kept == sum(v.nbytes for v in next(iter(reader._blocks.values())).values())
    assert reader.manifest.block_rows == 8


def test_chunks_are_the_same_as_one_piece(whole, tmp_path):
    target = topk(130)
    with Writer(tmp_path / "chunks", cache.Provenance(**WHOSE), shard_rows=30) as writer:
        for start in (0, 1, 50, 115):
            stop = {0: 1, 1: 50, 50: 115, 115: 130}[start]
            writer.append(part(target, slice(start, stop)))
        assert writer.rows == 120  # the rest waits for its shard
    assert contents(tmp_path / "chunks") == contents(whole)


def test_pandas_reads_a_cache_as_one_table(whole):
    table, target = pandas.read_parquet(whole), topk(130)
    assert list(table.columns) == ["ids", "log_probs", "tail_mass", "num_ranked"]
    assert len(table) == 130
    for row in (0, 65, 129):
        length = target.num_ranked[row]
        np.testing.assert_array_equal(table.ids[row], target.ids[row, :length])
        np.testing.assert_array_equal(table.log_probs[row], target.log_probs[row, :length])
    np.testing.assert_array_equal(table.tail_mass, target.tail_mass)


def test_float16_keeps_the_mass_of_a_list_and_costs_what_rounding_costs(tmp_path):
    """|Δ log p| ≤ half a spacing of float16, plus the shift that restores the mass, of the same size."""
    target = topk(300, k=20)
    cache.write_targets(tmp_path / "16", target, dtype="float16", **WHOSE)
    found = cache.open_cache(tmp_path / "16").read()
    assert found.log_probs.dtype == np.float32
    np.testing.assert_array_equal(found.tail_mass, target.tail_mass, strict=True)
    some = target.num_ranked > 0
    mass, wanted = (scipy.special.logsumexp(t.log_probs[some], axis=-1) for t in (found, target))
    np.testing.assert_allclose(mass, wanted, rtol=0, atol=1e-6)
    seen = target.ids >= 0
    spacing = np.spacing(np.abs(target.log_probs[seen]).astype(np.float16)).max()
    assert np.abs(found.log_probs[seen] - target.log_probs[seen]).max() <= spacing
    # the twin that does not restore it is off by what the bound above would notice
    rounded = np.where(seen, target.log_probs.astype(np.float16).astype(np.float32), -np.inf)
    assert np.abs(scipy.special.logsumexp(rounded[some], axis=-1) - wanted).max() > 1e-5
    stored = pandas.read_parquet(tmp_path / "16")
    assert stored.log_probs[0].dtype == np.float16
    assert "log_mass" in stored


def test_dense_float16_is_a_distribution_again(tmp_path):
    target = dense(50)
    cache.write_targets(tmp_path, target, dtype="float16", **WHOSE)
    found = cache.open_cache(tmp_path).read()
    np.testing.assert_allclose(scipy.special.logsumexp(found.log_probs, axis=-1), 0, atol=1e-6)
    assert (np.isneginf(found.log_probs) == np.isneginf(target.log_probs)).all()


@pytest.mark.usefixtures("x64")
def test_float64_is_kept_where_asked_for(tmp_path):
    target = Dense(jax.nn.log_softmax(jnp.asarray(np.random.default_rng(0).normal(size=(4, 6)))))
    cache.write_targets(tmp_path / "64", target, dtype="float64", **WHOSE)
    assert_same(cache.open_cache(tmp_path / "64").read(), target)
    cache.write_targets(tmp_path / "32", target, **WHOSE)
    narrow = Dense(np.asarray(target.log_probs).astype(np.float32))
    assert_same(cache.open_cache(tmp_path / "32").read(), narrow)


def test_bfloat16_is_held_exactly(tmp_path):
    target = Dense(jnp.log(jnp.array([[0.5, 0.5]], jnp.bfloat16)))
    cache.write_targets(tmp_path, target, **WHOSE)
    found = cache.open_cache(tmp_path).read().log_probs
    np.testing.assert_array_equal(found, np.asarray(target.log_probs).astype(np.float32))


def test_grain_reads_at_random(whole):
    target, reader = topk(130), cache.open_cache(whole, memory_bytes=1 << 12)
    batches = grain.MapDataset.source(reader).seed(1).shuffle().batch(10, drop_remainder=True)
    assert len(batches) == 13
    order = [
        grain.MapDataset.source(np.arange(130)).seed(1).shuffle()[i] for i in range(20)
    ]  # the same order, of numbers
    assert_same(batches[1], part(target, np.array(order[10:20])))
    threads = batches.to_iter_dataset(grain.ReadOptions(num_threads=4, prefetch_buffer_size=8))
    assert_same(next(iter(threads)), part(target, np.array(order[:10])))


def test_a_reader_goes_to_another_process(whole):
    reader = cache.open_cache(whole)
    reader.read()
    there = pickle.loads(pickle.dumps(reader))
    assert not there._files
    assert not there._verified  # verified anew there
    assert_same(there.read(), topk(130))


@pytest.mark.nightly
def test_grain_workers(whole):
    flags.FLAGS.mark_as_parsed()  # what a program under absl does; Grain's workers ask for it
    source = grain.MapDataset.source(cache.open_cache(whole)).batch(13)
    batches = source.to_iter_dataset().mp_prefetch(grain.MultiprocessingOptions(num_workers=2))
    rows = sorted(tuple(row) for batch in batches for row in batch.log_probs.tolist())
    assert rows == sorted(tuple(row) for row in topk(130).log_probs.tolist())


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


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


def test_a_cache_is_not_overwritten_or_resumed_by_another(whole, spoilt):
    with pytest.raises(cache.CacheError, match=r"holds a cache of 130 rows: pass resume=True"):
        cache.write_targets(whole, topk(3), **WHOSE)
    other = cache.Provenance(**{**WHOSE, "data": "text-2"})
    with pytest.raises(cache.CacheError, match=r"data is 'text-1' there and 'text-2' here"):
        Writer(spoilt, other, resume=True)
    with pytest.raises(cache.CacheError, match=r"dtype 'float32', not 'float16'"):
        Writer(spoilt, cache.Provenance(**WHOSE), resume=True, dtype="float16")
    with Writer(spoilt, cache.Provenance(**WHOSE), resume=True) as writer:
        for target, says in [(topk(3, k=5), "width 5"), (dense(3), "kind 'dense'")]:
            with pytest.raises(ValueError, match=f"target has {says}"):
                writer.append(target)
        with pytest.raises(ValueError, match=r"row_shape \(5,\)"):
            writer.append(sequences(topk(10), 5))
        with pytest.raises(ValueError, match="batch axis"):
            writer.append(part(topk(3), 0))


@pytest.mark.parametrize("field", ["teacher", "tokenizer", "data", "teacher_fingerprint", "operator"])
def test_another_teacher_is_refused_by_name(field, whole):
    cache.open_cache(whole, **WHOSE, operator=None, temperature=None)
    there = repr(WHOSE.get(field))
    with pytest.raises(cache.CacheError, match=f"refused: {field} is {there} there and 'else' here"):
        cache.open_cache(whole, **{field: "else"})
    with pytest.raises(TypeError, match="student is no field"):
        cache.open_cache(whole, student="s")


def test_softened_targets_say_with_what(tmp_path):
    applied = {"operator": "power", "temperature": 2.0}
    cache.write_targets(tmp_path, topk(4), **WHOSE, **applied)
    assert cache.open_cache(tmp_path, **applied).provenance.temperature == 2.0
    with pytest.raises(cache.CacheError, match=r"temperature is 2.0 there and None here"):
        cache.open_cache(tmp_path, operator="power", temperature=None)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"teacher": ""}, ValueError, "teacher is empty"),
        ({"teacher": None}, TypeError, "teacher must be text"),
        ({"data": 3}, TypeError, "data must be text"),
        ({"operator": "power"}, ValueError, "softened targets have both"),
        ({"operator": "power", "temperature": -1.0}, ValueError, "above 0"),
        ({"operator": "power", "temperature": "2"}, TypeError, "must be a number"),
    ],
)
def test_provenance_is_stated_in_full(changes, error, says):
    with pytest.raises(error, match=says):
        cache.Provenance(**{**WHOSE, **changes})


def broken(**changes):
    target = topk(4, ragged=False)
    values = {name: np.array(value) for name, value in vars(target).items()}
    for name, (where, value) in changes.items():
        values[name][where] = value
    return TopK(**{**values, "vocab_size": V})


NAN = float("nan")


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (broken(ids=((2, 1), V)), "ids, row 2: holds 300"),
        (broken(ids=((2, 1), -2)), "ids, row 2: holds -2"),
        (broken(ids=((1, 2), -1)), r"ids, row 1: an entry follows padding; move"),
        (broken(ids=((3, slice(0, 2)), 9)), "ids, row 3: holds 9 twice"),
        (broken(log_probs=((1, 4), NAN)), "log_probs, row 1: holds nan at entry 4"),
        (broken(log_probs=((1, 4), 0.1)), "log_probs, row 1: holds 0.1 at entry 4"),
        (broken(ids=((1, 5), -1)), "log_probs, row 1: .* −inf at padding"),
        (broken(tail_mass=(2, -0.1)), "tail_mass, row 2: -0.1"),
        (broken(tail_mass=(2, NAN)), "tail_mass, row 2: nan"),
        (broken(num_ranked=(0, 7)), "num_ranked, row 0: 7 of 6"),
        (broken(log_probs=((1, 4), -1e5)), "log_probs, row 1: -100000 is beyond float16"),
        (Dense(np.zeros((2, 3), np.float32)), "log_probs, row 0: sums to 3"),
        (samples(3), "float16 is for log-probabilities"),
    ],
)
def test_what_no_target_holds_is_refused_before_it_is_on_disk(target, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        cache.write_targets(tmp_path, target, dtype="float16", **WHOSE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"weights": -0.5}, "weights, row 1: holds -0.5"),
        ({"num_draws": -1}, "num_draws, row 1: -1; it counts"),
    ],
)
def test_samples_are_refused_too(changes, says, tmp_path):
    values = {name: np.array(value) for name, value in vars(samples(3)).items()}
    for name, value in changes.items():
        values[name][1] = value
    with pytest.raises(ValueError, match=says):
        cache.write_targets(tmp_path, Samples(**{**values, "vocab_size": V}), **WHOSE)


def test_no_target_no_cache(tmp_path):
    with pytest.raises(TypeError, match="Dense, TopK or Samples, got ndarray"):
        cache.write_targets(tmp_path, np.zeros(3), **WHOSE)
    top = topk(3)
    half = TopK(top.ids, top.log_probs, top.tail_mass, top.num_ranked + 0.5, V)
    with pytest.raises(TypeError, match="num_ranked has dtype float64"):
        cache.write_targets(tmp_path, half, **WHOSE)
    with pytest.raises(ValueError, match="dtype must be one of"):
        cache.write_targets(tmp_path, topk(3), dtype="int8", **WHOSE)
    with Writer(tmp_path, cache.Provenance(**WHOSE)):
        pass
    with pytest.raises(cache.CacheError, match="no shard was finished"):
        cache.open_cache(tmp_path)


def test_rows_that_are_not_there(whole):
    reader = cache.open_cache(whole)
    for number in (130, -131):
        with pytest.raises(IndexError, match=f"row {number} of the 130"):
            reader[number]
        with pytest.raises(IndexError, match=f"row {number} of the 130"):
            reader.rows([0, number])
    with pytest.raises(TypeError, match="whole numbers"):
        reader.rows([0.5])
    with pytest.raises(ValueError, match="verify"):
        cache.open_cache(whole, verify="never")


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


def test_a_description_has_it_all(whole):
    found = cache.describe(whole)
    assert found.ok
    assert found.complete
    assert (found.kind, found.rows, found.positions, found.k, found.vocab_size) == ("topk", 130, 130, 6, V)
    assert found.provenance == cache.Provenance(**WHOSE)
    assert [shard.rows for shard in found.shards] == [30, 30, 30, 30, 10]
    assert found.bytes == sum(file.stat().st_size for file in whole.iterdir())
    assert found.bytes_per_token == found.bytes / 130


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


def test_a_missing_pyarrow_says_what_to_install(whole, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", types.ModuleType("pyarrow.parquet"))
    with pytest.raises(ImportError, match=r"pip install 'sparsekd_jax\[targets\]'"):
        cache.open_cache(whole)


def test_fingerprints_are_of_contents():
    assert cache.fingerprint(b"ab") != cache.fingerprint(b"ab\0") != cache.fingerprint("ab")
    tree = {"w": jnp.ones(3), "b": jnp.zeros(2)}
    assert cache.fingerprint(*jax.tree.leaves(tree)) == cache.fingerprint(*jax.tree.leaves(dict(tree)))
    with pytest.raises(TypeError, match=r"jax\.tree\.leaves"):
        cache.fingerprint(tree)


def test_columns_are_known_for_every_kind():
    assert list(columns.dtypes("dense", 10, "float16")) == ["log_probs", "log_mass"]
    assert columns.dtypes("samples", 10, "float64")["weights"] == np.float64
