"""Reading logs of served log-probabilities, against nothing but parsing them.

For each form a made-up log is written: records of 64 positions, 20 tokens each of a vocabulary of 5,000,
drawn from softmax logits. The baselines parse every line, by `json.loads` and by `orjson.loads`, and let it
go. The reader parses with orjson, checks, looks ids up, ranks, sums the tails, and yields batches of `TopK`.
All calls run once a round, in turn; a ratio is of medians, of the reader's speed to the baseline's.
"""

import functools
import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from sparsekd_jax.bench.timing import interleave
from sparsekd_jax.targets import readers

FORMS = ("chat", "completions", "prompt")
READER, BASELINES = "read_targets", ("json.loads", "orjson.loads")
_V, _K, _POSITIONS = 5000, 20, 64
_TEXTS = [":", " :", '"', '":', *(f" tok{i}" for i in range(4, _V))]
"""The first four make a name's end hard to tell: most records have one of them."""


def _record(form: str, rng: np.random.Generator) -> dict[str, Any]:
    tops = []
    for _ in range(_POSITIONS):
        z = 3 * rng.standard_normal(_V)
        order = np.argpartition(-z, _K)[:_K]
        order = order[np.argsort(-z[order])]
        log_probs = (z[order] - np.log(np.exp(z).sum())).astype(np.float32)
        tops.append(list(zip(order.tolist(), log_probs.tolist(), strict=True)))
    if form == "prompt":
        lists = [
            {
                str(i): {"logprob": x, "rank": r + 1, "decoded_token": _TEXTS[i]}
                for r, (i, x) in enumerate(top)
            }
            for top in tops
        ]
        return {"choices": [{"text": "", "prompt_logprobs": [None, *lists]}]}
    if form == "completions":
        log_probs = {
            "tokens": [_TEXTS[top[0][0]] for top in tops],
            "token_logprobs": [top[0][1] for top in tops],
            "top_logprobs": [{_TEXTS[i]: x for i, x in top} for top in tops],
            "text_offset": list(range(_POSITIONS)),
        }
        return {"choices": [{"text": "", "logprobs": log_probs}]}
    entries = [
        [{"token": _TEXTS[i], "logprob": x, "bytes": list(_TEXTS[i].encode())} for i, x in top]
        for top in tops
    ]
    return {"choices": [{"logprobs": {"content": [{**own[0], "top_logprobs": own} for own in entries]}}]}


def _parse(path: Path, loads: Callable[[bytes], Any]) -> Callable[[], None]:
    def run() -> None:
        with path.open("rb") as file:
            for line in file:
                loads(line)

    return run


def _read(path: Path) -> Callable[[], None]:
    vocabulary = readers.Vocabulary({text: i for i, text in enumerate(_TEXTS)})

    def run() -> None:
        for _ in readers.read_targets(path, k=_K, vocabulary=vocabulary):
            pass

    return run


def _announce(progress: Callable[[str], None], form: str, i: int) -> None:
    progress(f"{form}, round {i + 1}")


def measure(
    *, records: int = 400, rounds: int = 5, progress: Callable[[str], None] = lambda label: None
) -> dict[str, Any]:
    """Time the reader and the two baselines on a log of each form.

    Args:
        records: lines of a log.
        rounds: interleaved rounds, after one that is not counted.
        progress: called with what is being done.

    Returns:
        ``{"records", "rounds", "rows"}``; a row has ``form``, ``megabytes``, ``what``, ``median_s``, ``mb_s``
        and, for the reader, ``ratio`` by baseline.
    """
    import orjson

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMS:
            progress(f"writing a {form} log")
            path = Path(folder) / f"{form}.jsonl"
            rng = np.random.default_rng(0)
            path.write_text("".join(json.dumps(_record(form, rng)) + "\n" for _ in range(records)))
            megabytes = path.stat().st_size / 1e6
            calls = [_parse(path, json.loads), _parse(path, orjson.loads), _read(path)]
            interleave(calls, 1, lambda i: None)
            times = interleave(calls, rounds, functools.partial(_announce, progress, form))
            medians = [statistics.median(own) for own in times]
            for what, median in zip((*BASELINES, READER), medians, strict=True):
                row = {
                    "form": form,
                    "megabytes": round(megabytes, 2),
                    "what": what,
                    "median_s": round(median, 4),
                }
                rows.append(row | {"mb_s": round(megabytes / median, 1)})
            rows[-1]["ratio"] = {
                name: round(own / medians[-1], 3) for name, own in zip(BASELINES, medians, strict=False)
            }
    return {"records": records, "rounds": rounds, "rows": rows}


def table(result: dict[str, Any]) -> Table:
    """The result for a terminal."""
    out = Table(
        title=f"Reading {result['records']} records of {_POSITIONS} positions, top {_K}, "
        f"{result['rounds']} interleaved rounds",
        title_justify="left",
    )
    out.add_column("form", no_wrap=True)
    out.add_column("what", no_wrap=True)
    for head in ("MB", "median s", "MB/s", "× json", "× orjson"):
        out.add_column(head, justify="right", no_wrap=True)
    for row in result["rows"]:
        ratios = [f"{row['ratio'][name]:.2f}" for name in BASELINES] if "ratio" in row else ["", ""]
        numbers = (f"{row['megabytes']:.1f}", f"{row['median_s']:.3f}", f"{row['mb_s']:.0f}")
        out.add_row(row["form"], row["what"], *numbers, *ratios)
    return out
