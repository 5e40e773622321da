"""Softened rows of distributions, as the modules above take them: any number of rows, any callable."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax.operators import PowerTransform, _softening
from sparsekd_jax.operators._softening import on_rows, soften

ROWS = np.random.default_rng(3).dirichlet(np.ones(4), 300)
SOFTENED = np.sqrt(ROWS) / np.sqrt(ROWS).sum(-1, keepdims=True)  # power at T = 2


def by_numpy(p, t):
    q = np.asarray(p) ** (1 / t)
    return q / q.sum()


def by_jax(p, t):
    assert p.shape == (4,)
    q = p ** (1 / t)
    return q / q.sum()


@pytest.mark.parametrize("operator", [PowerTransform(), by_jax, by_numpy], ids=["power", "jax", "numpy"])
@pytest.mark.parametrize("count", [1, 64, 65, 300])
def test_every_number_of_rows_in_float64(operator, count):
    with jax.enable_x64(False):
        q = soften(operator, ROWS[:count], 2.0)
    assert (q.dtype, q.shape) == (np.float64, (count, 4))
    np.testing.assert_allclose(q, SOFTENED[:count], rtol=1e-14)


def test_few_numbers_of_rows_are_compiled(monkeypatch):
    batches = []

    def watched(operator, rows, t):
        batches.append(len(rows))
        return on_rows(operator, rows, t)

    monkeypatch.setattr(_softening, "on_rows", watched)
    for count in (1, 63, 64, 65, 256, 257, 300):
        np.testing.assert_allclose(soften(PowerTransform(), ROWS[:count], 2.0), SOFTENED[:count], rtol=1e-14)
    assert batches == [64] * 3 + [256] * 2 + [1024] * 2


def test_rows_are_traceable(x64):
    rows = jnp.asarray(ROWS[:5])
    for operator in (PowerTransform(), by_jax):
        q = jax.jit(lambda rows, t, operator=operator: on_rows(operator, rows, t))(rows, 2.0)
        np.testing.assert_allclose(q, SOFTENED[:5], rtol=1e-14)


def test_an_operator_that_loses_a_class_is_refused():
    with pytest.raises(ValueError, match=r"maps \[K\] = \[4\] to \(3,\); it must return \[K\]"):
        soften(lambda p, t: p[:3], ROWS[:2], 2.0)
    with pytest.raises(TypeError):
        soften("power", ROWS[:2], 2.0)
