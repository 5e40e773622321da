"""theory.md section 2: each family is a special case of the one variational definition."""

import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax.operators import (
    ConvexMixture,
    EntropyProjection,
    EuclideanEntropyProjection,
    PowerTransform,
    TsallisSoftening,
    variational,
)


def square(x, params):
    return 0.5 * x**2


def shannon(x, params):
    return x * jnp.log(x)


def tsallis(x, alpha):
    return x**alpha / (alpha * (alpha - 1))


P = np.random.default_rng(3).dirichlet(np.ones(5), 8)
WARM = np.linspace(1.05, 12, 8)
CASES = {
    "mixture": (variational(square, square), ConvexMixture()),
    "power": (variational(shannon, shannon), PowerTransform()),
    "tsallis(1.5)": (variational(tsallis, tsallis, params=1.5), TsallisSoftening(1.5)),
    "tsallis(0.5)": (variational(tsallis, tsallis, params=0.5), TsallisSoftening(0.5)),
    "entropy": (variational(shannon, shannon, "target"), EntropyProjection()),
    "euclidean": (variational(square, shannon, "target"), EuclideanEntropyProjection()),
}


@pytest.mark.parametrize("name", CASES)
def test_the_family_is_a_special_case(name, x64):
    general, special = CASES[name]
    np.testing.assert_allclose(general(P, WARM), special(P, WARM), rtol=0, atol=1e-10)
    if 0.5 in general.claims.temperatures:
        np.testing.assert_allclose(general(P, 1 / WARM), special(P, 1 / WARM), rtol=0, atol=1e-10)


def test_another_pair_is_another_operator(x64):
    """The twin: with the potentials exchanged nothing agrees, so the test above can fail."""
    wrong = variational(square, shannon)(P, WARM)
    for special in (ConvexMixture(), PowerTransform()):
        assert np.abs(np.asarray(wrong) - np.asarray(special(P, WARM))).max() > 1e-3


def test_stationarity_of_a_new_operator(x64):
    """φ' + aψ' − φ'(p) is one constant a row: the definition itself, on a pair that has no name."""
    op = variational(square, shannon)
    t = 1.7
    q = np.asarray(op(P, t))
    residual = q + (t - 1) * (np.log(q) + 1) - P
    np.testing.assert_allclose(residual, residual.mean(-1, keepdims=True) * np.ones(5), rtol=0, atol=1e-10)
    np.testing.assert_allclose(q.sum(-1), 1, rtol=0, atol=1e-12)
