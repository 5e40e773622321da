"""The distillation loss from hidden states: fused, plain, in optax's losses and in PyTorch, in one run.

Each candidate returns the mean of ``(1 − α)·T²·KL + α·CE`` over all tokens, T on both sides, and its gradient
by the student's hidden states and output matrix, in float32. Compilation is timed apart; a round calls each
candidate once, and a ratio is the median over rounds of the ratio to the plain loss within a round.
Temporaries are what the compiled program says of itself, beyond arguments and results; PyTorch says nothing.
Errors are against numpy in float64, a few tokens at a time. The four products of hidden states and matrices
that each of them needs are timed alone as well: the least that any of them can take.

Then the growth with the vocabulary, at fewer tokens: time and temporaries of the fused loss, the temporaries
that the plain one would have (it is compiled, not run), and the exponents that fit.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from rich.console import Group
from scipy.special import log_softmax

from sparsekd_jax import distill, operators
from sparsekd_jax.bench._tables import bare_table
from sparsekd_jax.bench.timing import Compiled, compiled, exponent, interleave, ratio

BASELINE, FUSED, FLOOR = "plain: distillation_loss", "fused", "its four products alone"
_T, _ALPHA = 2.0, 0.1
Arrays = tuple[Any, Any, Any, Any, Any]
"""Student's hidden states and matrix, teacher's, labels."""


def _fused(h: Any, w: Any, ht: Any, wt: Any, y: Any) -> Any:
    student, teacher = distill.LinearLogits(h, w), distill.LinearLogits(ht, wt)
    options: dict[str, Any] = {"operator": operators.get("power"), "temperature": _T, "alpha": _ALPHA}
    return distill.linear_distillation_loss(student, teacher, y, **options).mean


def _plain(h: Any, w: Any, ht: Any, wt: Any, y: Any) -> Any:
    options: dict[str, Any] = {"operator": operators.get("power"), "temperature": _T, "alpha": _ALPHA}
    return distill.distillation_loss(h @ w, ht @ wt, y, **options).mean()


def _optax(h: Any, w: Any, ht: Any, wt: Any, y: Any) -> Any:
    z, zt = h @ w, ht @ wt
    soft = optax.losses.kl_divergence(jax.nn.log_softmax(z / _T), jax.nn.softmax(zt / _T))
    hard = optax.losses.softmax_cross_entropy_with_integer_labels(z, y)
    return ((1 - _ALPHA) * _T**2 * soft + _ALPHA * hard).mean()


def _products(h: Any, w: Any, ht: Any, wt: Any, y: Any) -> Any:
    """The logits of both sides, and what a derivative by the student's makes of its matrix and states."""
    del y
    slope = h @ w - ht @ wt
    return slope @ w.T, h.T @ slope


JITTED = {BASELINE: _plain, FUSED: _fused, "optax.losses": _optax}


def _torch(arrays: Arrays) -> Callable[[], Any] | None:
    """The same in eager PyTorch on a CPU, or None where it is not installed or JAX computes elsewhere."""
    if jax.devices()[0].platform != "cpu":
        return None
    try:
        import torch
        from torch.nn import functional
    except ImportError:
        return None
    tensors: list[Any] = [torch.from_numpy(np.array(x)) for x in arrays]
    h, w, ht, wt, y = tensors
    h.requires_grad_(), w.requires_grad_()

    def run() -> Any:
        h.grad = w.grad = None
        z = h @ w
        with torch.no_grad():
            target = functional.log_softmax(ht @ wt / _T, dim=-1)
        student = functional.log_softmax(z / _T, dim=-1)
        soft = functional.kl_div(student, target, reduction="batchmean", log_target=True)
        loss = (1 - _ALPHA) * _T**2 * soft + _ALPHA * functional.cross_entropy(z, y.long())
        loss.backward()
        return loss.detach().numpy(), (h.grad.numpy(), w.grad.numpy())

    return run


