"""Logs of a few records, written by hand, and what their readers refuse."""

import json

import pytest

from sparsekd_jax.targets import readers
from tests.targets.readers.logs import the_rows

CHAT = """{"choices": [{"logprobs": {"content": [
  {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [
    {"token": "a", "logprob": -0.5, "bytes": [97]},
    {"token": "b", "logprob": -1.5, "bytes": [98]}]}]}}]}"""


def log_of(tmp_path, *records):
    path = tmp_path / "log.jsonl"
    lines = [
        record.replace("\n", "") if isinstance(record, str) else json.dumps(record) for record in records
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def entries(*pairs):
    return [{"token": t, "logprob": lp, "bytes": list(t.encode())} for t, lp in pairs]


def content(*positions):
    """Chat positions from ``(top, chosen)``."""
    inner = [{**entries(own)[0], "top_logprobs": entries(*top)} for top, own in positions]
    return {"choices": [{"logprobs": {"content": inner}}]}


def refusal(path, **options):
    with pytest.raises(readers.LogError) as caught:
        the_rows(path, **{"k": 5, **options})
    return caught.value
