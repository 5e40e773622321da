"""What a user would call in place of an operator, where it is installed: PyTorch, entmax, scipy's brentq."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy import optimize, special

from sparsekd_jax.bench.timing import Call

BRENTQ_ROWS = 16
"""Rows that the row-by-row solver is timed on; its time is scaled to all of them."""


class Rival(NamedTuple):
    """A competitor of one operator: what it reads, and a call that returns its rows."""

    name: str
    operator: str
    entry: str
    call: Call
    scale: float = 1.0


def rivals(logits: np.ndarray, p: np.ndarray, t: np.ndarray) -> list[Rival]:
    """The competitors that are installed, on these rows with these temperatures ``[rows]``.

    All compute on a CPU; where JAX does not, only the solver row by row is left, which has no other place.
    """
    found = []
    rows = slice(0, min(BRENTQ_ROWS, len(p)))
    some = p[rows].astype(np.float64), t[rows].astype(np.float64)
    scale = len(p) / len(some[0])
    for operator, solve in (("tsallis(1.5)", _tsallis_row), ("entropy-projection", _projection_row)):
        found.append(Rival("scipy brentq", operator, "probabilities", _by_row(solve, *some), scale))
    if jax.devices()[0].platform != "cpu":
        return found
    try:
        import torch
    except ImportError:
        return found
    z, q, temperature = (torch.from_numpy(np.array(x)) for x in (logits, p, t[:, None]))
    found.append(Rival("torch.softmax", "power", "logits", lambda: torch.softmax(z / temperature, -1)))
    try:
        import entmax
    except ImportError:
        return found
    # With φ = ψ the softened row is the entmax of φ'(p)/T, and φ'(p) = 2√p for α = 3/2.
    found.append(
        Rival(
            "entmax, sort",
            "tsallis(1.5)",
            "probabilities",
            lambda: entmax.entmax15(2 * q.sqrt() / temperature, dim=-1),
        )
    )
    found.append(
        Rival(
            "entmax, bisection",
            "tsallis(1.5)",
            "probabilities",
            lambda: entmax.entmax_bisect(2 * q.sqrt() / temperature, alpha=1.5, dim=-1),
        )
    )
    return found


def _by_row(solve: Callable[[np.ndarray, float], np.ndarray], p: np.ndarray, t: np.ndarray) -> Call:
    return lambda: np.stack([solve(row, float(own)) for row, own in zip(p, t, strict=True)])


def _tsallis_row(p: np.ndarray, t: float) -> np.ndarray:
    """α = 3/2: q_i = (√p_i/T − τ)₊² with τ such that they sum to 1."""
    x = np.sqrt(p) / t

    def excess(tau: float) -> float:
        return float(np.square(np.maximum(x - tau, 0)).sum()) - 1

    tau = optimize.brentq(excess, x.max() - 1 - 1e-9, x.max())
    return np.square(np.maximum(x - tau, 0))


def _projection_row(p: np.ndarray, t: float) -> np.ndarray:
    """The escort p^β whose entropy is H(p) + (1 − 1/T)(log K − H(p))."""
    log_p = np.log(p)

    def entropy(beta: float) -> float:
        q = special.softmax(beta * log_p)
        return float(special.entr(q).sum())

    own = float(special.entr(p).sum())
    target = own + (1 - 1 / t) * (math.log(p.size) - own)
    beta = optimize.brentq(lambda b: entropy(b) - target, 0.0, 1.0 + 1e-9)
    return special.softmax(beta * log_p)


def rows_of(result: Any) -> np.ndarray:
    """A rival's rows in float64."""
    return np.asarray(result, np.float64)
