"""Undoing a softmax temperature that a server applied before it logged."""

import numpy as np
from jaxtyping import Bool, Float, Int

TOLERANCE = 1e-6
"""How far, in nats, the unseen tail may leave the normaliser open."""


def undo(
    log_probs: Float[np.ndarray, "n k"],
    cap: Float[np.ndarray, " n"],
    tail: Float[np.ndarray, " n"],
    num_unseen: Int[np.ndarray, " n"],
    temperature: float,
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """Log-probabilities at T = 1 from those at T: ``T log q − log(Σ_seen q^T + S)``, S = Σ_unseen q^T.

    S is not in the log. It lies in ``[0, cap^(T−1) tail]`` for T > 1 and in ``[0, m^(1−T) tail^T]`` for
    T < 1, m unseen tokens of at most ``cap`` each: the normaliser is known to within
    ``log(1 + S_max / Σ_seen)``, and its middle is taken. Errors of the logged numbers grow T-fold.

    Args:
        log_probs: ``[n, k]`` at T, in nats, −inf pads.
        cap: ``[n]``, what one unseen token has at most.
        tail: ``[n]``, what all have together at most, rounding included.
        num_unseen: ``[n]``, m.
        temperature: T > 0.

    Returns:
        Log-probabilities ``[n, k]``, the width ``[n]`` of the interval in nats, and where it is within
        `TOLERANCE`. The error is half the width.

    Reference:
        theory.md section 6, power at β = T.

    >>> undo(np.log([[.5, .5]]), np.zeros(1), np.zeros(1), np.zeros(1, int), 2.0)[1].tolist()
    [0.0]
    """
    powered = np.exp(temperature * log_probs).sum(-1)
    cap = np.minimum(cap, tail)
    if temperature > 1:
        most = cap ** (temperature - 1) * tail
    else:
        most = num_unseen ** (1 - temperature) * tail**temperature
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        width = np.where(most > 0, np.log1p(most / powered), 0.0)
        undone = temperature * log_probs - np.log(powered)[:, None] - width[:, None] / 2
    return undone, width, (width <= TOLERANCE) & (powered > 0)
