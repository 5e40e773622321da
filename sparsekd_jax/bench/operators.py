"""Each operator family against ``jax.nn.softmax(z / T)`` and what else one would call: one run, interleaved.

Compilation is timed apart. A round calls the baseline and then every candidate once, so that a slow spell of
the machine falls on all of them; the ratio is the median over rounds of the ratio within a round. Candidates
are timed under jit, where nothing is validated; validation has a row of its own.
"""

import functools
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Group
from rich.table import Table

from sparsekd_jax import operators, simplex
from sparsekd_jax.bench._tables import bare_table
from sparsekd_jax.bench.rivals import rivals, rows_of
from sparsekd_jax.bench.timing import Call, compiled, interleave, ratio

BASELINE = "jax.nn.softmax(z / T)"
COPY, VALIDATION = "copy", "validation of p"
FAMILIES = (
    "power",
    "mixture",
    "tsallis(0.5)",
    "tsallis(1.5)",
    "tsallis(3)",
    "entropy-projection",
    "euclidean-entropy-projection",
)
SLOW = ("tsallis(0.5)", "tsallis(3)")
COLD = 0.5
"""T of one more row, of the family whose closed form ends at T = 1."""
SHAPES = ((8192, 1024), (1024, 32768))
INPUTS = (
    "softmax of 3 N(0, 1) logits, one row in eight multiplied by 10 (near one-hot); T as given, next to 1 "
    "(1.001) in another row of eight"
)
_ENTRIES = {"probabilities": "p", "logits": "z", "log": "log p"}


