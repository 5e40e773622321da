"""A log of any length is read in the memory of a chunk."""

import json
import os
import tracemalloc

import numpy as np
import pytest

from sparsekd_jax.targets import readers
from sparsekd_jax.targets.readers import lines, stream
from tests.targets.readers import logs


def peak(path):
    """Bytes allocated at most while a log is read, by Python and numpy."""
    tracemalloc.start()
    try:
        count = sum(len(batch.lines) for batch in readers.read_targets(path, k=8, vocabulary=logs.BYTE_IDS))
        return count, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def grow(path, megabytes):
    record = json.dumps(logs.chat(logs.positions(np.random.default_rng(0), 100, 8))).encode() + b"\n"
    with path.open("wb") as file:
        for _ in range((megabytes << 20) // len(record)):
            file.write(record)
    return 100 * (path.stat().st_size // len(record))


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_BUDGET", 1 << 12)
    path = tmp_path / "log.jsonl"
    expected = grow(path, 1)
    count, small = peak(path)
    assert count == expected
    grow(path, 4)
    assert peak(path)[1] < 1.1 * small + (1 << 18)


@pytest.mark.nightly
def test_eighty_megabytes_in_what_forty_need(tmp_path):
    path = tmp_path / "log.jsonl"
    grow(path, 40)
    small = peak(path)[1]
    grow(path, 80)
    assert peak(path)[1] < 1.1 * small < 40 << 20


def test_what_does_not_fit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_BYTES", 1 << 20)
    rows = logs.positions(np.random.default_rng(0), 3, 3)
    good = json.dumps(logs.chat(rows))
    path = tmp_path / "log.jsonl"
    path.write_text(f'{good}\n{{"x": "{"y" * (3 << 20)}"}}\n{good}\n')
    report = readers.Report()
    got = list(readers.read_targets(path, k=3, vocabulary=logs.BYTE_IDS, on_error="skip", report=report))
    assert got[0].lines.tolist() == [1, 1, 1, 3, 3, 3]
    assert report.refused["line too long"][:2] == [1, 2]
    listed = tmp_path / "log.json"
    listed.write_text(f"[{good}, {good}{' ' * (1 << 20)}]")
    with pytest.raises(readers.LogError, match=r"is not read in bounded memory.*jq -c"):
        list(readers.read(listed))


def test_closing_early_closes_the_file(tmp_path):
    path = tmp_path / "log.jsonl"
    grow(path, 1)
    for _ in range(3):
        batches = readers.read_targets(path, k=8, vocabulary=logs.BYTE_IDS, batch_size=10)
        next(batches)
        batches.close()
    if os.path.isdir("/proc/self/fd"):
        held = []
        for fd in os.listdir("/proc/self/fd"):
            try:
                held.append(os.readlink(f"/proc/self/fd/{fd}"))
            except OSError:
                continue
        assert str(path) not in held
