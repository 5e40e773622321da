"""Distributions that probe privacy, and how far apart what they give can be."""

import numpy as np


def spread_rows(seed, num_classes, floor, n=60):
    """From nearly vertices to nearly even, and the extreme points of Δ_δ."""
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=(n, num_classes)) ** rng.uniform(0, 12, (n, 1))
    rows = floor + (1 - num_classes * floor) * weights / weights.sum(-1, keepdims=True)
    extremes = np.full((num_classes, num_classes), floor)
    np.fill_diagonal(extremes, 1 - (num_classes - 1) * floor)
    return np.concatenate([rows, extremes])[-64:]


def largest_gap(q):
    """``max over rows and classes of log q_i/q'_i``."""
    with np.errstate(divide="ignore"):
        logs = np.log(q)
    return float((logs.max(0) - logs.min(0)).max())