def batch(shape: tuple[int, int], temperature: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The fixed inputs that `INPUTS` describes: logits and probabilities ``[rows, K]``, T ``[rows]``."""
    logits = 3 * np.random.default_rng(0).normal(size=shape)
    logits[3::8] *= 10
    t = np.full(shape[0], temperature)
    t[5::8] = 1.001
    z = jnp.asarray(logits, jnp.float32)
    # Entropy projection is defined on the interior: float32 holds the one-hot rows off its boundary.
    p = jnp.maximum(jax.nn.softmax(z, axis=-1), 1e-30)
    return z, p / jnp.sum(p, axis=-1, keepdims=True), jnp.asarray(t, jnp.float32)


def measure(
    *,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    temperature: float = 4.0,
    rounds: int = 5,
    families: Iterable[str] | None = None,
    progress: Callable[[str], None] = lambda label: None,
) -> dict[str, Any]:
    """Time every family from logits and from probabilities, its gradient, and its rivals, in float32.

    Args:
        shapes: (rows, classes) of each batch.
        temperature: T of most rows, from 1 up.
        rounds: interleaved rounds after one to warm up; as many for gradients, each beside its forward.
        families: names as `operators.parse` reads them; by default `FAMILIES`, but of a batch beyond 2²⁴
            numbers not the Tsallis family at a general α, whose search takes seconds there.
        progress: called with what is about to run.

    Returns:
        ``{"dtype", "temperature", "rounds", "inputs", "shapes"}``; of each shape ``{"shape", "rows"}``, and a
        row has ``operator``, ``entry``, ``compile_s``, ``temporaries_mb``, ``median_ms``, ``min_ms``,
        ``ratio`` to the baseline, ``gb_per_s`` (one read and one write of the batch), the largest
        ``normalisation_error`` |Σq − 1|, and ``gradient_ms`` with ``gradient_ratio`` to its own forward; a
        number that does not apply is None.
    """
    chosen = None if families is None else tuple(families)

    def of(shape: tuple[int, int]) -> tuple[str, ...]:
        if chosen is not None:
            return chosen
        return FAMILIES if shape[0] * shape[1] <= 2**24 else tuple(f for f in FAMILIES if f not in SLOW)

    return {
        "dtype": "float32",
        "temperature": temperature,
        "rounds": rounds,
        "inputs": INPUTS,
        "shapes": [_at(shape, temperature, rounds, of(shape), progress) for shape in shapes],
    }


def _at(
    shape: tuple[int, int],
    temperature: float,
    rounds: int,
    families: Sequence[str],
    progress: Callable[[str], None],
) -> dict[str, Any]:
    z, p, t = batch(shape, temperature)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
    functions: dict[tuple[str, str], tuple[Callable[..., Any], Any]] = {
        (BASELINE, "logits"): (lambda z, t: jax.nn.softmax(z / t[:, None], axis=-1), z)
    }
    for name in families:
        operator = operators.parse(name)
        functions[operator.name, "logits"] = (operator.from_logits, z)
        functions[operator.name, "probabilities"] = (operator, p)
        if name == "power":
            functions[name, "log"] = (operator.log, jnp.log(p))
        if name == "tsallis(1.5)":
            cold = functools.partial(_at_most, operator, COLD)
            functions[f"{name}, T = {COLD}", "probabilities"] = (cold, p)
    rows: list[dict[str, Any]] = []
    calls: list[Call] = []
    for (name, entry), (function, x) in functions.items():
        progress(f"{shape}: compiling {name} from {entry}")
        forward = compiled(function, x, t)
        found = rows_of(forward.run(x, t))  # the warm-up
        error = float(np.abs((np.exp(found) if entry == "log" else found).sum(-1) - 1).max())
        rows.append(_row(name, entry, forward.seconds, forward.temporaries_mb, error))
        calls.append(forward.call(x, t))
    slopes: list[Call] = []
    for forward_call, ((name, entry), (function, x)) in zip(calls, functions.items(), strict=True):
        progress(f"{shape}: compiling the gradient of {name} from {entry}")
        gradient = compiled(
            jax.grad(lambda x, t, f=function: jnp.vdot(f(x, t), weights)),
            x,
            t,
        ).call(x, t)
        gradient()
        # The first forward is not counted: it pays for the memory that the call before it has let go.
        slopes += [forward_call, forward_call, gradient]
    others = [rival for rival in rivals(*map(np.asarray, (z, p, t))) if rival.operator in families]
    for rival in others:
        progress(f"{shape}: warming {rival.name} up")
        error = float(np.abs(rows_of(rival.call()).sum(-1) - 1).max())
        rows.append(_row(f"{rival.name}: {rival.operator}", rival.entry, None, None, error))
        calls.append(rival.call)
    copied = compiled(lambda x: x + 1, z)
    rows.append(_row(COPY, "logits", copied.seconds, copied.temporaries_mb, None))
    rows.append(_row(VALIDATION, "probabilities", None, None, None))
    calls += [copied.call(z), lambda: simplex.require_probabilities(p, "p")]
    times = interleave(calls, rounds, lambda i: progress(f"{shape}: round {i + 1} of {rounds}"))
    sloped = interleave(slopes, rounds, lambda i: progress(f"{shape}: gradients, round {i + 1}"))
    for k, (row, own) in enumerate(zip(rows, times, strict=True)):
        scale = others[k - len(functions)].scale if 0 <= k - len(functions) < len(others) else 1.0
        row["median_ms"] = round(1e3 * scale * statistics.median(own), 3)
        row["min_ms"] = round(1e3 * scale * min(own), 3)
        row["ratio"] = round(scale * ratio(own, times[0]), 2)
        row["gb_per_s"] = round(2 * z.nbytes / 1e9 / (scale * statistics.median(own)), 2)
        row["scaled_from_rows"] = None if scale == 1 else round(shape[0] / scale)
        if k < len(functions):
            _, forward_s, gradient_s = sloped[3 * k : 3 * k + 3]
            row["gradient_ms"] = round(1e3 * statistics.median(gradient_s), 3)
            row["gradient_ratio"] = round(ratio(gradient_s, forward_s), 2)
    return {"shape": list(shape), "rows": rows}


def _at_most(operator: Callable[..., Any], highest: float, p: jax.Array, t: jax.Array) -> jax.Array:
    return operator(p, jnp.minimum(t, highest))


def _row(
    name: str, entry: str, seconds: float | None, megabytes: float | None, error: float | None
) -> dict[str, Any]:
    return {
        "operator": name,
        "entry": entry,
        "compile_s": seconds,
        "temporaries_mb": megabytes,
        "normalisation_error": error,
        "gradient_ms": None,
        "gradient_ratio": None,
    }


def table(result: dict[str, Any]) -> Group:
    """The result for a terminal, a table a shape."""
    return Group(*(_table(result, at) for at in result["shapes"]))


def _table(result: dict[str, Any], at: dict[str, Any]) -> Table:
    rows, classes = at["shape"]
    out = bare_table(
        f"{result['dtype']}, {rows} × {classes}, T = {result['temperature']:g}, "
        f"{result['rounds']} rounds; ms a call, MB of temporaries"
    )
    out.add_column("operator, from p or z", no_wrap=True)
    for head in ("median", "× softmax", "GB/s", "∇/fwd", "MB", "comp."):
        out.add_column(head, justify="right", no_wrap=True)
    for row in at["rows"]:
        out.add_row(
            f"{row['operator']}, {_ENTRIES[row['entry']]}",
            f"{row['median_ms']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['gb_per_s']:.1f}",
            *(
                "–" if row[key] is None else format(row[key], form)
                for key, form in (
                    ("gradient_ratio", ".1f"),
                    ("temporaries_mb", ".0f"),
                    ("compile_s", ".1f"),
                )
            ),
        )
    return out
