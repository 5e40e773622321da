"""Caches come back bit for bit; what is meant for another teacher is refused in words."""

import pickle
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

from sparsekd_jax import operators, targets
from sparsekd_jax.operators import PowerTransform
from sparsekd_jax.targets import Dense, Samples, TopK, cache, soften
from sparsekd_jax.targets.cache import columns
from sparsekd_jax.targets.cache.writer import Writer
from tests.targets.cached import WHOSE, V, assert_same, contents, dense, part, samples, sequences, topk


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
        np.array([1 - np.exp(-1) - np.exp(-2)], np.float32),
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


@pytest.mark.parametrize("top", [0.9, 0.5, 0.7])
def test_float16_leaves_a_flat_tail_below_the_list(top, tmp_path):
    """Smoothed labels: every entry but one is as likely as an unseen token, and none may round to less."""
    rest = (1 - top) / 1003
    log_probs = np.log(np.array([[top, *[rest] * 4]], np.float64)).astype(np.float32)
    target = TopK.observed(np.arange(5)[None], log_probs, vocab_size=1004)
    rounded = log_probs.astype(np.float16).astype(np.float32)
    assert np.abs(rounded - log_probs).max() > 4e-5, "rounding alone would leave the tolerance"
    cache.write_targets(tmp_path, target, dtype="float16", **WHOSE)
    read = cache.open_cache(tmp_path).read()
    softened = soften(PowerTransform(), read, 2.0)
    assert np.isfinite(np.asarray(softened.log_probs)).all()
    assert np.exp(read.log_probs.astype(np.float64)).sum() + read.tail_mass[0] == pytest.approx(1, abs=1e-6)
    # Half a spacing of float16 at |log p| from 8 to 16, plus the shift, which is no more.
    np.testing.assert_allclose(read.log_probs, log_probs, rtol=0, atol=2**-8 + 2**-8)


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
    target = Dense(jnp.array([[-1.0014e-3, -6.90625], [0.0, -jnp.inf]], jnp.bfloat16))  # (.999, .001)
    cache.write_targets(tmp_path, target, **WHOSE)
    found = cache.open_cache(tmp_path).read()
    np.testing.assert_array_equal(found.log_probs, np.asarray(target.log_probs).astype(np.float32))
    soften(operators.get("power"), found, 2.0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("source", "dtype", "words"),
    [
        (
            "bfloat16",
            "float32",
            "rounded to bfloat16; the cache gives back float32, .*target of float32",
        ),
        ("float16", "float16", "rounded to float16; the cache gives back float32"),
        ("float32", "float64", "rounded to float32; the cache gives back float64.*or pass dtype='float32'"),
    ],
)
@pytest.mark.parametrize("make", [Dense, lambda log_p: targets.top_k(log_p, 3)], ids=["dense", "topk"])
def test_what_could_be_written_and_never_softened_is_refused(tmp_path, make, source, dtype, words):
    logits = np.random.default_rng(0).normal(size=(9, 12))
    target = make(jnp.asarray(jax.nn.log_softmax(jnp.asarray(logits)), source))
    soften(operators.get("power"), target, 2.0)  # in its own dtype
    with pytest.raises(ValueError, match=f"log_probs, row .*: sums to .*, {words}"):
        cache.write_targets(tmp_path, target, dtype=dtype, **WHOSE)


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
ROW = topk(4, ragged=False).log_probs[1]
SWAPPED = ((1, [1, 2]), ROW[[2, 1]])
WITHOUT_LAST = 1 - np.exp(ROW[:5].astype(np.float64)).sum()


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (broken(ids=((2, 1), V)), "ids, row 2: contains 300"),
        (broken(ids=((2, 1), -2)), "ids, row 2: contains -2"),
        (broken(ids=((1, 2), -1)), r"ids, row 1: has padding .* before a token; move"),
        (broken(ids=((3, slice(0, 2)), 9)), "ids, row 3: holds token 9 twice"),
        (broken(log_probs=((1, 4), NAN)), "log_probs, row 1: contains nan at entry 4"),
        (broken(log_probs=((1, 4), 0.1)), "log_probs, row 1: contains 0.1 at entry 4"),
        (broken(ids=((1, 5), -1)), "log_probs, row 1: contains .* at entry 5; .* −inf .* at padding"),
        (broken(tail_mass=(2, -0.1)), "tail_mass, row 2: is -0.1"),
        (broken(tail_mass=(2, NAN)), "tail_mass, row 2: is nan"),
        (broken(num_ranked=(0, 7)), "num_ranked, row 0: is 7, of 6 entries"),
        (broken(tail_mass=(2, 0.9)), "tail_mass, row 2: is 0.9, which completes the row to"),
        (broken(log_probs=SWAPPED), "log_probs, row 1: rises at entry 2"),
        (
            broken(log_probs=SWAPPED, num_ranked=(1, 2)),
            "log_probs, row 1: entry 2 is not ranked and has more",
        ),
        (
            broken(log_probs=((1, 5), -1e5), num_ranked=(1, 5), tail_mass=(1, WITHOUT_LAST)),
            "is beyond float16",
        ),
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
        ({"weights": -0.5}, "weights, row 1: contains -0.5"),
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


def test_a_description_has_it_all(whole):
    found = cache.describe(whole)
    assert found.ok
    assert found.complete
    assert (found.kind, found.rows, found.positions, found.k, found.vocab_size) == ("topk", 130, 130, 6, V)
    assert found.provenance == cache.Provenance(**WHOSE)
    assert [shard.rows for shard in found.shards] == [30, 30, 30, 30, 10]
    assert found.bytes == sum(file.stat().st_size for file in whole.iterdir())
    assert found.bytes_per_token == found.bytes / 130


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
