"""The entropy that strength "target" aims at against mpmath, relative to itself where it is small too."""

import jax.numpy as jnp
import mpmath
import numpy as np

from sparsekd_jax.operators._entropy_target import (
    EntropyTarget,
    deficit,
    entropy,
    entropy_target,
    sharpness_residual,
)
from sparsekd_jax.operators._rows import centred_log

CENTRED = np.array(
    [
        [0.0, -1.0, -2.0],
        [0.0, -40.0, -300.0],  # next to a vertex
        [0.0, -1e-9, -3e-9],  # next to uniform
        [0.0, 0.0, 0.0],
        [-0.3, 0.0, -np.inf],
        [-np.inf, 0.0, -np.inf],
    ]
)


def exactly(row):
    """``(H, log K − H)`` in 60 digits."""
    with mpmath.workdps(60):
        weight = [mpmath.exp(mpmath.mpf(c)) for c in row]
        q = [w / sum(weight) for w in weight]
        h = -mpmath.fsum(x * mpmath.log(x) for x in q if x)
        return h, mpmath.log(len(row)) - h


def test_entropy_and_deficit(x64):
    expected = np.array([[float(x) for x in exactly(row)] for row in CENTRED])
    found = np.concatenate([entropy(jnp.asarray(CENTRED)), deficit(jnp.asarray(CENTRED))], axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-58)  # the reference's zeros are rounded


def test_the_target_moves_the_entropy_by_its_share(x64):
    for t in (1.0, 1 + 1e-9, 2.0, 1e6):
        found = np.concatenate(entropy_target(jnp.asarray(CENTRED), jnp.full((6, 1), t)), axis=-1)
        for row, (h, lost) in zip(found, map(exactly, CENTRED), strict=True):
            with mpmath.workdps(60):
                expected = [float(h + (1 - 1 / mpmath.mpf(t)) * lost), float(lost / t)]
            np.testing.assert_allclose(row, expected, rtol=1e-13, atol=1e-58)


def test_the_residual_compares_on_the_finer_scale(x64):
    """Rows a little sharper and a little flatter than a target next to a vertex, next to uniform, between."""
    p = np.array([[1 - 2e-17, 1e-17, 1e-17], [1 / 3 + 2e-9, 1 / 3 - 1e-9, 1 / 3 - 1e-9], [0.6, 0.3, 0.1]])
    centred = centred_log(jnp.asarray(p))
    target = EntropyTarget(entropy(centred), deficit(centred))
    np.testing.assert_allclose(sharpness_residual(centred, target), 0, atol=1e-15)
    for order in (1.0001, 0.9999):
        now = order * centred
        by_entropy = np.log(np.asarray(target.entropy) / np.asarray(entropy(now)))
        by_deficit = np.log(np.asarray(deficit(now)) / np.asarray(target.deficit))
        expected = np.where([[True], [False], [False]], by_entropy, by_deficit)
        residual = np.asarray(sharpness_residual(now, target))
        np.testing.assert_allclose(residual, expected, rtol=1e-9)
        assert (np.sign(residual) == np.sign(order - 1)).all()
