"""``inspect``, and ``sparsekd targets inspect``: everything in a log is told, nothing needs a vocabulary."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from sparsekd_jax.cli import app
from sparsekd_jax.targets import Samples, cache, readers
from tests.targets.readers import logs


@pytest.fixture
def log(tmp_path):
    rng = np.random.default_rng(0)
    rows = [logs.positions(rng, 5, 3, appended=True) for _ in range(4)]
    path = logs.write(tmp_path / "log.jsonl", [logs.chat(rows[0]), logs.prompt(rows[1]), logs.chat(rows[2])])
    with path.open("a") as file:
        file.write('{"choices": [\n{"nothing": 1}\n{"choices": [\n')
    return path, rows


def test_the_report(log):
    path, rows = log
    report = readers.inspect(path)
    assert (report.records, report.positions) == (3, 15)
    assert dict(report.forms) == {"chat": 2, "prompt": 1}
    assert dict(report.listed) == {3: 10, 4: 5, 0: 1}
    assert report.counts["appended"] == 10
    assert report.counts["empty"] == 1
    assert {name: entry[:2] for name, entry in report.refused.items()} == {
        "not JSON": [2, 4],
        "no log-probabilities": [1, 5],
    }
    tails = sorted(logs.tail(dict([*top, own])) for row in rows[:3] for top, own in row)
    for q in (0.05, 0.5, 0.95):
        exact = tails[max(int(np.ceil(q * len(tails))), 1) - 1]
        assert exact <= report.tail_quantile(q) * (1 + 1e-9) <= exact * 1.024
    assert np.isnan(readers.Report().tail_quantile(0.5))
    assert "refused 2, first at line 4: not JSON" in str(report)


def run(*arguments):
    return CliRunner().invoke(
        app, ["targets", "inspect", *map(str, arguments)], env={"TERMINAL_WIDTH": "300"}
    )


def test_the_command_exits_1_where_something_is_refused(log, tmp_path):
    path, _ = log
    result = run(path, "--json", tmp_path / "report.json")
    assert result.exit_code == 1, result.output
    assert "3 records, 15 positions; form: chat (2), prompt (1)" in result.output
    assert "10 positions whose chosen token is outside their list" in result.output
    assert json.loads((tmp_path / "report.json").read_text())["refused"]["not JSON"]["first_line"] == 4


def test_the_command_exits_0_on_a_clean_log(tmp_path):
    rows = logs.positions(np.random.default_rng(0), 5, 3)
    result = run(logs.write(tmp_path / "log.jsonl", [logs.tgi(rows)]))
    assert result.exit_code == 0, result.output


def test_usage(log, tmp_path):
    path, _ = log
    (tmp_path / "link.json").symlink_to(tmp_path / "no" / "r.json")
    for arguments, words in (
        ((tmp_path / "none",), "does not exist"),
        ((tmp_path,), "there is no cache in"),
        ((path, "--format", "csv"), "the formats are chat"),
        ((path, "--json", tmp_path / "no" / "r.json"), "make it first"),
        ((path, "--json", tmp_path / "link.json"), "cannot be written"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert words in " ".join(result.output.replace("│", " ").split())


def test_a_cache_is_told_too_and_a_damaged_shard_is_status_1(tmp_path):
    folder = tmp_path / "cache"
    seen = Samples.from_counts(np.array([[3, 0, 1], [0, 2, 2]]))
    cache.write_targets(folder, seen, teacher="t", tokenizer=None, data=None)
    result = run(folder, "--json", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert "2 rows, complete" in " ".join(result.output.split())
    assert json.loads((tmp_path / "r.json").read_text())["vocab_size"] == 3
    shard = next(folder.glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert run(folder).exit_code == 1
