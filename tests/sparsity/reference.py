"""Brute force in numpy: what the room computes, by loops and sorts that share nothing with it."""

import numpy as np


def best_first(scores):
    """Positions from the highest score down; NaN highest, among equals the earlier first."""
    keys = [(-np.inf if np.isnan(s) else -float(s), i) for i, s in enumerate(np.ravel(scores))]
    return [i for _, i in sorted((0.0 if k == 0 else k, i) for k, i in keys)]


def keep(scores, count):
    mask = np.zeros(np.size(scores), bool)
    mask[best_first(scores)[:count]] = True
    return mask.reshape(np.shape(scores))


def n_m(scores, count, m, axis):
    mask = np.zeros(scores.shape, bool)
    along = np.moveaxis(scores, axis, 0)
    out = np.moveaxis(mask, axis, 0)  # a view: writing to it writes to the mask
    for index in np.ndindex(*along.shape[1:]):
        for start in range(0, along.shape[0], m):
            group = (slice(start, start + m), *index)
            out[group] = keep(along[group], count)
    return mask


def block(scores, shape, dropped):
    rows, columns = shape
    tiles = [(i, j) for i in range(0, scores.shape[0], rows) for j in range(0, scores.shape[1], columns)]
    sums = [scores[i : i + rows, j : j + columns].sum(dtype=np.float64) for i, j in tiles]
    mask = np.ones(scores.shape, bool)
    for t in best_first(sums)[len(tiles) - dropped :]:
        i, j = tiles[t]
        mask[i : i + rows, j : j + columns] = False
    return mask


def channel(scores, axis, dropped):
    size = scores.shape[axis]
    sums = [np.take(scores, c, axis).sum(dtype=np.float64) for c in range(size)]
    mask = np.ones(scores.shape, bool)
    out = np.moveaxis(mask, axis, 0)
    out[best_first(sums)[size - dropped :]] = False
    return mask


def regrow(mask, weights, gradients, count):
    """RigL on one array: (new mask, positions dropped, positions grown)."""
    flat = mask.ravel()
    order = [i for i in best_first(np.abs(weights)) if flat[i]]
    dropped = set(order[len(order) - count :])
    grown = set([i for i in best_first(np.abs(gradients)) if not flat[i]][:count])
    new = flat.copy()
    new[list(dropped)] = False
    new[list(grown)] = True
    return new.reshape(mask.shape), dropped, grown