def _arrays(tokens: int, width: int, vocab_size: int) -> Arrays:
    rng = np.random.default_rng(0)
    h, ht = (rng.standard_normal((tokens, width), np.float32) for _ in range(2))
    w, wt = (2 * width**-0.5 * rng.standard_normal((width, vocab_size), np.float32) for _ in range(2))
    labels = rng.integers(0, vocab_size, tokens, np.int32)
    return tuple(jnp.asarray(x) for x in (h, w, ht, wt, labels))  # type: ignore[return-value]


def _reference(arrays: Arrays, chunk: int = 64) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """Value and gradients from their closed forms in float64."""
    h, w, ht, wt = (np.asarray(x, np.float64) for x in arrays[:4])
    y, n = np.asarray(arrays[4]), len(h)
    value, by_h, by_w = 0.0, np.zeros_like(h), np.zeros_like(w)
    for rows in (slice(i, i + chunk) for i in range(0, n, chunk)):
        z, zt, own = h[rows] @ w, ht[rows] @ wt, np.arange(len(y[rows]))
        log_q, log_p, log_s = log_softmax(z / _T, -1), log_softmax(zt / _T, -1), log_softmax(z, -1)
        p = np.exp(log_p)
        value += (1 - _ALPHA) * _T**2 * (p * (log_p - log_q)).sum() - _ALPHA * log_s[own, y[rows]].sum()
        slope = (1 - _ALPHA) * _T * (np.exp(log_q) - p) + _ALPHA * np.exp(log_s)
        slope[own, y[rows]] -= _ALPHA
        by_h[rows] = slope @ w.T
        by_w += h[rows].T @ slope
    return value / n, (by_h / n, by_w / n)


def _compile(function: Callable[..., Any], given: Sequence[Any]) -> Compiled:
    """The program of value and gradients."""
    return compiled(jax.value_and_grad(function, (0, 1)), *given)


def _errors(found: Any, expected: Any) -> dict[str, float]:
    """Of the value by max(value, 1 nat), and the larger of the gradients' in relative norm."""
    (value, slopes), (exact, right) = found, expected
    gaps = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(slopes, right, strict=True)]
    error = abs(float(value) - exact) / max(exact, 1.0)
    return {"value_error": float(error), "gradient_error": float(max(gaps))}


def measure(
    *,
    tokens: int = 2048,
    width: int = 256,
    vocab_size: int = 32768,
    rounds: int = 5,
    growth_tokens: int = 512,
    vocabularies: Sequence[int] = (8192, 16384, 32768, 65536, 131072, 262144),
    growth_rounds: int = 3,
    progress: Callable[[str], None] = lambda label: None,
) -> dict[str, Any]:
    """Time every candidate, then the fused loss over vocabularies.

    Args:
        tokens: of the batch.
        width: d of student and teacher.
        vocab_size: V.
        rounds: interleaved rounds after one to warm up.
        growth_tokens: of the batch whose vocabulary grows.
        vocabularies: V of each point.
        growth_rounds: of each point.
        progress: called with what is about to run.

    Returns:
        ``{"tokens", "width", "vocab_size", "dtype", "rounds", "rows", "growth"}``; a row has ``loss``,
        ``compile_s``, ``temporaries_mb``, ``median_ms``, ``min_ms``, the ratios to the baseline ``ratio`` and
        ``temporaries_ratio``, ``value_error`` and ``gradient_error``; None where it does not apply.
    """
    arrays = _arrays(tokens, width, vocab_size)
    rows: list[dict[str, Any]] = []
    calls: list[Callable[[], Any]] = []
    for name, function in JITTED.items():
        progress(f"compiling {name}")
        program = _compile(function, arrays)
        rows.append({"loss": name, "compile_s": program.seconds, "temporaries_mb": program.temporaries_mb})
        calls.append(program.call(*arrays))
    floor = compiled(_products, *arrays)
    rows.append({"loss": FLOOR, "compile_s": floor.seconds, "temporaries_mb": floor.temporaries_mb})
    rows[-1] |= {"value_error": None, "gradient_error": None}  # products are no loss
    calls.append(floor.call(*arrays))
    rival = _torch(arrays)
    if rival is not None:
        rows.append({"loss": "PyTorch", "compile_s": None, "temporaries_mb": None})
        calls.append(rival)
    progress("the reference in float64")
    exact = _reference(arrays)
    for row, call in zip(rows, calls, strict=True):  # the warm-up
        progress(f"warming {row['loss']} up")
        found = call()
        if row["loss"] != FLOOR:
            row |= _errors(found, exact)
    times = interleave(calls, rounds, lambda i: progress(f"round {i + 1} of {rounds}"))
    for row, own in zip(rows, times, strict=True):
        row["median_ms"] = round(1e3 * statistics.median(own), 1)
        row["min_ms"] = round(1e3 * min(own), 1)
        row["ratio"] = round(ratio(own, times[0]), 3)
        row["temporaries_ratio"] = (
            round(row["temporaries_mb"] / rows[0]["temporaries_mb"], 4) if row["temporaries_mb"] else None
        )
    return {
        "tokens": tokens,
        "width": width,
        "vocab_size": vocab_size,
        "dtype": "float32",
        "rounds": rounds,
        "rows": rows,
        "growth": _growth(growth_tokens, width, vocabularies, growth_rounds, progress),
    }


