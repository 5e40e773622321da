"""Empirical distributions of n labels: their covariance, draws of them, and all of them."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

MAX_OUTCOMES = 200_000
"""How many different samples are enumerated, at most."""


def multinomial_covariance(p: Float[Array, "*batch K"], n: float | Array) -> Float[Array, "*batch K K"]:
    """Covariance of the empirical distribution of n draws, ``(diag p − ppᵀ)/n``.

    Args:
        p: ``[..., K]``.
        n: number of draws.

    Returns:
        ``[..., K, K]``.

    >>> multinomial_covariance(jnp.array([0.5, 0.5]), 1).tolist()
    [[0.25, -0.25], [-0.25, 0.25]]
    """
    eye = jnp.broadcast_to(jnp.eye(p.shape[-1], dtype=p.dtype), (*p.shape, p.shape[-1]))
    return p[..., None] * (eye - p[..., None, :]) / n


def sampled_counts(
    key: Array, p: Float[np.ndarray, " K"], n: int, draws: int
) -> Float[np.ndarray, "draws K"]:
    """Counts of ``draws`` samples of n labels each, float64 whole numbers.

    >>> sampled_counts(jax.random.key(0), np.array([0.5, 0.5]), 3, 4).sum(-1).tolist()
    [3.0, 3.0, 3.0, 3.0]
    """
    with jax.enable_x64(True):
        return np.asarray(_multinomial(key, jnp.asarray(p), jnp.asarray(float(n)), draws))


@functools.partial(jax.jit, static_argnums=3)
def _multinomial(key: Array, p: Array, n: Array, draws: int) -> Array:
    return jax.random.multinomial(key, n, jnp.broadcast_to(p, (draws, p.shape[0])))


def compositions(n: int, num_classes: int) -> np.ndarray:
    """All ways to place n samples in K classes, ``[C(n+K−1, K−1), K]``.

    >>> compositions(2, 2).tolist()
    [[0, 2], [1, 1], [2, 0]]
    """
    bars = np.array(list(itertools.combinations(range(n + num_classes - 1), num_classes - 1)))
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, n + num_classes - 1)))
    return np.diff(edges, axis=1) - 1


def outcomes_of(rows: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """All samples ``[M, K]`` of n labels that a row of ``[N, K]`` can give; their probabilities ``[N, M]``.

    >>> counts, chances = outcomes_of(np.array([[0.5, 0.5]]), 2)
    >>> counts.tolist(), chances.round(4).tolist()
    ([[0, 2], [1, 1], [2, 0]], [[0.25, 0.5, 0.25]])
    """
    from scipy import special

    k = rows.shape[-1]
    count = math.comb(n + k - 1, k - 1)
    if count > MAX_OUTCOMES:
        raise ValueError(
            f"{n} samples of {k} classes have {count} outcomes, too many to enumerate ({MAX_OUTCOMES}): use "
            "Monte Carlo or the delta method, with fewer classes or samples the exact sum"
        )
    outcomes = compositions(n, k)
    outcomes = outcomes[~((outcomes > 0) & (rows == 0).all(0)).any(-1)]
    log_choices = special.gammaln(n + 1) - special.gammaln(outcomes + 1).sum(-1)
    with np.errstate(divide="ignore"):
        log_rows = np.maximum(np.log(rows), -1e300)  # 0·log 0 = 0, and a count there weighs nothing
    weights = np.exp(log_rows @ outcomes.T + log_choices)
    return outcomes, weights
