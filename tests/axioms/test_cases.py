"""The sweeps reach the corners that the laws need, and the strategies draw what they promise."""

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsekd_jax.axioms import distributions, sweep, temperatures
from sparsekd_jax.axioms.cases import corpus, simpler
from sparsekd_jax.operators import TemperatureRange

WARM = TemperatureRange(1.0)


@pytest.fixture(scope="module", params=[2, 3, 8, 64])
def cases(request):
    return sweep(request.param, WARM, 3000)


def test_rows_are_distributions(cases):
    for rows in (cases.p, cases.r):
        assert (rows >= 0).all()
        np.testing.assert_allclose(rows.sum(-1), 1, rtol=0, atol=1e-14)
    k = cases.num_classes
    assert (np.sort(cases.permutation, -1) == np.arange(k)).all()


def test_corners_are_reached(cases):
    p, top = cases.p, cases.p.max(-1)
    descending = -np.sort(-p, axis=-1)
    gaps = 1 - descending[:, 1:] / descending[:, :-1].clip(1e-300)
    assert ((gaps == 0) & (descending[:, 1:] > 0)).any()  # exact ties
    for exponent in range(1, 10):  # near-ties and dominant classes, decade by decade
        low, high = 10.0**-exponent / 4, 10.0**-exponent * 4
        assert ((gaps > low) & (gaps < high)).any()
        assert ((1 - top > low) & (1 - top < high)).any()
    assert (p == 1 / cases.num_classes).all(-1).any()  # exactly uniform
    assert (top == 1).any()  # vertices
    assert ((p > 0) & (p < 1e-20)).any()  # tiny entries
    if cases.num_classes > 2:
        support = (p > 0).sum(-1)
        assert ((support > 1) & (support < cases.num_classes)).any()  # edges and faces


def test_temperatures_are_dense_and_reach_the_ends(cases):
    t = np.sort(cases.high[(cases.high >= 1) & (cases.high <= 20)])
    assert np.diff(t).max() < 0.1  # half of the narrowest window that must be found
    assert (cases.high == 1).any()
    assert ((cases.high > 1) & (cases.high < 1 + 1e-8)).any()
    assert cases.high.max() > 9e3
    assert (cases.low <= cases.high).all()
    assert WARM.inside(cases.low).all()
    assert WARM.inside(cases.high).all()


def test_a_sweep_is_a_function_of_its_seed():
    first, again, other = sweep(5, WARM, 50), sweep(5, WARM, 50), sweep(5, WARM, 50, seed=1)
    np.testing.assert_array_equal(first.p, again.p)
    assert (first.p != other.p).any()


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.0, float("inf")), (2.0, 3.0), (0.5, 20.0), (5.0, np.inf)])
def test_any_range_is_kept_to(bounds):
    allowed = TemperatureRange(*bounds)
    cases = sweep(3, allowed, 500)
    assert allowed.inside(cases.high).all()
    assert allowed.inside(cases.low).all()


def test_the_corpus_keeps_to_the_range_and_to_k():
    assert corpus(7, WARM) is None
    found = corpus(2, TemperatureRange(0.0, 1.0))
    assert found.num_classes == 2
    assert (found.high <= 1).all()


@given(st.integers(2, 6).flatmap(distributions))
def test_strategy_draws_distributions(p):
    assert (p >= 0).all()
    assert abs(p.sum() - 1) < 1e-14


@given(distributions(4, interior=True), temperatures(TemperatureRange(1.0)))
def test_interior_strategy_has_no_zeros_and_temperatures_keep_to_the_range(p, t):
    assert (p > 0).all()
    assert t >= 1


def test_simpler_can_return_the_witness_and_rounder_numbers():
    witness = sweep(5, WARM, 200).take(slice(17, 18))
    settings = hypothesis.settings(max_examples=400, database=None, deadline=None)
    same = hypothesis.find(
        simpler(witness, (2, 5)),
        lambda c: c.p.shape == (1, 5) and (c.p == witness.p).all(),
        settings=settings,
    )
    assert (same.p == witness.p).all()
    fewer = hypothesis.find(simpler(witness, (2, 5)), lambda c: c.num_classes == 2, settings=settings)
    assert fewer.p.shape == (1, 2)
