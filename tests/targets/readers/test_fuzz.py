"""Ten thousand broken records: each is refused with a `LogError`, or read as another reader reads it."""

import copy
import json
import random

import numpy as np
import pytest

from sparsekd_jax.targets import readers
from sparsekd_jax.targets.readers import rows as rows_module
from tests.targets.readers import logs

_DEEP = "deep"
JUNK = [
    None, True, False, 0, 1, -1, 7, 10**25, -(10**400), 0.5, -0.25, 1e-12, -9999.0, -9999, -1e308, 1e308,
    float("nan"), float("inf"), float("-inf"), "", "a", "b", "token_id:3", "token_id:99", "\ufffd", "\ud800",
    "nine", "-0.5", [], {}, [[]], [None], [97], [300], {"a": -1.0}, {"token": "a"}, _DEEP,
    {"3": {"logprob": -1.0}},
]  # fmt: skip


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in inner:
        yield from places(held, (*path, key))


def mutate(record, rng):
    """A record with one to three things wrong, as bytes."""
    record = copy.deepcopy(record)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        spots = [path for path in places(record) if path]
        if not spots:
            break
        path = rng.choice(spots)
        owner = record
        for key in path[:-1]:
            owner = owner[key]
        kind = rng.randrange(6)
        if kind == 0:
            del owner[path[-1]]
        elif kind == 1 and isinstance(owner, dict):
            owner["logprob" if rng.random() < 0.5 else "extra"] = rng.choice(JUNK)
        elif kind == 2 and isinstance(owner, list):
            owner.append(copy.deepcopy(owner[path[-1]]))
        elif kind == 3 and isinstance(owner[path[-1]], float):
            owner[path[-1]] *= rng.choice((0.0, 0.5, 0.999999, 1.0001, 2.0, -1.0, 1e30))
        else:
            owner[path[-1]] = copy.deepcopy(rng.choice(JUNK))
    raw = json.dumps(record, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    raw = raw.replace(b'"deep"', b"[" * 3000 + b"]" * 3000)
    kind = rng.randrange(12)
    if kind == 0:
        raw = raw[: rng.randrange(len(raw))]
    elif kind == 1:
        at = rng.randrange(len(raw))
        raw = raw[:at] + bytes([rng.randrange(256)]) + raw[at + 1 :]
    elif kind == 2:
        at = raw.find(b'"', rng.randrange(len(raw)))
        end = raw.find(b",", at)
        again = raw[at:end].replace(b'":', rng.choice((b'":', b'" :', b'"\t :')), 1)
        raw = raw[:end] + b"," + again + raw[end:]  # often a name twice
    elif kind == 3:
        raw += raw
    return raw.replace(b"\n", b" ").replace(b"\r", b" ")


def unique(pairs):
    """No name twice in what was read: a parser would keep the last and say nothing."""
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def check_batch(batch, source):
    """The invariants of `TopK`, and the numbers of the plainest reader there is."""
    t = batch.targets
    ids, log_probs = np.asarray(t.ids), np.asarray(t.log_probs)
    tail, ranked = np.asarray(t.tail_mass), np.asarray(t.num_ranked)
    seen = ids >= 0
    assert ((ids >= -1) & (ids < logs.V)).all()
    assert np.isneginf(log_probs[~seen]).all()
    assert np.isfinite(log_probs[seen]).all()
    assert (log_probs[seen] <= 0).all()
    assert ((tail >= 0) & (tail <= 1)).all()
    assert ((ranked >= 0) & (ranked <= seen.sum(-1))).all()
    expected = logs.naive(source)
    for i, position in enumerate(batch.positions):
        own = ids[i][seen[i]]
        assert len(set(own.tolist())) == len(own)
        falling = log_probs[i][: ranked[i]]
        assert (np.diff(falling) <= 0).all()
        there = expected[position]
        assert set(own.tolist()) == set(there)
        reference = [there[j] for j in own.tolist()]
        np.testing.assert_allclose(log_probs[i][seen[i]], reference, rtol=1e-4, atol=1.1e-4)
        np.testing.assert_allclose(tail[i], 0 if len(there) == logs.V else logs.tail(there), atol=2e-4)


def run(form, count, seed, path):
    rng, np_rng = random.Random(seed), np.random.default_rng(seed)
    originals = [logs.FORMS[form](logs.positions(np_rng, 2, 3, appended=bool(i % 2))) for i in range(20)]
    raws = [mutate(rng.choice(originals), rng) for _ in range(count)]
    good = json.dumps(originals[0]).encode()
    path.write_bytes(b"".join(raw + b"\n" for raw in [good, *raws]))
    report = readers.Report()
    batches = list(
        readers.read_targets(
            path, k=12, vocabulary=logs.BYTE_IDS, on_error="skip", report=report, batch_size=4096
        )
    )
    read = 0
    for batch in batches:
        for line in np.unique(batch.lines).tolist():
            here = np.flatnonzero(batch.lines == line)
            part = readers.Batch(
                type(batch.targets)(
                    *(
                        np.asarray(getattr(batch.targets, f))[here]
                        for f in ("ids", "log_probs", "tail_mass", "num_ranked")
                    ),
                    logs.V,
                ),
                *(own[here] for own in batch[1:]),
            )
            check_batch(part, json.loads([good, *raws][line - 1], object_pairs_hook=unique))
            read += line > 1
    blank = sum(not raw.strip() for raw in raws)
    assert report.records + report.num_refused + blank == count + 1
    return read, report


@pytest.mark.parametrize("form", logs.FORMS)
def test_mutated_records(tmp_path, form):
    read, report = run(form, 1700, seed=0, path=tmp_path / "log.jsonl")
    assert read > 100  # the mutations are not all fatal,
    assert report.num_refused > 400  # nor all harmless,
    assert len(report.refused) >= 5  # nor all of a kind


@pytest.mark.parametrize("form", logs.FORMS)
def test_one_at_a_time_the_first_error_is_raised(tmp_path, form):
    """The same lines alone: no other exception, and what is refused among others is refused alone."""
    rng = random.Random(1)
    record = logs.FORMS[form](logs.positions(np.random.default_rng(1), 2, 3))
    for _ in range(60):
        path = tmp_path / "one.jsonl"
        path.write_bytes(mutate(record, rng))
        report = readers.Report()
        options = {"k": 12, "vocabulary": logs.BYTE_IDS}
        skipped = list(readers.read_targets(path, on_error="skip", report=report, **options))
        if report.num_refused:
            with pytest.raises(readers.LogError) as caught:
                list(readers.read_targets(path, **options))
            assert caught.value.reason in report.refused
            assert caught.value.remedy
            assert caught.value.field
        else:
            assert len(list(readers.read_targets(path, **options))) == len(skipped)
        readers.inspect(path)


def test_the_fuzz_finds_a_reader_that_trusts_its_numbers(tmp_path, monkeypatch):
    """A twin whose tail forgets the chosen token is caught."""
    plain = rows_module.assemble

    def twin(records, reading):
        found, problems = plain(records, reading)
        found.tail[found.counts["appended"]] *= 0.5
        return found, problems

    monkeypatch.setattr("sparsekd_jax.targets.readers.stream.assemble", twin)
    with pytest.raises(AssertionError):
        run("chat", 100, seed=0, path=tmp_path / "log.jsonl")


@pytest.mark.nightly
@pytest.mark.parametrize("form", logs.FORMS)
@pytest.mark.parametrize("seed", range(1, 11))
def test_mutated_records_at_length(tmp_path, form, seed):
    run(form, 10_000, seed, tmp_path / "log.jsonl")
