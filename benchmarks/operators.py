"""Each operator family against ``jax.nn.softmax(z / T)``: the same logits, one run, interleaved.

Compilation is timed apart. A round calls the baseline and then every candidate once, so that a slow spell of
the machine falls on all of them; the ratio is the median over rounds of the ratio within a round.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.table import Table

from sparsekd_jax import operators

BASELINE = "jax.nn.softmax(z / T)"
FAMILIES = (
    "power",
    "mixture",
    "tsallis(0.5)",
    "tsallis(1.5)",
    "tsallis(3)",
    "entropy-projection",
    "euclidean-entropy-projection",
)
Call = Callable[[], Any]


def measure(
    *,
    shape: tuple[int, int] = (8192, 1024),
    temperature: float = 4.0,
    rounds: int = 7,
    families: Iterable[str] = FAMILIES,
    progress: Callable[[str], None] = lambda label: None,
) -> dict[str, Any]:
    """Time every family from logits and from probabilities, float32.

    Args:
        shape: (rows, classes) of the batch.
        temperature: T of every call.
        rounds: interleaved rounds after one to warm up.
        families: names as `operators.parse` reads them.
        progress: called with what is about to run.

    Returns:
        ``{"shape", "dtype", "temperature", "rounds", "rows"}``; a row has ``operator``, ``entry``,
        ``compile_s``, ``median_ms``, ``min_ms``, ``ratio`` to the baseline, and the largest ``|Σq − 1|``.
    """
    logits = jnp.asarray(3 * np.random.default_rng(0).normal(size=shape), jnp.float32)
    p = jax.nn.softmax(logits, axis=-1)
    t = jnp.float32(temperature)
    functions: dict[tuple[str, str], tuple[Callable[..., Any], Any]] = {
        (BASELINE, "logits"): (lambda z, t: jax.nn.softmax(z / t, axis=-1), logits)
    }
    for name in families:
        operator = operators.parse(name)
        functions[operator.name, "logits"] = (operator.from_logits, logits)
        functions[operator.name, "probabilities"] = (operator, p)

    rows, calls = [], []
    for (name, entry), (function, x) in functions.items():
        progress(f"compiling {name} from {entry}")
        began = time.perf_counter()
        # Inside jit nothing is validated: what is timed is the operator and not the look at its argument.
        compiled = jax.jit(lambda x, t, f=function: f(x, t)).lower(x, t).compile()
        seconds = time.perf_counter() - began
        q = np.asarray(compiled(x, t), np.float64)  # the warm-up
        error = float(np.abs(q.sum(-1) - 1).max())
        rows.append(
            {"operator": name, "entry": entry, "compile_s": round(seconds, 3), "normalisation_error": error}
        )
        calls.append(lambda run=compiled, x=x: jax.block_until_ready(run(x, t)))

    times = interleave(calls, rounds, lambda i: progress(f"round {i + 1} of {rounds}"))
    for row, own in zip(rows, times, strict=True):
        ratios = [mine / base for mine, base in zip(own, times[0], strict=True)]
        row["median_ms"] = round(1e3 * statistics.median(own), 3)
        row["min_ms"] = round(1e3 * min(own), 3)
        row["ratio"] = round(statistics.median(ratios), 2)
    return {
        "shape": list(shape),
        "dtype": "float32",
        "temperature": temperature,
        "rounds": rounds,
        "rows": rows,
    }


def interleave(calls: list[Call], rounds: int, on_round: Callable[[int], None]) -> list[list[float]]:
    """Seconds of each call in each round, every call once a round: ``[call][round]``."""
    times: list[list[float]] = [[] for _ in calls]
    for i in range(rounds):
        on_round(i)
        for call, own in zip(calls, times, strict=True):
            began = time.perf_counter()
            call()
            own.append(time.perf_counter() - began)
    return times


def table(result: dict[str, Any]) -> Table:
    """The result for a terminal."""
    rows, classes = result["shape"]
    out = Table(
        title=f"{result['dtype']}, {rows} × {classes}, T = {result['temperature']:g}, "
        f"{result['rounds']} interleaved rounds; ms a call",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
    )
    out.add_column("operator", no_wrap=True)
    out.add_column("from", no_wrap=True)
    for head in ("median", "least", "× softmax", "compile s", "|Σq − 1|"):
        out.add_column(head, justify="right", no_wrap=True)
    for row in result["rows"]:
        out.add_row(
            row["operator"],
            {"probabilities": "p", "logits": "z"}[row["entry"]],
            f"{row['median_ms']:.2f}",
            f"{row['min_ms']:.2f}",
            f"{row['ratio']:.2f}",
            f"{row['compile_s']:.2f}",
            f"{row['normalisation_error']:.0e}",
        )
    return out
