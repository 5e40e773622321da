"""What every list of tokens must be: checks on host arrays, shared by the kinds of targets."""

from typing import Any

import numpy as np

from sparsekd_jax import simplex
from sparsekd_jax._refusals import refuse

PADDING = -1
"""The id of an entry that is none."""


def last_ranked(log_probs: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    """log p_k, the bound on every unseen token; 0 (no bound) where nothing is ranked."""
    place = np.clip(ranked - 1, 0, log_probs.shape[-1] - 1)[..., None]
    return np.where(ranked > 0, np.take_along_axis(log_probs, place, -1)[..., 0], 0.0)


def tolerance(log_probs: Any) -> float:
    """How far from 1 a row may sum."""
    # As simplex.require_log_probabilities: the rounding of log p moves the sum by a few ulp.
    return 4 * simplex.SUM_TOLERANCE[log_probs.dtype.name]


def require_ids(ids: np.ndarray, vocab_size: int) -> None:
    """Refuse ids out of range, twice in a row, or after padding."""
    wrong = (ids < PADDING) | (ids >= vocab_size)
    refuse(
        wrong.any(-1),
        "ids",
        lambda i: (
            f"contains {ids[i][wrong[i]][0]}; ids lie in [0, {vocab_size}) (vocab_size), and {PADDING} pads"
        ),
    )
    padding = ids == PADDING
    refuse(
        (padding[..., :-1] & ~padding[..., 1:]).any(-1),
        "ids",
        lambda i: f"has padding ({PADDING}) before a token; move padding to the end of the row",
    )
    inner = np.sort(ids, axis=-1)
    twice = (np.diff(inner, axis=-1) == 0) & (inner[..., 1:] >= 0)
    refuse(
        twice.any(-1),
        "ids",
        lambda i: f"holds token {inner[i][1:][twice[i]][0]} twice; keep one entry of it",
    )


def require_entries(ids: np.ndarray, log_probs: np.ndarray, vocab_size: int) -> None:
    """Refuse entries that are no tokens with their log-probabilities."""
    if ids.ndim == 0 or ids.shape != log_probs.shape or not ids.shape[-1]:
        raise ValueError(
            f"ids has shape {ids.shape} and log_probs {log_probs.shape}: one each, [..., k] with k ≥ 1 (a "
            f"row of which nothing was seen is padding, id {PADDING})"
        )
    require_ids(ids, vocab_size)
    bad = np.where(ids == PADDING, ~np.isneginf(log_probs), ~(log_probs <= 1e-6))
    refuse(
        bad.any(-1),
        "log_probs",
        lambda i: (
            f"contains {log_probs[i][bad[i]][0]:g} at entry {int(np.argmax(bad[i]))}; log-probabilities are "
            "≤ 0, −inf for an excluded token and at padding. If these are probabilities pass their "
            "logarithm; if logits, use Dense.from_logits"
        ),
    )


def require_weights(ids: np.ndarray, weights: np.ndarray, vocab_size: int) -> None:
    """Refuse entries that are no tokens with their weights."""
    if ids.ndim == 0 or ids.shape != weights.shape:
        raise ValueError(f"ids has shape {ids.shape} and weights {weights.shape}: one each, [..., n]")
    require_ids(ids, vocab_size)
    bad = np.where(ids == PADDING, weights != 0, ~((weights >= 0) & np.isfinite(weights)))
    refuse(
        bad.any(-1),
        "weights",
        lambda i: (
            f"contains {weights[i][bad[i]][0]:g} at entry {int(np.argmax(bad[i]))}; a weight is finite and "
            "≥ 0 (a count over the draws), and 0 at padding"
        ),
    )