def _growth(
    tokens: int, width: int, vocabularies: Sequence[int], rounds: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    points = []
    for size in vocabularies:
        progress(f"a vocabulary of {size}")
        arrays = _arrays(tokens, width, size)
        program = _compile(_fused, arrays)
        run = program.call(*arrays)
        run()
        (own,) = interleave([run], rounds, lambda i: None)
        points.append(
            {
                "vocab_size": size,
                "compile_s": program.seconds,
                "median_ms": round(1e3 * statistics.median(own), 1),
                "temporaries_mb": program.temporaries_mb,
                "plain_temporaries_mb": _compile(_plain, arrays).temporaries_mb,
            }
        )
    sizes = [point["vocab_size"] for point in points]
    kinds = ("median_ms", "temporaries_mb", "plain_temporaries_mb")
    fitted = {
        kind: round(exponent(sizes, [point[kind] for point in points]), 3)
        for kind in kinds
        if len(points) > 1
    }
    return {"tokens": tokens, "rounds": rounds, "points": points, "exponents": fitted}


def _text(number: float | None, form: str) -> str:
    return "–" if number is None else format(number, form)


def table(result: dict[str, Any]) -> Group:
    """The result for a terminal: the candidates, then the growth."""
    candidates = bare_table(
        f"Loss and gradients of {result['tokens']} tokens, d = {result['width']}, V = "
        f"{result['vocab_size']}, {result['dtype']}, {result['rounds']} interleaved rounds"
    )
    candidates.add_column("loss", no_wrap=True)
    costs, errors = ("median ms", "least", "× plain", "temp. MB", "× plain"), ("value err", "grad. err")
    for head in (*costs, "compile s", *errors):
        candidates.add_column(head, justify="right", no_wrap=True)
    for row in result["rows"]:
        candidates.add_row(
            row["loss"],
            f"{row['median_ms']:.0f}",
            f"{row['min_ms']:.0f}",
            f"{row['ratio']:.2f}",
            _text(row["temporaries_mb"], ".0f"),
            _text(row["temporaries_ratio"], ".3f"),
            _text(row["compile_s"], ".1f"),
            _text(row["value_error"], ".0e"),
            _text(row["gradient_error"], ".0e"),
        )
    grown = result["growth"]
    growth = bare_table(f"Growth with V of the fused loss, {grown['tokens']} tokens")
    for head in ("V", "median ms", "temp. MB", "plain's temp. MB"):
        growth.add_column(head, justify="right", no_wrap=True)
    for point in grown["points"]:
        numbers = (point["median_ms"], point["temporaries_mb"], point["plain_temporaries_mb"])
        growth.add_row(str(point["vocab_size"]), *(f"{x:.0f}" for x in numbers))
    if grown["exponents"]:
        growth.add_section()
        growth.add_row("exponent", *(f"{x:.2f}" for x in grown["exponents"].values()))
    return Group(candidates, growth)
